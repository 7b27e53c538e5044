"""Open-set scores: identify queries of known classes and reject queries of unknown ones.

Terms of NIST and ISO/IEC 19795-1: DIR is the true-positive identification rate at rank 1 (1 - FNIR), the false-alarm rate
is FPIR.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cosphere._types import Flags, Floats, Integers, Progress
from cosphere.checks import allowed, check_number, check_numbers, check_seed
from cosphere.errors import DataError, SettingsError, counted
from cosphere.evaluate._names import class_column
from cosphere.evaluate.retrieval import retrieval
from cosphere.evaluate.statistics import Interval, check_resampling, never_certain
from cosphere.evaluate.verification import area_under, far_name, roc
from cosphere.rows import BLOCK_BYTES, Matrix, check_rows, check_widths
from cosphere.search import search


@dataclass(frozen=True, eq=False, kw_only=True)
class OpenSetScores:
    """Result of :func:`open_set`. Fractions."""

    threshold: float
    """The cosine above which an answer counts."""
    dir: float
    """Detection and identification rate: share of the known queries whose nearest image is of their class and above the threshold."""
    false_alarms: float
    """Share of the unknown queries with an image above the threshold."""
    rejected: float
    """Share of the known queries with nothing above it; with ``dir`` and ``misnamed`` it makes 1."""
    misnamed: float
    """Share of the known queries whose answer above it is of another class."""
    rank_1: float
    """Share of the known queries whose nearest image is of their class: DIR without a threshold, the closed-set score."""
    auroc: float
    """Probability that the nearest image of a known query is nearer than that of an unknown one, whatever its class; ties count half."""
    dir_at_fpir: Mapping[float, float]
    """DIR at the lowest threshold at which at most this share of the unknown queries raises an alarm."""
    thresholds: Mapping[float, float]
    """That threshold."""
    intervals: Mapping[str, Interval]
    """Of ``dir`` and ``false_alarms``, over classes, with the gallery and the threshold as they are. Where no query or every one counts,
    the rate is not 0 or 1 for certain: see :func:`cosphere.evaluate.statistics.share_interval`."""
    known_queries: int
    unknown_queries: int
    known_classes: int
    unknown_classes: int
    gallery: int
    """Images in it."""

    def as_dict(self) -> dict[str, float]:
        """Plain numbers: ``dir``, ``false_alarms``, ..., ``dir@fpir=1e-1``."""
        names = ("threshold", "dir", "false_alarms", "rejected", "misnamed", "rank_1", "auroc")
        counts = ("known_queries", "unknown_queries", "known_classes", "unknown_classes", "gallery")
        numbers = {name: getattr(self, name) for name in names}
        numbers |= {f"dir@fpir={far_name(rate)}": value for rate, value in self.dir_at_fpir.items()}
        return numbers | {name: getattr(self, name) for name in counts}


class OpenSetSplit(NamedTuple):
    """Rows, ascending."""

    gallery: Integers
    """Images of known classes in the gallery."""
    queries: Integers
    """The other images of known classes, and all of unknown ones."""


def open_set_split(labels: Any, *, known_share: float = 0.5, gallery_share: float = 0.5, seed: int = 0) -> OpenSetSplit:
    """Draw the known classes, and some images of each for the gallery; all other images are queries.

    Args:
        labels: (N,).
        known_share: of the classes with two images or more, in (0, 1); at least one. Classes of one image are unknown.
        gallery_share: of a known class's images, in (0, 1); at least one is in the gallery and at least one is a query.
        seed: random seed of both draws.

    Raises:
        SettingsError: a share out of range.
        DataError: no class can be known, or no class remains unknown.
    """
    names = class_column(labels)
    check_seed(seed)
    check_number("known_share", known_share, above=0, below=1)
    check_number("gallery_share", gallery_share, above=0, below=1)
    _, numbers, counts = np.unique(names, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts >= 2)
    if not len(several) or len(counts) < 2:
        raise DataError(
            f"an open set wants two classes, one of them with two images; got {counted(len(counts), 'class')}, {len(several)} with two."
        )
    generator = np.random.default_rng(seed)
    number = min(max(1, round(known_share * len(several))), len(counts) - 1)
    known = np.isin(numbers, generator.permutation(several)[:number])
    order = np.lexsort([generator.random(len(numbers)), numbers])  # classes one after another, each shuffled
    rank = np.empty(len(numbers), dtype=np.int64)
    rank[order] = np.arange(len(numbers)) - (np.cumsum(counts) - counts)[numbers[order]]
    enrolled = np.clip(np.rint(gallery_share * counts), 1, np.maximum(counts - 1, 1))
    inside = known & (rank < enrolled[numbers])
    return OpenSetSplit(np.flatnonzero(inside), np.flatnonzero(~inside))


def open_set(
    embeddings: Matrix,
    labels: Any,
    *,
    threshold: float,
    gallery: Matrix | None = None,
    gallery_labels: Any | None = None,
    known_share: float = 0.5,
    gallery_share: float = 0.5,
    fpirs: Sequence[float] = (1e-1, 1e-2),
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    block_bytes: int = BLOCK_BYTES,
    progress: Progress | None = None,
) -> OpenSetScores:
    """Measure how well a threshold rejects unknown queries and identifies known ones.

    A query is known if its class is in the gallery. Its prediction is its nearest gallery image; a tie between two
    classes counts as wrong, so the result does not depend on gallery order. A threshold for a false accept rate of
    pairs raises far more alarms here: a query is compared with the whole gallery, and one impostor above it is enough.

    Args:
        embeddings: (N, D) float; the queries where a gallery is given.
        labels: (N,).
        threshold: cosine; an answer above it counts. ``calibrate(...).threshold`` for example.
        gallery: (G, D) float. None draws known classes and their gallery from the embeddings with
            :func:`open_set_split`.
        gallery_labels: (G,), with the gallery.
        known_share: see :func:`open_set_split`.
        gallery_share: see :func:`open_set_split`.
        fpirs: target fractions of unknown queries that raise an alarm, each in [0, 1].
        samples: resamples of classes behind the intervals, at least 1.
        level: of the intervals, in (0, 1).
        seed: of the split and the intervals.
        block_bytes: bound of the working memory, besides the unit rows.
        progress: called with the number of ranked queries.

    Raises:
        SettingsError: a setting is out of range.
        SizeError: incompatible shapes.
        DataError: NaN or infinity, or not both known and unknown queries.
    """
    fpirs = _checked(threshold, fpirs, samples, level, seed)
    check_rows(embeddings, "embeddings")
    if (gallery is None) != (gallery_labels is None):
        raise SettingsError("give gallery and gallery_labels together, or neither.")
    if gallery is None:
        split = open_set_split(labels, known_share=known_share, gallery_share=gallery_share, seed=seed)
        every = class_column(labels, len(embeddings))
        query_names, names = every[split.queries], every[split.gallery]
        queries, gallery = embeddings[split.queries], embeddings[split.gallery]
    else:
        queries = embeddings
        query_names = class_column(labels, len(queries))
        names = class_column(gallery_labels, len(gallery), "gallery_labels")
    check_rows(queries, "queries")
    check_rows(gallery, "gallery")
    check_widths(queries.shape[1], gallery.shape[1])
    classes = np.unique(np.concatenate([query_names, names]), return_inverse=True)[1]
    query_classes, gallery_classes = classes[: len(queries)], classes[len(queries) :]
    best = _nearest(queries, gallery, query_classes, gallery_classes, block_bytes, progress)
    return _scores(best, query_classes, threshold, len(gallery), fpirs, (samples, level, seed))


def _checked(threshold: float, fpirs: Sequence[float], samples: int, level: float, seed: int) -> tuple[float, ...]:
    """The rates."""
    check_number("threshold", threshold)
    check_resampling(samples, level, seed)
    return check_numbers("fpir", fpirs, at_least=0, at_most=1)


class _Nearest(NamedTuple):
    """The best cosines of Q queries."""

    own: Floats
    """(Q,) with an image of the query's class; -inf where the gallery has none."""
    others: Floats
    """(Q,) with an image of another class; -inf where the gallery has none."""


def _nearest(
    queries: Matrix,
    gallery: Matrix,
    query_classes: Integers,
    gallery_classes: Integers,
    block_bytes: int,
    progress: Progress | None,
) -> _Nearest:
    known = np.isin(query_classes, gallery_classes)
    _check_both(known)
    best = _Nearest(np.full(len(known), -np.inf), np.empty(len(known)))
    scores = retrieval(
        queries[known],
        query_classes[known],
        (1,),
        gallery=gallery,
        gallery_labels=gallery_classes,
        block_bytes=block_bytes,
        progress=None if progress is None else lambda done, _: progress(done, len(known)),
    )
    best.own[known], best.others[known] = scores.right_similarity, scores.wrong_similarity
    best.others[~known] = search(queries[~known], gallery, k=1, block_bytes=block_bytes).scores[:, 0].numpy()
    if progress is not None:
        progress(len(known), len(known))
    return best


def _check_both(known: Flags) -> None:
    if not known.any() or known.all():
        raise DataError(
            f"{int(known.sum())} of {len(known)} queries are of a class in the gallery. Open-set scores want some that are, "
            "and some that are not."
        )


def _scores(
    best: _Nearest,
    classes: Integers,
    threshold: float,
    gallery: int,
    fpirs: Sequence[float],
    resampling: tuple[int, float, int],
) -> OpenSetScores:
    own, others = best
    known = own > -np.inf
    nearest, right = np.maximum(own, others), own > others
    answered = nearest > threshold
    points = {float(rate): _threshold_at(nearest[~known], rate) for rate in fpirs}
    hits = right[known] & answered[known]
    return OpenSetScores(
        threshold=float(threshold),
        dir=float(hits.mean()),
        false_alarms=float(answered[~known].mean()),
        rejected=float((~answered[known]).mean()),
        misnamed=float((answered[known] & ~right[known]).mean()),
        rank_1=float(right[known].mean()),
        auroc=area_under(roc(nearest, known)),
        dir_at_fpir={rate: float((right[known] & (nearest[known] > point)).mean()) for rate, point in points.items()},
        thresholds=points,
        intervals={
            "dir": _over_classes(hits, classes[known], *resampling),
            "false_alarms": _over_classes(answered[~known], classes[~known], *resampling),
        },
        known_queries=int(known.sum()),
        unknown_queries=int((~known).sum()),
        known_classes=len(np.unique(classes[known])),
        unknown_classes=len(np.unique(classes[~known])),
        gallery=gallery,
    )


def _threshold_at(unknown: Floats, rate: float) -> float:
    """The lowest threshold that at most this share of the unknown queries exceeds."""
    alarms = allowed(rate, len(unknown))
    return -math.inf if alarms >= len(unknown) else float(np.sort(unknown)[::-1][alarms])


def _over_classes(hits: Flags, classes: Integers, samples: int, level: float, seed: int) -> Interval:
    """Percentile bootstrap of the mean over whole classes: queries of one class are not independent."""
    numbers = np.unique(classes, return_inverse=True)[1]
    count = int(numbers.max()) + 1
    right, queries = np.bincount(numbers, weights=hits), np.bincount(numbers)
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    for sample in range(samples):
        times = np.bincount(generator.integers(0, count, count), minlength=count)
        means[sample] = (times @ right) / (times @ queries)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return never_certain(Interval(float(low), float(high)), float(hits.mean()), len(hits), level)
