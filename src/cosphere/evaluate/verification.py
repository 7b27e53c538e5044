"""Verification of pairs: ROC, AUC, EER, TAR at FAR and k-fold accuracy from similarity scores.

A higher score means more similar, as a cosine does; negate distances. Everything comes from sorted scores, so 10^7 pairs take
seconds. Thresholds are strict: a pair is accepted if its score is *above* the threshold.

Sources: LFW's protocol (Huang et al., 2007), IJB (Maze et al., 2018) and the published code of InsightFace, whose threshold
grid and nearest-point rule can be selected by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from cosphere._types import Flags, Floats, Integers
from cosphere.checks import allowed, check_choice, check_number, check_numbers, check_switches, check_whole
from cosphere.errors import DataError, SizeError, agreeing, counted
from cosphere.evaluate.statistics import Interval, check_resampling, never_certain
from cosphere.rows import as_array

FarRule = Literal["exact", "nearest"]
Protocol = Literal["exact", "insightface"]


class Roc(NamedTuple):
    """The ROC curve, one point for each distinct score, from nothing accepted to everything accepted."""

    thresholds: Floats
    """(T,) descending; a pair is accepted if its score is above. The first accepts nothing; the last, -inf, everything."""
    far: Floats
    """(T,) false accept rate in [0, 1]: share of the different pairs above the threshold."""
    tar: Floats
    """(T,) true accept rate in [0, 1]."""


class Folds(NamedTuple):
    """k-fold accuracy: each fold is scored with the threshold that is best on all others."""

    accuracies: Floats
    """(k,) in [0, 1]."""
    thresholds: Floats
    """(k,) in units of the score."""


@dataclass(frozen=True, eq=False)
class VerificationScores:
    """Result of :func:`verification`. Fractions."""

    auc: float
    """Probability that a same pair scores above a different one; ties count half."""
    eer: float
    """Error rate at which false accepts are as frequent as false rejects, interpolated linearly between two points of the ROC."""
    tar_at_far: Mapping[float, float]
    """True-accept rate at each target false-accept rate."""
    thresholds: Mapping[float, float]
    """The threshold of each."""
    folds: Folds | None
    """None without folds."""
    roc: Roc
    same_pairs: int
    different_pairs: int

    @property
    def accuracy(self) -> float:
        """Mean over the folds; NaN without folds."""
        return math.nan if self.folds is None else float(self.folds.accuracies.mean())

    @property
    def accuracy_std(self) -> float:
        """Population standard deviation over the folds, as the protocols report it; NaN without folds."""
        return math.nan if self.folds is None else float(self.folds.accuracies.std())

    def as_dict(self) -> dict[str, float]:
        """Plain numbers: ``accuracy``, ``accuracy_std``, ``auc``, ``eer``, ``tar@far=1e-3``, ..."""
        numbers = {"auc": self.auc, "eer": self.eer}
        if self.folds is not None:
            numbers = {"accuracy": self.accuracy, "accuracy_std": self.accuracy_std} | numbers
        return numbers | {f"tar@far={far_name(far)}": value for far, value in self.tar_at_far.items()}


def far_name(far: float) -> str:
    """A rate as it is written in keys.

    >>> far_name(0.001), far_name(0.05)
    ('1e-3', '5e-2')
    """
    mantissa, exponent = f"{far:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def verification(
    scores: Any,
    same: Any,
    folds: Any = 10,
    *,
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3),
    far_rule: FarRule = "exact",
    protocol: Protocol = "exact",
) -> VerificationScores:
    """ROC, AUC, EER, TAR at FAR and k-fold accuracy of scored pairs.

    Args:
        scores: (n,) float, higher for more similar.
        same: (n,) bool, or 0 and 1: whether the two images of the pair are of one class.
        folds: k contiguous folds in the given order, as LFW's lists are written; (n,) integers, the fold of each pair; or None
            for no folds.
        fars: target false-accept rates, each in [0, 1].
        far_rule: see :func:`tar_at_far`.
        protocol: see :func:`fold_accuracies`.

    Raises:
        SizeError: lengths that differ, or fewer pairs than folds.
        DataError: a score that is not finite, or not both same and different pairs.
        SettingsError: a setting is out of range.

    >>> result = verification([0.9, 0.8, 0.4, 0.6, 0.2, 0.1], [1, 1, 1, 0, 0, 0], folds=None, fars=[0.1])
    >>> {key: round(value, 3) for key, value in result.as_dict().items()}
    {'auc': 0.889, 'eer': 0.333, 'tar@far=1e-1': 0.667}
    """
    values, truth = checked_pairs(scores, same)
    fars = check_numbers("far", fars, at_least=0, at_most=1)
    curve = roc(values, truth)
    points = {far: tar_at_far(values, truth, far, rule=far_rule) for far in fars}
    return VerificationScores(
        auc=area_under(curve),
        eer=_equal_error(curve),
        tar_at_far={far: point.tar for far, point in points.items()},
        thresholds={far: point.threshold for far, point in points.items()},
        folds=None if folds is None else fold_accuracies(values, truth, folds, protocol=protocol),
        roc=curve,
        same_pairs=int(truth.sum()),
        different_pairs=int((~truth).sum()),
    )


def checked_pairs(scores: Any, same: Any) -> tuple[npt.NDArray[Any], Flags]:
    """Scores as (n,) float32 or float64 and truth as (n,) bool. Raises the errors of :func:`verification`."""
    values, truth = as_array(scores), as_array(same)
    if values.ndim != 1 or truth.shape != values.shape:
        raise SizeError(
            f"want scores (n,) and same (n,), got {values.shape} and {truth.shape}. Give one of each for each pair."
        )
    truth = as_truth(truth, "same", "whether each pair is of one class")
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise DataError(
            f"{bad} of {counted(len(values), 'score')} {agreeing(len(values), 'are')} NaN or infinite. Leave those pairs out."
        )
    if not truth.any() or truth.all():
        raise DataError(
            f"want both same and different pairs, got {int(truth.sum())} and {int((~truth).sum())}. Give a list that has both."
        )
    return values, truth


def as_truth(values: Any, name: str, meaning: str) -> Flags:
    """Truth values as bool. Raises a DataError unless they are True and False, or 1 and 0: a text "False" would count as true."""
    truth = as_array(values)
    if truth.dtype != np.bool_ and not np.isin(truth, (0, 1)).all():
        raise DataError(f"{name} must hold True and False, or 1 and 0: {meaning}.")
    return truth.astype(np.bool_)


def roc(scores: Any, same: Any) -> Roc:
    """The ROC curve, exactly: one point for each distinct score. O(n log n) time, O(n) memory."""
    values, truth = checked_pairs(scores, same)
    order = np.argsort(values)[::-1]
    ordered, hits = values[order], truth[order]
    last = np.flatnonzero(np.diff(ordered, append=-np.inf))  # the last pair of each run of equal scores
    true = np.cumsum(hits)[last]
    accepted = last + 1
    # Above the next lower score lie all pairs down to this one.
    thresholds = np.append(ordered[last][1:], -np.inf)
    return Roc(
        thresholds=np.concatenate([[ordered[0]], thresholds]).astype(np.float64),
        far=np.concatenate([[0.0], (accepted - true) / (~truth).sum()]),
        tar=np.concatenate([[0.0], true / truth.sum()]),
    )


def area_under(curve: Roc) -> float:
    """AUC: the probability that a same pair scores above a different one, ties counting half."""
    return float(np.trapezoid(curve.tar, curve.far))


def _equal_error(curve: Roc) -> float:
    missed = 1 - curve.tar
    place = int(np.argmax(curve.far >= missed))  # the first point past the crossing; the last one always is
    if place == 0:
        return float(curve.far[0])
    rise = curve.far[place] - curve.far[place - 1]
    fall = missed[place - 1] - missed[place]
    gap = missed[place - 1] - curve.far[place - 1]
    return float(curve.far[place - 1] + rise * gap / (rise + fall))


class FarPoint(NamedTuple):
    """One operating point."""

    tar: float
    """True accept rate in [0, 1]."""
    far: float
    """The false-accept rate of the threshold on these pairs."""
    threshold: float
    """Pairs with a score above it are accepted."""


def tar_at_far(scores: Any, same: Any, far: float, *, rule: FarRule = "exact") -> FarPoint:
    """True-accept rate at a target false-accept rate.

    Args:
        scores: (n,) float.
        same: (n,) bool.
        far: in [0, 1].
        rule: "exact": the lowest threshold whose false accept rate does not exceed ``far``: of the different pairs' scores in
            descending order, the one at place ``floor(far * count)``. "nearest": the corner of the ROC whose rate is nearest to
            ``far``, which may exceed it, as in InsightFace's IJB code.

    Raises:
        SettingsError: a rate or a rule out of range.
    """
    values, truth = checked_pairs(scores, same)
    check_number("far", far, at_least=0, at_most=1)
    if check_choice("rule", rule, get_args(FarRule)) == "nearest":
        return _nearest_point(values, truth, far)
    impostors = values[~truth]
    accepted = allowed(far, len(impostors))
    if accepted >= len(impostors):
        return FarPoint(1.0, 1.0, -math.inf)
    place = len(impostors) - 1 - accepted
    threshold = np.partition(impostors, place)[place]
    return FarPoint(float((values[truth] > threshold).mean()), float((impostors > threshold).mean()), float(threshold))


def _nearest_point(values: npt.NDArray[Any], truth: Flags, far: float) -> FarPoint:
    # The published code uses scikit-learn, which drops points inside straight segments, so the nearest *corner* is found.
    from sklearn.metrics import roc_curve

    rates, hits, thresholds = (column[::-1] for column in roc_curve(truth, values))
    place = int(np.argmin(np.abs(rates - far)))  # ties: the first from above, as in that code
    below = np.nextafter(thresholds[place], -np.inf)  # scikit-learn accepts scores at the threshold, we those above
    return FarPoint(float(hits[place]), float(rates[place]), float(below))


def fold_accuracies(
    scores: Any, same: Any, folds: Any = 10, *, protocol: Protocol = "exact", balanced: bool = False
) -> Folds:
    """Accuracy of each fold with the threshold that is best on the other folds.

    Args:
        scores: (n,) float; cosines in [-1, 1] for the InsightFace protocol.
        same: (n,) bool.
        folds: k >= 2 contiguous folds, as scikit-learn's KFold cuts them; or (n,) integers, the fold of each pair.
        protocol: "exact": the middle of the best gap between two scores, the lowest of equally good ones. "insightface":
            squared distances 2 - 2 cos against 0, 0.01, ..., 3.99, the first best.
        balanced: whether same and different pairs count half each, however many there are: the mean of both kinds' accuracies,
            in choosing the threshold and in judging. It equals the accuracy where there are equally many.

    Raises:
        SizeError: fewer pairs than folds, or a fold number for each of another number of pairs.
        DataError: fewer than two folds, or, if balanced, a fold without same or without different pairs.
        SettingsError: a setting is out of range.
    """
    check_switches(balanced=balanced)
    values, truth = checked_pairs(scores, same)
    check_choice("protocol", protocol, get_args(Protocol))
    numbers = _fold_numbers(folds, len(values))
    names = np.unique(numbers)
    accuracies, thresholds = np.empty(len(names)), np.empty(len(names))
    for place, name in enumerate(names):
        own = numbers == name
        if balanced and len(np.unique(truth[own])) < 2:
            raise DataError(
                f"fold {name} has not both same and different pairs, so it has no balanced accuracy. Leave the fold out."
            )
        thresholds[place] = best_threshold(values[~own], truth[~own], protocol=protocol, balanced=balanced)
        accuracies[place] = accuracy_at(
            values[own], truth[own], float(thresholds[place]), protocol=protocol, balanced=balanced
        )
    return Folds(accuracies, thresholds)


def _fold_numbers(folds: Any, count: int) -> Integers:
    """(n,) the fold of each pair."""
    if np.ndim(folds) == 0:
        number = check_whole("folds", folds, least=2)
        if count < number:
            raise SizeError(
                f"{counted(count, 'pair')} cannot be cut into {number} folds. Give more pairs, or fewer folds."
            )
        sizes = np.full(number, count // number)
        sizes[: count % number] += 1
        return np.repeat(np.arange(number), sizes)
    numbers = as_array(folds)
    if numbers.shape != (count,) or numbers.dtype.kind not in "iu":
        raise SizeError(
            f"want folds ({count},) integers, one for each pair, got {numbers.shape} {numbers.dtype}. Number the folds from 0."
        )
    if len(np.unique(numbers)) < 2:
        raise DataError("all pairs are in one fold; wanted two or more. Give folds=None to have no folds.")
    return numbers.astype(np.int64)


def best_threshold(scores: Any, same: Any, *, protocol: Protocol = "exact", balanced: bool = False) -> float:
    """The threshold with the highest accuracy on these pairs, by the rules of :func:`fold_accuracies`.

    Returns:
        a cosine for "exact", a squared distance for "insightface", as :func:`accuracy_at` takes it.
    """
    check_switches(balanced=balanced)
    values, truth = checked_pairs(scores, same)
    if protocol == "exact":
        ordered = np.unique(values)  # a cut at a score that occurs twice would lie in no gap
        cuts = np.concatenate([[-np.inf], ordered[:-1] / 2 + ordered[1:] / 2, [np.inf]])
        same_scores, different = np.sort(values[truth]), np.sort(values[~truth])
        accepted = len(same_scores) - np.searchsorted(same_scores, cuts, side="right")
        rejected = np.searchsorted(different, cuts, side="right")
    else:
        distances = 2 - 2 * values.astype(np.float64)
        cuts = np.arange(0, 4, 0.01)
        same_scores, different = np.sort(distances[truth]), np.sort(distances[~truth])
        accepted = np.searchsorted(same_scores, cuts)
        rejected = len(different) - np.searchsorted(different, cuts)
    # Whole numbers, so that equally good thresholds are equal: a same pair weighs as many as there are different pairs.
    right = accepted * len(different) + rejected * len(same_scores) if balanced else accepted + rejected
    return float(cuts[int(np.argmax(right))])


def accuracy_at(
    scores: Any, same: Any, threshold: float, *, protocol: Protocol = "exact", balanced: bool = False
) -> float:
    """Share of the pairs that a threshold of :func:`best_threshold` judges right; ``balanced`` as in :func:`fold_accuracies`."""
    check_switches(balanced=balanced)
    right = right_at(scores, same, threshold, protocol=protocol)
    truth = as_array(same).astype(np.bool_)
    return float((right[truth].mean() + right[~truth].mean()) / 2) if balanced else float(right.mean())


def right_at(scores: Any, same: Any, threshold: float, *, protocol: Protocol = "exact") -> Flags:
    """(n,) bool: which pairs a threshold of :func:`best_threshold` judges right."""
    values, truth = as_array(scores), as_array(same).astype(np.bool_)
    if protocol == "insightface":
        return np.asarray((2 - 2 * values.astype(np.float64) < threshold) == truth)
    return np.asarray((values > threshold) == truth)


def verification_intervals(
    scores: Any,
    same: Any,
    *,
    fars: Sequence[float] = (1e-2, 1e-3),
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap over pairs of AUC, EER and TAR at each FAR, with a new threshold in every resample.

    A TAR of 0 or 1, and an EER of 0, which every resample would repeat, are bounded as by Clopper and Pearson; the EER as if of the
    fewer kind of pairs.

    Same and different pairs are resampled separately. Pairs are assumed independent, which pairs that share an image are not:
    the true intervals are somewhat wider.

    Args:
        scores: (n,) float.
        same: (n,) bool.
        fars: false accept rates in [0, 1].
        samples: resamples, at least 1.
        level: in (0, 1).
        seed: random seed; the interval is deterministic given the seed.

    Returns:
        intervals by the keys of :meth:`VerificationScores.as_dict`.
    """
    check_resampling(samples, level, seed)
    values, truth = checked_pairs(scores, same)
    generator = np.random.default_rng(seed)
    rows, others = np.flatnonzero(truth), np.flatnonzero(~truth)
    resamples = []
    for _ in range(samples):
        drawn = np.concatenate([generator.choice(rows, len(rows)), generator.choice(others, len(others))])
        resamples.append(verification(values[drawn], truth[drawn], folds=None, fars=fars).as_dict())
    tail = (1 - level) / 2
    intervals = {
        key: Interval(*(float(end) for end in np.quantile([one[key] for one in resamples], [tail, 1 - tail])))
        for key in resamples[0]
    }
    seen = verification(values, truth, folds=None, fars=fars).as_dict()
    trials = {key: min(len(rows), len(others)) if key == "eer" else len(rows) for key in seen if key != "auc"}
    return intervals | {key: never_certain(intervals[key], seen[key], trials[key], level) for key in trials}
