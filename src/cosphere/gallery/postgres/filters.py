"""Filters as conditions of a statement. Values are bound to it and never become part of it.

The meaning is that of :mod:`cosphere.gallery.where`: a text is comparable with texts, a number or truth value with both of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from cosphere.errors import DataError, counted
from cosphere.gallery.postgres.conversion import as_json, as_json_value
from cosphere.gallery.values import ID, Value
from cosphere.gallery.where import Condition, Filter

_NUMBER = (
    "CASE jsonb_typeof(columns -> %s) WHEN 'number' THEN (columns -> %s)::numeric "
    "WHEN 'boolean' THEN (columns -> %s)::boolean::int::numeric END"
)
_TEXT = "CASE jsonb_typeof(columns -> %s) WHEN 'string' THEN columns ->> %s END COLLATE \"C\""
_INDEXED = 100
"""Texts of one condition that are looked up in the index, a placeholder each; a statement takes 65,535 of them."""


_MOST_VALUES = 65_000
"""Placeholders of one filter; the rest of the statement needs a few too."""


class Clause(NamedTuple):
    """A condition in SQL, and the values of its placeholders."""

    sql: str
    values: tuple[Any, ...]


def clause_of(wanted: Filter | None) -> Clause:
    """The condition that a filter sets for a row of table ``item``; one that always holds without a filter.

    Raises:
        DataError: it has more values than a statement of PostgreSQL takes.
    """
    if wanted is None:
        return Clause("TRUE", ())
    clause = _joined(" OR ", [_joined(" AND ", [_condition(one) for one in every]) for every in wanted.alternatives])
    if len(clause.values) > _MOST_VALUES:
        raise DataError(
            f"the filter has {counted(len(wanted.alternatives), 'alternative')}, too many for one statement of PostgreSQL "
            f"({len(clause.values):,} values; wanted at most {_MOST_VALUES:,}). Give the values of a column as one list, or ask in parts."
        )
    return clause


def _joined(word: str, clauses: Sequence[Clause]) -> Clause:
    return Clause(f"({word.join(one.sql for one in clauses)})", tuple(value for one in clauses for value in one.values))


def _condition(condition: Condition) -> Clause:
    operator, column = condition.operator, condition.column
    if operator == "exists":
        there = Clause("TRUE", ()) if column == ID else Clause("jsonb_exists(columns, %s)", (column,))
        return there if condition.values[0] else _without(there)
    if operator in ("!=", "not in"):
        return _without(_equal(column, condition.values))
    if operator in ("=", "in"):
        return _equal(column, condition.values)
    (value,) = condition.values
    side = _side(column, value)
    if side is None:
        return Clause("FALSE", ())
    if operator == "starts with":
        return Clause(f"COALESCE(starts_with({side.sql}, %s), FALSE)", (*side.values, value))
    return Clause(f"COALESCE({side.sql} {operator} %s, FALSE)", (*side.values, _bound(value)))


def _without(clause: Clause) -> Clause:
    return Clause(f"(NOT {clause.sql})", clause.values)


def _equal(column: str, values: tuple[Value, ...]) -> Clause:
    """One of the values. A text of a column is found through the index of ``columns``, unless there are many."""
    texts = [value for value in values if isinstance(value, str)]
    numbers = [_bound(value) for value in values if not isinstance(value, str)]
    clauses = []
    if texts and column == ID:
        clauses.append(Clause("id = ANY(%s)", (texts,)))
    elif len(texts) > _INDEXED:
        clauses.append(Clause(f"COALESCE({_TEXT} = ANY(%s), FALSE)", (column, column, texts)))
    else:
        clauses += [Clause("columns @> %s::jsonb", (as_json({column: text}),)) for text in texts]
    if numbers and column != ID:
        clauses.append(Clause(f"COALESCE({_NUMBER} = ANY(%s), FALSE)", (column, column, column, numbers)))
    return _joined(" OR ", clauses) if clauses else Clause("FALSE", ())


def _side(column: str, value: Value) -> Clause | None:
    """The column as something that can be compared with the value; None where nothing of it can."""
    if column == ID:
        return Clause('id COLLATE "C"', ()) if isinstance(value, str) else None
    return Clause(_TEXT, (column,) * 2) if isinstance(value, str) else Clause(_NUMBER, (column,) * 3)


def _bound(value: Value) -> Any:
    """A number as the decimal that PostgreSQL reads in the JSON of the metadata."""
    if isinstance(value, str):
        return value
    return Decimal(as_json_value(value) if isinstance(value, float) else int(value))
