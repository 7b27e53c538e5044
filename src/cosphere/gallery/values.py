"""Checks of what an item carries: its id, its metadata and its rows of numbers."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import numpy.typing as npt

from cosphere.checks import SHORTEST
from cosphere.errors import DataError, SizeError, agreeing, counted
from cosphere.gallery.schema import Space

Value = str | int | float | bool
"""A metadata value. None, and NaN as pandas writes a missing value, leave the column out."""

MOST_ID_BYTES = 4096
"""Longest id, in UTF-8."""
_MOST_ID_BITS = 4096
"""Of a whole number that is given as an id."""
MOST_NAME_BYTES = 1024
"""Longest name of a column, in UTF-8."""
MOST_VALUE_BYTES = 2**16
"""Longest text of one value, in UTF-8."""
MOST_METADATA_BYTES = 2**24
"""Longest metadata of one item, as JSON."""
ID = "id"
"""The id, as a filter names it; no column may have this name."""


def in_order(values: Any, what: str) -> Any:
    """Values of items, one for each, which must have an order: what can only be passed through once becomes a list.

    Args:
        values: a sequence, an array, an iterator.
        what: noun in the plural, for the error.

    Raises:
        SizeError: it is a set, whose order is that of hashes, or no collection.
    """
    if isinstance(values, set | frozenset):
        raise SizeError(f"{what} are a set, which has no order. Give a list, in the order of the items.")
    if not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise SizeError(f"{what} are a {type(values).__name__}; wanted one for each item. Give a list.")
    return values if isinstance(values, Sized) else list(values)


def check_ids(ids: Any, count: int) -> list[str]:
    """The ids of ``count`` items.

    Raises:
        SizeError: another number of ids, or ids without an order.
        DataError: an id is not a text, is empty, too long, or occurs twice.
    """
    ids = in_order(ids, "ids")
    odd = "one text" if isinstance(ids, str | bytes) else "a mapping" if isinstance(ids, Mapping) else ""
    if odd or len(ids) != count:
        came = odd or counted(len(ids), "id")
        raise SizeError(f"want one id for each of {counted(count, 'item')}, got {came}. Give a list of texts.")
    texts = [_id(one, place) for place, one in enumerate(ids)]
    if len(set(texts)) < count:
        seen: set[str] = set()
        twice = list(dict.fromkeys(one for one in texts if one in seen or seen.add(one)))  # type: ignore[func-returns-value]
        raise DataError(f"{shown(twice, 'id')} {agreeing(len(twice), 'occur')} twice. Give each item an id of its own.")
    return texts


def forms_of(text: str) -> list[str]:
    """The Unicode forms of a text, each once: composed, decomposed, as it is.

    macOS writes an accent in a name as a character of its own, other systems as part of the letter.

    >>> forms_of("mug"), [len(form) for form in forms_of("th\u00e9")]
    (['mug'], [3, 4])
    """
    if text.isascii():
        return [text]
    return list(dict.fromkeys([*(unicodedata.normalize(form, text) for form in ("NFC", "NFD")), text]))


def shown(ids: Sequence[str], noun: str, most: int = 3) -> str:
    """A count, and the first of them: ``2 ids ('a', 'b')``."""
    first = ", ".join(map(quoted, ids[:most]))
    return f"{counted(len(ids), noun)} ({first}{', ...' if len(ids) > most else ''})"


def quoted(text: str) -> str:
    """A text in quotes, cut after 77 characters."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def as_id(value: Any) -> str | None:
    """The id that a value stands for, whole numbers as text; None for what no item can have as its id."""
    value = _scalar(value)
    if isinstance(value, int) and not isinstance(value, bool) and int(value).bit_length() <= _MOST_ID_BITS:
        return str(int(value))
    try:
        return _content(value) if isinstance(value, str) and value.encode() else None
    except UnicodeEncodeError:
        return None


def _id(value: Any, place: int) -> str:
    if not isinstance(value, str):
        value = as_id(value) or value
    if not isinstance(value, str):
        raise DataError(f"id {place} is a {type(value).__name__}; wanted a text. Convert it with str().")
    size = text_bytes(value, f"id {place}")
    if not 1 <= size <= MOST_ID_BYTES:
        raise DataError(
            f"id {place} has {counted(size, 'byte')} in UTF-8; wanted 1 to {MOST_ID_BYTES}. Choose another."
        )
    return _content(value)


def _scalar(value: Any) -> Any:
    """The plain value of NumPy's scalars and arrays of no dimension; dates stay, which would become whole numbers."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return value.item() if isinstance(value, np.generic) and value.dtype.kind not in "Mm" else value


def _content(text: str) -> str:
    """The characters of a text, where ``str`` of a member of a text enumeration would name the member."""
    return str.__str__(text)


def text_bytes(text: str, what: str) -> int:
    """Bytes of a text in UTF-8.

    Raises:
        DataError: it holds half of a surrogate pair, as the name of a file that is not UTF-8 does.
    """
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise DataError(f"{what} is not valid Unicode: {text[:80]!r}. Rename the file, or give another text.") from None


def check_metadata(columns: Mapping[str, Any] | None, place: int) -> dict[str, Value]:
    """The metadata of one item, without missing values.

    Args:
        columns: name -> text, number or truth value.
        place: the item's position, for errors.

    Raises:
        DataError: a name or value cannot be kept.
    """
    if columns is not None and not isinstance(columns, Mapping):
        raise DataError(
            f"metadata of item {place} is a {type(columns).__name__}; wanted names with values, as in a dict."
        )
    kept: dict[str, Value] = {}
    for name, value in (columns or {}).items():
        if not isinstance(name, str) or not name or name == ID:
            raise DataError(f"item {place} has a column {name!r}; wanted a text other than '' and 'id'. Rename it.")
        if text_bytes(name, f"a column's name of item {place}") > MOST_NAME_BYTES:
            raise DataError(f"a column's name of item {place} has more than {MOST_NAME_BYTES} bytes. Shorten it.")
        plain = check_value(value, f"column {name[:80]!r} of item {place}")
        if plain is not None:
            kept[name] = plain
    return kept


def check_value(value: Any, about: str) -> Value | None:
    """One metadata value; None for a missing one.

    Raises:
        DataError: it cannot be kept.
    """
    value = _scalar(value)
    if (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, np.datetime64 | np.timedelta64) and bool(np.isnat(value)))
    ):
        return None
    if isinstance(value, str):
        if text_bytes(value, about) > MOST_VALUE_BYTES:
            raise DataError(f"{about} has more than {MOST_VALUE_BYTES:,} bytes of text. Shorten it.")
        return _content(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise DataError(f"{about} is too large a whole number; wanted one that 64 bits hold. Give it as text.")
        return int(value)
    if isinstance(value, float):
        if math.isinf(value):
            raise DataError(f"{about} is infinite; wanted a finite number. Give it as text, or leave it out.")
        return float(value)
    raise DataError(
        f"{about} is a {type(value).__name__}; wanted a text, a number or a truth value. Convert it to text."
    )


def as_text(columns: Mapping[str, Value], place: int) -> str:
    """Metadata as the JSON that is stored.

    Raises:
        DataError: it is too long.
    """
    text = json.dumps(columns, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if len(text) > MOST_METADATA_BYTES:
        raise DataError(f"the metadata of item {place} has more than {MOST_METADATA_BYTES:,} bytes. Leave columns out.")
    return text


def check_vectors(vectors: npt.NDArray[Any] | None, space: Space, ids: Sequence[str]) -> npt.NDArray[np.float32] | None:
    """(N, D) float32 rows of items; None where the space keeps none.

    Raises:
        SizeError: another shape, or float rows for a space of codes.
        DataError: a row holds NaN or infinity, or is zero, which has no direction; it is named.
    """
    if (vectors is not None) != space.has_floats:
        raise SizeError(
            f"the gallery holds {space.holds}; {'give' if space.has_floats else 'leave out'} float embeddings."
        )
    if vectors is None:
        return None
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or vectors.shape != (len(ids), space.dim):
        raise SizeError(
            f"want embeddings ({len(ids)}, {space.dim}) of a floating type, got {vectors.shape} {vectors.dtype}. "
            "Embed with the gallery's model."
        )
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(vectors, dtype="<f4")
    check_directions(rows, ids)
    return rows


def check_directions(rows: npt.NDArray[np.float32], ids: Sequence[str]) -> None:
    """Raise unless every row of items can be compared: also where only its signs are kept.

    Raises:
        DataError: a row holds NaN or infinity, or is zero, which has no direction; it is named.
    """
    refuse(~np.isfinite(rows).all(axis=1), ids, "hold NaN or infinity", "Embed again in float32, or leave them out.")
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    refuse(lengths <= SHORTEST, ids, f"are zero or shorter than {SHORTEST:g}, without a direction", "Leave them out.")


def check_codes(codes: npt.NDArray[Any] | None, space: Space, ids: Sequence[str]) -> npt.NDArray[np.uint8] | None:
    """(N, ceil(D / 8)) uint8 codes of items; None where the space keeps none.

    Raises:
        SizeError: another shape or type, or codes for a space of floats.
    """
    if (codes is not None) != space.has_codes:
        raise SizeError(f"the gallery holds {space.holds}; {'give' if space.has_codes else 'leave out'} packed codes.")
    if codes is None:
        return None
    if codes.dtype != np.uint8 or codes.shape != (len(ids), space.code_bytes):
        raise SizeError(
            f"want codes ({len(ids)}, {space.code_bytes}) uint8 of {counted(space.dim, 'bit')}, got {codes.shape} {codes.dtype}. "
            "Make them with the gallery's model."
        )
    return np.ascontiguousarray(codes)


def refuse(bad: Any, ids: Sequence[str], what: str, advice: str) -> None:
    """Raise where embeddings (N,) are bad.

    Args:
        bad: (N,) bool.
        ids: N ids.
        what: beginning with a verb in the plural: "are zero".
        advice: what to do.

    Raises:
        DataError: some are; they are named.
    """
    rows = np.flatnonzero(bad).tolist()
    if rows:
        verb, _, rest = what.partition(" ")
        named = shown([ids[row] for row in rows], "embedding")
        raise DataError(f"{named} {agreeing(len(rows), verb)} {rest}. {advice}")
