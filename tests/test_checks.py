"""Each check returns a plain Python value or says what it wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosphere import evaluate, experiment, models, studies
from cosphere.checks import check_choice, check_made, check_number, check_share, check_switch, check_whole
from cosphere.errors import SettingsError


@pytest.mark.parametrize(
    ("value", "settings", "want"),
    [(3, {}, 3), (np.int64(5), {"least": 5}, 5), (0, {"least": 0, "most": 0}, 0), (-2, {"most": 4}, -2)],
)
def test_whole_numbers(value: object, settings: dict[str, int], want: int) -> None:
    got = check_whole("k", value, **settings)
    assert got == want
    assert type(got) is int


@pytest.mark.parametrize("value", [True, 1.0, "1", None, math.nan, np.float64(1), np.bool_(True)])
def test_what_is_no_whole_number(value: object) -> None:
    with pytest.raises(SettingsError, match=r"^k must be a whole number; got "):
        check_whole("k", value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"least": 1}, " >= 1"), ({"most": -1}, " <= -1"), ({"least": 1, "most": 9}, " from 1 to 9")],
)
def test_whole_numbers_out_of_range(settings: dict[str, int], words: str) -> None:
    with pytest.raises(SettingsError, match=rf"^k must be a whole number{words}; got 0\.$"):
        check_whole("k", 0, **settings)


@pytest.mark.parametrize("value", [1, 1.5, np.float32(0.5), np.int32(2)])
def test_numbers(value: Any) -> None:
    got = check_number("margin", value, above=0, at_most=2)
    assert got == float(value)
    assert type(got) is float


@pytest.mark.parametrize("value", [True, "1", None, math.nan, math.inf, -math.inf, 10**400, 1 + 0j])
def test_what_is_no_finite_number(value: object) -> None:
    with pytest.raises(SettingsError, match=r"^margin must be a number, finite; got "):
        check_number("margin", value)


@pytest.mark.parametrize(
    ("value", "settings", "words"),
    [
        (0, {"above": 0}, "above 0"),
        (-1, {"at_least": 0}, ">= 0"),
        (1, {"below": 1}, "below 1"),
        (3, {"at_most": 2.5}, r"at most 2\.5"),
        (1, {"at_least": 0, "below": 1}, ">= 0 and below 1"),
    ],
)
def test_numbers_out_of_range(value: float, settings: dict[str, float], words: str) -> None:
    with pytest.raises(SettingsError, match=rf"^margin must be a number {words}, finite; got {value}\.$"):
        check_number("margin", value, **settings)


def test_shares() -> None:
    assert check_share("momentum", 1) == 1.0
    for value in (0, -0.1, 1.1, True, math.nan):
        with pytest.raises(SettingsError, match=r"^momentum "):
            check_share("momentum", value)


def test_choices() -> None:
    assert check_choice("form", "b", ["a", "b"]) == "b"
    with pytest.raises(SettingsError, match=r"^form must be 'a' or 'b'; got 'c'\.$"):
        check_choice("form", "c", ["a", "b"])
    many = ["exact", "float16", "int8", "bits", "rerank"]
    with pytest.raises(SettingsError, match=r"^there is no kind 'rernk'\. Did you mean 'rerank'\?$"):
        check_choice("kind", "rernk", many)


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_switches(value: object) -> None:
    assert check_switch("flip", False) is False
    assert check_switch("flip", np.True_) is True
    with pytest.raises(SettingsError, match=r"^flip must be true or false; got "):
        check_switch("flip", value)


@pytest.mark.parametrize("check", [check_whole, check_number, check_share, check_switch])
def test_the_name_leads_the_message(check: Callable[[str, object], object]) -> None:
    with pytest.raises(SettingsError, match=r"^batch\.size "):
        check("batch.size", object())


def test_an_argument_of_another_class_is_refused_with_what_to_write() -> None:
    check_made("study", 3, int, "1")
    with pytest.raises(SettingsError, match=r"^want settings as int, got '7' \(str\)\. Write int\('7'\)\.$"):
        check_made("settings", "7", int, "int('7')")
    with pytest.raises(SettingsError, match="got the class int"):
        check_made("settings", int, int, "1")


@pytest.mark.parametrize("given", [{"steps": 3}, "recipe.yaml", None])
def test_functions_name_the_settings_that_they_take(given: Any, tmp_path: Path) -> None:
    nothing: Any = None
    calls: list[Callable[[], object]] = [
        lambda: experiment.run(given, tmp_path / "run"),
        lambda: experiment.prepare_features(given, tmp_path / "run"),
        lambda: studies.run(given, tmp_path, tmp_path / "study"),
        lambda: models.build_embedder(given),
        lambda: evaluate.evaluate(nothing, nothing, given),
        lambda: evaluate.score_embeddings(nothing, given),
    ]
    if given is not None:
        calls.append(lambda: experiment.evaluate_run(tmp_path, settings=given))
    for call in calls:
        with pytest.raises(SettingsError, match=r"^want (settings|study) as \w+, got .* Write .*\(.*\)\.$"):
            call()
    assert list(tmp_path.iterdir()) == []
