"""When a run began and when each of its steps was done."""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import median
from typing import Any

from cosphere.experiment.listener import SilentReporter

UNTIMED: dict[str, Any] = {
    "schedule.milestones": [],
    "schedule.warmup_steps": 0,
    "schedule.new_layers_steps": 0,
    "validation.every": 0,
}
"""Settings of a run of a few steps that is only timed: what belongs to later steps may not fit into it."""


class Stopwatch(SilentReporter):
    """Notes when a run began and when each step was done."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.built = self.started
        self.steps: list[float] = []

    def began(self, step: int) -> None:
        """All is built."""
        self.built = time.monotonic()

    def stepped(self, step: int) -> None:
        """A step is done."""
        self.steps.append(time.monotonic())

    def step_seconds(self) -> float | None:
        """Median over the later half of the steps, as the first ones allocate and are slower; None without any step."""
        if not self.steps:
            return None
        marks = self.steps[len(self.steps) // 2 :]
        gaps = [later - earlier for earlier, later in pairwise(marks)]
        return median(gaps or [self.steps[-1] - self.built])
