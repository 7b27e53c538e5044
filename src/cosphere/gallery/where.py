"""Filters: which items a search may return, or a deletion removes.

A filter is a mapping of columns to what their values must be; all of them must hold. A list of mappings holds where one of them
does. Values are data: they are bound to prepared statements, and never become part of one.

    {"label": "mug"}                                    equal
    {"label": ["mug", "vase"]}                          one of
    {"price": (">", 3), "split": ("!=", "train")}       both
    {"price": [(">", 3), ("<", 5)]}                     both, of one column
    {"path": ("starts with", "/photos/2024/")}
    [{"label": "mug"}, {"price": ("<=", 1.5)}]          either

A text with accents is compared in every Unicode form, because labels are kept composed and paths as the disk has them. The
beginning of an id, which may be a path, is too; a whole id is compared as it is, and so is a text after ``<`` or ``>``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cosphere.errors import DataError, counted, did_you_mean
from cosphere.gallery.items import groups, known_numbers, marks
from cosphere.gallery.sqlite import Connection
from cosphere.gallery.values import ID, Value, as_id, check_value, forms_of, text_bytes

Where = Mapping[str, Any] | Sequence[Mapping[str, Any]]
Numbers = npt.NDArray[np.int64]

ORDERS = ("<", "<=", ">", ">=")
_TYPED = {"^=": "starts with", "startswith": "starts with", "==": "=", "<>": "!="}
"""What the command's ``--where`` and other languages write."""
OPERATORS = ("=", "!=", *ORDERS, "in", "not in", "starts with", "exists")
"""``!=`` and ``not in`` hold for items without the column too; ``exists`` takes true or false."""
_ENDS = {"!=": "=", "not in": "in"}
"""Operators that hold where another one does not."""


@dataclass(frozen=True)
class Condition:
    """What the value of one column must be."""

    column: str
    operator: str
    values: tuple[Value, ...]

    def holds(self, id_: str, metadata: Mapping[str, Value]) -> bool:
        """Whether an item meets it."""
        value = id_ if self.column == ID else metadata.get(self.column)
        if self.operator == "exists":
            return (value is not None) == self.values[0]
        if self.operator in _ENDS:
            return not Condition(self.column, _ENDS[self.operator], self.values).holds(id_, metadata)
        if value is None:
            return False
        if self.operator in ("=", "in"):
            return any(_comparable(value, one) and value == one for one in self.values)
        (wanted,) = self.values
        if not _comparable(value, wanted):
            return False
        return _ordered(self.operator, value, wanted)


def _comparable(value: Value, other: Value) -> bool:
    return isinstance(value, str) == isinstance(other, str)


def _ordered(operator: str, value: Any, wanted: Any) -> bool:
    if isinstance(value, str):  # SQLite compares bytes, and UTF-8 has the order of code points
        value, wanted = value.encode(), wanted.encode()
    if operator == "starts with":
        return bool(value.startswith(wanted))
    return bool({"<": value < wanted, "<=": value <= wanted, ">": value > wanted, ">=": value >= wanted}[operator])


@dataclass(frozen=True)
class Filter:
    """A checked filter: it holds where all conditions of one alternative do."""

    alternatives: tuple[tuple[Condition, ...], ...]

    def holds(self, id_: str, metadata: Mapping[str, Value]) -> bool:
        """Whether an item meets it."""
        return any(all(one.holds(id_, metadata) for one in every) for every in self.alternatives)


def parse(where: Where) -> Filter:
    """Check a filter.

    Raises:
        DataError: it is not a mapping of columns, an operator does not exist, or a value does not fit its operator.
    """
    given: Any = [where] if isinstance(where, Mapping) else where
    if isinstance(given, str | bytes) or not isinstance(given, Sequence) or not given:
        raise DataError(
            f"a filter is a {type(where).__name__}; wanted columns with values, as {{'label': 'mug'}}. SQL is not read."
        )
    return Filter(tuple(dict.fromkeys(part for one in given for part in _alternatives(one))))


def _alternatives(conditions: Any) -> Iterator[tuple[Condition, ...]]:
    """What one mapping means: several where texts begin with a text that has several forms."""
    if not isinstance(conditions, Mapping) or not conditions:
        raise DataError(
            f"a filter holds {str(conditions)[:80]!r}; wanted columns with values, as {{'label': 'mug'}}. SQL is not read."
        )
    every = [one for column, wanted in conditions.items() for one in _conditions(column, wanted)]
    return itertools.product(*map(_in_every_form, every))


def _in_every_form(condition: Condition) -> list[Condition]:
    """Conditions one of which holds for a text in any Unicode form."""
    column, operator, values = condition.column, condition.operator, condition.values
    if operator in (*ORDERS, "exists") or (column == ID and operator != "starts with"):
        return [condition]
    forms: list[Value] = [form for value in values for form in (forms_of(value) if isinstance(value, str) else [value])]
    if len(forms) == len(values):
        return [condition]
    if operator == "starts with":
        return [Condition(column, operator, (form,)) for form in forms]
    return [Condition(column, {"=": "in", "!=": "not in"}.get(operator, operator), tuple(forms))]


def _conditions(column: Any, wanted: Any) -> list[Condition]:
    """The conditions of one column: several where a list of pairs is given."""
    if isinstance(wanted, list) and wanted and all(isinstance(one, tuple) for one in wanted):
        return [_condition(column, one) for one in wanted]
    return [_condition(column, wanted)]


def _condition(column: Any, wanted: Any) -> Condition:
    if not isinstance(column, str):
        raise DataError(f"a filter names column {column!r}; wanted a text.")
    text_bytes(column, "a column's name in a filter")
    if isinstance(wanted, tuple) and len(wanted) != 2 and wanted and wanted[0] in OPERATORS:
        raise DataError(
            f"a filter of column {column!r} has operator {wanted[0]!r} with {counted(len(wanted) - 1, 'value')}; wanted one. "
            "Give a pair; to compare with several, ('in', [...])."
        )
    if isinstance(wanted, tuple) and len(wanted) == 2 and isinstance(wanted[0], str):
        operator, values = wanted
    elif _is_many(wanted):
        operator, values = "in", wanted
    else:
        operator, values = "=", wanted
    if operator not in OPERATORS:
        meant = _TYPED.get(operator)
        advice = did_you_mean(operator, OPERATORS) if meant is None else f"Did you mean {meant!r}?"
        raise DataError(
            f"a filter of column {column!r} has the operator {operator!r}. {advice} To choose among values, give a list."
        )
    many = operator in ("in", "not in")
    if many != _is_many(values):
        raise DataError(
            f"operator {operator!r} of column {column!r} takes {'a list of values' if many else 'one value'}."
        )
    plain = tuple(_plain(column, one) for one in (values if many else [values]))
    if operator == "exists" and not isinstance(plain[0], bool):
        raise DataError(f"operator 'exists' of column {column!r} takes true or false, got {plain[0]!r}.")
    if operator == "starts with" and not isinstance(plain[0], str):
        raise DataError(f"operator 'starts with' of column {column!r} takes a text, got {plain[0]!r}.")
    return Condition(column, operator, plain)


def _is_many(values: Any) -> bool:
    """Whether it is a list of values; NumPy has single ones that are arrays too."""
    return isinstance(values, list | set | frozenset | tuple) or (isinstance(values, np.ndarray) and values.ndim > 0)


def _plain(column: str, value: Any) -> Value:
    if column == ID:
        value = as_id(value) or value
    plain = check_value(value, f"a value that column {column[:80]!r} is compared with")
    if plain is None:
        raise DataError(f"a filter compares column {column!r} with a missing value. Use ('exists', False).")
    return plain


def matching(connection: Connection, wanted: Filter, every: Callable[[], Numbers]) -> Numbers:
    """The sorted row numbers of the items that meet a filter.

    Args:
        connection: to the file.
        wanted: the filter.
        every: gives all live row numbers, sorted; called only where a condition holds for items without its column.
    """
    names = {one.column for part in wanted.alternatives for one in part}
    number = known_numbers(connection, names)
    found: Numbers = np.zeros(0, dtype=np.int64)
    for part in wanted.alternatives:
        rows: Numbers | None = None
        for condition in part:
            these = _rows_of(connection, condition, number.get(condition.column), every)
            rows = these if rows is None else np.intersect1d(rows, these, assume_unique=True)
        found = np.union1d(found, rows if rows is not None else found)
    return found


def _rows_of(connection: Connection, condition: Condition, number: int | None, every: Callable[[], Numbers]) -> Numbers:
    operator, values = condition.operator, condition.values
    if operator in _ENDS or (operator == "exists" and not values[0]):
        opposite = Condition(condition.column, _ENDS.get(operator, "exists"), values if operator in _ENDS else (True,))
        return np.setdiff1d(every(), _rows_of(connection, opposite, number, every), assume_unique=True)
    if operator == "exists" and condition.column == ID:
        return every()
    if condition.column == ID:  # whose column would take numbers for their texts
        values = tuple(value for value in values if isinstance(value, str))
    if not values or (condition.column != ID and number is None):
        return np.zeros(0, dtype=np.int64)
    table, column, about = ("item", "id", ()) if condition.column == ID else ("fact", "value", (number,))
    named = "" if condition.column == ID else "name = ? AND "
    parts = [
        np.fromiter(
            (row for (row,) in connection.each(f"SELECT row FROM {table} WHERE {named}{test}", (*about, *bound))),
            dtype=np.int64,
        )
        for test, bound in _tests(operator, column, values)
    ]
    return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *parts]))


def _tests(operator: str, column: str, values: tuple[Value, ...]) -> Iterable[tuple[str, list[Value]]]:
    """Conditions of a statement, each with the values that are bound to it. Every text is above every number."""
    if operator in ("=", "in"):
        return [(f"{column} IN ({marks(part)})", part) for part in groups(values)]
    if operator == "exists":
        return [("TRUE", [])]
    (value,) = values
    if operator == "starts with":
        after = _after(str(value))
        return [(f"{column} >= ?", [value])] if after is None else [(f"{column} >= ? AND {column} < ?", [value, after])]
    if isinstance(value, str):
        low = operator in ("<", "<=")
        return [(f"{column} {operator} ?" + (f" AND {column} >= ''" if low else ""), [value])]
    return [(f"{column} {operator} ?" + (f" AND {column} < ''" if operator in (">", ">=") else ""), [value])]


def _after(text: str) -> str | None:
    """The first text after all that start with this one; None where there is none."""
    while text:
        last = ord(text[-1])
        if last < 0x10FFFF:
            return text[:-1] + chr(0xE000 if last == 0xD7FF else last + 1)  # the code points between are not characters
        text = text[:-1]
    return None
