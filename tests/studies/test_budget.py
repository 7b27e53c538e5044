"""Durations, estimates, and which runs still fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosphere.data import Catalogue
from cosphere.errors import DivergenceError, SettingsError
from cosphere.studies import budget, study_of
from cosphere.studies.budget import Clock, Kind, parse_duration, probe, steps_of
from cosphere.studies.jobs import Context


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("90s", 90), ("0.5h", 1800), (" 5M ", 300)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "30 min", "1h 30m", "-5m", "0m", "5mm"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="the budget is"):
        parse_duration(text)


def kinds(arm: str = "a") -> tuple[Kind, Kind]:
    """Candidates and final runs of an arm."""
    return Kind(arm, "tune"), Kind(arm, "final")


def test_estimates_follow_the_phase_then_any_run_then_the_guess() -> None:
    clock, (tune, final) = Clock(None, jobs=2), kinds()
    assert clock.left({tune: 4, final: 2}) is None
    clock.guess(tune, 10)
    assert clock.left({tune: 4, final: 2}) == pytest.approx(30)
    clock.add(tune, 4)
    clock.add(tune, 6)
    assert clock.left({tune: 2, final: 2}) == pytest.approx(10)
    clock.add(final, 20)
    assert clock.left({tune: 2, final: 2}) == pytest.approx(25)
    assert clock.left({tune: 0, final: 0}) == 0


def test_a_run_fits_if_it_would_end_within_the_budget() -> None:
    clock, (tune, final) = Clock(100, jobs=1), kinds()
    clock.add(tune, 50)
    clock.add(final, 200)
    assert clock.fits(tune)
    assert not clock.fits(final)
    assert Clock(None, jobs=1).fits(final)


def test_a_phase_of_more_steps_is_estimated_from_the_other_by_its_steps() -> None:
    tune, final = kinds()
    clock = Clock(None, jobs=1, steps={tune: 300, final: 600})
    clock.guess(tune, 10)
    assert (clock.estimate(tune), clock.estimate(final)) == (10, 20)
    clock.add(tune, 12)
    assert (clock.estimate(tune), clock.estimate(final)) == (12, 24)
    clock.add(final, 30)
    assert (clock.estimate(tune), clock.estimate(final)) == (12, 30)


def test_arms_of_other_lengths_have_estimates_of_their_own(content: dict[str, Any]) -> None:
    content |= {"arms": {"short": {"steps": 400}, "long": {"steps": 4000}}, "tune": {}, "questions": []}
    clock = Clock(100, jobs=1, steps=steps_of(study_of("x", content)))
    (short_tune, short), (long_tune, long) = kinds("short"), kinds("long")
    clock.guess(short_tune, 9)
    assert clock.left({short: 5, long: 5}) == pytest.approx(5 * 9 + 5 * 90)
    clock.add(short, 20)
    assert clock.estimate(long) == 200  # ten times the steps
    assert (clock.fits(short), clock.fits(long)) == (True, False)
    clock.add(long, 150)
    clock.add(long, 170)
    assert (clock.estimate(short), clock.estimate(long)) == (20, 160)
    assert clock.estimate(long_tune) == 160  # of its own arm rather than of the other


def test_the_first_arm_that_does_not_diverge_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: Any = {"wild": None, "tame": 3.0, "slow": 9.0}

    def timed(seconds: float | None, _: Any) -> float:
        if seconds is None:
            raise DivergenceError("the loss is nan")
        return seconds

    monkeypatch.setattr(budget, "probe", timed)
    context: Any = None
    clock = Clock(None, jobs=1)
    budget.guess(clock, settings.items(), context)
    assert clock.left({Kind("wild", "tune"): 4}) == 12
    clock = Clock(None, jobs=1)
    budget.guess(clock, [("wild", settings["wild"])], context)
    assert clock.left({Kind("wild", "tune"): 4}) is None


def test_a_run_whose_schedule_needs_more_steps_can_be_timed(
    content: dict[str, Any], images: Catalogue, tmp_path: Path
) -> None:
    late = {"new_layers_steps": 100, "milestones": [50, 500], "name": "milestones", "warmup_steps": 200}
    content["base"] |= {"steps": 1000, "schedule": late}
    settings = study_of("x", content).example("plain").with_values({"data.root": str(images.root), "device": "cpu"})
    assert probe(settings, Context(tmp_path, images, images, {}, ())) > 0
    assert not (tmp_path / ".probe").exists()
