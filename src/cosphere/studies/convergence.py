"""How fast: steps until an arm reaches what the arm that it is compared with ends with, and the course of scores and lengths.

Scores are those of the validations of the final runs; between two validations they are interpolated linearly, and before the first
nothing is known, so a score that the first one exceeds counts as reached there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cosphere._types import Floats
from cosphere.evaluate.statistics import Summary, seeds_summary
from cosphere.studies.definition import Study
from cosphere.studies.variance import sec_pairs

Log = Sequence[Mapping[str, Any]]


class Reach(NamedTuple):
    """One pair of final runs of a seed."""

    arm: str
    against: str
    seed: int
    target: float
    """The last validation score of the other arm's run, a fraction."""
    steps: float | None
    """Until the arm reaches it; None if it never does, or diverged."""
    whole: int
    """Steps of the other arm's run."""


class Speed(NamedTuple):
    """One pair of arms."""

    arm: str
    against: str
    seeds: int
    reached: int
    """Seeds of which the arm reaches the target at all."""
    share: Summary | None
    """Of the other arm's steps, over the seeds that get there; None if none does."""


class Course(NamedTuple):
    """One quantity of an arm over steps; all (n,)."""

    steps: tuple[float, ...]
    mean: tuple[float, ...]
    """Over seeds."""
    sd: tuple[float, ...]
    """Over seeds; 0 for one seed."""


class Convergence(NamedTuple):
    """Of all pairs of arms that differ in SEC."""

    metric: str
    """The validation score."""
    every: int
    """Steps between two validations: the resolution of all this."""
    points: tuple[Reach, ...]
    speeds: tuple[Speed, ...]
    scores: Mapping[str, Course]
    """Validation score by arm."""
    variances: Mapping[str, Course]
    """Relative variance (squared CV) of the lengths in a training batch, by arm."""
    ranks: Mapping[str, Course]
    """Effective rank of the validation embeddings, by arm; see :func:`cosphere.health.measure`."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "metric": self.metric,
            "every": self.every,
            "points": [point._asdict() for point in self.points],
            "speeds": [{**speed._asdict(), "share": speed.share and speed.share._asdict()} for speed in self.speeds],
            "scores": {arm: course._asdict() for arm, course in self.scores.items()},
            "variances": {arm: course._asdict() for arm, course in self.variances.items()},
            "ranks": {arm: course._asdict() for arm, course in self.ranks.items()},
        }


def convergence(
    study: Study, records: Sequence[Mapping[str, Any]], log_of: Callable[[Mapping[str, Any]], Log]
) -> Convergence | None:
    """How fast the arms of each pair that differs in SEC get where the other ends; None without such a pair or without validations.

    Args:
        study: its comparisons name the pairs of arms, each of which counts once.
        records: of its runs; final runs count. One that diverged never reaches anything, and is no target for another.
        log_of: the lines of metrics.jsonl of a record.
    """
    pairs, key = sec_pairs(study), f"val/{study.metric}"
    arms = {name for pair in pairs for name in pair}
    final = [one for one in records if one["phase"] == "final" and one["arm"] in arms]
    lost = {(one["arm"], one["seed"]) for one in final if one["status"] == "diverged"}
    ended = [one for one in final if one["status"] != "diverged"]
    logs = {(one["arm"], one["seed"]): log_of(one) for one in sorted(ended, key=lambda one: one["seed"])}
    curves = {run: curve for run, log in logs.items() if len((curve := logged(log, key))[0])}
    if not curves:
        return None
    points = [
        _reach(arm, against, seed, curves)
        for arm, against in pairs
        for seed in range(study.seeds)
        if (arm, seed) in curves.keys() | lost and (against, seed) in curves
    ]
    lengths = {run: (steps, cv**2) for run, log in logs.items() for steps, cv in [logged(log, "train/norm_cv")]}
    return Convergence(
        metric=study.metric,
        every=int(np.max(np.diff(max((steps for steps, _ in curves.values()), key=len), prepend=0))),
        points=tuple(points),
        speeds=tuple(_speeds(points, study.level)),
        scores=_courses(curves),
        variances=_courses(lengths),
        ranks=_courses({run: logged(log, "val/effective_rank") for run, log in logs.items()}),
    )


def logged(log: Log, key: str) -> tuple[Floats, Floats]:
    """Steps after 0 and values of the lines that have a finite number under ``key``; both (n,)."""
    rows = [(row["step"], row[key]) for row in log if row.get("step") and isinstance(row.get(key), int | float)]
    values = np.array(rows, dtype=np.float64).reshape(-1, 2)
    values = values[np.isfinite(values[:, 1])]
    return values[:, 0], values[:, 1]


def steps_to(steps: Floats, values: Floats, target: float) -> float | None:
    """Step at which a curve first reaches a value, linear between its points; its first step where it starts there; None if never.

    Args:
        steps: (n,) ascending.
        values: (n,).
        target: in the unit of the values.

    >>> steps_to(np.array([100.0, 200.0]), np.array([0.2, 0.4]), 0.3)
    150.0
    """
    there = np.flatnonzero(values >= target)
    if not len(there):
        return None
    at = int(there[0])
    if at == 0:
        return float(steps[0])
    share = (target - values[at - 1]) / (values[at] - values[at - 1])
    return float(steps[at - 1] + share * (steps[at] - steps[at - 1]))


def _reach(arm: str, against: str, seed: int, curves: Mapping[tuple[str, int], tuple[Floats, Floats]]) -> Reach:
    steps, values = curves[against, seed]
    target = float(values[-1])
    reached = steps_to(*curves[arm, seed], target) if (arm, seed) in curves else None
    return Reach(arm, against, seed, target, reached, int(steps[-1]))


def _speeds(points: Sequence[Reach], level: float) -> list[Speed]:
    """Each pair over its seeds."""
    speeds = []
    for arm, against in dict.fromkeys((point.arm, point.against) for point in points):
        own = [point for point in points if (point.arm, point.against) == (arm, against)]
        shares = [one.steps / one.whole for one in own if one.steps is not None]
        summary = seeds_summary(shares, level=level) if shares else None
        speeds.append(Speed(arm, against, len(own), len(shares), summary))
    return speeds


def _courses(curves: Mapping[tuple[str, int], tuple[Floats, Floats]]) -> dict[str, Course]:
    """Mean and standard deviation over the seeds of each arm, at the steps that all its runs have."""
    courses = {}
    for arm in dict.fromkeys(arm for arm, _ in curves):
        own = [dict(zip(*curve, strict=True)) for (name, _), curve in curves.items() if name == arm]
        steps = sorted(set.intersection(*(set(curve) for curve in own)))
        if not steps:
            continue
        values = np.array([[curve[step] for step in steps] for curve in own])
        spread = values.std(axis=0, ddof=1) if len(own) > 1 else np.zeros(len(steps))
        courses[arm] = Course(*(tuple(map(float, part)) for part in (steps, values.mean(axis=0), spread)))
    return courses
