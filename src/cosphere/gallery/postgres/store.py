"""The items of a gallery on PostgreSQL: add, replace, delete and read.

PostgreSQL keeps what was committed; writers take turns, and readers do not wait for them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cosphere.checks import check_choice
from cosphere.errors import SettingsError
from cosphere.gallery.adding import Added, Existing, check_asked, check_new, check_there, checked_items, names_to_delete
from cosphere.gallery.blocks import Rows
from cosphere.gallery.erasure import NO_PROOF
from cosphere.gallery.items import Item
from cosphere.gallery.postgres.connection import connect, explained
from cosphere.gallery.postgres.conversion import (
    TYPES,
    as_bits,
    as_code,
    as_floats,
    as_stored,
    check_columns,
    check_lengths,
    check_rows,
    check_texts,
    json_of,
)
from cosphere.gallery.postgres.database import GallerySchema
from cosphere.gallery.postgres.filters import Clause, clause_of
from cosphere.gallery.receipt_file import OnReceipt
from cosphere.gallery.values import as_id
from cosphere.gallery.where import Where, parse

_PAGE = 2000
"""Rows that a reader fetches at a time."""


class Removed(NamedTuple):
    """What :meth:`PostgresStore.delete` did."""

    ids: tuple[str, ...]


class PostgresStore(GallerySchema):
    """The items of a gallery. Made with :meth:`create` and :meth:`open`."""

    def __len__(self) -> int:
        """Number of items."""
        return self.count()

    def __contains__(self, id_: object) -> bool:
        """Whether there is an item of this id."""
        name = as_id(id_)
        return name is not None and bool(self.known([name]))

    def __iter__(self) -> Iterator[Item]:
        """Every item in the order in which they were added, all of one committed state."""
        for row, id_, columns in self._each("row, id, columns"):
            yield Item(row, id_, columns)

    def vectors(self) -> Iterator[tuple[list[Item], Rows]]:
        """All items with their rows, some at a time, all of one committed state."""
        found = self._each("row, id, columns, vector, code")
        while part := list(itertools.islice(found, _PAGE)):
            items = [Item(row, id_, columns) for row, id_, columns, _, _ in part]
            vectors, codes = [as_floats(one[3]) for one in part], [as_code(one[4]) for one in part]
            yield items, Rows(np.array([item.row for item in items]), _stacked(vectors), _stacked(codes))

    def _each(self, what: str) -> Iterator[Any]:
        """Rows of a query through a connection of its own, some at a time."""
        connection = connect(self.address)
        try:
            with (
                explained(self.address, connection),
                connection.transaction(),
                connection.cursor(name="rows") as cursor,
            ):
                cursor.itersize = _PAGE
                yield from cursor.execute(f"SELECT {what} FROM {self.table} ORDER BY row")
        finally:
            connection.close()

    def ids(self, where: Where | None = None) -> list[str]:
        """Ids of all items, or of those that meet a filter, in the order in which they were added.

        Raises:
            DataError: the filter is wrong.
        """
        clause = clause_of(None if where is None else parse(where))
        with self.transaction(reading=True) as connection:
            found = connection.execute(f"SELECT id FROM {self.table} WHERE {clause.sql} ORDER BY row", clause.values)
            return [id_ for (id_,) in found]

    def count(self, where: Where | None = None) -> int:
        """Number of items, or of those that meet a filter. Raises as :meth:`ids` does."""
        clause = clause_of(None if where is None else parse(where))
        with self.transaction(reading=True) as connection:
            query = f"SELECT count(*) FROM {self.table} WHERE {clause.sql}"
            return int(connection.execute(query, clause.values).fetchone()[0])

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are there."""
        with self.transaction(reading=True) as connection:
            return self._known(connection, ids)

    def _known(self, connection: Any, ids: Sequence[str]) -> set[str]:
        names = [one for one in ids if "\0" not in one]  # PostgreSQL cannot even be asked for the others
        found = connection.execute(f"SELECT id FROM {self.table} WHERE id = ANY(%s)", (names,))
        return {id_ for (id_,) in found}

    def whole(self, id_: str) -> tuple[Item, Rows, bytes | None] | None:
        """An item with its rows of numbers and its thumbnail; None if there is none of this id."""
        name = as_id(id_)
        if name is None or "\0" in name:
            return None
        query = f"SELECT row, id, columns, vector, code, thumbnail FROM {self.table} WHERE id = %s"
        with self.transaction(reading=True) as connection:
            found = connection.execute(query, (name,)).fetchone()
        if found is None:
            return None
        row, own, columns, vector, code, picture = found
        rows = Rows(np.array([row]), _stacked([as_floats(vector)]), _stacked([as_code(code)]))
        return Item(row, own, columns), rows, None if picture is None else bytes(picture)

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
        """Add items, all or none. When it returns, they are committed.

        Args:
            ids: N texts, each once.
            vectors: (N, D) float, in a gallery that holds floats; any length above 0.
            codes: (N, ceil(D / 8)) uint8, in a gallery that holds codes.
            metadata: N mappings of columns to texts, numbers or truth values.
            thumbnails: N JPEG files, None for an item without one.
            existing: what happens to an id that is there: an error, nothing, or the new item takes its place.
            on_receipt: None: a server gives no receipts.

        Raises:
            DataError, SizeError: an id, a row or a value cannot be kept; it is named.
            RunError: as for :meth:`transaction`.
        """
        check_choice("existing", existing, ["refuse", "skip", "replace"])
        _no_receipts(on_receipt)
        space, stored, _ = self.about()
        new = checked_items(space, ids, vectors, codes, metadata, thumbnails)
        check_texts(new.ids, "id")
        check_lengths(new.ids)
        check_rows(new.vectors, stored, new.ids)
        for place, columns in enumerate(new.metadata):
            check_columns(columns, place)
        with self.transaction() as connection:
            self.take_turn(connection)  # so that no other one adds the same id in between
            there = self._known(connection, new.ids)
            check_new(sorted(there), existing)
            if there and existing == "replace":
                connection.execute(f"DELETE FROM {self.table} WHERE id = ANY(%s)", (list(there),))
            keep = [place for place, one in enumerate(new.ids) if existing == "replace" or one not in there]
            types = ["text", "jsonb", TYPES[stored], "bit", "bytea"]
            copied = f"COPY {self.table} (id, columns, vector, code, thumbnail) FROM STDIN WITH (FORMAT BINARY)"
            with connection.cursor() as cursor, cursor.copy(copied) as copy:
                copy.set_types(types)
                for place in keep:
                    vector = None if new.vectors is None else as_stored(new.vectors[place], stored)
                    picture = None if new.thumbnails is None else new.thumbnails[place]
                    code = as_bits(new.codes, place)
                    copy.write_row((new.ids[place], json_of(new.metadata[place]), vector, code, picture))
        replaced = len(there) if existing == "replace" else 0
        return Added(len(keep) - replaced, replaced, len(new.ids) - len(keep))

    def find(self, ids: Sequence[Any] | str | None = None, *, where: Where | None = None) -> list[Item]:
        """The items that :meth:`delete` would delete.

        Raises:
            DataError: an id is not there, the filter is wrong, or neither is given.
        """
        check_asked(ids, where)
        with self.transaction(reading=True) as connection:
            chosen = self._chosen(connection, ids, where)
            query = f"SELECT row, id, columns FROM {self.table} WHERE {chosen.sql} ORDER BY row"
            return [Item(*one) for one in connection.execute(query, chosen.values)]

    def delete(
        self,
        ids: Sequence[Any] | str | None = None,
        *,
        where: Where | None = None,
        on_receipt: OnReceipt | None = None,
    ) -> Removed:
        """Delete items, all or none.

        PostgreSQL keeps their bytes until a vacuum, in its write-ahead log and in backups: deletion is not proved as in a folder.

        Args:
            ids: their ids, all of which must be there.
            where: a filter, see :mod:`cosphere.gallery.where`; with ``ids``, both must hold.
            on_receipt: None: a server gives no receipts.

        Raises:
            DataError: an id is not there, the filter is wrong, or neither is given.
            RunError: as for :meth:`transaction`.
        """
        _no_receipts(on_receipt)
        check_asked(ids, where)
        with self.transaction() as connection:
            self.take_turn(connection)
            chosen = self._chosen(connection, ids, where)
            query = f"DELETE FROM {self.table} WHERE {chosen.sql} RETURNING row, id"
            gone = connection.execute(query, chosen.values).fetchall()
        return Removed(tuple(id_ for _, id_ in sorted(gone)))

    def _chosen(self, connection: Any, ids: Sequence[Any] | str | None, where: Where | None) -> Clause:
        """The condition for ids, all of which must be there, and a filter."""
        clause = clause_of(None if where is None else parse(where))
        if ids is None:
            return clause
        names = names_to_delete(ids)
        check_there(names, self._known(connection, names))
        return Clause(f"id = ANY(%s) AND {clause.sql}", (names, *clause.values))


def _stacked(parts: Sequence[npt.NDArray[Any] | None]) -> npt.NDArray[Any] | None:
    return None if any(part is None for part in parts) else np.stack(parts)  # type: ignore[arg-type]


def _no_receipts(on_receipt: OnReceipt | None) -> None:
    if on_receipt is not None:
        raise SettingsError(f"{NO_PROOF}; leave on_receipt out.")
