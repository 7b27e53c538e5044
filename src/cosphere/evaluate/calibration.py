"""Calibration: the similarity threshold for a target false-accept rate."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from cosphere._types import Floats, Progress
from cosphere.checks import allowed, check_number
from cosphere.evaluate._pairs import (
    ClassedRows,
    Tail,
    classed_rows,
    cosine_of_rank,
    different_above,
    same_above,
)
from cosphere.evaluate.statistics import Interval, around, check_resampling, share_interval
from cosphere.models.calibration import Calibration
from cosphere.rows import BLOCK_BYTES, Matrix

_TAIL = 2**17
"""Pairs that enter each resample. 1000 resamples of this many take about a second."""
_REACH = 8
"""A resampled threshold is followed up to this multiple of the target rate."""


def calibrate(
    embeddings: Matrix,
    labels: Any,
    far: float = 1e-3,
    *,
    data: str | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    block_bytes: int = BLOCK_BYTES,
    progress: Progress | None = None,
) -> Calibration:
    """Find the lowest cosine threshold whose false-accept rate, over all pairs of different classes, is at most ``far``.

    Every pair is compared. Use classes that the model was not trained on: trained classes lie farther apart than new ones, so
    their false-accept rate is too low. The rate is one of *pairs*: a search among G images makes G comparisons, so an unknown
    image raises a false alarm far more often; :func:`cosphere.evaluate.open_set` measures that.

    The intervals come from resampling whole classes, since pairs share images and images share classes. Each resample chooses
    its own threshold: the quantiles of these thresholds give the interval of the threshold, and the rates that they have on
    the original data give the interval of the rate. The interval of the true-accept rate is that of the returned threshold. A
    resampled threshold is followed up to 8 times the target rate.

    No interval is narrower than it would be for independent pairs, because two classes resample into nothing new, and a rate of
    which no pair was seen is not 0: where none of n pairs lies above the threshold, its false-accept rate may be up to
    1 - 0.025^(1/n) at level 0.95 (Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934), and the
    threshold of the target rate may be as high as 1 where n is below about 3.7 / far. Pairs of few classes are not independent,
    so that below about twenty classes the intervals are too narrow all the same.

    Args:
        embeddings: (N, D) float, torch or numpy, any length. A tensor's device does the work.
        labels: (N,) integers or names.
        far: target false-accept rate in (0, 1). A reliable estimate needs at least 30 / far pairs and many classes.
        data: fingerprint of the images, stored with the result.
        samples: resamples, at least 1.
        level: of the intervals, in (0, 1).
        seed: one seed gives one interval.
        block_bytes: bound of the working memory in bytes, besides a unit copy of the rows; at least 32 rows are
            compared with all at a time.
        progress: called with the number of processed rows; each row counts twice.

    Raises:
        SettingsError: a setting out of range.
        SizeError: shapes that do not fit.
        DataError: NaN or infinity, or fewer than two classes.

    >>> result = calibrate(np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), [0, 0, 1], far=0.5)
    >>> round(result.threshold, 3), result.far, result.tar  # impostors at 0 and 0.6: half may lie above
    (0.0, 0.5, 1.0)
    """
    check_far(far)
    check_resampling(samples, level, seed)
    rows = classed_rows(embeddings, labels)
    pairs, same = rows.different_pairs, int(rows.same_pairs.sum())
    accepted = min(allowed(far, pairs), pairs - 1)
    place = cosine_of_rank(
        rows,
        accepted,
        keep=max(_TAIL, _REACH * (accepted + 1)),
        most=_TAIL,
        block_bytes=block_bytes,
        progress=progress,
    )
    hits = same_above(rows, place.cosine, block_bytes=block_bytes)
    draws = _resampled(rows, place.tail, hits, far, samples, seed)
    far_ends = _ends(_rates(place.tail, draws.thresholds, pairs), level, anything=Interval(0.0, 1.0))
    right = int(hits.sum())
    tar_ends = _ends(draws.tars, level, anything=Interval(0.0, 1.0))
    return Calibration(
        threshold=place.cosine,
        wanted_far=float(far),
        far=place.above / pairs,
        tar=right / same if same else None,
        threshold_interval=around(
            _ends(draws.thresholds, level, anything=Interval(-1.0, 1.0)), _of_ranks(place.tail, far, pairs, level)
        ),
        far_interval=around(far_ends, share_interval(place.above, pairs, level)),
        tar_interval=around(tar_ends, share_interval(right, same, level)) if same else None,
        level=float(level),
        different_pairs=pairs,
        same_pairs=same,
        classes=len(rows.counts),
        images=rows.rows.size,
        data=data,
    )


def check_far(far: float) -> None:
    """Raise unless the rate is in (0, 1)."""
    check_number("far", far, above=0, below=1)


class _Draws(NamedTuple):
    thresholds: Floats
    """(samples,)"""
    tars: Floats
    """(samples,) NaN where a resample has no pair of one class."""


def _resampled(
    rows: ClassedRows, tail: Tail, hits: npt.NDArray[np.int64], far: float, samples: int, seed: int
) -> _Draws:
    """Draw whole classes with replacement. Two copies of one class form no pair of different classes."""
    generator = np.random.default_rng(seed)
    classes, same = len(rows.counts), rows.same_pairs
    thresholds, tars = np.full(samples, np.nan), np.full(samples, np.nan)
    for sample in range(samples):
        times = np.bincount(generator.integers(0, classes, classes), minlength=classes)
        images = times * rows.counts
        pairs = (int(images.sum()) ** 2 - int((images**2).sum())) // 2
        if pairs:
            reached = np.cumsum(times[tail.first] * times[tail.second]) * tail.each
            position = int(np.searchsorted(reached, min(allowed(far, pairs), pairs - 1), side="right"))
            thresholds[sample] = tail.cosines[min(position, len(reached) - 1)]
        if (drawn := int(times @ same)) > 0:
            tars[sample] = float(times @ hits) / drawn
    return _Draws(thresholds, tars)


def _rates(tail: Tail, thresholds: Floats, pairs: int) -> Floats:
    """Share of all pairs of different classes above each threshold."""
    above = np.searchsorted(-tail.cosines, -thresholds, side="left") * tail.each
    rates: Floats = np.where(np.isnan(thresholds), np.nan, np.minimum(above / pairs, 1.0))
    return rates


def _ends(values: Floats, level: float, *, anything: Interval) -> Interval:
    # With few classes, a resample may repeat one class only and then has no pair of different classes.
    defined = values[~np.isnan(values)]
    if not len(defined):
        return anything
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _of_ranks(tail: Tail, far: float, pairs: int, level: float) -> Interval:
    """The cosines between which the threshold of a rate lies, by how many of ``pairs`` independent pairs lie above it."""
    least, most = (int(count) for count in binom.ppf([(1 - level) / 2, (1 + level) / 2], pairs, far))
    low, high = (min(int(rank / tail.each), len(tail.cosines) - 1) for rank in (most, max(least - 1, 0)))
    return Interval(float(tail.cosines[low]), float(tail.cosines[high]) if least else 1.0)


class PairRates(NamedTuple):
    """False- and true-accept rate of a threshold over all pairs of a set."""

    far: float
    """Share of the pairs of different classes above the threshold, in [0, 1]."""
    tar: float | None
    """Share of the pairs of one class above it; None without such pairs."""
    different_pairs: int
    same_pairs: int


def pair_rates(
    embeddings: Matrix,
    labels: Any,
    threshold: float,
    *,
    block_bytes: int = BLOCK_BYTES,
    progress: Progress | None = None,
) -> PairRates:
    """Measure the false- and true-accept rate of a cosine threshold, chosen on other data, over all pairs.

    Args:
        embeddings: (N, D) float.
        labels: (N,).
        threshold: cosine; a pair above it is accepted.
        block_bytes: bound of the working memory, as in :func:`calibrate`.
        progress: called with the number of processed rows.

    Raises:
        SettingsError: the threshold is NaN.
        SizeError: shapes that do not fit.
        DataError: NaN or infinity, or fewer than two classes.
    """
    check_number("threshold", threshold)
    rows = classed_rows(embeddings, labels)
    same = int(rows.same_pairs.sum())
    wrong = different_above(rows, threshold, block_bytes=block_bytes, progress=progress)
    right = int(same_above(rows, threshold, block_bytes=block_bytes).sum())
    return PairRates(wrong / rows.different_pairs, right / same if same else None, rows.different_pairs, same)
