"""What PostgreSQL keeps of an item: text without NUL, jsonb whose numbers come back as what they were, unit vectors and bits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cosphere.errors import DataError
from cosphere.gallery.values import Value

Stored = Literal["float32", "float16"]
TYPES: dict[str, str] = {"float32": "vector", "float16": "halfvec"}
"""Column type of the vectors."""
_MOST_HALF = 65_504


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
    """A row (D,) as the column's type.

    Raises:
        DataError: a number is too large for half precision.
    """
    from pgvector import HalfVector, Vector

    if stored == "float32":
        return Vector(row)
    if float(np.abs(row).max(initial=0)) > _MOST_HALF:
        raise DataError(f"an embedding holds numbers beyond {_MOST_HALF:,}, which half precision lacks. Store float32.")
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
