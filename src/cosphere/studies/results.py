"""What the runs of a study say: the table of runs, the arms' scores, and a verdict for each comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from cosphere._types import Floats
from cosphere.evaluate.comparison import Arm, Difference, compare
from cosphere.evaluate.significance import sign_flip_test
from cosphere.evaluate.statistics import Summary, seeds_summary
from cosphere.experiment.protocols import split_score
from cosphere.runs import provenance
from cosphere.studies.chances import chance
from cosphere.studies.convergence import Convergence
from cosphere.studies.costs import COSTS, costs_of, lens_of
from cosphere.studies.definition import Comparison, Study
from cosphere.studies.folder import StudyFolder
from cosphere.studies.forms import BITS
from cosphere.studies.jobs import Phase
from cosphere.studies.notes import commits
from cosphere.studies.spreads import Spreads
from cosphere.studies.variance import Variance
from cosphere.studies.verdicts import Verdict, decide, evidence_of

Record = Mapping[str, Any]
SAMPLES = 2000
"""Resamples behind the intervals over classes."""


@dataclass(frozen=True, eq=False)
class Compared:
    """One comparison and its answer."""

    comparison: Comparison
    seeds: tuple[int, ...]
    """Seeds that both arms have finished."""
    changes: tuple[float, ...]
    """Arm minus the other, for each seed; a diverged run counts as chance."""
    verdict: Verdict | None
    """None while no seed is finished in both arms."""
    difference: Difference | None
    """Over classes; None where the score has no value for each query."""
    p_smallest: float | None = None
    """Over classes, of a gain of at least the smallest that matters, one-sided."""
    notes: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """yes, no or not decided."""
        return "not decided" if self.verdict is None else self.verdict.answer

    @property
    def reason(self) -> str:
        """One sentence."""
        if self.verdict is None:
            return "no seed is finished in both arms at this budget."
        return " ".join((self.verdict.reason, *self.notes))

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **asdict(self.comparison),
            "seeds": list(self.seeds),
            "changes": list(self.changes),
            "answer": self.answer,
            "reason": self.reason,
            "verdict": None if self.verdict is None else _plain(self.verdict),
            "classes": None if self.difference is None else _plain(self.difference),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class ArmResult:
    """One arm: what was chosen for it, and its final scores."""

    name: str
    candidate: int | None
    """Number of the chosen candidate."""
    chosen: Mapping[str, Any] | None
    """Values of the tuned settings; None while nothing is chosen, or if every candidate failed."""
    scores: Mapping[str, Summary]
    """Over the final runs that have the score; those that diverged have none."""
    diverged: int
    """Final runs whose loss or weights were no longer finite."""
    collapsed: int
    """Final runs whose embeddings all point in nearly the same direction; their measured scores count."""
    failed_candidates: int
    """Candidates of which a run diverged."""
    norms: Mapping[str, float]
    """Mean over the final runs: mean length, variance and CV of the test embeddings."""
    lens: Mapping[str, Summary] = field(default_factory=dict)
    """The last norm lens of the final runs, over seeds; empty where it was not measured."""
    costs: Mapping[str, float | None] = field(default_factory=dict)
    """Of the final runs: ``step_seconds``, the median, and the peaks ``memory`` and ``device_memory``, the largest, in bytes; None
    where no run knows it."""


@dataclass(frozen=True, eq=False)
class StudyResult:
    """The outcome of a study, whole or so far."""

    study: Study
    folder: StudyFolder
    records: tuple[Record, ...]
    arms: tuple[ArmResult, ...]
    comparisons: tuple[Compared, ...]
    variance: Variance | None = None
    """How much SEC evens out lengths, against what it gains; None where no comparison is about SEC."""
    convergence: Convergence | None = None
    """How fast arms that differ in SEC learn; None where no comparison is about SEC, or nothing was validated."""
    spreads: Spreads | None = None
    """Histograms of the test embeddings' lengths, of arms that differ in SEC; None where there are none."""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    """Wall time of this call."""
    overhead: float = 0.0
    """Seconds of it that were not spent in runs."""
    missing: Mapping[Phase, int] = field(default_factory=dict)
    """Runs that are left: by phase."""

    @property
    def complete(self) -> bool:
        """Whether every run is done."""
        return not any(self.missing.values())

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each run; see :func:`table_of`."""
        return table_of(self.study, self.records)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `results.json`."""
        study = self.study
        return {
            "study": study.name,
            "title": study.title,
            "about": study.about,
            "mode": study.mode,
            "complete": self.complete,
            "missing": dict(self.missing),
            "protocols": {name: dict(given) for name, given in study.protocols.items()},
            "rules": {
                "candidates": study.candidates,
                "sampler": study.sampler,
                "tuning_seeds": list(study.tuning_seeds),
                "metric": study.metric,
                "seeds": study.seeds,
                "smallest": study.smallest,
                "level": study.level,
            },
            "base": dict(study.base),
            "final": dict(study.final),
            "comparisons": [one.as_dict() for one in self.comparisons],
            "variance": None if self.variance is None else self.variance.as_dict(),
            "convergence": None if self.convergence is None else self.convergence.as_dict(),
            "spreads": None if self.spreads is None else self.spreads.as_dict(),
            "arms": [
                {
                    "name": arm.name,
                    "values": dict(study.arms[arm.name].values),
                    "settings": dict(study.arms[arm.name].settings),
                    "tune": {name: space.as_dict() for name, space in study.arms[arm.name].tune.items()},
                    "candidate": arm.candidate,
                    "chosen": None if arm.chosen is None else dict(arm.chosen),
                    "scores": {name: one._asdict() for name, one in arm.scores.items()},
                    "diverged": arm.diverged,
                    "collapsed": arm.collapsed,
                    "failed_candidates": arm.failed_candidates,
                    "norms": dict(arm.norms),
                    "lens": {name: one._asdict() for name, one in arm.lens.items()},
                    "costs": dict(arm.costs),
                }
                for arm in self.arms
            ],
            "notes": list(self.notes),
            "last_call": {"seconds": self.seconds, "outside_runs": self.overhead},
            # Results may be written again by a later version than the one that did the runs.
            "provenance": {**provenance(), "runs": commits(self.records)},
        }


def _plain(row: Any) -> Any:
    """Named tuples within named tuples as dictionaries."""
    return {key: _plain(value) for key, value in row._asdict().items()} if hasattr(row, "_asdict") else row


def table_of(study: Study, records: Sequence[Record]) -> pd.DataFrame:
    """The tidy table: one row for each run with its scores, tuned values and full provenance.

    Columns: study, mode, arm, the axes of the grid, phase, candidate, seed, split, status, reason, ``score.*``, ``norm.*`` (lengths),
    ``lens.*`` (where the norm lens was measured), ``value.*`` (tuned settings), steps, best_step, seconds, training_seconds,
    step_seconds, memory and device_memory (peaks while training, bytes), identity, taken_from (study/arm/run that trained it, where
    another one did), commit, machine, time, device, data, weights, settings (JSON).
    """
    rows = []
    for one in sorted(records, key=lambda one: (one["arm"], one["phase"] == "final", one["candidate"], one["seed"])):
        origin = one["provenance"]
        rows.append(
            {
                "study": study.name,
                "mode": study.mode,
                "arm": one["arm"],
                **{f"axis.{axis}": value for axis, value in study.arms[one["arm"]].values.items()},
                **{key: one[key] for key in ("phase", "candidate", "seed", "split", "status", "reason")},
                **{f"score.{name}": value for name, value in one["scores"].items()},
                **{f"norm.{name}": value for name, value in one["norms"].items()},
                **{f"lens.{name}": value for name, value in one.get("lens", {}).items()},
                **{f"value.{name}": _cell(value) for name, value in one["values"].items()},
                **{
                    key: one.get(key)
                    for key in ("steps", "best_step", "seconds", "training_seconds", *COSTS, "identity")
                },
                "taken_from": one.get("taken_from"),
                "commit": origin["commit"],
                "machine": json.dumps(origin["machine"], sort_keys=True),
                "time": origin["time"],
                "device": one.get("device"),
                "data": one["data"]["whole"],
                "weights": one.get("weights"),
                "settings": json.dumps(one["settings"], sort_keys=True),
            }
        )
    return pd.DataFrame(rows)


def _cell(value: Any) -> Any:
    """A tuned value as a number or, so that a column has one type, as text."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else json.dumps(value)


def arm_results(study: Study, records: Sequence[Record], choices: Mapping[str, Any]) -> list[ArmResult]:
    """What each arm reached."""
    results = []
    for name in study.arms:
        own = [one for one in records if one["arm"] == name]
        final = [one for one in own if one["phase"] == "final"]
        good = [one for one in final if one["status"] != "diverged"]
        choice = choices.get(name)
        results.append(
            ArmResult(
                name=name,
                candidate=None if choice is None else choice["candidate"],
                chosen=None if choice is None else choice["values"],
                scores={
                    score: seeds_summary(known, level=study.level)
                    for score in study.scores
                    if (known := [one["scores"][score] for one in good if score in one["scores"]])
                },
                diverged=len(final) - len(good),
                collapsed=sum(one["status"] == "collapsed" for one in final),
                failed_candidates=len(
                    {one["candidate"] for one in own if one["phase"] == "tune" and one["status"] != "ok"}
                ),
                norms={
                    key: float(np.mean([one["norms"][key] for one in good]))
                    for key in (good[0]["norms"] if good else ())
                },
                lens=lens_of(good, study.level),
                costs=costs_of(good),
            )
        )
    return results


def compared(
    study: Study, folder: StudyFolder, records: Sequence[Record], choices: Mapping[str, Any]
) -> list[Compared]:
    """Every comparison of the study with its verdict, corrected for their number."""
    values = _Values(study, folder, records, choices)
    drafts = [_draft(one, values, study) for one in study.comparisons]
    known = [at for at, one in enumerate(drafts) if one.changes]
    evidence = [
        evidence_of(
            drafts[at].changes,
            smallest=study.smallest,
            level=study.level,
            classes=None if (difference := drafts[at].difference) is None else difference.interval,
            p_classes=None if difference is None else difference.p_units,
            p_smallest_classes=drafts[at].p_smallest,
        )
        for at in known
    ]
    verdicts = decide(evidence, smallest=study.smallest, level=study.level)
    for at, verdict in zip(known, verdicts, strict=True):
        one = drafts[at]
        drafts[at] = replace(one, verdict=verdict)
    return drafts


def _draft(comparison: Comparison, values: _Values, study: Study) -> Compared:
    """A comparison before its verdict."""
    score, other_score = comparison.scores
    first, second = values.of(comparison.arm, score), values.of(comparison.against, other_score)
    seeds = tuple(sorted(set(first) & set(second)))
    if not seeds:
        return Compared(comparison, (), (), None, None)
    ours, theirs = np.stack([first[seed] for seed in seeds]), np.stack([second[seed] for seed in seeds])
    difference, p_smallest = None, None
    if values.classes is not None and ours.shape[1] == theirs.shape[1] == len(values.classes):
        other = comparison.against if comparison.against != comparison.arm else f"{comparison.arm}, {other_score}"
        arms = {comparison.arm: Arm({score: ours}, seeds), other: Arm({score: theirs}, seeds)}
        several = len(np.unique(values.classes)) > 1
        (difference,) = compare(
            arms,
            values.classes,
            baseline=other,
            over="classes" if several else "queries",
            samples=SAMPLES,
            level=study.level,
        ).differences
        p_smallest = _p_smallest((ours - theirs).mean(axis=0), values.classes if several else None, study.smallest)
    changes = (ours.mean(axis=1) - theirs.mean(axis=1)).tolist()
    sides = zip((comparison.arm, comparison.against), comparison.scores, strict=True)
    notes = [note for arm, one in dict.fromkeys(sides) if (note := values.failure(arm, one, seeds))]
    return Compared(comparison, seeds, tuple(changes), None, difference, p_smallest, tuple(notes))


def _p_smallest(change: Floats, classes: Any, smallest: float) -> float:
    """One-sided p-value over classes of a gain of at least ``smallest``, by sign flips around it."""
    below = change - smallest
    two_sided = sign_flip_test(below, classes=classes)
    return two_sided / 2 if below.mean() < 0 else 1 - two_sided / 2


class _Values:
    """The values of each query of each final run, with those of diverged runs at chance."""

    def __init__(
        self, study: Study, folder: StudyFolder, records: Sequence[Record], choices: Mapping[str, Any]
    ) -> None:
        self.study, self.folder = study, folder
        self.final = {(one["arm"], one["seed"]): one for one in records if one["phase"] == "final"}
        self.hopeless = {name for name, choice in choices.items() if choice is None}
        good = [one for one in self.final.values() if one["status"] != "diverged"]
        self.queries = {(one["arm"], one["seed"]): folder.queries(one) for one in good}
        first = next(iter(self.queries.values()), {})
        self.classes = first.get("classes")

    def of(self, arm: str, score: str) -> dict[int, Floats]:
        """Seed -> (Q,) values, or (1,) for a score without a value for each query."""
        if arm in self.hopeless:
            return {seed: self._chance(score) for seed in range(self.study.seeds)}
        found = {}
        for (name, seed), record in self.final.items():
            if name == arm and (record["status"] == "diverged" or score in record.get("failed", {})):
                found[seed] = self._chance(score)
            elif name == arm:
                queries = self.queries[name, seed]
                found[seed] = np.asarray(queries.get(score, [record["scores"][score]]), dtype=np.float64)
        return found

    def _chance(self, score: str) -> Floats:
        found = None if score.endswith(BITS) else split_score(score)
        if found is not None:
            entry, name = found
            return np.array([entry.chance(name, 1 if self.classes is None else len(np.unique(self.classes)))])
        by_query = any(score in queries for queries in self.queries.values())
        if self.classes is None or not by_query:
            return np.zeros(1)
        return chance(score, np.unique(self.classes, return_inverse=True)[1])

    def failure(self, arm: str, score: str, seeds: Sequence[int]) -> str:
        """Sentences about the runs that failed, or whose score could not be measured; empty if none did."""
        if arm in self.hopeless:
            tuned = self.study.arms[arm].values_of or arm
            return f"Every candidate of {tuned} diverged; {'it' if tuned == arm else arm} counts as chance."
        status = [self.final[arm, seed]["status"] for seed in seeds]
        parts = [
            f"{status.count(kind)} of {len(seeds)} runs of {arm} {kind}{how}."
            for kind, how in (("diverged", " and count as chance"), ("collapsed", "; their measured scores count"))
            if kind in status
        ]
        unmeasured = sum(score in self.final[arm, seed].get("failed", {}) for seed in seeds)
        if unmeasured:
            parts.append(f"{score} of {unmeasured} of {len(seeds)} runs of {arm} diverged and counts as chance.")
        return " ".join(parts)
