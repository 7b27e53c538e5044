"""Thresholds: their uncertainty, their rates on given pairs, and conversion between cosine, angle, distance and bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binom

from cosphere.checks import allowed, check_choice, check_number, check_numbers, check_seed, check_whole, is_number
from cosphere.codes import code_bytes
from cosphere.errors import DataError, SettingsError, SizeError, agreeing, counted
from cosphere.evaluate._names import class_column
from cosphere.evaluate.statistics import Interval, check_level, never_certain
from cosphere.evaluate.verification import checked_pairs, tar_at_far
from cosphere.rows import Matrix, unit_rows

Measure = Literal["cosine", "angle", "degrees", "l2", "squared_l2", "hamming"]
"""``angle`` is in radians."""

_STEP = 2**14
"""Pairs compared at a time in :func:`matched_hamming`."""


class ThresholdRow(NamedTuple):
    """One row of a threshold table. Rates are fractions."""

    wanted_far: float
    threshold: float
    """Pairs with a score above it are accepted."""
    far: float
    """Its false-accept rate on these pairs: at most the target."""
    tar: float
    """Its true-accept rate on these pairs."""
    threshold_interval: Interval
    far_interval: Interval
    """Of the true rate of a threshold that is chosen from this many pairs."""
    tar_interval: Interval
    """Of this threshold with other same pairs."""

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers; an infinite threshold is None."""
        return {
            "wanted_far": self.wanted_far,
            "threshold": plain_threshold(self.threshold),
            "far": self.far,
            "tar": self.tar,
            "threshold_interval": [plain_threshold(end) for end in self.threshold_interval],
            "far_interval": list(self.far_interval),
            "tar_interval": list(self.tar_interval),
        }


def plain_threshold(value: float) -> float | None:
    """For JSON: a threshold, or None where it is infinite, because it accepts every pair or none."""
    return value if math.isfinite(value) else None


def threshold_table(
    scores: Any, same: Any, fars: Sequence[float] = (1e-1, 1e-2, 1e-3), *, level: float = 0.95
) -> list[ThresholdRow]:
    """The exact threshold for each target false-accept rate, its rates, and an interval of each.

    The intervals are the percentile bootstrap over pairs with infinitely many resamples, in closed form. The k-th highest of n
    drawn scores is the one at place ``floor(n U)`` with U ~ Beta(k + 1, n - k), so the threshold's quantiles are scores of
    the list, and the rates of those scores are the quantiles of the true rate of a threshold chosen from such a sample.
    Unlike a resampled rate, they are not (0, 0) where no pair lies above: they agree with the rule of three. The accepted
    same pairs are binomial; where none or all of them are accepted, the interval is that of Clopper and Pearson. Pairs are
    assumed independent, which pairs that share an image are not; for all pairs of
    labelled images, :func:`cosphere.evaluate.calibrate` resamples classes.

    Args:
        scores: (n,) float, higher for more similar.
        same: (n,) bool.
        fars: target rates, each in [0, 1].
        level: of the intervals, in (0, 1).

    Raises:
        SettingsError, SizeError, DataError: as :func:`cosphere.evaluate.verification`.

    >>> row = threshold_table([0.9, 0.8, 0.4, 0.6, 0.2, 0.1], [1, 1, 1, 0, 0, 0], [0.34])[0]
    >>> row.threshold, round(row.far, 3), row.tar, row.threshold_interval
    (0.2, 0.333, 1.0, Interval(low=0.1, high=0.6))
    """
    check_level(level)
    values, truth = checked_pairs(scores, same)
    impostors = np.sort(values[~truth])[::-1]
    return [_row(values, truth, impostors, far, level) for far in check_numbers("far", fars, at_least=0, at_most=1)]


def _row(values: Any, truth: Any, impostors: Any, far: float, level: float) -> ThresholdRow:
    point = tar_at_far(values, truth, far)
    count, genuine = len(impostors), int(truth.sum())
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    accepted = binom.ppf(tails, genuine, point.tar) / genuine
    false_accepts = allowed(far, count)
    if false_accepts >= count:
        ends, rates = np.full(2, -np.inf), np.ones(2)
    else:
        places = np.minimum(
            np.floor(count * beta.ppf(tails, false_accepts + 1, count - false_accepts)).astype(int), count - 1
        )
        ends = impostors[places[::-1]].astype(np.float64)  # later in the list is lower
        rates = np.searchsorted(-impostors, -impostors[places], side="left") / count  # strictly above
    return ThresholdRow(
        float(far),
        point.threshold,
        point.far,
        point.tar,
        Interval(float(ends[0]), float(ends[1])),
        Interval(float(rates[0]), float(rates[1])),
        never_certain(Interval(float(accepted[0]), float(accepted[1])), point.tar, genuine, level),
    )


class Rates(NamedTuple):
    """Rates of a threshold on a list of pairs."""

    far: float
    """Share of the different pairs above it, in [0, 1]."""
    tar: float
    """Share of the same pairs above it."""


def rates_at(scores: Any, same: Any, threshold: float) -> Rates:
    """False- and true-accept rate of a threshold that was chosen on other pairs. Takes (n,) scores and (n,) bool.

    Raises:
        SettingsError: the threshold is no number.
        SizeError, DataError: as :func:`cosphere.evaluate.verification`.

    >>> rates_at([0.9, 0.4, 0.6, 0.2], [1, 1, 0, 0], 0.4)
    Rates(far=0.5, tar=0.5)
    """
    values, truth = checked_pairs(scores, same)
    if not is_number(threshold) or math.isnan(threshold):  # an infinite one accepts all, or none
        raise SettingsError(f"threshold must be a number in units of the score; got {threshold!r}.")
    return Rates(float((values[~truth] > threshold).mean()), float((values[truth] > threshold).mean()))


def convert_threshold(
    value: float, from_: Measure = "cosine", to: Measure = "angle", *, bits: int | None = None
) -> float:
    """Convert a threshold between measures of two unit vectors.

    With the angle a in [0, pi]: cosine = cos a, l2 = 2 sin(a/2), squared_l2 = 2 - 2 cos a, and by expectation hamming =
    bits * a / pi. A larger cosine is a smaller angle and distance: above the cosine threshold means *below* the others.

    Hamming is an approximation. a / pi is the chance that a *random* hyperplane separates two vectors (Goemans and Williamson
    1995, Charikar 2002). The bits of a trained embedding are neither random nor independent of each other, and each
    pair scatters around its expectation; :func:`matched_hamming` measures the relation on given codes instead.

    Args:
        value: in the range of its measure; a cosine may exceed 1 by rounding.
        from_: "cosine" in [-1, 1], "angle" in radians, [0, pi], "degrees" in [0, 180], "l2" in [0, 2], "squared_l2" in
            [0, 4], "hamming" in [0, bits].
        to: the same names.
        bits: D of a D-bit code; for "hamming" only.

    Raises:
        SettingsError: an unknown measure, a value out of range, or no bits for "hamming".

    >>> [round(convert_threshold(0.5, to=measure, bits=512), 3) for measure in ("degrees", "l2", "hamming")]
    [60.0, 1.0, 170.667]
    """
    for name in (from_, to):
        check_choice("measure", name, get_args(Measure))
    if "hamming" in (from_, to):
        check_whole("bits", bits, least=1)
    low, high = (-1.0, 1.0) if from_ == "cosine" else (0.0, _widest(from_, bits))
    slack = 1e-6 if from_ == "cosine" else 1e-12 * high  # float32 cosines reach 1.0000001
    if not low - slack <= value <= high + slack:
        raise SettingsError(f"a threshold as {from_} lies in [{low:g}, {high:g}], got {value!r}.")
    checked = min(max(float(value), low), high)
    return checked if from_ == to else _from_square(_square(checked, from_, bits), to, bits)


def _widest(measure: str, bits: int | None) -> float:
    return {"angle": math.pi, "degrees": 180.0, "l2": 2.0, "squared_l2": 4.0, "hamming": float(bits or 0)}[measure]


# All conversions go through the squared distance: near 0, where thresholds of similar pairs lie, it keeps digits that a
# cosine loses.
def _square(value: float, measure: str, bits: int | None) -> float:
    if measure == "cosine":
        return 2 - 2 * value
    if measure == "l2":
        return value * value
    if measure == "squared_l2":
        return value
    return 4 * math.sin(value / _widest(measure, bits) * math.pi / 2) ** 2


def _from_square(square: float, measure: str, bits: int | None) -> float:
    if measure == "cosine":
        return 1 - square / 2
    if measure == "l2":
        return math.sqrt(square)
    if measure == "squared_l2":
        return square
    share = 2 * math.atan2(math.sqrt(square), math.sqrt(max(4 - square, 0.0))) / math.pi
    return share * _widest(measure, bits)


class MatchedHamming(NamedTuple):
    """The Hamming threshold that accepts as many pairs as a cosine threshold."""

    threshold: int
    """Differing bits; a pair *below* it is accepted."""
    accepted: float
    """Share of the pairs below it, in [0, 1]: the largest that does not exceed ``accepted_by_cosine``."""
    accepted_by_cosine: float
    """Share of the pairs above the cosine threshold."""
    pairs: int
    """Number of compared pairs."""


def matched_hamming(
    threshold: float, embeddings: Matrix, codes: Any, *, labels: Any | None = None, pairs: int = 2**20, seed: int = 0
) -> MatchedHamming:
    """Find the Hamming threshold that is as strict as a cosine threshold, measured on embeddings and their codes.

    Pairs of rows are drawn; those of two classes when labels are given, so that the two thresholds have the same false accept
    rate. Compare with the random-hyperplane expectation of :func:`convert_threshold`.

    Args:
        threshold: cosine.
        embeddings: (N, D) float.
        codes: (N, bytes) uint8, packed bits of the same rows: of their signs, or of any other hash of them.
        labels: (N,) or None for pairs of any two rows.
        pairs: number of pairs to draw with replacement, at least 1.
        seed: one seed draws one set of pairs.

    Raises:
        SizeError: incompatible shapes.
        DataError: NaN or infinity, or no pair of two classes.
    """
    rows, packed = unit_rows(embeddings).rows, code_bytes(codes)
    if len(packed) != len(rows):
        raise SizeError(
            f"got {counted(len(rows), 'embedding')} and {counted(len(packed), 'code')}. Make the codes from these rows."
        )
    check_whole("pairs", pairs, least=1)
    check_number("threshold", threshold)
    check_seed(seed)
    left, right = _drawn_pairs(len(rows), labels, pairs, seed)
    counts = np.zeros(8 * packed.shape[1] + 1, dtype=np.int64)
    accepted = 0
    for start in range(0, len(left), _STEP):
        first, second = left[start : start + _STEP], right[start : start + _STEP]
        accepted += int(((rows[first] * rows[second]).sum(dim=1) > threshold).sum())
        differing = np.bitwise_count(packed[first] ^ packed[second]).sum(axis=1, dtype=np.int64)
        counts += np.bincount(differing, minlength=len(counts))
    below = np.concatenate([[0], np.cumsum(counts)])  # below[h]: pairs with fewer than h differing bits
    bits = int(np.searchsorted(below, accepted, side="right")) - 1
    return MatchedHamming(bits, float(below[bits] / len(left)), accepted / len(left), len(left))


def _drawn_pairs(count: int, labels: Any | None, pairs: int, seed: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    names = None if labels is None else class_column(labels, count)
    if count < 2 or (names is not None and (names == names[0]).all()):
        raise DataError(
            f"{counted(count, 'image')} {agreeing(count, 'hold')} no pair of two {'images' if names is None else 'classes'}. Give more."
        )
    generator = np.random.default_rng(seed)
    left = generator.integers(0, count, pairs)
    right = (left + generator.integers(1, count, pairs)) % count  # another row, each equally likely
    if names is None:
        return left, right
    while (same := np.flatnonzero(names[left] == names[right])).size:
        left[same] = generator.integers(0, count, same.size)
        right[same] = generator.integers(0, count, same.size)
    return left, right
