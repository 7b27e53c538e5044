"""What PostgreSQL keeps of an item: text without NUL, jsonb whose numbers come back as what they were, unit vectors and bits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cosphere.errors import DataError, counted
from cosphere.gallery.values import Value, refuse

Stored = Literal["float32", "float16"]
TYPES: dict[str, str] = {"float32": "vector", "float16": "halfvec"}
"""Column type of the vectors."""
_MOST_HALF = 65_504
_LEAST_HALF = 2.0**-14
"""Below it, numbers of half precision lose digits."""
_LONGEST = 1e18
"""Length of a row above which pgvector is wrong: it adds squares in float32, which end at 3.4e38."""
MOST_ID_BYTES = 2690
"""Longest id, in UTF-8: the index of ids takes no longer ones."""


def check_lengths(ids: Sequence[str]) -> None:
    """Raise unless the index of ids takes all of them.

    Raises:
        DataError: one is longer than :data:`MOST_ID_BYTES`.
    """
    for place, id_ in enumerate(ids):
        size = len(id_.encode())
        if size > MOST_ID_BYTES:
            raise DataError(
                f"id {place} has {counted(size, 'byte')} in UTF-8; wanted 1 to {MOST_ID_BYTES:,} on a server. Choose another."
            )


def check_rows(rows: npt.NDArray[np.float32] | None, stored: Stored, ids: Sequence[str]) -> None:
    """Raise unless pgvector compares all rows (N, D) rightly; None for no rows.

    Raises:
        DataError: a row is too long for it, or its numbers are too small or too large for half precision; it is named.
    """
    if rows is None or not rows.size:
        return
    largest = np.abs(rows).max(axis=1)
    if stored == "float16":
        wrong, why = (largest > _MOST_HALF) | (largest < _LEAST_HALF), "hold numbers that half precision lacks"
        refuse(wrong, ids, why, "Store float32, or scale them.")
        return
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    refuse(lengths > _LONGEST, ids, f"are longer than {_LONGEST:g}, which pgvector cannot compare", "Scale them.")


def check_texts(texts: Sequence[str], what: str) -> None:
    """Raise unless PostgreSQL can keep all texts.

    Raises:
        DataError: one holds the character NUL.
    """
    for text in texts:
        if "\0" in text:
            raise DataError(
                f"{what} {text[:80]!r} holds the character NUL, which PostgreSQL cannot keep. Leave it out."
            )


def as_json(columns: Mapping[str, Value]) -> str:
    """Metadata as JSON. A large float has all its digits and a point, so that it does not come back as a whole number."""
    return "{" + ", ".join(f"{json.dumps(name)}: {as_json_value(value)}" for name, value in columns.items()) + "}"


def as_json_value(value: Value) -> str:
    """One value as :func:`as_json` writes it."""
    if isinstance(value, float) and not isinstance(value, bool) and abs(value) >= 1e15:
        return f"{value:.1f}"
    return json.dumps(value, allow_nan=False)


def check_columns(columns: Mapping[str, Value], place: int) -> None:
    """Raise unless PostgreSQL can keep the metadata of an item."""
    check_texts(list(columns), f"a column's name of item {place}:")
    check_texts([value for value in columns.values() if isinstance(value, str)], f"metadata of item {place}:")


def json_of(columns: Mapping[str, Value]) -> Any:
    """Metadata as the driver takes it."""
    from psycopg.types.json import Jsonb

    return Jsonb(columns, dumps=as_json)


def as_stored(row: npt.NDArray[np.float32], stored: Stored) -> Any:
    """A row (D,) as the column's type."""
    from pgvector import HalfVector, Vector

    if stored == "float32":
        return Vector(row)
    return HalfVector(row.astype(np.float16))


def as_bits(codes: npt.NDArray[np.uint8] | None, place: int) -> Any:
    """One code of several as the driver takes it; None without codes."""
    from pgvector import Bit

    return None if codes is None else Bit(codes[place].tobytes())


def as_floats(value: Any) -> npt.NDArray[np.float32] | None:
    """A row (D,) as the driver gives it."""
    if value is None:
        return None
    numbers = value.to_numpy() if hasattr(value, "to_numpy") else value
    return np.asarray(numbers, dtype=np.float32)


def as_code(value: Any) -> npt.NDArray[np.uint8] | None:
    """A code (ceil(D / 8),) as the driver gives it: a text of 0 and 1."""
    return None if value is None else np.packbits(np.frombuffer(str(value).encode("ascii"), dtype=np.uint8) == ord("1"))
