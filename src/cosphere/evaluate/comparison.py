"""Comparison of two or more arms on the same queries: differences, their uncertainty, and the classes that gain or lose.

An arm is one training configuration, with one run or one run per seed. :func:`cosphere.experiment.matching.read_arms` makes arms
from the folders of runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from cosphere._types import Floats, Integers
from cosphere.checks import check_choice
from cosphere.errors import DataError, SettingsError, SizeError, agreeing, counted, did_you_mean
from cosphere.evaluate.significance import holm, is_hit_or_miss, mcnemar_test, seeds_test, sign_flip_test
from cosphere.evaluate.statistics import Interval, Summary, bootstrap_all, seeds_summary

Over = Literal["queries", "classes"]
FEW_CLASSES = 20
"""Below this number of classes the bootstrap over classes is noticeably too narrow."""
EQUAL = 1e-12
"""Class scores that differ by less are tied: the same values were added in another order."""


@dataclass(frozen=True, eq=False)
class Arm:
    """One training configuration and the scores of its runs, on queries that all arms share."""

    values: Mapping[str, Floats]
    """For each score (S, Q): one row per run, one column per query."""
    seeds: tuple[int | None, ...]
    """The training seed of each of the S runs; None where it is unknown."""


class ArmScore(NamedTuple):
    """One score of one arm."""

    arm: str
    score: str
    value: float
    """Mean over runs and queries, a fraction."""
    interval: Interval
    """Over classes or queries and, with several runs, over seeds."""
    seeds: Summary | None
    """Of the runs' means; None for one run."""


class Difference(NamedTuple):
    """One score of one arm minus that of the baseline."""

    arm: str
    score: str
    value: float
    """A fraction; above 0 the arm is better."""
    interval: Interval
    """Over classes or queries and, where both arms have the same seeds, over seeds too."""
    p: float
    """Of no difference; with seeds the larger of the tests over classes or queries and over seeds."""
    p_holm: float
    """``p``, corrected for all differences of the comparison."""
    test: str
    """Name of the test behind ``p``."""
    seeds: Summary | None
    """Over paired seeds, with Student's t interval; None without."""
    p_units: float
    """Over classes or queries alone."""
    p_seeds: float | None
    """Student's paired t-test over seeds alone; None without."""
    won: int
    """Classes in which the arm is better."""
    tied: int
    """Classes in which both are equal."""
    lost: int
    """Classes in which the baseline is better."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Result of :func:`compare`. All scores are fractions."""

    arms: tuple[str, ...]
    baseline: str
    runs: Mapping[str, int]
    """Runs of each arm."""
    over: Over
    level: float
    queries: int
    scores: tuple[ArmScore, ...]
    """Score by score, arm by arm."""
    differences: tuple[Difference, ...]
    """Score by score, arm by arm, without the baseline."""
    class_names: tuple[str, ...]
    """C names, sorted."""
    class_queries: Integers
    """(C,) queries of each class."""
    class_scores: Mapping[str, Mapping[str, Floats]]
    """Score -> arm -> (C,) mean over the queries of each class, and over runs."""
    notes: tuple[str, ...]
    """What a reader of the numbers should know, one sentence each."""

    def gains(self, arm: str, score: str) -> Floats:
        """(C,) score of each class, arm minus baseline."""
        scores = self.class_scores[score]
        return scores[arm] - scores[self.baseline]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and names for JSON; classes with the score of each arm."""
        return {
            "baseline": self.baseline,
            "runs": dict(self.runs),
            "over": self.over,
            "level": self.level,
            "queries": self.queries,
            "classes": len(self.class_names),
            "scores": [_plain(score) for score in self.scores],
            "differences": [_plain(difference) for difference in self.differences],
            "class_scores": {
                "names": list(self.class_names),
                "queries": self.class_queries.tolist(),
                **{
                    score: {arm: values.tolist() for arm, values in arms.items()}
                    for score, arms in self.class_scores.items()
                },
            },
            "notes": list(self.notes),
        }


def _plain(row: ArmScore | Difference) -> dict[str, Any]:
    """Named tuples within named tuples as dictionaries."""
    return {key: part._asdict() if hasattr(part, "_asdict") else part for key, part in row._asdict().items()}


def compare(
    arms: Mapping[str, Arm],
    classes: Any,
    *,
    baseline: str | None = None,
    over: Over = "classes",
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare every arm with one of them, score by score.

    All values, and all differences, come from the same resamples. Intervals: see :mod:`cosphere.evaluate.statistics`;
    tests: see :mod:`cosphere.evaluate.significance`. Arms with the same seeds are paired seed by seed: the interval then
    covers other seeds too, and p is the larger of two, one over classes (or queries) and one over seeds, so that a small
    p is due neither to these classes nor to these seeds. Other arms are compared by the mean of their runs; their interval
    and p do not cover seeds.

    Args:
        arms: at least two, by name, each with the same scores.
        classes: (Q,) class of each query, names or integers.
        baseline: the arm that is subtracted; None takes the first.
        over: what is resampled. ``classes`` covers classes without training images; ``queries`` only covers other
            queries of the same classes.
        samples: resamples behind each interval.
        level: of the intervals, in (0, 1).
        seed: of the resamples.

    Raises:
        SettingsError: fewer than two arms, no such baseline, or a setting is out of range.
        SizeError: arms have other scores or other queries.
        DataError: classes are to be resampled but there is only one, or a value is not finite.
    """
    chosen = _check(arms, baseline, over)
    names = np.asarray(classes).astype(np.str_)
    _check_shapes(arms, names)
    class_names, numbers, sizes = np.unique(names, return_inverse=True, return_counts=True)
    if over == "classes" and len(class_names) < 2:
        queries = f"{'all ' * (len(names) > 1)}{counted(len(names), 'query')} {agreeing(len(names), 'are')}"
        raise DataError(f"{queries} of one class, so classes cannot be drawn. Use over='queries'.")
    drawn = numbers if over == "classes" else None
    pairs = [(score, arm) for score in arms[chosen].values for arm in arms]
    changes = {(score, arm): _change(arms[arm], arms[chosen], score) for score, arm in pairs if arm != chosen}
    tables = {f"value {score} {arm}": arms[arm].values[score] for score, arm in pairs}
    tables |= {f"change {score} {arm}": change for (score, arm), change in changes.items()}
    intervals = bootstrap_all(tables, classes=drawn, samples=samples, level=level, seed=seed)
    by_class = _class_scores(arms, numbers)
    uncorrected = [
        _difference(
            (arm, chosen, score), arms, change, intervals[f"change {score} {arm}"], by_class[score], drawn, level
        )
        for (score, arm), change in changes.items()
    ]
    differences = tuple(
        one._replace(p_holm=p) for one, p in zip(uncorrected, holm([one.p for one in uncorrected]), strict=True)
    )
    return Comparison(
        arms=tuple(arms),
        baseline=chosen,
        runs={name: len(arm.seeds) for name, arm in arms.items()},
        over=over,
        level=level,
        queries=len(names),
        scores=tuple(
            _arm_score(arm, score, arms[arm].values[score], intervals[f"value {score} {arm}"], level)
            for score, arm in pairs
        ),
        differences=differences,
        class_names=tuple(class_names.tolist()),
        class_queries=sizes.astype(np.int64),
        class_scores=by_class,
        notes=(*_notes(arms, chosen, over, len(class_names)), *_what_to_believe(differences, level)),
    )


def _check(arms: Mapping[str, Arm], baseline: str | None, over: str) -> str:
    """The baseline's name."""
    if len(arms) < 2:
        raise SettingsError(f"a comparison wants at least two arms, got {len(arms)}. Give another run.")
    check_choice("over", over, get_args(Over))
    if baseline is None:
        return next(iter(arms))
    if baseline not in arms:
        raise SettingsError(f"there is no arm {baseline!r} to be the baseline. {did_you_mean(baseline, arms)}")
    return baseline


def _check_shapes(arms: Mapping[str, Arm], classes: npt.NDArray[np.str_]) -> None:
    """The same scores of the same number of queries for all."""
    scores = set(next(iter(arms.values())).values)
    for name, arm in arms.items():
        if not scores or set(arm.values) != scores:
            needed, there = ", ".join(sorted(scores)) or "at least one", ", ".join(sorted(arm.values)) or "none"
            raise SizeError(f"arm {name!r} has the scores {there}; wanted {needed}. Give all arms the same.")
        for score, values in arm.values.items():
            if np.shape(values) != (len(arm.seeds), len(classes)) or not np.size(values):
                raise SizeError(
                    f"want {score} of arm {name!r} as (runs, queries) {(len(arm.seeds), len(classes))}, got "
                    f"{np.shape(values)}. Score all runs on the same queries."
                )


def are_paired(first: Arm, second: Arm) -> bool:
    """Whether both have the same several seeds, each once."""
    ours, theirs = set(first.seeds), set(second.seeds)
    return None not in ours and ours == theirs and len(ours) == len(first.seeds) == len(second.seeds) > 1


def _change(arm: Arm, baseline: Arm, score: str) -> Floats:
    """Arm minus baseline: (S, Q) seed by seed where they are paired, else (1, Q) of the means over runs."""
    ours: Floats = np.asarray(arm.values[score], dtype=np.float64)
    theirs: Floats = np.asarray(baseline.values[score], dtype=np.float64)
    if are_paired(arm, baseline):
        theirs = theirs[[baseline.seeds.index(seed) for seed in arm.seeds]]
    else:
        ours, theirs = ours.mean(axis=0, keepdims=True), theirs.mean(axis=0, keepdims=True)
    return ours - theirs


def _arm_score(arm: str, score: str, values: Floats, interval: Interval, level: float) -> ArmScore:
    seeds = seeds_summary(np.mean(values, axis=1), level=level) if len(values) > 1 else None
    return ArmScore(arm, score, float(np.mean(values)), interval, seeds)


def _difference(
    which: tuple[str, str, str],
    arms: Mapping[str, Arm],
    change: Floats,
    interval: Interval,
    by_class: Mapping[str, Floats],
    classes: Integers | None,
    level: float,
) -> Difference:
    """Without Holm's correction. ``which`` are arm, baseline and score; ``change`` is that of :func:`_change`."""
    arm, baseline, score = which
    p_units, test = _test(arms[arm].values[score], arms[baseline].values[score], change, classes)
    p, seeds, p_seeds = p_units, None, None
    if len(change) > 1:
        of_seeds = change.mean(axis=1)
        seeds, p_seeds = seeds_summary(of_seeds, level=level), seeds_test(of_seeds)
        p, test = max(p_units, p_seeds or 0.0), f"larger of {test} and Student's t over seeds"
    gains = by_class[arm] - by_class[baseline]
    won, lost = int((gains > EQUAL).sum()), int((gains < -EQUAL).sum())
    tied = len(gains) - won - lost
    return Difference(arm, score, float(change.mean()), interval, p, p, test, seeds, p_units, p_seeds, won, tied, lost)


def _test(ours: Floats, theirs: Floats, change: Floats, classes: Integers | None) -> tuple[float, str]:
    """The test over queries or classes, and its name. ``ours`` and ``theirs`` are (runs, Q)."""
    if classes is not None:
        return sign_flip_test(change.mean(axis=0), classes=classes), "sign flips over classes"
    if len(ours) == len(theirs) == 1 and is_hit_or_miss(ours) and is_hit_or_miss(theirs):
        return mcnemar_test(ours[0], theirs[0]), "McNemar, exact"
    return sign_flip_test(change.mean(axis=0)), "sign flips over queries"


def _class_scores(arms: Mapping[str, Arm], classes: Integers) -> dict[str, dict[str, Floats]]:
    """Score -> arm -> (C,) mean of each class, classes being numbered from 0."""
    sizes = np.bincount(classes)
    table: dict[str, dict[str, Floats]] = {}
    for arm, one in arms.items():
        for score, values in one.values.items():
            sums = np.bincount(classes, weights=np.mean(values, axis=0), minlength=len(sizes))
            table.setdefault(score, {})[arm] = np.asarray(sums / sizes)
    return table


def _notes(arms: Mapping[str, Arm], baseline: str, over: Over, classes: int) -> tuple[str, ...]:
    notes = []
    if over == "classes" and classes < FEW_CLASSES:
        notes.append(
            f"With {classes} classes the intervals over classes are too narrow; {FEW_CLASSES} or more are wanted."
        )
    if over == "queries":
        notes.append("Intervals and p-values cover other queries of the same classes, not other classes.")
    base = arms[baseline]
    unpaired = [name for name, arm in arms.items() if name != baseline and not are_paired(arm, base)]
    several: Sequence[str] = [name for name in unpaired if max(len(arms[name].seeds), len(base.seeds)) > 1]
    if several:
        notes.append(
            f"{', '.join(several)} and {baseline} do not have the same seeds, so their differences do not cover other seeds; "
            "give both the same seeds."
        )
    if [name for name in unpaired if name not in several]:
        notes.append("Where an arm is one run, the interval does not cover another training seed.")
    return tuple(notes)


def _what_to_believe(differences: Sequence[Difference], level: float) -> list[str]:
    """One sentence where an interval and its p-value disagree."""
    odd = [
        f"{one.arm} in {one.score}"
        for one in differences
        if (one.interval.low > 0 or one.interval.high < 0) != (one.p_holm <= 1 - level)
    ]
    if not odd:
        return []
    return [
        f"Interval and p disagree for {', '.join(odd)}: believe p Holm, which tests whether there is a difference and is corrected "
        "for the number of differences; the interval shows how large it may be."
    ]
