"""What is measured while a run trains: the time of a step, the peak of memory, and what the norm lens saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from cosphere.evaluate.statistics import Summary, seeds_summary
from cosphere.experiment.stopwatch import Stopwatch
from cosphere.train.memory import forget_peak, peak_memory

COSTS = ("step_seconds", "memory", "device_memory")
"""What a record says of a run's time and memory; see :func:`measured`."""


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


def lens_of(records: Sequence[Mapping[str, Any]], level: float) -> dict[str, Summary]:
    """The last norm lens of several runs of an arm, over seeds, of the values that all of them have.

    Args:
        records: of its runs.
        level: of the intervals.
    """
    lenses = [one.get("lens") or {} for one in records]
    names = [name for name in (lenses[0] if lenses else ()) if all(name in lens for lens in lenses)]
    return {name: seeds_summary([lens[name] for lens in lenses], level=level) for name in names}
