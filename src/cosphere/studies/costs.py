"""What a run costs: the time of a step and the peak of memory, measured while it trains."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from cosphere.experiment.listener import SilentReporter
from cosphere.train.memory import forget_peak, peak_memory

COSTS = ("step_seconds", "memory", "device_memory")
"""What a record says of a run's time and memory; see :func:`measured`."""


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


@contextmanager
def measured(record: dict[str, Any], device: str) -> Iterator[Stopwatch]:
    """Write into a record what the run within costs, also if it ends with an error.

    ``step_seconds``: wall time of a step; ``memory``: peak of the process's resident memory in bytes; ``device_memory``: peak of the
    tensors on the GPU in bytes, 0 on a CPU. What cannot be measured is None. Runs that resume are measured from where they go on.

    Args:
        record: to write into.
        device: of the run, such as "cpu" or "cuda".

    Yields:
        the reporter that the run has to be given.
    """
    watch, on_gpu = Stopwatch(), device.startswith("cuda")
    known = forget_peak()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        yield watch
    finally:
        record["step_seconds"] = watch.step_seconds()
        record["memory"] = peak_memory() if known else None
        record["device_memory"] = torch.cuda.max_memory_allocated() if on_gpu else 0


def costs_of(records: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Time and memory of several runs of an arm: the median of the times, the largest of the peaks.

    None where no run knows it, as records of earlier versions do.
    """
    known = {key: [float(one[key]) for one in records if one.get(key) is not None] for key in COSTS}
    times = known.pop("step_seconds")
    return {
        "step_seconds": median(times) if times else None,
        **{key: max(values, default=None) for key, values in known.items()},
    }
