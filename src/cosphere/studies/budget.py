"""How long runs take: an estimate before the first one, what is left while they run, and whether another fits the budget."""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosphere.errors import SettingsError
from cosphere.experiment import run
from cosphere.experiment.stopwatch import Stopwatch
from cosphere.studies.definition import Study
from cosphere.studies.jobs import Context, Phase
from cosphere.train import TrainSettings

PROBE_STEPS = 8
"""Steps of the run that is timed before a study begins."""
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``30m``, ``1h30m`` or ``90s``.

    Raises:
        SettingsError: it is none, or it is 0.

    >>> parse_duration("1h30m")
    5400.0
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text.strip().lower())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip().lower():
        raise SettingsError(f"the budget is {text!r}; wanted a duration such as 30m, 2h or 1h30m.")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not seconds:
        raise SettingsError(
            f"the budget is {text!r}, in which nothing can run. Give at least a minute, or leave it out."
        )
    return seconds


class Clock:
    """Keeps how long the runs of each phase take.

    Args:
        budget: seconds after which no run is started that would not end in time; None for no budget.
        jobs: runs that are done at once.
        steps: of a run of each phase, by which the time of one is estimated from that of the other; None for equal ones.
    """

    def __init__(self, budget: float | None, jobs: int, steps: Mapping[Phase, int] | None = None) -> None:
        self.budget, self.jobs, self.steps = budget, jobs, steps or {"tune": 1, "final": 1}
        self._began = time.monotonic()
        self._seconds: dict[Phase, list[float]] = {"tune": [], "final": []}
        self._guess: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the study was started or resumed."""
        return time.monotonic() - self._began

    def stop(self) -> None:
        """Let no run start any more."""
        self.budget = -math.inf

    def guess(self, seconds: float) -> None:
        """What a candidate's run is thought to take before any run has ended."""
        self._guess = seconds

    def add(self, phase: Phase, seconds: float) -> None:
        """A run ended."""
        self._seconds[phase].append(seconds)

    def estimate(self, phase: Phase) -> float | None:
        """Seconds of a run of this phase; None if nothing is known."""
        known = {other: sum(values) / len(values) for other, values in self._seconds.items() if values}
        if not known and self._guess is not None:
            known = {"tune": self._guess}
        by_step = {other: seconds / self.steps[other] for other, seconds in known.items()}
        return known.get(phase) or next((self.steps[phase] * seconds for seconds in by_step.values()), None)

    def left(self, runs: Mapping[Phase, int]) -> float | None:
        """Seconds that these runs will take; None if nothing is known."""
        estimates = [(self.estimate(phase), count) for phase, count in runs.items() if count]
        if any(estimate is None for estimate, _ in estimates):
            return None
        return sum((estimate or 0.0) * count for estimate, count in estimates) / self.jobs

    def fits(self, phase: Phase) -> bool:
        """Whether a run that starts now would probably end within the budget."""
        return self.budget is None or self.elapsed + (self.estimate(phase) or 0.0) <= self.budget


def steps_of(study: Study) -> dict[Phase, int]:
    """Steps of a run of each phase, by the study's first arm."""
    arm, values = next(iter(study.arms)), dict[str, Any]()
    return {
        "tune": study.settings(arm, values, 0).steps,
        "final": study.settings(arm, values, 0, final=True).steps,
    }


def probe(settings: TrainSettings, context: Context) -> float:
    """Seconds that a run with these settings will take, from a few of its steps.

    Raises:
        CosphereError: the run cannot be done, which is good to know before the study begins.
    """
    path = Path(context.folder) / ".probe"
    shutil.rmtree(path, ignore_errors=True)
    steps = min(PROBE_STEPS, settings.steps)
    short = {"steps": steps, "validation.every": 0, "validation.before": False, "checkpoint_every": 0}
    watch = Stopwatch()
    try:
        run(settings.with_values(short), path, catalogue=context.training, reporter=watch)
    finally:
        shutil.rmtree(path, ignore_errors=True)
    ended = time.monotonic()
    step = watch.step_seconds() or 0.0
    every = settings.validation.every
    passes = (settings.steps // every if every else 1) + settings.validation.before
    return watch.built - watch.started + settings.steps * step + passes * (ended - watch.steps[-1])
