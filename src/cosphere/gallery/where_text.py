"""Filters as a person types them on a command line: ``label=mug``, ``year>=2024``, ``path^=/photos/``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from cosphere.errors import DataError
from cosphere.gallery.where import Where

_OPERATOR = re.compile(r"(!=|>=|<=|\^=|==?|>|<)")
FORMS = "COLUMN=VALUE, or !=, <, <=, >, >=, ^= (begins with)"


def where_of(texts: Sequence[str]) -> Where | None:
    """The filter that conditions such as ``label=mug`` stand for; all must hold.

    A value is a text, except a number after `<` or `>`, and JSON: ``["mug", "vase"]`` is one of two, ``"7"`` the text. ``label=7``
    means the number and the text, because a reader cannot tell which one a column holds; a whole number beyond 64 bits means the
    text alone.

    Args:
        texts: the conditions.

    Returns:
        the filter; None without conditions.

    Raises:
        DataError: one has no operator or no column.

    >>> where_of(["label=mug", "year>=2024"])
    {'label': [('=', 'mug')], 'year': [('>=', 2024)]}
    """
    where: dict[str, list[tuple[str, Any]]] = {}
    for text in texts:
        found = _OPERATOR.search(text)
        column = text[: found.start()].strip() if found else ""
        if found is None or not column:
            raise DataError(f"--where {text!r} is not a condition; wanted {FORMS}.")
        where.setdefault(column, []).append(_test(found[0].replace("==", "="), text[found.end() :].strip()))
    return where or None


def _test(operator: str, text: str) -> tuple[str, Any]:
    value = _value(text)
    if operator == "^=":
        return "starts with", text if isinstance(value, list) else str(value) if text.startswith('"') else text
    if operator in ("=", "!="):
        several = value if isinstance(value, list) else _texts_or_numbers(value, text)
        if len(several) == 1 and not isinstance(value, list):
            return operator, several[0]
        return ("in" if operator == "=" else "not in"), several
    return operator, value


def _value(text: str) -> Any:
    """JSON where it is a number, a truth value, a list or a quoted text; else the text itself."""
    try:
        value = json.loads(text, parse_constant=_not_finite)
    except (ValueError, RecursionError):
        return text
    return text if value is None or isinstance(value, dict) or value in (math.inf, -math.inf) else value


def _texts_or_numbers(value: Any, text: str) -> list[Any]:
    """What one value may be in a column."""
    if isinstance(value, str):
        return [value]
    return [text] if isinstance(value, int) and not -(2**63) <= value < 2**63 else [value, text]


def _not_finite(name: str) -> float:
    """Leave NaN and Infinity, which are no JSON, to be texts."""
    raise ValueError(name)
