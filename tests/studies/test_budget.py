"""Durations, estimates, and which runs still fit."""

from __future__ import annotations

import pytest

from cosphere.errors import SettingsError
from cosphere.studies.budget import Clock, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("90s", 90), ("0.5h", 1800), (" 5M ", 300)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "30 min", "1h 30m", "-5m", "0m", "5mm"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="the budget is"):
        parse_duration(text)


def test_estimates_follow_the_phase_then_any_run_then_the_guess() -> None:
    clock = Clock(None, jobs=2)
    assert clock.left({"tune": 4, "final": 2}) is None
    clock.guess(10)
    assert clock.left({"tune": 4, "final": 2}) == pytest.approx(30)
    clock.add("tune", 4)
    clock.add("tune", 6)
    assert clock.left({"tune": 2, "final": 2}) == pytest.approx(10)
    clock.add("final", 20)
    assert clock.left({"tune": 2, "final": 2}) == pytest.approx(25)
    assert clock.left({"tune": 0, "final": 0}) == 0


def test_a_run_fits_if_it_would_end_within_the_budget() -> None:
    clock = Clock(100, jobs=1)
    clock.add("tune", 50)
    clock.add("final", 200)
    assert clock.fits("tune")
    assert not clock.fits("final")
    assert Clock(None, jobs=1).fits("final")


def test_a_phase_of_more_steps_is_estimated_from_the_other_by_its_steps() -> None:
    clock = Clock(None, jobs=1, steps={"tune": 300, "final": 600})
    clock.guess(10)
    assert (clock.estimate("tune"), clock.estimate("final")) == (10, 20)
    clock.add("tune", 12)
    assert (clock.estimate("tune"), clock.estimate("final")) == (12, 24)
    clock.add("final", 30)
    assert (clock.estimate("tune"), clock.estimate("final")) == (12, 30)
