"""The items of a gallery: add, replace, delete, read, and what a reader lacks since it last looked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cosphere.checks import check_choice
from cosphere.errors import RunError
from cosphere.gallery import blocks, indexes, items
from cosphere.gallery.adding import (
    Added,
    Existing,
    NewItems,
    check_asked,
    check_new,
    check_there,
    checked_items,
    names_to_delete,
)
from cosphere.gallery.blocks import Numbers, Rows
from cosphere.gallery.changes import Changes, Known, changes_since
from cosphere.gallery.erasure import Receipt, log_erasure, scan_of
from cosphere.gallery.folder import INDEXES, GalleryFolder, reading_only
from cosphere.gallery.items import Item
from cosphere.gallery.receipt_file import OnReceipt
from cosphere.gallery.schema import Space, State, damaged, read_space, read_state, write_state
from cosphere.gallery.sqlite import Connection
from cosphere.gallery.traces import left_over
from cosphere.gallery.values import as_id
from cosphere.gallery.where import Filter, Where, matching, parse


class Deleted(NamedTuple):
    """What :meth:`Store.delete` did."""

    ids: tuple[str, ...]
    receipt: Receipt
    """With it, :func:`cosphere.gallery.proof.prove_deleted` finds what may be left of vectors, codes and thumbnails."""
    flushed: bool
    """Whether the write-ahead log was emptied. A reader in the middle of a query delays that to the next write."""
    problem: str = ""
    """Why the file could not be cleared of copies, such as a full disk; empty where it was. The items are deleted all the same."""


class Store(GalleryFolder):
    """The items of a gallery. Made with :meth:`create` and :meth:`open`."""

    def __len__(self) -> int:
        """Number of items."""
        return self.state().items

    def __contains__(self, id_: object) -> bool:
        """Whether there is an item of this id."""
        name = as_id(id_)
        with self.reading() as connection:
            return name is not None and bool(items.find(connection, [name]))

    def __iter__(self) -> Iterator[Item]:
        """Every item in the order in which they were added, all of one committed state."""
        self.state()  # an error now, and not at the first item
        connection = reading_only(self.file)
        try:
            with connection.reading():
                count = 0
                for item in items.read_all(connection):
                    count += 1
                    yield item
                check_count(connection, count, read_state(connection))
        finally:
            connection.close()

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are there."""
        with self.reading() as connection:
            return set(items.find(connection, ids))

    @property
    def place(self) -> str:
        """The folder, for messages."""
        return str(self.folder)

    @property
    def thumbnail(self) -> int:
        """Longer side of thumbnails in pixels; 0 keeps none."""
        return self.state().thumbnail

    def rows(self, where: Where | None = None) -> Numbers:
        """Row numbers of all items, or of those that meet a filter, ascending.

        Raises:
            DataError: the filter is wrong.
        """
        wanted = None if where is None else parse(where)
        with self.reading() as connection:
            return rows_where(connection, wanted)

    def count(self, where: Where | None = None) -> int:
        """Number of items, or of those that meet a filter. Raises as :meth:`rows` does."""
        return len(self) if where is None else len(self.rows(where))

    def read(self, rows: Sequence[int]) -> list[Item]:
        """Items by their row numbers."""
        with self.reading() as connection:
            return items.read(connection, rows)

    def vectors(self) -> Iterator[tuple[list[Item], Rows]]:
        """All items with their rows, block by block, all of one committed state.

        Raises:
            DamagedError: a block or an item is not what was written.
        """
        self.state()  # an error now, and not at the first block
        connection = reading_only(self.file)
        try:
            with connection.reading():
                yield from vectors_of(connection)
        finally:
            connection.close()

    def numbers_of(self, row: int) -> Rows:
        """The float row and the code of one item."""
        with self.reading() as connection:
            state = read_state(connection)
            space = read_space(connection, state.space)
            for extent in blocks.extents(connection):
                if extent.after < row <= extent.last:
                    numbers = blocks.read_numbers(connection, extent.number)
                    content = blocks.read_content(connection, extent.number, state.space, space, numbers)
                    return content.take(numbers == row)
            tail = blocks.read_tail(connection, space)
            return tail.take(tail.rows == row)

    def add(
        self,
        ids: Sequence[Any],
        vectors: npt.NDArray[Any] | None = None,
        codes: npt.NDArray[Any] | None = None,
        *,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        thumbnails: Sequence[bytes | None] | None = None,
        existing: Existing = "refuse",
        on_receipt: OnReceipt | None = None,
    ) -> Added:
        """Add items, all or none. When it returns, they are on disk.

        Args:
            ids: N texts, each once.
            vectors: (N, D) float, in a gallery that holds floats.
            codes: (N, ceil(D / 8)) uint8, in a gallery that holds codes.
            metadata: N mappings of columns to texts, numbers or truth values.
            thumbnails: N JPEG files, None for an item without one.
            existing: what happens to an id that is there: an error, nothing, or the new item takes its place.
            on_receipt: called with the receipt of what is replaced, as :meth:`delete` does.

        Returns:
            counts, and a receipt of the rows that were replaced. They are overwritten as :meth:`delete` does, but the file is not
            searched for copies afterwards; where :func:`prove_deleted` finds one, :func:`compact` removes it.

        Raises:
            DataError, SizeError: an id, a row or a value cannot be kept; it is named.
            RunError: as for :meth:`writing`.
        """
        check_choice("existing", existing, ["refuse", "skip", "replace"])
        space = self.space()
        new = checked_items(space, ids, vectors, codes, metadata, thumbnails)
        if not new.ids:
            return Added(0, 0, 0)
        with self.writing() as (connection, state, now):
            if (now.dim, now.holds, now.model_id) != (space.dim, space.holds, space.model_id):
                raise RunError(f"{self.folder} was migrated to another model meanwhile. Open it again.")
            there = items.find(connection, new.ids)
            check_new(there, existing)
            receipts = []
            if there and existing == "replace":
                state, receipt = self._erase(connection, state, sorted(there.values()))
                self.remove_indexes()
                log_erasure(connection, receipt, replaced=True)
                receipts.append(receipt)
            keep = [place for place, one in enumerate(new.ids) if existing == "replace" or one not in there]
            if keep:
                self._insert(connection, state, now, keep, new)
            if on_receipt is not None:
                for receipt in receipts:
                    on_receipt(receipt)
        replaced = len(there) if existing == "replace" else 0
        return Added.of(len(keep) - replaced, replaced, len(new.ids) - len(keep), receipts)

    def _insert(self, connection: Connection, state: State, space: Space, keep: list[int], new: NewItems) -> None:
        whole = len(keep) == len(new.ids)
        numbers = np.arange(state.next_row, state.next_row + len(keep), dtype=np.int64)
        selection: Any = slice(None) if whole else keep
        vectors, codes = blocks.picked(new.vectors, selection), blocks.picked(new.codes, selection)
        pictures = None if new.thumbnails is None else [new.thumbnails[place] for place in keep]
        ids, metadata = [new.ids[place] for place in keep], [new.metadata[place] for place in keep]
        items.insert(connection, numbers.tolist(), ids, metadata, pictures)
        next_block = blocks.append(connection, state, space, Rows(numbers, vectors, codes))
        write_state(
            connection,
            replace(
                state,
                generation=state.generation + 1,
                items=state.items + len(keep),
                next_row=state.next_row + len(keep),
                next_block=next_block,
            ),
        )

    def find(self, ids: Sequence[Any] | str | None = None, *, where: Where | None = None) -> list[Item]:
        """The items that :meth:`delete` would delete.

        Raises:
            DataError: an id is not there, or the filter is wrong.
        """
        wanted = None if where is None else parse(where)
        with self.reading() as connection:
            return items.read(connection, self._chosen(connection, ids, wanted))

    def delete(
        self,
        ids: Sequence[Any] | str | None = None,
        *,
        where: Where | None = None,
        on_receipt: OnReceipt | None = None,
    ) -> Deleted:
        """Delete items from vectors, codes, thumbnails and metadata, and every index file, which held copies of their rows.

        Args:
            ids: their ids, all of which must be there.
            where: a filter, see :mod:`cosphere.gallery.where`; with ``ids``, both must hold.
            on_receipt: called with the receipt before anything is committed, to save it: a kill later then leaves a deletion with
                its receipt. What it raises stops the deletion. Not called where there is nothing to delete.

        Raises:
            DataError: an id is not there, the filter is wrong, or neither is given.
            RunError: as for :meth:`writing`. Nothing is deleted then; what fails later is in :attr:`Deleted.problem`.
        """
        check_asked(ids, where)
        wanted = None if where is None else parse(where)
        with self._guard:
            with self.writing() as (connection, state, _):
                rows = self._chosen(connection, ids, wanted)
                gone = items.read(connection, rows)
                receipt = Receipt.of(state.name, 0, [])
                if rows:
                    state, receipt = self._erase(connection, state, rows, gone)
                    self.remove_indexes()
                    log_erasure(connection, receipt)
                    write_state(connection, state)
                    if on_receipt is not None:
                        on_receipt(receipt)
            names = tuple(item.id for item in gone)
            try:
                return Deleted(names, receipt, not rows or self._cleared(gone, receipt))
            except RunError as error:
                # Committed already, and a second call finds nothing to delete: the receipt must not be lost.
                return Deleted(
                    names,
                    receipt,
                    False,
                    f"the items are deleted, but copies of them may be left in the file: {error} Then run `cosphere index compact`.",
                )

    def _cleared(self, gone: Sequence[Item], receipt: Receipt) -> bool:
        """Empty the log; where a copy of something deleted is left between the cells of a page, rewrite the file.

        Returns:
            whether no reader was in the way.
        """
        if not self.flush():
            return False
        with self.reading() as connection:
            texts = items.texts_left_alone(connection, gone)
        if left_over(self.file, texts, [receipt]):
            self.vacuum()
            return self.flush()
        return True

    def index_file(self, kind: str) -> Path:
        """Where the index of the ``floats`` or the ``codes`` is, if one was built."""
        return self.folder / INDEXES / f"{kind}.npz"

    def remove_indexes(self) -> None:
        """Remove the index files: they hold copies of rows, deleted ones among them.

        What deletes rows calls this before it commits: an index is made again, but a kill in between would leave the copies for good.

        Raises:
            RunError: they cannot be removed.
        """
        indexes.remove(self.folder / INDEXES)

    def _chosen(self, connection: Connection, ids: Sequence[Any] | str | None, wanted: Filter | None) -> list[int]:
        if ids is None:
            return rows_where(connection, wanted).tolist()  # type: ignore[no-any-return]
        names = names_to_delete(ids)
        there = items.find(connection, names)
        check_there(names, there)
        rows = np.array(sorted(there.values()), dtype=np.int64)
        if wanted is not None:
            rows = np.intersect1d(rows, rows_where(connection, wanted), assume_unique=True)
        return rows.tolist()  # type: ignore[no-any-return]

    def _erase(
        self, connection: Connection, state: State, rows: list[int], gone: list[Item] | None = None
    ) -> tuple[State, Receipt]:
        """Remove rows inside a transaction; the state is the caller's to write."""
        items_gone = items.read(connection, rows) if gone is None else gone
        thumbnails = list(items.read_thumbnails(connection, rows).values())
        numbers = [state.space] + ([state.staged] if state.staged is not None else [])
        spaces = {number: read_space(connection, number) for number in numbers}
        erased = blocks.erase(connection, state, spaces, np.array(rows, dtype=np.int64))
        items.erase(connection, items_gone)
        receipt = Receipt.of(state.name, len(rows), _payloads(erased, thumbnails))
        return replace(state, generation=state.generation + 1, items=state.items - len(rows)), receipt

    def read_changes(self, connection: Connection, known: Known, holds: str | None = None) -> Changes:
        """What a reader that holds ``known`` lacks.

        Args:
            connection: of :meth:`reading`; what is read belongs to its committed state.
            known: what the reader holds.
            holds: read only ``floats`` or ``codes``; None reads what the gallery holds.
        """
        return changes_since(connection, known, holds)


def vectors_of(connection: Connection) -> Iterator[tuple[list[Item], Rows]]:
    """All items with their rows, block by block, inside a transaction; see :meth:`Store.vectors`."""
    state = read_state(connection)
    space = read_space(connection, state.space)
    count = 0
    for part in blocks.read_after(connection, state.space, space, 0):
        count += len(part.rows)
        yield items.read(connection, part.rows.tolist()), part
    check_count(connection, count, state)


def check_count(connection: Connection, found: int, state: State) -> None:
    """Raise unless as many items were found as there are.

    Raises:
        DamagedError: some are missing.
    """
    if found != state.items:
        raise damaged(connection.path, f"the set of items ({found:,} found of {state.items:,})")


def rows_where(connection: Connection, wanted: Filter | None) -> Numbers:
    """Row numbers of the items that meet a filter, or of all, ascending."""

    def every() -> Numbers:
        return np.fromiter(items.all_rows(connection), dtype=np.int64)

    return every() if wanted is None else matching(connection, wanted, every)


def _payloads(erased: Sequence[Rows], thumbnails: Sequence[bytes]) -> list[bytes]:
    """The bytes of what was erased, one for each vector, code and thumbnail."""
    rows = [part[at].tobytes() for one in erased for part in one[1:] if part is not None for at in range(len(part))]
    return rows + [scan_of(one) for one in thumbnails]
