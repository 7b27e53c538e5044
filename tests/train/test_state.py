"""The state of a run comes back whole, and a checkpoint of another run is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cosphere.errors import RunError
from cosphere.train import SecSettings, TrainSettings
from cosphere.train.state import RunState, check_same_run

SETTINGS = TrainSettings(sec=SecSettings(weight=0.1))
SAVED = {"settings": SETTINGS.as_dict(), "classes": ["a", "b"]}


def test_every_value_comes_back() -> None:
    state = RunState(
        step=7,
        seconds=1.5,
        best={"step": 4, "scores": {"nmi": 0.5}},
        before={"nmi": 0.1},
        stale=3,
        warned={"sec", "hubs"},
    )
    fresh = RunState()
    fresh.load_state_dict(state.state_dict())
    assert fresh == state
    assert all(getattr(fresh, field.name) != getattr(RunState(), field.name) for field in dataclasses.fields(RunState))


def test_a_missing_value_is_an_error() -> None:
    values = RunState().state_dict()
    del values["stale"]
    with pytest.raises(KeyError, match="stale"):
        RunState().load_state_dict(values)


def check(settings: TrainSettings, classes: list[str]) -> None:
    check_same_run(SAVED, settings.step_identity(), classes, config="config.yaml")


@pytest.mark.parametrize(
    "changes",
    [{}, {"steps": 5}, {"log_every": 3}, {"data.root": "elsewhere"}, {"validation.every": 7}, {"device": "cpu"}],
)
def test_what_a_step_does_not_depend_on_may_change(changes: dict[str, Any]) -> None:
    check(SETTINGS.with_values(changes), ["a", "b"])


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({"sec.weight": 0.2}, ["a", "b"], r"made with sec.weight 0.1, the settings now say 0.2\. Put config.yaml back"),
        ({"seed": 3}, ["a", "b"], r"made with seed 0, the settings now say 3"),
        ({}, ["a", "b", "c"], r"trained on 2 classes, the data now has 3 or other names"),
        ({}, ["a", "c"], r"trained on 2 classes, the data now has 2 or other names"),
    ],
)
def test_another_run_is_refused(changes: dict[str, Any], classes: list[str], message: str) -> None:
    with pytest.raises(RunError, match=message):
        check(SETTINGS.with_values(changes), classes)
