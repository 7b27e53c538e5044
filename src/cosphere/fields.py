"""Typed settings: frozen dataclasses made from plain values, overridden by dotted name and compared.

A field made with :func:`setting` carries its bounds and says whether a number depends on it. The command line, recipes and
comparisons read that from the field, so there is no second list to keep.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import os
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from cosphere.checks import check_number, check_whole, plain
from cosphere.errors import SettingsError, one_of

T = TypeVar("T")
_KEY = "cosphere"


_compiled_hints = functools.cache(get_type_hints)


def _hints(kind: Any) -> dict[str, Any]:
    """The types of a class's fields by name, compiled once: Python would do so at every call."""
    return _compiled_hints(kind)


class Rule(NamedTuple):
    """What a field says of itself besides its type."""

    at_least: float | None = None
    """Inclusive lower bound of a number."""
    at_most: float | None = None
    above: float | None = None
    """Exclusive lower bound."""
    below: float | None = None
    changes_numbers: bool = True
    """Whether a trained model or a score depends on it; False for logging, decoding processes and the like."""
    fixed: bool = True
    """Whether a resumed run must keep it: one optimiser step depends on it."""
    basic: bool = False
    """Whether the short help lists it."""


def setting(default: Any, **rule: Any) -> Any:
    """A dataclass field with a default and a :class:`Rule`, whose fields are the other arguments."""
    return dataclasses.field(default=default, metadata=metadata(**rule))


def metadata(**rule: Any) -> dict[str, Rule]:
    """A :class:`Rule` as the ``metadata`` of a dataclass field, for one with a ``default_factory``."""
    return {_KEY: Rule(**rule)}


def rule_of(field: dataclasses.Field[Any]) -> Rule:
    """The rule of a field; the default one for a plain dataclass field."""
    rule = field.metadata.get(_KEY)
    return rule if isinstance(rule, Rule) else Rule()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of settings classes: types and bounds are checked when one is made, wherever its values come from.

    Raises:
        SettingsError: a value is of another type or out of bounds; it is named as on the command line.
    """

    SECTION: ClassVar[str] = ""
    """Put before each name in errors, such as ``"data."``."""

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for field in dataclasses.fields(self):
            name = f"{self.SECTION}{field.name}"
            value = convert(name, hints[field.name], getattr(self, field.name))
            _check_bounds(name, value, rule_of(field))
            object.__setattr__(self, field.name, value)


def make_plain(settings: Any) -> None:
    """Give the fields of a frozen dataclass that is being made Python's own types, see :func:`cosphere.checks.plain`."""
    for field in dataclasses.fields(settings):
        object.__setattr__(settings, field.name, plain(getattr(settings, field.name)))


def _check_bounds(name: str, value: Any, rule: Rule) -> None:
    if isinstance(value, tuple) and rule != Rule():
        if not value:
            raise SettingsError(f"{name} is empty; wanted at least one number. Leave it out to have the default.")
        for one in value:
            _check_bounds(name, one, rule)
    elif isinstance(value, float):
        check_number(name, value, above=rule.above, at_least=rule.at_least, below=rule.below, at_most=rule.at_most)
    elif isinstance(value, int) and not isinstance(value, bool):
        least, most = (None if bound is None else int(bound) for bound in (rule.at_least, rule.at_most))
        check_whole(name, value, least=least, most=most)


def build(kind: type[T], values: Mapping[str, Any], *, section: str = "") -> T:
    """Make a settings object from nested plain values; what is left out keeps its default.

    Args:
        kind: a dataclass; its fields may be dataclasses.
        values: name -> value, as a YAML file holds them.
        section: put before each name in errors.

    Raises:
        SettingsError: an unknown name (the nearest is given), a value of another type or out of bounds.
    """
    hints = _hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            near = nearest_name(str(key), [f"{section}{name}" for name in dotted_names(kind)])
            raise SettingsError(f"there is no setting '{section}{key}'. {near}")
    return kind(**{key: convert(f"{section}{key}", hints[key], value) for key, value in values.items()})


def override(settings: T, values: Mapping[str, Any]) -> T:
    """A copy with some values replaced, by dotted name.

    Args:
        settings: a dataclass.
        values: such as ``{"sec.weight": 0.1, "loss.settings.margin": 0.2}``. A mapping for a section, such as
            ``{"sec": {"weight": 0.1}}``, replaces the named values of the section only.

    Raises:
        SettingsError: an unknown name (the nearest is given), a value of another type or out of bounds.
    """
    plain = dataclasses.asdict(settings)  # type: ignore[call-overload]
    for name, value in values.items():
        _put(plain, type(settings), str(name).split("."), value, str(name), type(settings))
    return build(type(settings), plain)


def _put(plain: dict[str, Any], kind: Any, path: list[str], value: Any, name: str, top: Any) -> None:
    """Set one value of nested dictionaries, following the dataclasses that describe them."""
    head, *rest = path
    hints = _hints(kind) if dataclasses.is_dataclass(kind) else {head: dict[str, Any]}
    if head not in hints or (rest and _is_leaf(hints[head])):
        raise SettingsError(f"there is no setting {name!r}. {nearest_name(name, dotted_names(top))}")
    if rest:
        _put(plain.setdefault(head, {}), hints[head], rest, value, name, top)
    elif dataclasses.is_dataclass(hints[head]) and isinstance(value, Mapping):
        for key, part in value.items():
            _put(plain[head], hints[head], str(key).split("."), part, f"{name}.{key}", top)
    else:
        plain[head] = value


def _is_leaf(hint: Any) -> bool:
    """Whether a dotted name ends here: the hint is neither a section nor free names with values."""
    return not dataclasses.is_dataclass(hint) and get_origin(hint) is not dict


def select(settings: Any, keep: Callable[[Rule], bool]) -> dict[str, Any]:
    """The fields whose rule ``keep`` accepts, as nested plain values. A section that it rejects is left out whole."""
    chosen = {}
    for field in dataclasses.fields(settings):
        if keep(rule_of(field)):
            value = getattr(settings, field.name)
            chosen[field.name] = select(value, keep) if dataclasses.is_dataclass(value) else copy.deepcopy(value)
    return chosen


def dotted_names(kind: Any, keep: Callable[[Rule], bool] = lambda _: True) -> list[str]:
    """Dotted names of all settings of a class, sections left out, in order.

    Args:
        kind: a dataclass.
        keep: which of them, by their rule.
    """
    hints, names = _hints(kind), []
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            names += [f"{field.name}.{name}" for name in dotted_names(hints[field.name], keep)]
        elif keep(rule_of(field)):
            names.append(field.name)
    return names


def hint_of(kind: Any, name: str) -> Any:
    """The type of a setting of a class, by dotted name; None where there is none, or no type, as of a loss's own settings."""
    for part in name.split("."):
        kind = _hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    return kind


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name, in order; an empty mapping stays a value.

    >>> flatten({"sec": {"weight": 0.1}, "seed": 0})
    {'sec.weight': 0.1, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown setting: the nearest dotted names, which its last part alone also finds.

    Names of the section that was typed come before all others.

    >>> nearest_name("margn", ["loss.margin", "sec.weight"])
    "Did you mean 'loss.margin'?"
    >>> nearest_name("loss.scale", ["loss.name", "loss.settings.scale", "head.scale"])
    "Did you mean 'loss.settings.scale'?"
    """
    likeness = {other: _likeness(name, other) for other in known}
    section = f"{name.split('.')[0]}."
    near = {other: value for other, value in likeness.items() if value >= _ALIKE}
    near = {other: value for other, value in near.items() if other.startswith(section)} or near
    best = [other for other, value in near.items() if value == max(near.values())]
    return f"Did you mean {one_of(map(repr, best[:3]))}?" if best else "`--help` lists all settings."


_ALIKE = 0.75
"""Least similarity of a name that is suggested. Shorter names are more often near by chance: cpu and cut have 0.67."""


def _likeness(name: str, other: str) -> float:
    """Similarity of two dotted names in [0, 1]: of their last parts, or of the whole where the last parts have much in common.

    What was typed inside a setting that has no parts, such as ``steps.number``, is like the setting.
    """
    if name.startswith(f"{other}."):
        return _ALIKE
    last = _ratio(name.rsplit(".", 1)[-1], other.rsplit(".", 1)[-1])
    return max(last, _ratio(name, other)) if last >= 0.6 else last


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], section: str = "") -> tuple[str, Any, Any] | None:
    """Dotted name, old and new value of the first setting of ``new`` that differs; one that ``old`` lacks counts as equal.

    >>> first_difference({"steps": 1, "sec": {"weight": 0.1}}, {"steps": 1, "sec": {"weight": 0.2}})
    ('sec.weight', 0.1, 0.2)
    """
    for key, other in new.items():
        one = old.get(key, other)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            inside = first_difference(one, other, f"{section}{key}.")
            if inside:
                return inside
        elif one != other:
            return f"{section}{key}", one, other
    return None


def convert(name: str, hint: Any, value: Any) -> Any:
    """``value`` as the type that ``hint`` asks for. Text is read as a number or switch where one is wanted.

    YAML reads ``1e-4`` as text, and the command line gives nothing else.

    Args:
        name: dotted name, for the error.
        hint: bool, int, float, str, None, Any, Literal, a union of these, list[...], tuple[...], dict[str, Any] or a
            settings dataclass, which is made from a mapping.
        value: plain value.

    Raises:
        SettingsError: it is of another type.
    """
    converted = _converted(name, hint, plain(value))
    if converted is _MISFIT:
        shown = "left empty" if value is None else repr(value)
        raise SettingsError(f"{name} is {shown}; wanted {words_of(hint)}.")
    if isinstance(converted, str) and any("\ud800" <= letter <= "\udfff" for letter in converted):
        shown = re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", converted)
        raise SettingsError(f"{name} is {shown}, which is not UTF-8 and fits into no file. Rename it.")
    return converted


_MISFIT = object()
_SWITCHES = {"true": True, "false": False}


def _converted(name: str, hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        fits = (_converted(name, part, value) for part in _exact_first(get_args(hint), value))
        return next((one for one in fits if one is not _MISFIT), _MISFIT)
    if origin is Literal:
        return next((one for one in get_args(hint) if type(one) is type(value) and one == value), _MISFIT)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        return build(hint, value, section=f"{name}.") if isinstance(value, Mapping) else _MISFIT
    if origin in (list, tuple, Sequence):
        return _sequence(name, hint, origin, value)
    if origin is dict or hint is dict:
        return dict(value) if isinstance(value, Mapping) and all(isinstance(key, str) for key in value) else _MISFIT
    return _scalar(hint, value)


def _exact_first(hints: tuple[Any, ...], value: Any) -> list[Any]:
    """Types that the value has already come before those that it would be converted to."""
    exact = [hint for hint in hints if hint is type(value) or _is_literal(hint)]
    return [*exact, *(hint for hint in hints if hint not in exact)]


def _is_literal(hint: Any) -> bool:
    origin: Any = get_origin(hint)
    return origin is Literal


def _sequence(name: str, hint: Any, origin: Any, value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return _MISFIT
    part = get_args(hint)[0]
    items = [_converted(name, part, one) for one in value]
    return _MISFIT if any(one is _MISFIT for one in items) else list(items) if origin is list else tuple(items)


def _scalar(hint: Any, value: Any) -> Any:
    if hint is None or hint is type(None):
        return None if value is None else _MISFIT
    if hint not in (bool, int, float, str):
        return value
    if hint is bool:
        return _SWITCHES.get(value.lower(), _MISFIT) if isinstance(value, str) else _if(isinstance(value, bool), value)
    if hint is str:
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        return _if(isinstance(text, str), text)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _MISFIT
    try:
        if hint is int:
            return _if(not isinstance(value, float) or value.is_integer(), value, int)
        return _if(hint is float, value, float)
    except (ValueError, OverflowError):
        return _MISFIT


def _if(fits: bool, value: Any, make: Callable[[Any], Any] = lambda value: value) -> Any:
    return make(value) if fits else _MISFIT


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "names with values"}


def words_of(hint: Any) -> str:
    """What a type asks for, in words.

    >>> words_of(float | Literal["batch", "ema"])
    "a number, 'batch' or 'ema'"
    """
    return one_of(dict.fromkeys(_words(hint)))


def _words(hint: Any) -> list[str]:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return [word for part in get_args(hint) for word in _words(part)]
    if origin is Literal:
        return [repr(one) for one in get_args(hint)]
    if hint in (None, type(None)):
        return ["null"]
    if origin in (list, tuple, Sequence):
        return [f"a list in brackets, each {words_of(get_args(hint)[0])}"]
    if dataclasses.is_dataclass(hint):
        return ["names with values"]
    return [_WORDS.get(origin or hint, "a value")]
