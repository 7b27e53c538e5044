"""The whole evaluation in one call: images to embeddings to scores with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from cosphere._types import Floats, Progress
from cosphere.checks import check_made
from cosphere.codes import is_codes, to_bits
from cosphere.data import Catalogue
from cosphere.data.remarks import MAX_UNREADABLE
from cosphere.embeddings import Embeddings, EmbeddingStore, FeatureCache, Precision, Sides, columns_of, embed
from cosphere.errors import SettingsError, agreeing, counted, did_you_mean
from cosphere.evaluate._columns import RowColumns, catalogue_categories
from cosphere.evaluate._depths import check_reach
from cosphere.evaluate.clustering import CLUSTERING_PRESETS, ClusteringScores
from cosphere.evaluate.clustering import clustering as cluster
from cosphere.evaluate.retrieval import RetrievalScores, compared, images_to_rank, retrieval
from cosphere.evaluate.settings import EvaluationSettings, IntervalOver
from cosphere.evaluate.statistics import Interval, bootstrap_all
from cosphere.health import Health, embedding_health
from cosphere.images import PixelCache
from cosphere.models import Embedder
from cosphere.spherical import LengthStatistics, length_statistics

DEFAULTS = EvaluationSettings()


class Value(NamedTuple):
    """A score as a fraction, and its interval over queries or classes where it has one."""

    value: float
    interval: Interval | None

    def as_dict(self) -> dict[str, float | None]:
        """``value``, ``low`` and ``high``; the last two None without an interval."""
        low, high = self.interval or (None, None)
        return {"value": self.value, "low": low, "high": high}


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """Scores of one model on one set of images. Each part that was not measured is None."""

    embeddings: Embeddings
    norms: LengthStatistics
    """Of the raw lengths."""
    retrieval: RetrievalScores | None = None
    clustering: ClusteringScores | None = None
    others: Mapping[str, float] = field(default_factory=dict)
    """Further scores by name, as fractions: those of pairs, for example."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """By score, over queries or classes, see ``interval_over``; empty when none were asked for."""
    interval_over: IntervalOver = "queries"
    """What the intervals resample."""
    health: Health | None = None
    """How the embedding uses its space; None for packed bits."""
    fingerprint: str = ""
    """Of the catalogue."""
    settings: EvaluationSettings = DEFAULTS
    """How it was measured."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers should know, one sentence each."""

    @property
    def images(self) -> int:
        """Number of embedded images."""
        return len(self.embeddings)

    @property
    def classes(self) -> int:
        """Number of classes among them."""
        return len(np.unique(self.embeddings.labels))

    @property
    def per_query(self) -> dict[str, Floats]:
        """The values behind each retrieval score: see :meth:`RetrievalScores.per_query`."""
        return {} if self.retrieval is None else self.retrieval.per_query()

    @property
    def values(self) -> dict[str, Value]:
        """Every score by name, as a fraction: ``recall@K``, ``map@r``, ``r_precision``, extra metrics, ``nmi``, ``f1``, ...

        The median rank is not a fraction: see ``retrieval.median_rank``.
        """
        means = {name: float(values.mean()) for name, values in self.per_query.items()}
        if self.clustering is not None:
            means |= self.clustering.as_dict()
        means |= self.others
        return {name: Value(mean, self.intervals.get(name)) for name, mean in means.items()}

    def value(self, name: str) -> float:
        """One score as a fraction.

        Raises:
            SettingsError: there is no such score; the error names the nearest.
        """
        values = self.values
        if name not in values:
            raise SettingsError(f"there is no score {name!r}. {did_you_mean(name, values)}")
        return values[name].value

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for ``scores.json``: scores with intervals, data, norms, settings, notes."""
        content: dict[str, Any] = {
            "scores": {name: value.as_dict() for name, value in self.values.items()},
            "data": {"fingerprint": self.fingerprint, "images": self.images, "classes": self.classes},
            "norms": {"mean": self.norms.mean, "variance": self.norms.variance, "cv": self.norms.cv},
            "interval_over": self.interval_over,
            "evaluation": {
                name: value
                for name, value in (asdict(self.settings) | {"ks": self.settings.depths}).items()
                if name != "block_bytes"
            },
            "notes": list(self.notes),
            "skipped_images": [{"path": path, "reason": reason} for path, reason in self.embeddings.skipped],
        }
        if self.retrieval is not None:
            content["data"] |= {"queries": self.retrieval.queries, "queries_skipped": self.retrieval.skipped}
            content["ties"] = self.retrieval.ties
            content |= {name: float(np.median(values)) for name, values in self.retrieval.medians.items()}
        if self.health is not None:
            content["health"] = self.health.as_dict()
        if self.clustering is not None:
            names = ("method", "preset", "clusters", "iterations", "restarts", "seed")
            content["clustering"] = {name: getattr(self.clustering, name) for name in names}
        return content


def evaluate(
    embedder: Embedder,
    catalogue: Catalogue,
    settings: EvaluationSettings = DEFAULTS,
    *,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device | None = None,
    precision: Precision = "float32",
    cache: PixelCache | None = None,
    max_unreadable: float = MAX_UNREADABLE,
    store: EmbeddingStore | None = None,
    features: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Embed the images of a catalogue and score the embeddings.

    Args:
        embedder: the model.
        catalogue: images and labels. With ``is_query`` and ``is_gallery``, queries are ranked against the gallery. With
            ``sequence``, a query does not rank images of its sequence (see ``settings.group_rule``); with
            ``category``, ``retrieval.per_category()`` scores each category.
        settings: what to measure and how.
        batch_size: images that are read together, see :meth:`cosphere.models.Embedder.encode`.
        workers: processes that decode; 0 decodes in this one.
        device: where to compute; None leaves the embedder where it is.
        precision: ``bf16`` runs the forward pass in bfloat16.
        cache: of decoded pixels.
        max_unreadable: share of unreadable images above which to stop, in [0, 1].
        store: of rows that this model computed before.
        features: of the model's backbone, see :func:`embed_catalogue`.
        progress: called with the number of embedded images.

    Raises:
        DataError: too many images cannot be read, or no query has anything to find.
        SizeError: a K is larger than the number of images that a query ranks.
    """
    check_made("settings", settings, EvaluationSettings, "EvaluationSettings(ks=(1, 2, 4, 8))")
    _check_ks_fit(catalogue, settings)
    embeddings = embed(
        embedder,
        catalogue,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
        cache=cache,
        max_unreadable=max_unreadable,
        store=store,
        features=features,
        progress=progress,
    )
    categories = catalogue_categories(embeddings, catalogue)
    return score_embeddings(embeddings, settings, categories=categories, fingerprint=embeddings.fingerprint)


def score_embeddings(
    embeddings: Embeddings,
    settings: EvaluationSettings = DEFAULTS,
    *,
    groups: Any | None = None,
    categories: Any | None = None,
    fingerprint: str = "",
    progress: Progress | None = None,
) -> Scores:
    """Score embeddings that already exist, such as those of :meth:`Embeddings.load`. See :func:`evaluate`.

    Packed bits (uint8) are ranked by Hamming distance and not clustered.

    Args:
        embeddings: N rows.
        settings: what to measure and how.
        groups: (N,) integers, see :func:`retrieval`; None takes the groups of the embeddings.
        categories: (N,) integers, see :func:`retrieval`.
        fingerprint: of the catalogue, for ``scores.json``.
        progress: called with the number of ranked queries.

    Raises:
        DataError: no query has anything to find, or a row holds NaN or infinity.
        SizeError: a K is larger than the number of images that a query ranks.
    """
    check_made("settings", settings, EvaluationSettings, "EvaluationSettings(ks=(1, 2, 4, 8))")
    ranking = rank(embeddings, settings, groups=groups, categories=categories, progress=progress)
    rows, labels, seed = embeddings.embeddings, embeddings.labels, settings.seed
    clusters = None
    if settings.clustering and not is_codes(rows):
        clusters = cluster(rows, labels, seed=seed, preset=settings.clustering_preset)
    health = None
    if not is_codes(rows):
        health = embedding_health(rows, labels, seed=seed, block_bytes=settings.block_bytes)
    return Scores(
        embeddings=embeddings,
        norms=_norms(embeddings),
        retrieval=ranking,
        clustering=clusters,
        intervals=_intervals(ranking, settings),
        interval_over=settings.interval_over,
        health=health,
        fingerprint=fingerprint,
        settings=settings,
        notes=_notes(embeddings, ranking, settings, grouped=groups is not None or embeddings.groups is not None),
    )


def _check_ks_fit(catalogue: Catalogue, settings: EvaluationSettings) -> None:
    """Raise before anything is embedded if a K that was asked for is larger than what a query ranks."""
    if settings.ks is not None:
        columns = columns_of(catalogue)
        sides, candidates, _ = compared(**ranking_arguments(columns, columns.sides(), settings))
        check_reach(settings.ks, images_to_rank(sides, candidates))


def _intervals(ranking: RetrievalScores, settings: EvaluationSettings) -> dict[str, Interval]:
    if not settings.bootstrap_samples:
        return {}
    return bootstrap_all(
        ranking.per_query(),
        classes=ranking.labels if settings.interval_over == "classes" else None,
        samples=settings.bootstrap_samples,
        level=settings.level,
        seed=settings.seed,
    )


def _norms(embeddings: Embeddings) -> LengthStatistics:
    """Lengths of the rows; packed bits count as vectors of 0 and 1."""
    rows = embeddings.embeddings
    if is_codes(rows):
        rows = np.sqrt(np.bitwise_count(rows).sum(axis=1, dtype=np.int64)).astype(np.float32)[:, None]
    return length_statistics(torch.from_numpy(rows))


def rank(
    embeddings: Embeddings,
    settings: EvaluationSettings = DEFAULTS,
    *,
    groups: Any | None = None,
    categories: Any | None = None,
    progress: Progress | None = None,
) -> RetrievalScores:
    """The retrieval scores of embeddings, with their queries, gallery and groups.

    Args:
        embeddings: N rows.
        settings: those of the ranking are used: ``ks``, ``metrics``, ``bits``, ``ties``, ``group_rule``, ``block_bytes``.
        groups: (N,) integers; None takes the groups of the embeddings.
        categories: (N,) integers.
        progress: called with the number of ranked queries.

    Returns:
        scores whose ``query_rows`` and nearest images are rows of the embeddings.

    Raises:
        DataError: no row is a query, none is in the gallery, or no query has anything to find.
        SizeError: a K is larger than the number of images that a query ranks.
    """
    sides = embeddings.sides()
    scores = retrieval(
        ks=settings.depths,
        fit_ks=settings.ks is None,
        categories=None
        if categories is None
        else RowColumns.of(len(embeddings), None, categories).at(sides.query_rows).categories,
        metrics=settings.metrics,
        ties=settings.ties,
        block_bytes=settings.block_bytes,
        progress=progress,
        **ranking_arguments(embeddings, sides, settings, groups=groups),
    )
    return scores.with_rows(sides.query_rows, sides.gallery_rows)


def ranking_arguments(
    embeddings: Embeddings, sides: Sides, settings: EvaluationSettings, *, groups: Any | None = None
) -> dict[str, Any]:
    """What the queries, the gallery and the rules are, as arguments of :func:`retrieval`."""
    rows, labels = embeddings.embeddings, embeddings.labels
    if settings.bits and not is_codes(rows):
        rows = to_bits(rows)
    columns = RowColumns.of(len(rows), embeddings.groups if groups is None else groups, None)
    arguments: dict[str, Any] = {
        "embeddings": rows if sides.is_whole else rows[sides.query_rows],
        "labels": labels[sides.query_rows],
        "groups": columns.at(sides.query_rows).groups,
        "group_rule": settings.group_rule,
        "identities": sides.query_identities,
    }
    if not sides.is_whole:
        arguments |= {
            "gallery": rows[sides.gallery_rows],
            "gallery_labels": labels[sides.gallery_rows],
            "gallery_groups": columns.at(sides.gallery_rows).groups,
            "gallery_identities": sides.gallery_identities,
            "exclude": sides.exclude,
        }
    return arguments


def _notes(
    embeddings: Embeddings, ranking: RetrievalScores, settings: EvaluationSettings, *, grouped: bool
) -> tuple[str, ...]:
    notes, total, unread = [], len(embeddings), len(embeddings.skipped)
    if unread:
        notes.append(f"Left out: {unread} of {counted(total + unread, 'image')}, which could not be read.")
    notes += _repeated(embeddings)
    if ranking.skipped:
        queries = ranking.queries + ranking.skipped
        notes.append(
            f"Left out: {ranking.skipped} of {counted(queries, 'query')}, with no other image of their class to find."
        )
    sure = int((ranking.nearest_wrong < 0).sum())
    if sure:
        which = f"{sure} of {counted(ranking.queries, 'query')} {agreeing(sure, 'rank')}"
        notes.append(
            f"{which} images of one class alone and cannot fail, so these scores say nothing of the model there."
        )
    too_large = [k for k in settings.depths if f"recall@{k}" not in ranking.scores]
    if too_large:
        names = ", ".join(f"Recall@{k}" for k in too_large)
        notes.append(f"Left out: {names}, because a query ranks fewer than {too_large[0]} images.")
    if grouped:
        notes.append("A query does not meet the images that its group (such as its sequence) leaves out.")
    if settings.bits:
        notes.append("Ranked by one bit a dimension and Hamming distance, not by the floats.")
    if settings.clustering and is_codes(embeddings.embeddings):
        notes.append("NMI and F1 are left out: k-means wants floats, not packed bits.")
    elif settings.clustering and CLUSTERING_PRESETS[settings.clustering_preset].restarts == 1:
        notes.append(
            "NMI and F1 come from one k-means start from random rows, lower than the papers' best of ten, above all with few images "
            "per class: compare with theirs by --clustering_preset sec or norm_softmax."
        )
    return tuple(notes)


def _repeated(embeddings: Embeddings) -> list[str]:
    """A note about rows that show one picture."""
    identities = embeddings.identities()
    pictures = len(np.unique(identities))
    if pictures == len(embeddings):
        return []
    labelled = len(np.unique(np.stack([identities, embeddings.labels], axis=1), axis=0))
    repeated, rows = len(embeddings) - pictures, counted(len(embeddings), "row")
    notes = [f"{repeated} of {rows} repeat the picture of another row. A query does not meet its own picture."]
    if labelled > pictures:
        several = labelled - pictures
        notes.append(
            f"{counted(several, 'picture')} {agreeing(several, 'have')} more than one label. Look at them: one is wrong."
        )
    return notes
