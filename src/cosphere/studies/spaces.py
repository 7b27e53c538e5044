"""What a tuned setting may be: a range of numbers or a list of choices, and the value at one place in it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from cosphere.checks import check_number
from cosphere.errors import SettingsError, did_you_mean
from cosphere.fields import hint_of
from cosphere.train import TrainSettings

DIGITS = 3
"""Significant digits of a drawn number: more would not be a different candidate, and tables show what was run."""
_KEYS = ("from", "to", "scale", "choices")


@dataclass(frozen=True)
class Space:
    """The values of one setting among which a study searches.

    Attributes:
        choices: the values; empty for a range.
        low: lower end of a range, inclusive.
        high: upper end of a range, inclusive.
        log: whether equal ratios, not equal differences, are equally likely.
        whole: whether the numbers of a range are whole.
    """

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = True
    whole: bool = False

    def at(self, place: float) -> Any:
        """The value at a place from 0 to 1; a number is rounded to :data:`DIGITS` digits.

        >>> Space(low=1e-4, high=1e-2).at(0.5), Space(choices=("a", "b")).at(0.5)
        (0.001, 'b')
        """
        if self.choices:
            return self.choices[min(int(place * len(self.choices)), len(self.choices) - 1)]
        if self.log:
            value = math.exp(math.log(self.low) + place * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + place * (self.high - self.low)
        return self.rounded(value)

    def rounded(self, value: float) -> float:
        """A number of the range with :data:`DIGITS` digits, or a whole one."""
        number = min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)
        return round(number) if self.whole else number

    def extremes(self) -> tuple[Any, ...]:
        """Both ends of a range, or all choices: what has to be allowed before the first run."""
        return self.choices or (self.low, self.high)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a study's file holds them."""
        if self.choices:
            return {"choices": list(self.choices)}
        return {"from": self.low, "to": self.high, "scale": "log" if self.log else "linear"}


def read_space(name: str, value: Any) -> Space:
    """A space as a study's file gives it: ``{from: 1e-4, to: 1e-2}``, ``{choices: [...]}`` or a bare list.

    Args:
        name: of the setting, for errors.
        value: plain value. ``scale`` is ``log`` (the default) or ``linear``. Of a setting that takes whole numbers alone, a range
            with whole ends has whole numbers.

    Raises:
        SettingsError: it is no space, or its ends are not in order.

    >>> read_space("steps", [100, 200])
    Space(choices=(100, 200), low=0.0, high=1.0, log=True, whole=False)
    """
    if isinstance(value, list):
        value = {"choices": value}
    if not isinstance(value, Mapping):
        raise SettingsError(
            f"tune {name} is {value!r}; wanted a range or choices. Write {{from: 1e-4, to: 1e-2}} or [0.1, 0.2]."
        )
    for key in value:
        if key not in _KEYS:
            raise SettingsError(f"tune {name} has no {key!r}. {did_you_mean(str(key), _KEYS)}")
    if "choices" in value:
        choices = value["choices"]
        if not isinstance(choices, list) or not choices or len(value) > 1:
            raise SettingsError(f"tune {name}: choices are a list of at least one value, with nothing else beside it.")
        return Space(choices=tuple(choices))
    return _range(name, value)


def _range(name: str, value: Mapping[str, Any]) -> Space:
    if not {"from", "to"} <= set(value):
        raise SettingsError(f"tune {name} wants both ends. Write {{from: 1e-4, to: 1e-2}}.")
    scale = value.get("scale", "log")
    if scale not in ("log", "linear"):
        raise SettingsError(f"the scale of tune {name} must be 'log' or 'linear'; got {scale!r}.")
    ends = [_number(f"{key} of tune {name}", value[key], log=scale == "log") for key in ("from", "to")]
    if ends[0] >= ends[1]:
        raise SettingsError(f"tune {name} goes from {ends[0]:g} to {ends[1]:g}; wanted a smaller number first.")
    whole = _takes_whole_numbers(name) and all(end.is_integer() for end in ends)
    return Space(low=ends[0], high=ends[1], log=scale == "log", whole=whole)


def _takes_whole_numbers(name: str) -> bool:
    hint = hint_of(TrainSettings, name)
    types = get_args(hint) or (hint,)
    return int in types and float not in types


def _number(name: str, value: Any, *, log: bool) -> float:
    with contextlib.suppress(ValueError):
        value = float(value) if isinstance(value, str) else value  # YAML reads 1e-4 as text.
    return check_number(name, value, above=0) if log else check_number(name, value)
