"""Is it the variance? How much SEC evens out lengths, against what it gains.

A point is one pair of final runs of one seed that differ in SEC: the share by which the relative variance of the test embeddings'
lengths (squared coefficient of variation) falls, and the gain in a score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cosphere._types import Floats
from cosphere.evaluate.statistics import Interval
from cosphere.studies.definition import Study

FEWEST = 5
"""Fewest points for a correlation."""
FEWEST_PAIRS = 3
"""Fewest pairs of arms for its interval: pairs are resampled, as points of one pair depend on each other."""
_SAMPLES = 2000


class Point(NamedTuple):
    """One pair of final runs."""

    arm: str
    against: str
    seed: int
    reduction: float
    """1 minus the ratio of the squared CVs of the lengths; negative where lengths became more uneven."""
    gain: float
    """Of the score, a fraction."""


class Variance(NamedTuple):
    """Correlation of variance reduction with gain."""

    score: str
    points: tuple[Point, ...]
    spearman: float | None
    """Rank correlation over all points; None with fewer than :data:`FEWEST`, or without any variation."""
    interval: Interval | None
    """Bootstrap over pairs of arms, 95 %; None with fewer than :data:`FEWEST_PAIRS`."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "score": self.score,
            "points": [point._asdict() for point in self.points],
            "spearman": self.spearman,
            "interval": None if self.interval is None else self.interval._asdict(),
        }


def variance_against_gain(study: Study, records: Sequence[Mapping[str, Any]]) -> Variance | None:
    """The points and their correlation, for the first score of the study; None if no comparison is about SEC.

    Args:
        study: its comparisons name the pairs of arms; those that differ in a setting of ``sec`` count, each once.
        records: of its runs; final runs that did not fail count.
    """
    score = study.scores[0]
    final = {
        (one["arm"], one["seed"]): one
        for one in records
        if one["phase"] == "final" and one["status"] == "ok" and score in one["scores"]
    }
    pairs = sec_pairs(study)
    if not pairs:
        return None
    points = []
    for arm, against in pairs:
        for seed in range(study.seeds):
            ours, theirs = final.get((arm, seed)), final.get((against, seed))
            if ours and theirs and ours["norms"].get("cv") is not None and theirs["norms"].get("cv"):
                reduction = 1 - (ours["norms"]["cv"] / theirs["norms"]["cv"]) ** 2
                points.append(Point(arm, against, seed, reduction, ours["scores"][score] - theirs["scores"][score]))
    return Variance(score, tuple(points), _correlation(points), _interval(points))


def sec_pairs(study: Study) -> list[tuple[str, str]]:
    """The arms that a comparison of the study is about and that differ in a setting of ``sec``, each pair once."""
    pairs = ((one.arm, one.against) for one in study.comparisons if _about_sec(study, one.arm, one.against))
    return list(dict.fromkeys(pairs))


def _about_sec(study: Study, arm: str, against: str) -> bool:
    def sec(name: str) -> dict[str, Any]:
        one = study.arms[name]
        return {key: value for key, value in {**one.settings, **one.tune}.items() if key.startswith("sec.")}

    return sec(arm) != sec(against)


def _correlation(points: Sequence[Point]) -> float | None:
    if not points:
        return None
    value = float(_correlations(points, np.ones((1, len(points))))[0])
    return None if np.isnan(value) else value


def _correlations(points: Sequence[Point], times: Floats) -> Floats:
    """Spearman's rank correlations of samples of the points.

    Args:
        points: N of them.
        times: (S, N) how often each sample has each point.

    Returns:
        (S,) NaN for a sample of fewer than :data:`FEWEST` points or without any variation.
    """
    sizes = times.sum(axis=1, keepdims=True)
    from_mean = [
        _ranks(np.array([getattr(point, name) for point in points]), times) - (sizes + 1) / 2
        for name in ("reduction", "gain")
    ]
    reductions, gains = from_mean
    together, one, other = ((times * product).sum(axis=1) for product in (reductions * gains, reductions**2, gains**2))
    with np.errstate(invalid="ignore"):
        found: Floats = together / np.sqrt(one * other)
    found[sizes[:, 0] < FEWEST] = np.nan
    return found


def _ranks(values: Floats, times: Floats) -> Floats:
    """(N,) values, (S, N) how often each sample has each -> (S, N) ranks in each sample, the mean rank where values are equal."""
    distinct, place = np.unique(values, return_inverse=True)
    counts = times @ np.eye(len(distinct))[place]
    ranks = np.cumsum(counts, axis=1) - (counts - 1) / 2
    return ranks[:, place]


def _interval(points: Sequence[Point]) -> Interval | None:
    """Bootstrap over pairs of arms, each with all its seeds."""
    names = [(point.arm, point.against) for point in points]
    pairs = list(dict.fromkeys(names))
    if len(pairs) < FEWEST_PAIRS or _correlation(points) is None:
        return None
    drawn = np.random.default_rng(0).integers(0, len(pairs), (_SAMPLES, len(pairs)))
    times = (drawn[:, :, None] == np.arange(len(pairs))).sum(axis=1)[:, [pairs.index(name) for name in names]]
    low, high = np.nanquantile(_correlations(points, times.astype(np.float64)), [0.025, 0.975])
    return Interval(float(low), float(high))
