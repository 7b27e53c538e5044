"""Time and memory of a run: of this run, whatever ran in the process before."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np
import pytest

from cosphere.studies.costs import costs_of, lens_of, measured

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says")


def peak_of(megabytes: int) -> int:
    """The peak of a run that fills an array."""
    record: dict[str, Any] = {}
    with measured(record, "cpu"):
        assert np.ones(megabytes * 125_000).sum() > 0
    if record["memory"] is None:
        pytest.skip("this process may not forget its peak")
    return int(record["memory"])


@LINUX
def test_a_small_run_after_a_large_one_has_a_small_peak() -> None:
    before = peak_of(1)
    large = peak_of(400)
    assert large - before == pytest.approx(400e6, rel=0.1)
    assert peak_of(1) - before < 40e6


def test_a_run_that_fails_is_measured_too() -> None:
    record: dict[str, Any] = {}
    with contextlib.suppress(ValueError), measured(record, "cpu") as watch:
        watch.stepped(1)
        raise ValueError("diverged")
    assert record["step_seconds"] >= 0
    assert record["device_memory"] == 0


def test_costs_of_an_arm_are_the_median_time_and_the_largest_peaks() -> None:
    records = [
        {"step_seconds": 0.1, "memory": 5, "device_memory": 0},
        {"step_seconds": 0.3, "memory": None, "device_memory": 7},
        {"step_seconds": 0.2},
        {},  # of an earlier version
    ]
    assert costs_of(records) == {"step_seconds": pytest.approx(0.2), "memory": 5.0, "device_memory": 7.0}
    assert costs_of([{}]) == {"step_seconds": None, "memory": None, "device_memory": None}


def test_the_lens_is_averaged_over_the_runs_that_have_it() -> None:
    runs = [{"lens": {"angle_slope": -1.0, "short_share": 0.1}}, {"lens": {"angle_slope": -2.0}}]
    lens = lens_of(runs, 0.95)
    assert list(lens) == ["angle_slope"]  # what one run could not measure is left out
    assert (lens["angle_slope"].mean, lens["angle_slope"].n) == (-1.5, 2)
    assert lens_of([{"lens": {}}, {}], 0.95) == lens_of([], 0.95) == {}
