"""The whole evaluation in one call: images to embeddings to scores with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from cosphere._types import Floats, Progress
from cosphere.codes import is_codes, to_bits
from cosphere.data import Catalogue
from cosphere.embeddings import Embeddings, embed_catalogue
from cosphere.errors import DataError, SettingsError, did_you_mean
from cosphere.evaluate._columns import RowColumns, catalogue_categories
from cosphere.evaluate._relevance import GroupRule
from cosphere.evaluate._ties import Ties
from cosphere.evaluate.clustering import ClusteringScores, check_preset
from cosphere.evaluate.clustering import clustering as cluster
from cosphere.evaluate.retrieval import RetrievalScores, check_ks, check_metrics, check_ties, retrieval
from cosphere.evaluate.statistics import Interval, bootstrap_all, check_level, check_seed
from cosphere.health import Health, embedding_health
from cosphere.models import Embedder
from cosphere.rows import BLOCK_BYTES
from cosphere.spherical import LengthStatistics, length_statistics

IntervalOver = Literal["queries", "classes"]
"""What an interval resamples: single queries, or classes with all their queries."""


class Value(NamedTuple):
    """A score as a fraction, and its interval over queries or classes where it has one."""

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
    """Over queries or classes, see ``interval_over``; empty when not asked for."""
    norms: LengthStatistics
    """Of the raw lengths."""
    fingerprint: str
    """Of the catalogue."""
    notes: tuple[str, ...]
    """What a reader of the numbers should know, one sentence each."""
    interval_over: IntervalOver = "queries"
    """What the intervals resample."""
    health: Health | None = None
    """How the embedding uses its space; None for packed bits."""

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
        """Every score by name, as a fraction: ``recall@K``, ``map@r``, ``r_precision``, then ``nmi``, ``f1``, ...

        Extra metrics that were asked for stand between; the median rank is no fraction, see ``retrieval.median_rank``.
        """
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
            "interval_over": self.interval_over,
            "notes": list(self.notes),
            "skipped_images": [{"path": path, "reason": reason} for path, reason in self.embeddings.skipped],
        }
        if found.median:
            content["median_rank"] = found.median_rank
        if self.health is not None:
            content["health"] = self.health.as_dict()
        if self.clustering is not None:
            used = self.clustering
            content["clustering"] = {
                "method": used.method,
                "preset": used.preset,
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
    clustering_preset: str = "default",
    seed: int = 0,
    metrics: Sequence[str] = (),
    bits: bool = False,
    ties: Ties | None = None,
    bootstrap_samples: int = 1000,
    level: float = 0.95,
    interval_over: IntervalOver = "queries",
    block_bytes: int = BLOCK_BYTES,
    **embedding: Any,
) -> Scores:
    """Embed the images of a catalogue and score the embeddings.

    Args:
        embedder: the model.
        catalogue: images and labels. With ``is_query`` and ``is_gallery``, queries are ranked against the gallery. With
            ``sequence``, a query does not meet images of its class and sequence, as open-metric-learning has it; with
            ``category``, ``retrieval.per_category()`` tells the categories apart.
        ks: the K of Recall@K.
        clustering: NMI and F1 too; k-means takes longer than all the rest.
        clustering_preset: whose k-means, see :func:`clustering`.
        seed: of k-means and of the intervals.
        metrics: what to add to the ranking's scores, see :func:`retrieval`.
        bits: rank the embeddings thresholded at zero, by Hamming distance; all else stays as it is.
        ties: the rule for equal similarities, see :func:`retrieval`.
        bootstrap_samples: resamples behind each interval; 0 makes none.
        level: of the intervals, in (0, 1).
        interval_over: ``queries`` speaks for other images of these classes, ``classes`` for other classes too.
        block_bytes: bound of the ranking's working memory.
        **embedding: ``batch_size``, ``workers``, ``device``, ``precision``, ``cache``, ``max_unreadable`` and
            ``progress`` of :func:`embed_catalogue`.

    Raises:
        DataError: too many images cannot be read, or none has anything to find.
        SizeError: a K is larger than what a query ranks.
    """
    _check_settings(bootstrap_samples, level, seed, interval_over)
    check_ks(ks)  # all of this before the embedding, which takes long
    check_metrics(metrics)
    check_ties(ties)
    check_preset(clustering_preset)
    embeddings = embed_catalogue(embedder, catalogue, **embedding)
    return score_embeddings(
        embeddings,
        ks=ks,
        clustering=clustering,
        clustering_preset=clustering_preset,
        seed=seed,
        metrics=metrics,
        bits=bits,
        categories=catalogue_categories(embeddings, catalogue),
        ties=ties,
        bootstrap_samples=bootstrap_samples,
        level=level,
        interval_over=interval_over,
        block_bytes=block_bytes,
        fingerprint=catalogue.fingerprint(),
    )


def _check_settings(bootstrap_samples: int, level: float, seed: int, interval_over: str) -> None:
    check_level(level)
    check_seed(seed)
    if bootstrap_samples < 0:
        raise SettingsError(f"bootstrap_samples must be at least 0, got {bootstrap_samples}. Usual: 1000.")
    if interval_over not in get_args(IntervalOver):
        known = did_you_mean(interval_over, get_args(IntervalOver))
        raise SettingsError(f"there is no interval over {interval_over!r}. {known}")


def score_embeddings(
    embeddings: Embeddings,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    clustering: bool = True,
    clustering_preset: str = "default",
    seed: int = 0,
    metrics: Sequence[str] = (),
    bits: bool = False,
    groups: Any | None = None,
    group_rule: GroupRule = "same_class",
    categories: Any | None = None,
    ties: Ties | None = None,
    bootstrap_samples: int = 1000,
    level: float = 0.95,
    interval_over: IntervalOver = "queries",
    block_bytes: int = BLOCK_BYTES,
    fingerprint: str = "",
    progress: Progress | None = None,
) -> Scores:
    """:func:`evaluate` for embeddings that are there already, such as those of :meth:`Embeddings.load`.

    ``groups`` and ``categories`` are (N,) integers, see :func:`retrieval`; without ``groups`` those of the embeddings count.
    ``progress`` is told the queries that are ranked.
    Embeddings that are packed bits already (uint8) are ranked by Hamming distance and not clustered.
    """
    _check_settings(bootstrap_samples, level, seed, interval_over)
    found = rank(
        embeddings,
        ks,
        metrics=metrics,
        bits=bits,
        groups=groups,
        group_rule=group_rule,
        categories=categories,
        ties=ties,
        block_bytes=block_bytes,
        progress=progress,
    )
    rows, labels = embeddings.embeddings, embeddings.labels
    packed = is_codes(rows)
    clusters = cluster(rows, labels, seed=seed, preset=clustering_preset) if clustering and not packed else None
    grouped = groups is not None or embeddings.groups is not None
    classes = found.labels if interval_over == "classes" else None
    intervals = (
        bootstrap_all(found.per_query(), classes=classes, samples=bootstrap_samples, level=level, seed=seed)
        if bootstrap_samples
        else {}
    )
    return Scores(
        embeddings=embeddings,
        retrieval=found,
        clustering=clusters,
        intervals=intervals,
        norms=_norms(embeddings),
        fingerprint=fingerprint,
        notes=_notes(embeddings, found, clustering, grouped, bits),
        interval_over=interval_over,
        health=None if packed else embedding_health(rows, labels, seed=seed, block_bytes=block_bytes),
    )


def _norms(embeddings: Embeddings) -> LengthStatistics:
    """Of the rows, packed bits as vectors of 0 and 1."""
    rows = embeddings.embeddings
    if is_codes(rows):
        rows = np.sqrt(np.bitwise_count(rows).sum(axis=1, dtype=np.int64)).astype(np.float32)[:, None]
    return length_statistics(torch.from_numpy(rows))


def rank(
    embeddings: Embeddings,
    ks: Sequence[int],
    *,
    metrics: Sequence[str] = (),
    bits: bool = False,
    groups: Any | None = None,
    group_rule: GroupRule = "same_class",
    categories: Any | None = None,
    ties: Ties | None = None,
    block_bytes: int = BLOCK_BYTES,
    progress: Progress | None = None,
) -> RetrievalScores:
    """:func:`retrieval` with the query and gallery flags, if there are any.

    ``query_rows`` and the nearest images of the result are rows of the embeddings. A query that is in the gallery too does not
    meet itself. ``groups`` and ``categories`` are (N,), one for each row of the embeddings; without ``groups`` their own count.

    Raises:
        DataError: no row is a query, or none is in the gallery.
    """
    rows, labels = embeddings.embeddings, embeddings.labels
    if bits and not is_codes(rows):
        rows = to_bits(rows)
    known = RowColumns.of(len(rows), embeddings.groups if groups is None else groups, categories)
    settings: dict[str, Any] = {
        "group_rule": group_rule,
        "metrics": metrics,
        "ties": ties,
        "block_bytes": block_bytes,
        "progress": progress,
    }
    if embeddings.is_query is None and embeddings.is_gallery is None:
        return retrieval(rows, labels, ks, groups=known.groups, categories=known.categories, **settings)
    everyone = np.arange(len(rows))
    asking = everyone if embeddings.is_query is None else np.flatnonzero(embeddings.is_query)
    answering = everyone if embeddings.is_gallery is None else np.flatnonzero(embeddings.is_gallery)
    for name, chosen in (("is_query", asking), ("is_gallery", answering)):
        if not len(chosen):
            raise DataError(f"no image has {name} set. Mark some, or leave the column out to compare all with all.")
    place = np.full(len(rows), -1)
    place[answering] = np.arange(len(answering))
    asked, held = known.at(asking), known.at(answering)
    found = retrieval(
        rows[asking],
        labels[asking],
        ks,
        gallery=rows[answering],
        gallery_labels=labels[answering],
        exclude=place[asking],
        groups=asked.groups,
        gallery_groups=held.groups,
        categories=asked.categories,
        **settings,
    )
    return found.with_rows(asking, answering)


def _notes(
    embeddings: Embeddings, found: RetrievalScores, clustering: bool, grouped: bool, bits: bool
) -> tuple[str, ...]:
    notes, total = [], len(embeddings)
    unread = len(embeddings.skipped)
    if unread:
        notes.append(f"Left out: {unread} of {total + unread} images, which could not be read.")
    if found.skipped:
        asked = found.queries + found.skipped
        notes.append(f"Left out: {found.skipped} of {asked} queries, with no other image of their class to find.")
    if grouped:
        notes.append("A query does not meet the images that its group (such as its sequence) leaves out.")
    if bits:
        notes.append("Ranked by one bit a dimension and Hamming distance, not by the floats.")
    if is_codes(embeddings.embeddings):
        return (*notes, *(("NMI and F1 are left out: k-means wants floats, not packed bits.",) if clustering else ()))
    return tuple(notes)
