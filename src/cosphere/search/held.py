"""The rows of a gallery in memory, as a search wants them, kept up with what the writer commits.

Rows lie in segments, the first of which holds all that was there when the gallery was opened. Deleted rows stay in memory until they
are a fifth of all; a search leaves them out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere._types import Flags, Float32s, Integers
from cosphere.gallery.changes import Known
from cosphere.gallery.schema import Space
from cosphere.gallery.sqlite import Connection
from cosphere.gallery.store import Store, check_count
from cosphere.rows import BLOCK_BYTES, UnitRows, rounded_up, unit_rows
from cosphere.search.engines import COSINE, SIGNS
from cosphere.search.exact import search_units
from cosphere.search.hamming import BitRows, search_bits

SPARE = 1 / 32
"""Room for added rows, as a share of those that were read at once."""
_LEAST_SPARE = 1024
_FEW = 1 / 8
"""Share of kept rows below which they are copied together and searched alone."""
_MOST_DEAD = 0.2
"""Share of deleted rows above which all are read again."""


class Nearest(NamedTuple):
    """The neighbours of Q queries among the rows of a gallery."""

    rows: Integers
    """(Q, k) row numbers, nearest first; equal scores are ordered by row number."""
    scores: Float32s
    """(Q, k) of :attr:`measure`, larger is nearer."""
    measure: str
    """What the scores are."""


@dataclass(eq=False)
class _Segment:
    """Some rows, with room for more behind them."""

    values: Tensor
    """(capacity, D) float32 unit rows, or (capacity, bytes) uint8 codes; zeros behind the rows that are there."""
    numbers: Integers
    """(capacity,) ascending row numbers."""
    live: Flags
    """(capacity,) which rows are not deleted."""
    size: int = 0

    @classmethod
    def of(cls, capacity: int, width: int, dtype: torch.dtype) -> _Segment:
        wide = rounded_up(capacity)
        return cls(torch.zeros(wide, width, dtype=dtype), np.zeros(wide, np.int64), np.zeros(wide, bool))

    def put(self, numbers: Integers, values: Tensor) -> None:
        """Append rows, which must fit."""
        here = slice(self.size, self.size + len(numbers))
        self.values[here] = values
        self.numbers[here] = numbers
        self.live[here] = True
        self.size = here.stop

    def places_of(self, rows: Integers) -> Integers:
        """Places of those row numbers that are here."""
        numbers = self.numbers[: self.size]
        at = np.minimum(np.searchsorted(numbers, rows), max(0, self.size - 1))
        return at[numbers[at] == rows] if self.size else at[:0]


class Held:
    """All rows of a gallery in memory, of one kind: unit floats, or codes.

    Args:
        kind: ``floats`` or ``codes``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.known = Known()
        self.space = Space(dim=1)
        self._segments: list[_Segment] = []

    def __len__(self) -> int:
        """Rows in memory that are not deleted."""
        return sum(int(one.live[: one.size].sum()) for one in self._segments)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(one.values.nbytes + one.numbers.nbytes + one.live.nbytes for one in self._segments)

    def refresh(self, store: Store, connection: Connection) -> None:
        """Read what was committed since the last time.

        Args:
            store: the gallery.
            connection: of ``store.reading()``; all that is read belongs to its committed state.

        Raises:
            DamagedError: a block is not what was written; nothing of it is held.
        """
        try:
            changes = store.read_changes(connection, self.known, holds=self.kind)
            if changes.known == self.known:
                return
            if changes.fresh:
                self._segments = []
            self.space = changes.space
            for after, last, alive in changes.alive:
                self._mark(after, last, alive)
            room = changes.state.items - len(self)
            for rows in changes.new:
                values = rows.vectors if self.kind == "floats" else rows.codes
                if values is not None:
                    self._append(rows.rows, values, room)
                    room -= len(rows.rows)
            check_count(connection, len(self), changes.state)
            self.known = changes.known
        except BaseException:
            self.known, self._segments = Known(), []
            raise
        held = sum(one.size for one in self._segments)
        if held - len(self) > max(_LEAST_SPARE, _MOST_DEAD * held):
            self.known = replace(self.known, epoch=-2)
            self.refresh(store, connection)

    def _append(self, numbers: Integers, values: npt.NDArray[Any], room: int) -> None:
        if not len(numbers):
            return
        tensor = unit_rows(values).rows if self.kind == "floats" else torch.from_numpy(values.copy())
        done = 0
        while done < len(numbers):
            last = self._segments[-1] if self._segments else None
            if last is None or last.size == len(last.numbers):
                held = sum(one.size for one in self._segments)
                want = max(room, len(numbers)) + max(_LEAST_SPARE, int(SPARE * (room + held)))
                last = _Segment.of(want, tensor.shape[1], tensor.dtype)
                self._segments.append(last)
            here = slice(done, done + len(last.numbers) - last.size)
            last.put(numbers[here], tensor[here])
            done = min(here.stop, len(numbers))

    def _mark(self, after: int, last: int, alive: Integers) -> None:
        """Of the rows after one number and up to another, only these are alive."""
        for one in self._segments:
            numbers = one.numbers[: one.size]
            low, high = np.searchsorted(numbers, [after, last], side="right").tolist()
            if low < high:
                one.live[low:high] = np.isin(numbers[low:high], alive, assume_unique=True)

    def live_rows(self) -> Integers:
        """Numbers of all rows that are not deleted, ascending."""
        parts = [one.numbers[: one.size][one.live[: one.size]] for one in self._segments]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def given(self, rows: Integers) -> Tensor:
        """(n, D) float32 unit rows, or (n, bytes) codes, of sorted row numbers, copied: what an index is built from."""
        parts = [one.values[torch.from_numpy(one.places_of(rows))] for one in self._segments]
        return torch.cat(parts) if parts else torch.zeros(0, self.space.dim)

    def search(
        self, queries: UnitRows | BitRows, k: int, rows: Integers | None = None, block_bytes: int = BLOCK_BYTES
    ) -> Nearest:
        """Find the nearest rows, exactly.

        Args:
            queries: Q unit rows, or codes.
            k: neighbours; fewer are returned where fewer rows may be.
            rows: sorted numbers of the rows that may be returned; None for all.
            block_bytes: bound of the working memory.
        """
        measure = COSINE if isinstance(queries, UnitRows) else SIGNS
        found_rows: list[Integers] = []
        found_scores: list[Float32s] = []
        for one in self._segments:
            keep = one.live[: one.size]
            if rows is not None:
                kept = np.zeros(one.size, dtype=bool)
                kept[one.places_of(rows)] = True
                keep = keep & kept
            count = int(keep.sum())
            if count:
                ids, scores = self._search_segment(one, keep, count, queries, min(k, count), block_bytes)
                found_rows.append(one.numbers[ids.numpy()])
                found_scores.append(scores.numpy())
        if not found_rows:
            return Nearest(np.zeros((queries.size, 0), np.int64), np.zeros((queries.size, 0), np.float32), measure)
        every, scores_of = np.concatenate(found_rows, axis=1), np.concatenate(found_scores, axis=1)
        order = np.lexsort((every, -scores_of), axis=1)[:, :k]
        return Nearest(np.take_along_axis(every, order, 1), np.take_along_axis(scores_of, order, 1), measure)

    def _search_segment(
        self, one: _Segment, keep: Flags, count: int, queries: UnitRows | BitRows, k: int, block_bytes: int
    ) -> tuple[Tensor, Tensor]:
        """Places in a segment, and scores, (Q, k) each."""
        places = None
        values, size, hides = one.values, one.size, count < one.size
        if count < _FEW * one.size:
            places = torch.from_numpy(np.flatnonzero(keep))
            values, size, hides = torch.zeros(rounded_up(count), values.shape[1], dtype=values.dtype), count, False
            values[:count] = one.values[places]
        kept = keep if hides else None
        if isinstance(queries, UnitRows):
            units = UnitRows(values[: rounded_up(size)], size)
            ids, scores = search_units(queries, units, k, None, block_bytes, kept)
        else:
            ids, scores = search_bits(queries, BitRows(values, size), k, None, self.space.dim, block_bytes, kept)
        return (ids if places is None else places[ids]), scores
