"""Comparing evaluated runs as one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from cosphere.checks import MOST_SAMPLES, check_choice, check_seed, check_switches, check_whole
from cosphere.errors import SettingsError, did_you_mean
from cosphere.evaluate.comparison import Comparison, Over, compare
from cosphere.evaluate.statistics import check_level
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.matching import METRICS, MatchedRuns, group_runs, read_arms
from cosphere.experiment.setting_differences import setting_notes
from cosphere.files import path_of
from cosphere.runs import provenance


@dataclass(frozen=True, eq=False, kw_only=True)
class ComparedRuns:
    """Arms of runs, matched on their images, and their differences."""

    matched: MatchedRuns
    comparison: Comparison
    setting_notes: tuple[str, ...] = ()
    """The settings in which the arms differ, one sentence each."""
    mixed: frozenset[str] = frozenset()
    """Arms whose runs differ in more than the seed."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the differences should know, one sentence each."""
        return (*self.setting_notes, *self.matched.notes, *self.comparison.notes)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `comparison.json`: what was compared, scores, differences and provenance."""
        matched = self.matched
        return {
            "split": matched.split,
            "data": {
                "fingerprint": matched.fingerprint or None,
                "images": matched.images,
                "left_out": {Path(name).name: count for name, count in matched.left_out.items()},
            },
            "arms": {
                arm: [{"run": run, "seed": seed} for run, seed in zip(names, matched.arms[arm].seeds, strict=True)]
                for arm, names in matched.runs.items()
            },
            "ranking": dict(matched.ranking),
            **self.comparison.as_dict(),
            "settings": list(self.setting_notes),
            "provenance": provenance(),
        }


def compare_runs(
    runs: Sequence[str | Path] = (),
    *,
    arms: Mapping[str, Sequence[str | Path]] | None = None,
    metrics: Sequence[str] = METRICS,
    baseline: str | None = None,
    split: str | None = None,
    shared_only: bool = False,
    over: Any = "classes",
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
    listener: Listener = SILENT,
) -> ComparedRuns:
    """Compare evaluated runs on the same images: differences with intervals and p-values, and who wins where.

    Args:
        runs: folders; those that differ in the seed alone are one arm, see :func:`cosphere.experiment.group_runs`.
        arms: further arms by name, each with the folders of its runs.
        metrics: names as in `scores.json` that have a value for each query.
        baseline: the arm, or a run of the arm, that the others are compared with; None takes the first.
        split: evaluated split; None takes the last one.
        shared_only: go on with the shared images where runs were scored on different ones.
        over: what intervals and p-values resample: ``classes`` or ``queries``.
        level: of the intervals, in (0, 1).
        samples: resamples behind the intervals.
        seed: of the resamples.
        listener: receives progress.

    Raises:
        RunError: a folder is not a run, was never evaluated, or not on this split.
        DataError: the runs were scored on different images, or share none.
        SettingsError: fewer than two runs, two arms of one name, an unknown metric or baseline, or a number out of range.
    """
    check_switches(shared_only=shared_only)
    check_choice("over", over, get_args(Over))
    check_level(level)
    check_whole("samples", samples, least=1, most=MOST_SAMPLES)
    check_seed(seed)
    groups = {name: [path_of(path) for path in paths] for name, paths in (arms or {}).items()}
    for name, paths in group_runs(runs).items() if runs else ():
        if name in groups:
            raise SettingsError(f"two arms are called {name!r}. Choose another name with --arm NAME=FOLDERS.")
        groups[name] = paths
    if sum(map(len, groups.values())) < 2:
        raise SettingsError(
            "one run alone has nothing to be compared with. Give two or more: cosphere compare RUN RUN."
        )
    chosen = baseline_arm(baseline, groups)
    with listener.progress("ranking") as progress:
        matched = read_arms(groups, metrics, split=split, shared_only=shared_only, progress=progress)
    comparison = compare(
        matched.arms, matched.classes, baseline=chosen, over=over, samples=samples, level=level, seed=seed
    )
    notes, mixed = setting_notes(groups, comparison.baseline)
    return ComparedRuns(matched=matched, comparison=comparison, setting_notes=tuple(notes), mixed=frozenset(mixed))


def baseline_arm(name: str | None, groups: Mapping[str, Sequence[Path]]) -> str | None:
    """The arm of that name, or the one that this run belongs to; None for None.

    Raises:
        SettingsError: there is neither.
    """
    if name is None or name in groups:
        return name
    for arm, folders in groups.items():
        if any(Path(name).resolve() == folder.resolve() or name == folder.name for folder in folders):
            return arm
    raise SettingsError(f"there is no arm {name!r} to be the baseline. {did_you_mean(name, groups)}")
