"""The rows of numbers: blocks of 1024 rows, and a tail of single rows that waits until it fills a block.

A block is three blobs: its row numbers (table ``block``), its float rows and its codes (tables ``vectors`` and ``codes``, once for
each space). A deleted row is overwritten with zeros in place, and its number with -1; compaction takes it out. Digests of the large
blobs lie in a table of their own, because SQLite rewrites a whole record when one of its columns changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from cosphere.gallery.schema import BLOCK_ROWS, Space, State, damaged, digest
from cosphere.gallery.sqlite import Connection

Numbers = npt.NDArray[np.int64]
T = TypeVar("T", bound=np.generic)
DEAD = -1
_SPACE = 2**32
"""Number of a blob: the space times this, plus the block."""


class Rows(NamedTuple):
    """Rows of numbers, by ascending row number."""

    rows: Numbers
    """(n,) row numbers."""
    vectors: npt.NDArray[np.float32] | None
    """(n, D); None in a space without floats."""
    codes: npt.NDArray[np.uint8] | None
    """(n, ceil(D / 8)); None in a space without codes."""

    def take(self, selection: Any) -> Rows:
        """Some of the rows."""
        return Rows(self.rows[selection], picked(self.vectors, selection), picked(self.codes, selection))


class Extent(NamedTuple):
    """One block: the row numbers after ``after`` and up to ``last`` are in it, or were deleted."""

    number: int
    after: int
    last: int
    generation: int
    live: int


def picked(part: npt.NDArray[T] | None, selection: Any) -> npt.NDArray[T] | None:
    """Some rows of a part that may be missing."""
    return None if part is None else part[selection]


def joined(parts: Sequence[Rows]) -> Rows:
    """All parts, in their order; at least one."""
    if len(parts) == 1:
        return parts[0]
    vectors = [part.vectors for part in parts if part.vectors is not None]
    codes = [part.codes for part in parts if part.codes is not None]
    return Rows(
        np.concatenate([part.rows for part in parts]),
        np.concatenate(vectors) if vectors else None,
        np.concatenate(codes) if codes else None,
    )


def extents(connection: Connection) -> list[Extent]:
    """All blocks in the order of their rows."""
    found, after = [], 0
    for number, last, generation, live in connection.rows(
        "SELECT number, last, generation, live FROM block ORDER BY first"
    ):
        found.append(Extent(number, after, last, generation, live))
        after = last
    return found


def append(connection: Connection, state: State, space: Space, new: Rows) -> int:
    """Add rows whose numbers are above all others, inside a transaction.

    Returns:
        the next free number of a block.
    """
    (waiting,) = connection.one("SELECT count(*) FROM tail") or (0,)
    if waiting + len(new.rows) < BLOCK_ROWS:
        _add_to_tail(connection, new)
        return state.next_block
    whole = joined([read_tail(connection, space), new])
    connection.run("DELETE FROM tail")
    full = len(whole.rows) // BLOCK_ROWS * BLOCK_ROWS
    number = write_blocks(connection, state, whole.take(slice(0, full)))
    _add_to_tail(connection, whole.take(slice(full, None)))
    return number


def seal_tail(connection: Connection, state: State, space: Space) -> int:
    """Make one block, which may be short, of the waiting rows; returns the next free number of a block."""
    waiting = read_tail(connection, space)
    if not len(waiting.rows):
        return state.next_block
    connection.run("DELETE FROM tail")
    return write_blocks(connection, state, waiting)


def write_blocks(connection: Connection, state: State, rows: Rows) -> int:
    """Write rows as blocks of the current space, the last of which may be short; returns the next free number."""
    number = state.next_block
    for start in range(0, len(rows.rows), BLOCK_ROWS):
        part = rows.take(slice(start, start + BLOCK_ROWS))
        write_numbers(connection, number, part.rows, int(part.rows[0]), int(part.rows[-1]), state.generation + 1)
        write_content(connection, state.space, number, part)
        number += 1
    return number


def write_numbers(connection: Connection, number: int, rows: Numbers, first: int, last: int, generation: int) -> None:
    """Write which rows a block holds."""
    content = rows.astype("<i8").tobytes()
    record = (number, generation, first, last, int((rows >= 0).sum()), digest(content, "rows", number), content)
    connection.run("INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?, ?, ?, ?)", record)


def write_content(connection: Connection, space: int, number: int, rows: Rows) -> None:
    """Write the float rows and codes of a block in one space."""
    for kind, values in (("vectors", rows.vectors), ("codes", rows.codes)):
        if values is not None:
            key, content = space * _SPACE + number, np.ascontiguousarray(values).tobytes()
            connection.run(f"INSERT OR REPLACE INTO {kind} VALUES (?, ?)", (key, content))
            _seal(connection, kind, key, content)


def _seal(connection: Connection, kind: str, key: int, content: bytes | bytearray) -> None:
    value = digest(bytes(content) if isinstance(content, bytearray) else content, kind, key)
    connection.run("INSERT OR REPLACE INTO seal VALUES (?, ?, ?)", (kind, key, value))


def _add_to_tail(connection: Connection, new: Rows) -> None:
    def record(at: int) -> tuple[int, int, bytes | None, bytes | None]:
        row = int(new.rows[at])
        vector = None if new.vectors is None else new.vectors[at].tobytes()
        code = None if new.codes is None else new.codes[at].tobytes()
        return row, digest((vector or b"") + (code or b""), "tail", row), vector, code

    connection.run_many("INSERT INTO tail VALUES (?, ?, ?, ?)", map(record, range(len(new.rows))))


def read_numbers(connection: Connection, number: int) -> Numbers:
    """(n,) row numbers of a block, :data:`DEAD` for deleted ones.

    Raises:
        DamagedError: they are not what was written.
    """
    found = connection.one("SELECT digest, content FROM block WHERE number = ?", (number,))
    if found is None or digest(found[1], "rows", number) != found[0]:
        raise damaged(connection.path, f"rows of block {number}")
    return np.frombuffer(found[1], dtype="<i8").astype(np.int64, copy=False)


def read_content(connection: Connection, number: int, space_number: int, space: Space, rows: Numbers) -> Rows:
    """The float rows and codes of a block; those of deleted rows are zeros.

    Args:
        connection: to the file.
        number: the block.
        space_number: the space.
        space: what it is.
        rows: (n,) row numbers of the block.

    Raises:
        DamagedError: they are missing, or not what was written.
    """
    key = space_number * _SPACE + number
    vectors = codes = None
    if space.has_floats:
        content = _verified(connection, "vectors", key, number, 4 * space.dim * len(rows))
        vectors = np.frombuffer(content, dtype="<f4").reshape(len(rows), space.dim)
    if space.has_codes:
        content = _verified(connection, "codes", key, number, space.code_bytes * len(rows))
        codes = np.frombuffer(content, dtype=np.uint8).reshape(len(rows), space.code_bytes)
    return Rows(rows, vectors, codes)


def _verified(connection: Connection, kind: str, key: int, number: int, size: int) -> bytes:
    found = connection.one(
        f"SELECT content, digest FROM {kind} JOIN seal ON seal.kind = ? AND seal.number = {kind}.number WHERE {kind}.number = ?",
        (kind, key),
    )
    if found is None or len(found[0]) != size or digest(found[0], kind, key) != found[1]:
        raise damaged(connection.path, f"{kind} of block {number}")
    content: bytes = found[0]
    return content


def has_content(connection: Connection, space_number: int, space: Space) -> set[int]:
    """The blocks whose rows are there in a space."""
    kind = "vectors" if space.has_floats else "codes"
    low, high = space_number * _SPACE, (space_number + 1) * _SPACE
    found = connection.rows("SELECT number FROM seal WHERE kind = ? AND number >= ? AND number < ?", (kind, low, high))
    return {number - low for (number,) in found}


def read_tail(connection: Connection, space: Space, after: int = 0) -> Rows:
    """The single rows whose numbers are above ``after``.

    Raises:
        DamagedError: one is not what was written.
    """
    found = connection.rows("SELECT row, digest, vector, code FROM tail WHERE row > ? ORDER BY row", (after,))
    for row, kept, vector, code in found:
        fits = (not space.has_floats or len(vector or b"") == 4 * space.dim) and (
            not space.has_codes or len(code or b"") == space.code_bytes
        )
        if not fits or digest((vector or b"") + (code or b""), "tail", row) != kept:
            raise damaged(connection.path, f"row {row}")
    rows = np.array([row for row, *_ in found], dtype=np.int64)
    vectors = codes = None
    if space.has_floats:
        vectors = np.frombuffer(b"".join(one[2] for one in found), dtype="<f4").reshape(len(found), space.dim)
    if space.has_codes:
        codes = np.frombuffer(b"".join(one[3] for one in found), dtype=np.uint8).reshape(len(found), space.code_bytes)
    return Rows(rows, vectors, codes)


def read_after(connection: Connection, space_number: int, space: Space, after: int) -> Iterator[Rows]:
    """All live rows whose numbers are above ``after``, in their order, block by block.

    Raises:
        DamagedError: a block is not what was written.
    """
    for extent in extents(connection):
        if extent.last > after and extent.live:
            numbers = read_numbers(connection, extent.number)
            rows = read_content(connection, extent.number, space_number, space, numbers)
            keep = numbers > after
            yield rows if keep.all() else rows.take(keep)
    tail = read_tail(connection, space, after)
    if len(tail.rows):
        yield tail


def alive_since(connection: Connection, generation: int) -> Iterator[tuple[int, int, Numbers]]:
    """For each range of rows that changed after a generation: the rows after the first number, up to the second, that are alive."""
    last = 0
    for extent in extents(connection):
        last = extent.last
        if extent.generation > generation:
            numbers = read_numbers(connection, extent.number)
            yield extent.after, extent.last, numbers[numbers >= 0]
    tail = connection.rows("SELECT row FROM tail ORDER BY row")
    yield last, 2**63 - 1, np.array([row for (row,) in tail], dtype=np.int64)


def erase(connection: Connection, state: State, spaces: Mapping[int, Space], rows: Numbers) -> list[Rows]:
    """Overwrite rows with zeros in every space, inside a transaction.

    Args:
        connection: to the file.
        state: before this transaction.
        spaces: number -> space: the current one and a staged one.
        rows: (n,) sorted numbers of live rows.

    Returns:
        what was erased.

    Raises:
        DamagedError: a row is not there, or a block is not what was written.
    """
    erased: list[Rows] = []
    left = rows
    for extent in extents(connection):
        here = left[(left > extent.after) & (left <= extent.last)]
        if len(here):
            erased += _erase_in_block(connection, state, spaces, extent, here)
            left = left[~np.isin(left, here)]
    if len(left):
        erased.append(_erase_in_tail(connection, spaces[state.space], left))
    return erased


def _erase_in_tail(connection: Connection, space: Space, rows: Numbers) -> Rows:
    tail = read_tail(connection, space)
    gone = np.isin(tail.rows, rows)
    if gone.sum() != len(rows):
        raise damaged(connection.path, "the tail of single rows")
    connection.run_many("DELETE FROM tail WHERE row = ?", ((row,) for row in rows.tolist()))
    return tail.take(gone)


def _erase_in_block(
    connection: Connection, state: State, spaces: Mapping[int, Space], extent: Extent, rows: Numbers
) -> list[Rows]:
    numbers = read_numbers(connection, extent.number)
    places = np.flatnonzero(np.isin(numbers, rows))
    if len(places) != len(rows):
        raise damaged(connection.path, f"rows of block {extent.number}")
    erased = []
    for space_number, space in spaces.items():
        if space_number != state.space and extent.number not in has_content(connection, space_number, space):
            continue
        content = read_content(connection, extent.number, space_number, space, numbers)
        erased.append(content.take(places))
        for kind, values in (("vectors", content.vectors), ("codes", content.codes)):
            if values is not None:
                _blank(connection, kind, space_number * _SPACE + extent.number, values, places.tolist())
    remaining = numbers.copy()
    remaining[places] = DEAD
    (first,) = connection.one("SELECT first FROM block WHERE number = ?", (extent.number,)) or (extent.after + 1,)
    write_numbers(connection, extent.number, remaining, first, extent.last, state.generation + 1)
    return erased


def _blank(connection: Connection, kind: str, key: int, values: npt.NDArray[np.generic], places: Sequence[int]) -> None:
    """Overwrite some rows of a blob with zeros."""
    blank = values.copy()
    blank[list(places)] = 0
    wide = blank.strides[0]
    connection.overwrite(kind, key, (place * wide for place in places), bytes(wide))
    _seal(connection, kind, key, blank.tobytes())


def drop_space(connection: Connection, space_number: int, numbers: Iterable[int]) -> None:
    """Remove the rows of some blocks in a space."""
    keys = [(space_number * _SPACE + number,) for number in numbers]
    for kind in ("vectors", "codes"):
        connection.run_many(f"DELETE FROM {kind} WHERE number = ?", keys)
        connection.run_many(f"DELETE FROM seal WHERE kind = '{kind}' AND number = ?", keys)


def merge(connection: Connection, state: State, space: Space, group: Sequence[Extent]) -> int:
    """Rewrite consecutive blocks without their deleted rows, inside a transaction; returns the next free number."""
    parts = []
    for extent in group:
        numbers = read_numbers(connection, extent.number)
        rows = read_content(connection, extent.number, state.space, space, numbers)
        parts.append(rows.take(numbers >= 0))
    connection.run_many("DELETE FROM block WHERE number = ?", ((extent.number,) for extent in group))
    drop_space(connection, state.space, [extent.number for extent in group])
    return write_blocks(connection, state, joined(parts))
