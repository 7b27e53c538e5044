"""How long runs take: an estimate before the first one, what is left while they run, and whether another fits the budget."""

from __future__ import annotations

import contextlib
import math
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, get_args

from cosphere.errors import DivergenceError, SettingsError
from cosphere.experiment import run
from cosphere.experiment.stopwatch import UNTIMED, Stopwatch
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


class Kind(NamedTuple):
    """Runs that take equally long: those of an arm in a phase."""

    arm: str
    phase: Phase


class Clock:
    """Keeps how long the runs of each kind take.

    Args:
        budget: seconds after which no run is started that would not end in time; None for no budget.
        jobs: runs that are done at once.
        steps: of a run of each kind, by which the time of one is estimated from that of another; 1 where it is left out.
    """

    def __init__(self, budget: float | None, jobs: int, steps: Mapping[Kind, int] | None = None) -> None:
        self.budget, self.jobs, self.steps = budget, jobs, steps or {}
        self._began = time.monotonic()
        self._seconds: dict[Kind, list[float]] = {}
        self._guess: dict[Kind, list[float]] = {}

    @property
    def elapsed(self) -> float:
        """Seconds since the study was started or resumed."""
        return time.monotonic() - self._began

    def stop(self) -> None:
        """Let no run start any more."""
        self.budget = -math.inf

    def guess(self, kind: Kind, seconds: float) -> None:
        """What a run is thought to take before any run has ended."""
        self._guess = {kind: [seconds]}

    def add(self, kind: Kind, seconds: float) -> None:
        """A run ended."""
        self._seconds.setdefault(kind, []).append(seconds)

    def estimate(self, kind: Kind) -> float | None:
        """Seconds of a run of this kind; None if nothing is known.

        It is the mean of those that ended. While none has, the time of a step counts: of this arm, else of this phase, else of any run.
        """
        known = self._seconds or self._guess
        if kind in known:
            return fmean(known[kind])
        near = [other for other in known if other.arm == kind.arm] or [
            other for other in known if other.phase == kind.phase
        ]
        steps = sum(len(known[other]) * self.steps.get(other, 1) for other in near or known)
        seconds = sum(sum(known[other]) for other in near or known)
        return seconds / steps * self.steps.get(kind, 1) if steps else None

    def left(self, runs: Mapping[Kind, int]) -> float | None:
        """Seconds that these runs will take; None if nothing is known."""
        estimates = [(self.estimate(kind), count) for kind, count in runs.items() if count]
        if any(estimate is None for estimate, _ in estimates):
            return None
        return sum((estimate or 0.0) * count for estimate, count in estimates) / self.jobs

    def fits(self, kind: Kind) -> bool:
        """Whether a run that starts now would probably end within the budget."""
        return self.budget is None or self.elapsed + (self.estimate(kind) or 0.0) <= self.budget


def steps_of(study: Study) -> dict[Kind, int]:
    """Steps of a run of each kind."""
    return {
        Kind(arm, phase): study.example(arm, final=phase == "final").steps
        for arm in study.arms
        for phase in get_args(Phase)
    }


def guess(clock: Clock, arms: Iterable[tuple[str, TrainSettings]], context: Context) -> None:
    """Time the first arm that does not diverge within a few steps; without any, nothing is known.

    Args:
        clock: that learns it.
        arms: their names, each with the settings of a candidate.
        context: of the study.

    Raises:
        CosphereError: the run cannot be done, which is good to know before the study begins.
    """
    for arm, settings in arms:
        with contextlib.suppress(DivergenceError):  # The study reports it as it reports that of any run.
            clock.guess(Kind(arm, "tune"), probe(settings, context))
            return


def probe(settings: TrainSettings, context: Context) -> float:
    """Seconds that a run with these settings will take, from a few of its steps.

    Raises:
        CosphereError: the run cannot be done, or diverges at once.
    """
    path = Path(context.folder) / ".probe"
    shutil.rmtree(path, ignore_errors=True)
    short = {**UNTIMED, "steps": min(PROBE_STEPS, settings.steps), "validation.before": False, "checkpoint_every": 0}
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
