"""Typed settings: values take the field's type or the error names the field; overrides by dotted name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from cosphere.errors import SettingsError
from cosphere.fields import Settings, build, convert, dotted_names, metadata, override, select, setting, words_of


@dataclass(frozen=True, kw_only=True)
class Engine(Settings):
    SECTION: ClassVar[str] = "engine."
    power: int = setting(50, at_least=1, at_most=900)
    gear: float | Literal["low", "high"] = "low"
    extras: dict[str, Any] = field(default_factory=dict, metadata=metadata(basic=True))


@dataclass(frozen=True, kw_only=True)
class Gears(Settings):
    ratios: tuple[float, ...] = setting((3.5, 1.0), above=0, below=10)


@dataclass(frozen=True, kw_only=True)
class Car(Settings):
    wheels: int = setting(4, basic=True)
    towing: bool = setting(False, changes_numbers=False)
    name: str | None = None
    seats: tuple[int, ...] = (2, 3)
    engine: Engine = field(default_factory=Engine)


@pytest.mark.parametrize(
    ("hint", "value", "want"),
    [
        (int, "3", 3),
        (int, 3.0, 3),
        (float, 3, 3.0),
        (float, "1e-4", 1e-4),  # YAML 1.1 reads this as text
        (bool, "true", True),
        (bool, False, False),
        (str, "", ""),
        (float | None, None, None),
        (float | None, "0.5", 0.5),
        (float | Literal["low"], "low", "low"),
        (float | Literal["low"], "7", 7.0),
        (str | None, "7", "7"),
        (list[int], (1, "2"), [1, 2]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (dict[str, Any], {"a": [1]}, {"a": [1]}),
        (Engine, {"power": 7}, Engine(power=7)),
    ],
)
def test_values_take_the_type_of_the_field(hint: Any, value: object, want: object) -> None:
    found = convert("x", hint, value)
    assert found == want
    assert type(found) is type(want)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (int, "four", "x is 'four'; wanted a whole number."),
        (int, 3.5, "x is 3.5; wanted a whole number."),
        (int, True, "x is True; wanted a whole number."),
        (int, None, "x is left empty; wanted a whole number."),
        (float, [], "x is []; wanted a number."),
        (bool, 1, "x is 1; wanted true or false."),
        (bool, "yes", "x is 'yes'; wanted true or false."),
        (str, 3, "x is 3; wanted text."),
        (Literal["a", "b"], "c", "x is 'c'; wanted 'a' or 'b'."),
        (float | Literal["low", "high"], "middle", "x is 'middle'; wanted a number, 'low' or 'high'."),
        (list[int], "1", "x is '1'; wanted a list in brackets, each a whole number."),
        (list[int], [1, "b"], "x is [1, 'b']; wanted a list in brackets, each a whole number."),
        (dict[str, Any], {1: 2}, "x is {1: 2}; wanted names with values."),
        (Engine, 7, "x is 7; wanted names with values."),
        (Engine, {"powr": 7}, "there is no setting 'x.powr'. Did you mean 'x.power'?"),
        (Engine, {"power": None}, "x.power is left empty; wanted a whole number."),
        (float | None, "x", "x is 'x'; wanted a number or null."),
    ],
)
def test_values_of_another_type_are_one_sentence(hint: Any, value: object, message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}$"):
        convert("x", hint, value)


def test_types_and_bounds_hold_wherever_an_object_is_made() -> None:
    with pytest.raises(SettingsError, match=r"^engine.power must be a whole number from 1 to 900; got 0\.$"):
        Engine(power=0)
    with pytest.raises(SettingsError, match=r"^ratios must be a number above 0 and below 10, finite; got 12\.0\.$"):
        Gears(ratios=(1.0, 12))
    with pytest.raises(SettingsError, match=r"^ratios is empty; wanted at least one number"):
        Gears(ratios=())
    with pytest.raises(SettingsError, match=r"^engine.gear must be a number, finite; got inf\.$"):
        Engine(gear=float("inf"))
    with pytest.raises(SettingsError, match=r"^wheels is 'x'; wanted a whole number\.$"):
        Car(wheels="x")  # type: ignore[arg-type]


def test_overrides_replace_by_dotted_name_and_leave_the_rest() -> None:
    car = Car(wheels=3, engine=Engine(power=9, extras={"turbo": {"blades": 7}}))
    found = override(car, {"engine.power": "12", "engine.extras.turbo.bar": 2, "name": "a"})
    assert found == Car(wheels=3, name="a", engine=Engine(power=12, extras={"turbo": {"blades": 7, "bar": 2}}))
    assert override(car, {"engine": {"power": 12}}).engine.extras == {"turbo": {"blades": 7}}
    assert override(car, {"engine.extras": {}}).engine.extras == {}
    assert car.engine.extras == {"turbo": {"blades": 7}}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("whels", "there is no setting 'whels'. Did you mean 'wheels'?"),
        ("power", "there is no setting 'power'. Did you mean 'engine.power'?"),
        ("engine.powr", "there is no setting 'engine.powr'. Did you mean 'engine.power'?"),
        ("wheels.size", "there is no setting 'wheels.size'. Did you mean 'wheels'?"),
        ("whales", "there is no setting 'whales'. `--help` lists all settings."),
        ("qqq", "there is no setting 'qqq'. `--help` lists all settings."),
    ],
)
def test_an_unknown_name_gives_the_nearest(name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}$"):
        override(Car(), {name: 1})


def test_fields_are_chosen_by_what_they_say_of_themselves() -> None:
    assert select(Car(), lambda rule: rule.changes_numbers) == {
        "wheels": 4,
        "name": None,
        "seats": (2, 3),
        "engine": {"power": 50, "gear": "low", "extras": {}},
    }
    assert dotted_names(Car, lambda rule: rule.basic) == ["wheels", "engine.extras"]
    assert dotted_names(Car)[-1] == "engine.extras"


def test_what_is_left_out_keeps_its_default() -> None:
    assert build(Car, {"engine": {"power": 7}}) == Car(engine=Engine(power=7))


def test_types_in_words() -> None:
    assert words_of(int | None) == "a whole number or null"
    assert words_of(Any) == "a value"
