"""`--set`: settings of a call against those of a study file."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from studies.conftest import TINY

from cosphere.errors import SettingsError
from cosphere.studies import study_of

CONTENT: dict[str, Any] = {
    **copy.deepcopy(TINY),
    "arms": {
        "plain": {"sec.weight": 0, "batch.images_per_class": 2},
        "margin": {"loss.name": "triplet", "loss.settings": {"margin": 0.1}, "batch.images_per_class": 4},
    },
    "final": {"steps": 50, "validation.every": 25},
    "questions": [{"ask": "?", "arm": "margin", "against": "plain"}],
}


def value(changes: dict[str, Any], arm: str, name: str, *, final: bool) -> Any:
    """A setting of a run of the study with these changes; 0.5 stands for the tuned rate."""
    study = study_of("x", CONTENT, changes=changes)
    settings: Any = study.settings(arm, dict.fromkeys(study.arms[arm].tune, 0.5), 7, final=final)
    for part in name.split("."):
        settings = settings[part] if isinstance(settings, dict) else getattr(settings, part)
    return settings


@pytest.mark.parametrize(
    ("changes", "arm", "name", "tune", "final"),
    [
        ({}, "plain", "steps", 2, 50),
        ({"steps": 20}, "plain", "steps", 20, 20),  # the final section of the file does not win
        ({"steps": 20, "final.steps": 40}, "plain", "steps", 20, 40),
        ({"final.steps": 40}, "plain", "steps", 2, 40),
        ({"steps": 20}, "plain", "validation.every", 0, 25),
        ({"validation": {"every": 5}}, "plain", "validation.every", 5, 5),
        ({"batch.images_per_class": 3}, "margin", "batch.images_per_class", 3, 3),  # over what an arm says
        ({"loss.settings.margin": 0.3}, "margin", "loss.settings.margin", 0.3, 0.3),
        ({"optimizer.head_rate": 0.01}, "plain", "optimizer.head_rate", 0.01, 0.01),  # over what is tuned
    ],
)
def test_a_change_wins_in_both_phases_and_one_of_the_final_runs_in_those(
    changes: dict[str, Any], arm: str, name: str, tune: Any, final: Any
) -> None:
    if name == "loss.settings.margin":  # only triplet has it
        content = {**CONTENT, "arms": {**CONTENT["arms"], "plain": {"loss.name": "triplet", "sec.weight": 0.5}}}
        study = study_of("x", content, changes=changes)
        assert [study.settings(arm, {}, 7, final=end).loss.settings["margin"] for end in (False, True)] == [tune, final]
        return
    assert value(changes, arm, name, final=False) == tune
    assert value(changes, arm, name, final=True) == final


def test_what_is_set_for_all_arms_is_not_tuned() -> None:
    study = study_of("x", {**TINY}, changes={"optimizer.head_rate": 0.01})
    assert [list(arm.tune) for arm in study.arms.values()] == [[], ["sec.weight"]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stepps": 3}, r"no setting 'stepps'\. Did you mean 'steps'"),
        ({"final.stepps": 3}, r"no setting 'stepps'\. Did you mean 'steps'"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"seed": 3}, "a study sets seed itself; give the number of final runs with --seeds"),
        ({"final.seed": 3}, "a study sets seed itself"),
        ({"validation.metric": "map@r"}, "a study sets validation.metric itself; give it as search.metric"),
        ({"validation": {"metric": "map@r"}}, "a study sets validation.metric itself"),
        ({"data.root": "x"}, "give the images with --data"),
        ({"device": "cpu"}, "give it with --device"),
        (
            {"final.optimizer.head_rate": 0.01},
            r"final sets optimizer\.head_rate, and the arm plain tunes optimizer\.head_rate",
        ),
        (
            {"final.sec.weight": 0},
            r"final sets sec\.weight, and the arm plain sets sec\.weight, so that its final runs would not",
        ),
        ({"sec.weight": 0.1}, r"with sec\.weight set for all arms, plain and sec are the same\. Leave it out"),
    ],
)
def test_a_change_without_effect_or_sense_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        study_of("x", TINY, changes=changes)
