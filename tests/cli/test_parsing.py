"""Parsing: what is unknown or of a wrong type is answered with one line."""

from __future__ import annotations

import operator
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from cosphere.cli.parsing import CommandParser
from cosphere.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine.

    Args:
        power: in kilowatts.
        fuel: what it burns.
        gear: a ratio, or a name.
        place: where it is.
    """

    power: int = 50
    fuel: Literal["petrol", "none"] = "none"
    gear: float | Literal["low", "high"] = "low"
    place: Literal["cpu", "cuda"] = "cpu"


@dataclass(frozen=True, kw_only=True)
class Car:
    """A car.

    Args:
        wheels: how many.
        engine: what drives it.
    """

    wheels: int = 4
    engine: Engine = field(default_factory=Engine)


def parser() -> CommandParser:
    made = CommandParser("drive", "Drive a car.", ["cosphere drive there"])
    made.add_argument("where", nargs="?", type=str)
    made.add_argument("--stops", type=list[str], default=[])
    made.add_argument("--tolls", type=list[int], default=[])
    made.add_argument("--road", type=str, default="")
    made.add_argument("--lane", type=Literal["left", "right"] | None, default="right")
    made.add_argument("--seats", type=int | None, default=5)
    made.add_argument("--plate", type=str | None, default="")
    made.add_argument("--toll_road", type=Literal["highway"] | str, default="")
    made.add_argument("--open", type=bool, default=False)
    made.add_argument("--luggage", type=dict[str, Any], default={})
    made.add_argument("--config", action="config")
    made.add_class_arguments(Car, None)
    return made


def test_line_wins_over_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("wheels: 3\nengine: {power: 7}\n")
    found = parser().read(["there", "--config", str(tmp_path / "recipe.yaml"), "--engine.power", "9"])
    assert (found.where, found.wheels, found.engine) == ("there", 3, Engine(power=9))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--whels", "3"], "there is no setting 'whels'. Did you mean 'wheels'?"),
        (["--engine.powr", "3"], "there is no setting 'engine.powr'. Did you mean 'engine.power'?"),
        (["--power", "3"], "there is no setting 'power'. Did you mean 'engine.power'?"),
        (["--motor.fule=x"], "there is no setting 'motor.fule'. Did you mean 'engine.fuel'?"),
        (["--qqq", "3"], "there is no setting 'qqq'. `--help` lists all settings."),
        (["--wheels", "four"], "wheels is 'four'; wanted a whole number."),
        (["--engine.fuel", "coal"], "engine.fuel is 'coal'; wanted 'petrol' or 'none'."),
        (["--engine.gear", "middle"], "engine.gear is 'middle'; wanted a number, 'low' or 'high'."),
        (["--tolls", "home"], "tolls is 'home'; wanted a list of whole numbers. Write --tolls 1,2."),
        (["--tolls", "1.5"], "tolls is '1.5'; wanted a list of whole numbers. Write --tolls 1,2."),
        (["--open=maybe"], "open is 'maybe'; wanted true or false."),
        (["--luggage", "3"], "luggage is '3'; wanted names with values. Write --luggage NAME=VALUE."),
        (["--wheels", "1.5"], "wheels is '1.5'; wanted a whole number."),
        (["--wheels", "None"], "wheels is 'None'; wanted a whole number."),
        (
            ["--engine.place", "cuda:1"],
            "engine.place is 'cuda:1'; wanted 'cpu' or 'cuda'. CUDA_VISIBLE_DEVICES=1 and --engine.place cuda take that GPU.",
        ),
        (["--wheels"], "--wheels has no value; wanted a whole number."),
        (["-wheels=3"], "'-wheels' has one dash; settings have two. Write --wheels."),
        (["a", "b"], "'b' is one word too many. `cosphere drive --help` shows what it takes."),
    ],
)
def test_one_line_errors(words: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}$"):
        parser().read(words)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--tolls 1,2", "tolls", [1, 2]),
        ("--tolls 3", "tolls", [3]),
        ("--tolls '1 2'", "tolls", [1, 2]),
        ("--tolls '[1, 2'", "tolls", [1, 2]),
        ("--tolls=(1,2,)", "tolls", [1, 2]),
        ("--tolls '[]'", "tolls", []),
        ("--stops home", "stops", ["home"]),
        ("--stops '[home, \"sea\"]'", "stops", ["home", "sea"]),
        ("--stops 1,2", "stops", ["1", "2"]),
        ("--open", "open", True),
        ("--open yes", "open", True),
        ("--open=On", "open", True),
        ("--open 1", "open", True),
        ("--open no", "open", False),
        ("--open 0", "open", False),
        ("--wheels 1e3", "wheels", 1000),
        ("--wheels=1_000", "wheels", 1000),
        ("--wheels 4.0", "wheels", 4),
        ("--wheels=+4", "wheels", 4),
        ("--tolls 1e1,1_0", "tolls", [10, 10]),
        ("--engine.gear 1_0.5", "engine.gear", 10.5),
        ("--engine.gear High", "engine.gear", "high"),
        ("--engine.fuel NONE", "engine.fuel", "none"),
        ("--lane Left", "lane", "left"),
        ("--lane None", "lane", None),
        ("--lane null", "lane", None),
        ("--seats NONE", "seats", None),
        ("--seats 2e0", "seats", 2),
        ("--engine.place cuda:0", "engine.place", "cuda"),
        ("--engine.place=CUDA:0", "engine.place", "cuda"),
        ("--plate None", "plate", None),
        ("--plate none", "plate", "none"),
        ("--plate 1e3", "plate", "1e3"),
        ("--plate Left", "plate", "Left"),
        ("--toll_road Highway", "toll_road", "highway"),
        ("--toll_road A_Road", "toll_road", "A_Road"),
        ("--open off there", "where", "there"),
        ("--open there", "where", "there"),
        ("--luggage bags=2", "luggage", {"bags": 2}),
        ("--luggage bags=2,colour=red", "luggage", {"bags": 2, "colour": "red"}),
        ("--luggage parts=[1,2],bags=3", "luggage", {"parts": [1, 2], "bags": 3}),
        ("--luggage a.b=0.5", "luggage", {"a.b": 0.5}),
        ("--luggage '{bags: 2}'", "luggage", {"bags": 2}),
        ("--road=~/a/b", "road", "/home/me/a/b"),
        ("--road '~/a b'", "road", "/home/me/a b"),
        ("--road=a/~/b", "road", "a/~/b"),
        ("--road=~nobody-has-this-name/a", "road", "~nobody-has-this-name/a"),
        ("--road=~old", "road", "~old"),
    ],
)
def test_values_as_people_type_them(words: str, name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert operator.attrgetter(name)(parser().read(shlex.split(words))) == value


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("whels: 3", "there is no setting 'whels'. Did you mean 'wheels'?"),
        ("engine: {powr: 3}", "there is no setting 'engine.powr'. Did you mean 'engine.power'?"),
        ("wheels: many", "wheels is 'many'; wanted a whole number."),
    ],
)
def test_one_line_errors_in_a_recipe(tmp_path: Path, recipe: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe)
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}$"):
        parser().read(["--config", str(tmp_path / "recipe.yaml")])


@pytest.mark.parametrize("name", ["ssl/simclr-small", "recipes/ssl/simclr-small.yaml"])
@pytest.mark.parametrize("form", ["two words", "one"])
def test_a_recipe_of_ours_is_found_from_any_folder(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cosphere.cli import train

    monkeypatch.chdir(tmp_path)
    given = train.parser().read(["photos", *(["--config", name] if form == "two words" else [f"--config={name}"])])
    assert given.loss.name == "nt_xent"
    with pytest.raises(SettingsError, match=r"there is no recipe ssl/simclr-smal\. Did you mean 'ssl/simclr-small'\?"):
        train.parser().read(["photos", "--config", "ssl/simclr-smal"])


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"there is no recipe .*none.yaml"):
        parser().read(["--config", str(tmp_path / "none.yaml")])


def test_help_shows_meaning_default_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parser().read(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert re.search(r"in kilowatts\.\s+\(type: int, default: 50\)", shown)
    assert "examples:\n  cosphere drive there" in shown
