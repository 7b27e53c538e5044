"""The names of the kinds of index, and which rows each takes."""

from __future__ import annotations

from typing import Any

from cosphere.checks import check_choice
from cosphere.errors import SizeError
from cosphere.search.engines import ENGINES
from cosphere.search.hamming import Rows, SignRows, rows_given

KINDS = {name: kind.summary for name, kind in ENGINES.items()}
"""Index kinds, and how each keeps and searches rows."""
AUTO = "auto"
"""The kind that is chosen by measuring: see :func:`cosphere.search.choosing.choose`."""


def rows_for(kind: str, values: Any, name: str, dim: int | None) -> Rows:
    """Checked rows, in a form that a kind takes.

    Raises:
        SizeError, DataError: they are no rows, or packed codes for a kind that compares floats.
    """
    rows = rows_given(values, name, dim)
    if isinstance(rows, SignRows):
        check_takes_codes(kind, name)
    return rows


def check_takes_codes(kind: str, name: str) -> None:
    """Raise unless a kind searches packed codes.

    Raises:
        SizeError: it compares floats.
    """
    if kind != AUTO and not ENGINES[kind].takes_codes:
        able = ", ".join(one for one, about in ENGINES.items() if about.takes_codes)
        raise SizeError(f"{name} are packed codes; an index of kind {kind!r} wants floats. Take one of kind {able}.")


def check_kind(kind: str, *, auto: bool = False) -> None:
    """Raise unless it is one of :data:`KINDS`, or :data:`AUTO` where that is allowed."""
    check_choice("index of kind", kind, [*KINDS, AUTO] if auto else KINDS)
