"""The whole evaluation in one call: images to embeddings to scores with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cosphere.data import Catalogue
from cosphere.errors import DataError, SettingsError, did_you_mean
from cosphere.evaluate.clustering import ClusteringScores
from cosphere.evaluate.clustering import clustering as cluster
from cosphere.evaluate.embeddings import Embeddings, embed_catalogue
from cosphere.evaluate.retrieval import RetrievalScores, Ties, retrieval
from cosphere.evaluate.statistics import Interval, bootstrap_all
from cosphere.models import Embedder
from cosphere.search.cosines import BLOCK_BYTES
from cosphere.spherical import LengthStatistics, length_statistics
from cosphere.tensors import SHORTEST

Floats = npt.NDArray[np.float64]


class Value(NamedTuple):
    """A score as a fraction, and its interval over queries where it has one."""

    value: float
    interval: Interval | None

    def as_dict(self) -> dict[str, float | None]:
        """``value``, ``low`` and ``high``; the last two None without an interval."""
        low, high = self.interval or (None, None)
        return {"value": self.value, "low": low, "high": high}


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model is worth on one set of images."""

    embeddings: Embeddings
    retrieval: RetrievalScores
    clustering: ClusteringScores | None
    intervals: dict[str, Interval]
    """Over queries; empty when not asked for."""
    norms: LengthStatistics
    """Of the raw lengths."""
    fingerprint: str
    """Of the catalogue."""
    notes: tuple[str, ...]
    """What a reader of the numbers should know, one sentence each."""

    @property
    def images(self) -> int:
        """Images that were embedded."""
        return len(self.embeddings)

    @property
    def classes(self) -> int:
        """Classes among them."""
        return len(np.unique(self.embeddings.labels))

    @property
    def per_query(self) -> dict[str, Floats]:
        """The values behind each retrieval score: see :meth:`RetrievalScores.per_query`."""
        return self.retrieval.per_query()

    @property
    def values(self) -> dict[str, Value]:
        """Every score by name, as a fraction: ``recall@K``, ``map@r``, ``r_precision``, then ``nmi``, ``f1``, ..."""
        found = {name: float(values.mean()) for name, values in self.per_query.items()}
        if self.clustering is not None:
            found |= self.clustering.as_dict()
        return {name: Value(value, self.intervals.get(name)) for name, value in found.items()}

    def value(self, name: str) -> float:
        """One score as a fraction.

        Raises:
            SettingsError: there is no such score; the error names the nearest.
        """
        found = self.values
        if name not in found:
            raise SettingsError(f"there is no score {name!r}. {did_you_mean(name, found)}")
        return found[name].value

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for ``scores.json``: scores with intervals, data, norms, settings of the clustering, notes."""
        found = self.retrieval
        content: dict[str, Any] = {
            "scores": {name: value.as_dict() for name, value in self.values.items()},
            "data": {
                "fingerprint": self.fingerprint,
                "images": self.images,
                "classes": self.classes,
                "queries": found.queries,
                "queries_skipped": found.skipped,
            },
            "norms": {"mean": self.norms.mean, "variance": self.norms.variance, "cv": self.norms.cv},
            "ties": found.ties,
            "notes": list(self.notes),
            "skipped_images": [{"path": path, "reason": reason} for path, reason in self.embeddings.skipped],
        }
        if self.clustering is not None:
            used = self.clustering
            content["clustering"] = {
                "method": "faiss k-means",
                "clusters": used.clusters,
                "iterations": used.iterations,
                "restarts": used.restarts,
                "seed": used.seed,
            }
        return content


def evaluate(
    embedder: Embedder,
    catalogue: Catalogue,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    clustering: bool = True,
    seed: int = 0,
    ties: Ties = "optimistic",
    bootstrap_samples: int = 1000,
    level: float = 0.95,
    block_bytes: int = BLOCK_BYTES,
    **embedding: Any,
) -> Scores:
    """Embed the images of a catalogue and score the embeddings.

    Args:
        embedder: the model.
        catalogue: images and labels. With ``is_query`` and ``is_gallery``, queries are ranked against the gallery.
        ks: the K of Recall@K.
        clustering: NMI and F1 too; k-means takes longer than all the rest.
        seed: of k-means and of the intervals.
        ties: the rule for equal cosines, see :func:`retrieval`.
        bootstrap_samples: resamples behind each interval; 0 makes none.
        level: of the intervals, in (0, 1).
        block_bytes: bound of the ranking's working memory.
        **embedding: ``batch_size``, ``workers``, ``device``, ``precision``, ``cache``, ``max_unreadable`` and
            ``progress`` of :func:`embed_catalogue`.

    Raises:
        DataError: too many images cannot be read, or none has anything to find.
        SizeError: a K is larger than what a query ranks.
    """
    if bootstrap_samples < 0:
        raise SettingsError(f"bootstrap_samples must be at least 0, got {bootstrap_samples}. Usual: 1000.")
    embeddings = embed_catalogue(embedder, catalogue, **embedding)
    return score_embeddings(
        embeddings,
        ks=ks,
        clustering=clustering,
        seed=seed,
        ties=ties,
        bootstrap_samples=bootstrap_samples,
        level=level,
        block_bytes=block_bytes,
        fingerprint=catalogue.fingerprint(),
    )


def score_embeddings(
    embeddings: Embeddings,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    clustering: bool = True,
    seed: int = 0,
    ties: Ties = "optimistic",
    bootstrap_samples: int = 1000,
    level: float = 0.95,
    block_bytes: int = BLOCK_BYTES,
    fingerprint: str = "",
) -> Scores:
    """:func:`evaluate` for embeddings that are there already, such as those of :meth:`Embeddings.load`."""
    found = rank(embeddings, ks, ties=ties, block_bytes=block_bytes)
    clusters = cluster(embeddings.embeddings, embeddings.labels, seed=seed) if clustering else None
    intervals = (
        bootstrap_all(found.per_query(), samples=bootstrap_samples, level=level, seed=seed) if bootstrap_samples else {}
    )
    return Scores(
        embeddings=embeddings,
        retrieval=found,
        clustering=clusters,
        intervals=intervals,
        norms=length_statistics(torch.from_numpy(embeddings.embeddings)),
        fingerprint=fingerprint,
        notes=_notes(embeddings, found),
    )


def rank(
    embeddings: Embeddings, ks: Sequence[int], *, ties: Ties = "optimistic", block_bytes: int = BLOCK_BYTES
) -> RetrievalScores:
    """:func:`retrieval` with the query and gallery flags, if there are any.

    ``query_rows`` and ``nearest`` of the result are rows of the embeddings. A query that is in the gallery too does not
    meet itself.

    Raises:
        DataError: no row is a query, or none is in the gallery.
    """
    rows, labels = embeddings.embeddings, embeddings.labels
    if embeddings.is_query is None and embeddings.is_gallery is None:
        return retrieval(rows, labels, ks, ties=ties, block_bytes=block_bytes)
    everyone = np.arange(len(rows))
    asking = everyone if embeddings.is_query is None else np.flatnonzero(embeddings.is_query)
    answering = everyone if embeddings.is_gallery is None else np.flatnonzero(embeddings.is_gallery)
    for name, chosen in (("is_query", asking), ("is_gallery", answering)):
        if not len(chosen):
            raise DataError(f"no image has {name} set. Mark some, or leave the column out to compare all with all.")
    place = np.full(len(rows), -1)
    place[answering] = np.arange(len(answering))
    found = retrieval(
        rows[asking],
        labels[asking],
        ks,
        gallery=rows[answering],
        gallery_labels=labels[answering],
        exclude=place[asking],
        ties=ties,
        block_bytes=block_bytes,
    )
    return replace(found, query_rows=asking[found.query_rows], nearest=answering[found.nearest])


def _notes(embeddings: Embeddings, found: RetrievalScores) -> tuple[str, ...]:
    notes, total = [], len(embeddings)
    unread = len(embeddings.skipped)
    if unread:
        notes.append(f"Left out: {unread} of {total + unread} images, which could not be read.")
    if found.skipped:
        asked = found.queries + found.skipped
        notes.append(f"Left out: {found.skipped} of {asked} queries, with no other image of their class to find.")
    short = int((np.linalg.norm(embeddings.embeddings, axis=1) <= SHORTEST).sum())
    if short:
        notes.append(f"{short} of {total} embeddings are zero and have no direction: the model may have collapsed.")
    return tuple(notes)
