"""Scores of a list of pairs from embeddings: what the protocols of faces share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cosphere._types import Flags, Floats, Integers
from cosphere.checks import MOST_SAMPLES
from cosphere.data import Pairs
from cosphere.errors import DataError, counted
from cosphere.evaluate import Interval, length_quality, seeds_summary, verification, verification_intervals
from cosphere.evaluate.scores import Value
from cosphere.evaluate.statistics import share_interval
from cosphere.evaluate.thresholds import plain_threshold
from cosphere.evaluate.verification import FarRule, Folds, Roc, best_threshold, fold_accuracies, right_at
from cosphere.evaluate.verification import Protocol as Rule
from cosphere.experiment.protocols.base import Part
from cosphere.fields import Settings, setting

Flip = Literal["sum", "concat", "none"]
FEW = 20
"""A fold with fewer pairs is named in a note."""
ROWS_AT_ONCE = 2**13
"""Embeddings that are added at once."""
CURVE_POINTS = 200
"""Points of a ROC in the file of scores."""
SCORES = ("accuracy", "balanced_accuracy", "auc")
OPEN_NAMES = ("tar@far=",)
TRAINED_ON_UNKNOWN = (
    "the model does not say which classes it was trained on (it may have been trained without labels), so no pairs of trained classes "
    "are left out"
)


@dataclass(frozen=True, kw_only=True)
class VerificationSettings(Settings):
    """How pairs are embedded and scored.

    Args:
        flip: what is compared: "sum" of the raw embeddings of an image and of its mirror image, as InsightFace does; both side
            by side, "concat"; or the image alone, "none".
        rule: thresholds of the folds: "exact", every threshold between two scores; or "insightface", squared distances 0, 0.01, ....
        far_rule: "exact", the lowest threshold that keeps a false-accept rate; or "nearest", the ROC's nearest corner (IJB code).
        fars: false-accept rates at which the true-accept rate is measured.
        samples: resamples of pairs behind each interval; 0 makes none.
        level: confidence level of the intervals.
        seed: of the intervals, and of pairs and folds that are drawn.
        hardest: pairs of each kind that are kept for the report.
        max_missing: tolerated share of images that the list names and the source lacks.
    """

    SECTION: ClassVar[str] = "options."

    flip: Flip = "sum"
    rule: Rule = "exact"
    far_rule: FarRule = "exact"
    fars: tuple[float, ...] = setting((1e-1, 1e-2, 1e-3), above=0, below=1)
    samples: int = setting(1000, at_least=0, at_most=MOST_SAMPLES)
    level: float = setting(0.95, above=0, below=1)
    seed: int = setting(0, at_least=0, at_most=2**31 - 1)
    hardest: int = setting(12, at_least=0, at_most=1000)
    max_missing: float = setting(0.01, at_least=0, at_most=1)


class ScoredPairs(NamedTuple):
    """P pairs with their cosines."""

    cosines: Floats
    """(P,)"""
    same: Flags
    """(P,)"""
    folds: Integers | None
    """(P,) the fold of each; None without folds."""
    lengths: Floats
    """(P, 2) of the raw embeddings that are compared."""
    names: npt.NDArray[np.object_]
    """(P, 2) paths of the images."""

    def take(self, keep: Flags) -> ScoredPairs:
        """Some of the pairs."""
        folds = None if self.folds is None else self.folds[keep]
        return ScoredPairs(self.cosines[keep], self.same[keep], folds, self.lengths[keep], self.names[keep])


def combined(plain: Any, mirrored: Any | None, flip: Flip, dtype: type[np.floating[Any]] = np.float64) -> Any:
    """What is compared: (N, D), or (N, 2 D) for ``concat``.

    Sums are those of float64, whatever type they are kept in; beside both arrays and the result, one block of rows is held.

    Args:
        plain: (N, D) raw embeddings.
        mirrored: (N, D) those of the mirror images; None without them.
        flip: how to combine them.
        dtype: of the result.
    """
    if flip == "none" or mirrored is None:
        return np.asarray(plain, dtype=dtype)
    count, dim = plain.shape
    rows = np.empty((count, dim * (1 + (flip == "concat"))), dtype=dtype)
    if flip == "concat":
        rows[:, :dim], rows[:, dim:] = plain, mirrored
        return rows
    for start in range(0, count, ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        rows[block] = np.add(plain[block], mirrored[block], dtype=np.float64)
    return rows


def score_pairs(rows: Any, pairs: Pairs, paths: Sequence[str] | None = None) -> ScoredPairs:
    """The cosines of pairs of rows.

    Args:
        rows: (N, D) raw embeddings. A row of length 0 has cosine 0 to all.
        pairs: P pairs of these rows.
        paths: N names; None numbers them.
    """
    raw = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(raw, axis=1)
    unit = np.divide(raw, lengths[:, None], out=np.zeros_like(raw), where=lengths[:, None] > 0)
    left, right = unit[pairs.rows[:, 0]], unit[pairs.rows[:, 1]]
    names = np.array([str(row) for row in range(len(raw))] if paths is None else list(paths), dtype=object)
    return ScoredPairs(
        np.einsum("nd,nd->n", left, right), pairs.same, pairs.folds, lengths[pairs.rows], names[pairs.rows]
    )


def without(
    pairs: ScoredPairs, people: npt.NDArray[np.object_], trained: Iterable[str]
) -> tuple[ScoredPairs, list[str]]:
    """The pairs in which nobody was trained on, each in its own fold, and notes about folds that lost too many.

    A fold that is left with pairs of one kind, or none, is dropped.

    Args:
        pairs: P pairs.
        people: (P, 2) the person in each image.
        trained: people that the model was trained on.
    """
    known = set(trained)
    keep = np.array([not known.intersection(row) for row in people.tolist()], dtype=bool)
    notes: list[str] = []
    if pairs.folds is not None:
        sizes = {fold: int((keep & (pairs.folds == fold)).sum()) for fold in np.unique(pairs.folds).tolist()}
        kinds = {fold: len(np.unique(pairs.same[keep & (pairs.folds == fold)])) for fold in sizes}
        lost = [fold for fold, kind in kinds.items() if kind < 2]
        few = [f"{fold + 1} ({size})" for fold, size in sizes.items() if fold not in lost and size < FEW]
        if lost:
            keep &= ~np.isin(pairs.folds, lost)
            notes.append(
                f"{counted(len(lost), 'fold')} without same or without different pairs of new people left out: "
                f"{', '.join(str(fold + 1) for fold in lost)}"
            )
        if few:
            notes.append(f"folds with fewer than {FEW} pairs of new people: {', '.join(few)}")
    return pairs.take(keep), notes


def even_folds(same: Flags, folds: int = 10, seed: int = 0) -> Integers:
    """(P,) a fold for each pair, drawn so that each has its share of same and of different pairs."""
    generator = np.random.default_rng(seed)
    numbers = np.empty(len(same), dtype=np.int64)
    for kind in (True, False):
        rows = generator.permutation(np.flatnonzero(same == kind))
        numbers[rows] = np.arange(len(rows)) % folds
    return numbers


def verification_part(
    key: str, title: str, pairs: ScoredPairs, settings: VerificationSettings, *, chosen_on: ScoredPairs | None = None
) -> Part:
    """Everything about one list of pairs.

    Args:
        key: of the part.
        title: in words.
        pairs: with folds, or without.
        settings: how to score.
        chosen_on: pairs on which the threshold is chosen; None takes the folds.

    Raises:
        DataError: not both same and different pairs.
    """
    folds = pairs.folds if chosen_on is None and pairs.folds is not None and len(np.unique(pairs.folds)) > 1 else None
    found = verification(
        pairs.cosines, pairs.same, folds, fars=settings.fars, far_rule=settings.far_rule, protocol=settings.rule
    )
    intervals = _intervals(pairs, settings)
    values = {
        name: Value(value, intervals.get(name))
        for name, value in found.as_dict().items()
        if name not in ("accuracy", "accuracy_std")
    }
    details: dict[str, Any] = {"roc": roc_points(found.roc, found.different_pairs)}
    judged: dict[str, Value] = {}
    right: Flags | None = None
    if folds is not None and found.folds is not None:
        judged, right = _judged_in_folds(pairs, folds, found.folds, settings)
        details["folds"] = _folds_content(pairs, folds, found.folds)
    elif chosen_on is not None:
        threshold = best_threshold(chosen_on.cosines, chosen_on.same, protocol=settings.rule)
        right = right_at(pairs.cosines, pairs.same, threshold, protocol=settings.rule)
        judged = {"accuracy": Value(float(right.mean()), share_interval(int(right.sum()), len(right), settings.level))}
        details["threshold"] = plain_threshold(threshold)
    details["hardest"] = hardest(pairs, right, settings.hardest)
    if right is not None:
        details["lengths"] = length_quality(pairs.lengths, right).as_dict()
    counts = {"same_pairs": found.same_pairs, "different_pairs": found.different_pairs}
    counts |= {"images": len(np.unique(pairs.names.astype(str)))}
    return Part(key=key, title=title, values=judged | values, counts=counts, details=details)


def _intervals(pairs: ScoredPairs, settings: VerificationSettings) -> Mapping[str, Interval]:
    if not settings.samples or settings.far_rule != "exact":  # The bootstrap's thresholds follow the exact rule.
        return {}
    return verification_intervals(
        pairs.cosines,
        pairs.same,
        fars=settings.fars,
        samples=settings.samples,
        level=settings.level,
        seed=settings.seed,
    )


def _judged_in_folds(
    pairs: ScoredPairs, numbers: Integers, folds: Folds, settings: VerificationSettings
) -> tuple[dict[str, Value], Flags]:
    """Accuracies over the folds, and which pairs are judged right by the threshold of their fold."""
    right = np.empty(len(pairs.same), dtype=bool)
    for place, fold in enumerate(np.unique(numbers)):
        own = numbers == fold
        right[own] = right_at(
            pairs.cosines[own], pairs.same[own], float(folds.thresholds[place]), protocol=settings.rule
        )
    values = {"accuracy": _mean(folds.accuracies, settings.level)}
    both = all(len(np.unique(pairs.same[numbers == fold])) == 2 for fold in np.unique(numbers))
    if both and int(pairs.same.sum()) * 2 != len(pairs.same):
        balanced = fold_accuracies(pairs.cosines, pairs.same, numbers, protocol=settings.rule, balanced=True)
        values["balanced_accuracy"] = _mean(balanced.accuracies, settings.level)
    return values, right


def _mean(accuracies: Floats, level: float) -> Value:
    """The mean over folds with Student's t interval, within [0, 1]."""
    summary = seeds_summary(accuracies, level=level)
    return Value(summary.mean, summary.share_interval())


def _folds_content(pairs: ScoredPairs, numbers: Integers, folds: Folds) -> dict[str, Any]:
    names = np.unique(numbers)
    return {
        "accuracies": folds.accuracies.tolist(),
        "thresholds": [plain_threshold(one) for one in folds.thresholds.tolist()],
        "accuracy_std": float(folds.accuracies.std()),
        "same_pairs": [int((pairs.same & (numbers == name)).sum()) for name in names],
        "different_pairs": [int((~pairs.same & (numbers == name)).sum()) for name in names],
    }


def roc_points(curve: Roc, different: int) -> dict[str, list[float]]:
    """The ROC at false-accept rates evenly spaced over their logarithm: the highest TAR with at most that rate."""
    rates = np.unique(np.concatenate([[0.0], np.geomspace(1 / max(different, 2), 1, CURVE_POINTS)]))
    places = np.searchsorted(curve.far, rates, side="right") - 1
    return {"far": rates.tolist(), "tar": curve.tar[places].tolist()}


def hardest(pairs: ScoredPairs, right: Flags | None, count: int) -> dict[str, list[dict[str, Any]]]:
    """The same pairs with the lowest cosines and the different pairs with the highest."""
    chosen = {}
    for kind, flags, sign in (("same", pairs.same, 1), ("different", ~pairs.same, -1)):
        rows = np.flatnonzero(flags)
        rows = rows[np.argsort(sign * pairs.cosines[rows], kind="stable")][:count]
        chosen[kind] = [
            {
                "a": str(pairs.names[row, 0]),
                "b": str(pairs.names[row, 1]),
                "cosine": float(pairs.cosines[row]),
                "right": None if right is None else bool(right[row]),
            }
            for row in rows.tolist()
        ]
    return chosen


def rate_notes(parts: Iterable[Part], fars: Sequence[float]) -> list[str]:
    """A note for each part whose different pairs are too few for a false-accept rate."""
    notes = [(part, too_few(part.counts["different_pairs"], fars)) for part in parts]
    return [f"{part.title}: {note}; its threshold accepts none of them" for part, note in notes if note]


def too_few(different: int, fars: Sequence[float], kind: str = "different pair") -> str:
    """What so many different pairs cannot show; empty where they are enough for each false-accept rate."""
    small = [far for far in fars if far * different < 1]
    below = " or less" if len(small) > 1 else ""
    return f"{counted(different, kind)} cannot show a false-accept rate of {max(small):g}{below}" if small else ""


def check_kinds(pairs: ScoredPairs, what: str) -> None:
    """Raise unless there are same and different pairs.

    Raises:
        DataError: one kind is missing.
    """
    if not len(pairs.same) or pairs.same.all() or not pairs.same.any():
        same = int(pairs.same.sum())
        raise DataError(
            f"{what} leaves {counted(same, 'same pair')} and {counted(len(pairs.same) - same, 'different pair')}; wanted some "
            "of both. Give a list that has both."
        )


def chance(name: str, classes: int) -> float:
    """What a score of pairs is for embeddings that say nothing."""
    last = name.rpartition("/")[2]
    if last.startswith("tar@far="):
        return float(last.removeprefix("tar@far="))
    return 0.5
