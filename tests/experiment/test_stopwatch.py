"""The time of a step."""

from __future__ import annotations

import time

import pytest

from cosphere.experiment.stopwatch import Stopwatch


def test_the_time_of_a_step_is_the_median_of_the_later_half() -> None:
    watch = Stopwatch()
    watch.began(0)
    for pause in (0.2, 0.02, 0.01, 0.01, 0.01, 0.15):  # slow at first, and once by chance
        time.sleep(pause)
        watch.stepped(0)
    seconds = watch.step_seconds()
    assert seconds is not None
    assert 0.009 < seconds < 0.1
    assert Stopwatch().step_seconds() is None


def test_one_step_is_timed_from_the_start_of_training() -> None:
    watch = Stopwatch()
    watch.built, watch.steps = 10.0, [10.5]
    assert watch.step_seconds() == pytest.approx(0.5)
