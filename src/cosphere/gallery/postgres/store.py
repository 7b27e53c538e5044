"""A gallery in a PostgreSQL database: one schema of its own, for many writers and readers on many machines.

Table ``about`` says what the rows are, table ``item`` has one row for each item: id, metadata, the unit-length vector, the code and the
thumbnail. PostgreSQL keeps what was committed; writers take turns, readers never wait.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from cosphere.checks import check_choice
from cosphere.errors import DataError, RunError, SettingsError, agreeing
from cosphere.gallery.folder import check_space
from cosphere.gallery.items import Item
from cosphere.gallery.postgres.connection import connect, explained, shown
from cosphere.gallery.postgres.conversion import (
    TYPES,
    Stored,
    as_bits,
    as_code,
    as_floats,
    as_stored,
    check_columns,
    check_texts,
    json_of,
)
from cosphere.gallery.postgres.filters import clause_of
from cosphere.gallery.schema import Space
from cosphere.gallery.store import Added, Existing
from cosphere.gallery.values import check_codes, check_ids, check_metadata, check_vectors
from cosphere.gallery.values import shown as shown_ids
from cosphere.gallery.where import Where, parse

FORMAT = 1
"""Incremented when an older Cosphere can no longer read the tables."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
"""Names that stand in a statement as they are; PostgreSQL takes 63 bytes."""
_PAGE = 2000
"""Rows that a reader fetches at a time."""


class About(NamedTuple):
    """What the rows of a gallery are."""

    space: Space
    stored: Stored
    """Number format of the vectors."""


class PostgresStore:
    """An open gallery. Made with :meth:`create` and :meth:`open`; every method may be called from several threads.

    Vectors are kept as unit vectors, since a search compares directions.
    """

    def __init__(self, address: str, name: str) -> None:
        self.address, self.name = address, name
        self._guard = threading.RLock()
        self._connection: Any = None
        self._about: About | None = None

    @classmethod
    def create(cls, address: str, name: str, space: Space, *, stored: Stored = "float32") -> Self:
        """Make an empty gallery.

        Args:
            address: of the database, as libpq takes it: ``postgresql://user@host/database``.
            name: of the schema that will hold it.
            space: what its rows are.
            stored: number format of the vectors; "float16" takes half the space.

        Raises:
            SettingsError: the name, the width or the format is out of range.
            RunError: the schema exists, the server cannot be reached, lacks pgvector or refuses.
        """
        check_space(space)
        check_choice("stored", stored, list(TYPES))
        store = cls(address, _checked(name))
        try:
            store._fill(About(space, stored))
        except BaseException:
            store.close()
            raise
        return store

    def _fill(self, about: About) -> None:
        schema = self._quoted()
        with self._transaction() as connection:
            if connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (self.name,)).fetchone():
                raise RunError(
                    f"{shown(self.address)} has a schema {self.name!r} already. Open it, or choose another name."
                )
            for statement in _tables(schema, about.space, about.stored):
                connection.execute(statement)
            content = {"format": FORMAT, "stored": about.stored, "space": asdict(about.space)}
            connection.execute(f"INSERT INTO {schema}.about VALUES (1, %s)", (json.dumps(content),))
        self._about = about

    @classmethod
    def open(cls, address: str, name: str) -> Self:
        """Open a gallery.

        Raises:
            RunError: there is none of this name, it is of a newer format, or the server cannot be reached.
        """
        store = cls(address, _checked(name))
        try:
            store.about()
        except BaseException:
            store.close()
            raise
        return store

    def about(self) -> About:
        """What the rows are."""
        if self._about is None:
            with self.transaction(reading=True) as connection:
                table = connection.execute("SELECT to_regclass(%s)", (f"{self._quoted()}.about",)).fetchone()[0]
                if table is None:
                    raise RunError(f"{shown(self.address)} has no gallery {self.name!r}. Make one, or check the name.")
                (content,) = connection.execute(f"SELECT content FROM {self._quoted()}.about").fetchone()
            if content.get("format") != FORMAT:
                raise RunError(
                    f"gallery {self.name!r} has format {content.get('format')}; this Cosphere reads {FORMAT}. "
                    "Upgrade: pip install -U cosphere."
                )
            self._about = About(Space(**content["space"]), content["stored"])
        return self._about

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Twice does no harm; a later call opens it again."""
        with self._guard:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    @property
    def table(self) -> str:
        """The quoted name of the table of items."""
        return f"{self._quoted()}.item"

    def _quoted(self) -> str:
        return f'"{self.name}"'

    @contextlib.contextmanager
    def transaction(self, *, reading: bool = False) -> Iterator[Any]:
        """A transaction: all that is done inside is committed, or nothing. One that reads sees one committed state.

        Args:
            reading: changes nothing.

        Raises:
            RunError: the server refused, went away, or is out of space.
        """
        with self._transaction() as connection:
            connection.execute(
                f"SET TRANSACTION {'ISOLATION LEVEL REPEATABLE READ, READ ONLY' if reading else 'READ WRITE'}"
            )
            yield connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self._guard, explained(self.address):
            if self._connection is None or self._connection.closed or self._connection.broken:
                self._connection = connect(self.address)
            with self._connection.transaction():
                yield self._connection

    # Reading

    def __len__(self) -> int:
        """Number of items."""
        with self.transaction(reading=True) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {self.table}").fetchone()[0])

    def __contains__(self, id_: object) -> bool:
        """Whether there is an item of this id."""
        if not isinstance(id_, str) or "\0" in id_:
            return False
        with self.transaction(reading=True) as connection:
            return connection.execute(f"SELECT 1 FROM {self.table} WHERE id = %s", (id_,)).fetchone() is not None

    def __iter__(self) -> Iterator[Item]:
        """Every item in the order in which they were added, all of one committed state."""
        for row, id_, columns in self._each("row, id, columns"):
            yield Item(row, id_, columns)

    def vectors(self) -> Iterator[tuple[Item, npt.NDArray[np.float32] | None, npt.NDArray[np.uint8] | None]]:
        """Every item with its unit vector (D,) and its code (ceil(D / 8),), None where the gallery keeps none."""
        for row, id_, columns, vector, code in self._each("row, id, columns, vector, code"):
            yield Item(row, id_, columns), as_floats(vector), as_code(code)

    def _each(self, what: str) -> Iterator[Any]:
        """Rows of a query through a connection of its own, some at a time."""
        connection = connect(self.address)
        try:
            with explained(self.address), connection.transaction(), connection.cursor(name="rows") as cursor:
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

    def numbers_of(self, id_: str) -> tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.uint8] | None]:
        """The unit vector (D,) and the code of one item.

        Raises:
            DataError: there is no such item.
        """
        with self.transaction(reading=True) as connection:
            found = connection.execute(f"SELECT vector, code FROM {self.table} WHERE id = %s", (id_,)).fetchone()
        if found is None:
            raise DataError(f"{shown_ids([id_], 'id')} is not in the gallery. Check its spelling.")
        return as_floats(found[0]), as_code(found[1])

    def thumbnail(self, id_: str) -> bytes | None:
        """The JPEG of an item; None where it has none."""
        with self.transaction(reading=True) as connection:
            found = connection.execute(f"SELECT thumbnail FROM {self.table} WHERE id = %s", (id_,)).fetchone()
        return None if found is None or found[0] is None else bytes(found[0])

    # Writing

    def add(
        self,
        ids: Sequence[Any],
        vectors: npt.NDArray[Any] | None = None,
        codes: npt.NDArray[Any] | None = None,
        *,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        thumbnails: Sequence[bytes | None] | None = None,
        existing: Existing = "refuse",
    ) -> Added:
        """Add items, all or none. When it returns, they are committed.

        Args:
            ids: N texts, each once.
            vectors: (N, D) float, in a gallery that holds floats; any length above 0.
            codes: (N, ceil(D / 8)) uint8, in a gallery that holds codes.
            metadata: N mappings of columns to texts, numbers or truth values.
            thumbnails: N JPEG files, None for an item without one.
            existing: what happens to an id that is there: an error, nothing, or the new item takes its place.

        Raises:
            DataError, SizeError: an id, a row or a value cannot be kept; it is named.
            RunError: as for :meth:`transaction`.
        """
        check_choice("existing", existing, ["refuse", "skip", "replace"])
        space, stored = self.about()
        count = next((len(part) for part in (vectors, codes) if part is not None), len(ids))
        texts = check_ids(ids, count)
        check_texts(texts, "id")
        rows, bits = check_vectors(vectors, space, texts), check_codes(codes, space, texts)
        columns = [check_metadata(one, place) for place, one in enumerate(metadata or [None] * count)]
        for place, one in enumerate(columns):
            check_columns(one, place)
        with self.transaction() as connection:
            # Writers take turns, so that no other one adds the same id in between; readers go on.
            connection.execute(f"LOCK TABLE {self.table} IN SHARE ROW EXCLUSIVE MODE")
            found = connection.execute(f"SELECT id FROM {self.table} WHERE id = ANY(%s)", (texts,))
            there = {id_ for (id_,) in found}
            if there and existing == "refuse":
                raise DataError(
                    f"{shown_ids(sorted(there), 'id')} {agreeing(len(there), 'are')} in the gallery already. "
                    "Use upsert to replace, or leave them out."
                )
            if there and existing == "replace":
                connection.execute(f"DELETE FROM {self.table} WHERE id = ANY(%s)", (list(there),))
            keep = [place for place, one in enumerate(texts) if existing == "replace" or one not in there]
            types = ["text", "jsonb", TYPES[stored], "bit", "bytea"]
            copied = f"COPY {self.table} (id, columns, vector, code, thumbnail) FROM STDIN WITH (FORMAT BINARY)"
            with connection.cursor() as cursor, cursor.copy(copied) as copy:
                copy.set_types(types)
                for place in keep:
                    vector = None if rows is None else as_stored(rows[place], stored)
                    picture = None if thumbnails is None else thumbnails[place]
                    copy.write_row((texts[place], json_of(columns[place]), vector, as_bits(bits, place), picture))
        replaced = len(there) if existing == "replace" else 0
        return Added(len(keep) - replaced, replaced, count - len(keep))

    def delete(self, ids: Sequence[str] | None = None, *, where: Where | None = None) -> tuple[str, ...]:
        """Delete items, all or none; returns their ids.

        PostgreSQL keeps their bytes until a vacuum, in its write-ahead log and in backups: deletion is not proved as in a folder.

        Args:
            ids: their ids, all of which must be there.
            where: a filter, see :mod:`cosphere.gallery.where`; with ``ids``, both must hold.

        Raises:
            DataError: an id is not there, the filter is wrong, or neither is given.
            RunError: as for :meth:`transaction`.
        """
        if ids is None and where is None:
            raise DataError("what should be deleted? Give ids, or a filter of metadata.")
        clause = clause_of(None if where is None else parse(where))
        names = None if ids is None else list(dict.fromkeys([ids] if isinstance(ids, str) else ids))
        with self.transaction() as connection:
            connection.execute(f"LOCK TABLE {self.table} IN SHARE ROW EXCLUSIVE MODE")
            chosen, values = clause.sql, clause.values
            if names is not None:
                there = {
                    id_ for (id_,) in connection.execute(f"SELECT id FROM {self.table} WHERE id = ANY(%s)", (names,))
                }
                missing = [one for one in names if one not in there]
                if missing:
                    raise DataError(
                        f"{shown_ids(missing, 'id')} {agreeing(len(missing), 'are')} not in the gallery. Nothing was deleted."
                    )
                chosen, values = f"id = ANY(%s) AND {clause.sql}", (names, *clause.values)
            gone = connection.execute(f"DELETE FROM {self.table} WHERE {chosen} RETURNING row, id", values).fetchall()
        return tuple(id_ for _, id_ in sorted(gone))

    def compact(self) -> None:
        """Rewrite the table and its indexes without what was deleted or replaced. Others wait until it is done.

        Raises:
            RunError: as for :meth:`transaction`.
        """
        self.about()
        with self._guard, explained(self.address):
            if self._connection is None or self._connection.closed:
                self._connection = connect(self.address)
            self._connection.execute(f"VACUUM (FULL, ANALYZE) {self.table}")

    def drop(self) -> None:
        """Remove the gallery with all that it holds.

        Raises:
            RunError: as for :meth:`transaction`.
        """
        self.about()
        with self.transaction() as connection:
            connection.execute(f"DROP SCHEMA {self._quoted()} CASCADE")
        self._about = None


def _checked(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("pg_"):
        raise SettingsError(
            f"gallery name {name!r} cannot be a schema of PostgreSQL; wanted up to 63 letters, digits, _ and -, beginning with a "
            "letter, and not with pg_."
        )
    return name


def _tables(schema: str, space: Space, stored: Stored) -> list[str]:
    vector, code = f"{TYPES[stored]}({space.dim})", f"bit({8 * space.code_bytes})"
    needs_vector, needs_code = (" NOT NULL" if kept else "" for kept in (space.has_floats, space.has_codes))
    return [
        f"CREATE SCHEMA {schema}",
        f"CREATE TABLE {schema}.about (one int PRIMARY KEY CHECK (one = 1), content jsonb NOT NULL)",
        f'CREATE TABLE {schema}.item (row bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text COLLATE "C" NOT NULL UNIQUE, '
        f"columns jsonb NOT NULL, vector {vector}{needs_vector}, code {code}{needs_code}, thumbnail bytea)",
        f"CREATE INDEX item_columns ON {schema}.item USING gin (columns jsonb_path_ops)",
    ]
