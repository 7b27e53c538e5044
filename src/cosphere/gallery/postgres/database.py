"""A gallery's place in a PostgreSQL database: a schema of its own, what its rows are, and transactions."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict
from types import TracebackType
from typing import Any, NamedTuple, Self

from cosphere.checks import check_choice, check_whole
from cosphere.errors import RunError, SettingsError
from cosphere.gallery.folder import MOST_THUMBNAIL, checked_space
from cosphere.gallery.interface import Compacted
from cosphere.gallery.postgres.connection import connect, explained, shown
from cosphere.gallery.postgres.conversion import TYPES, Stored
from cosphere.gallery.schema import Space

FORMAT = 1
"""Incremented when an older Cosphere can no longer read the tables."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
"""Names that stand in a statement as they are; PostgreSQL takes 63 bytes."""


class About(NamedTuple):
    """What the rows of a gallery are."""

    space: Space
    stored: Stored
    """Number format of the vectors."""
    thumbnail: int = 0
    """Longer side of thumbnails in pixels; 0 keeps none."""


class GallerySchema:
    """An open gallery. Made with :meth:`create` and :meth:`open`; every method may be called from several threads."""

    def __init__(self, address: str, name: str) -> None:
        self.address, self.name = address, name
        self._guard = threading.RLock()
        self._connection: Any = None
        self._about: About | None = None

    @classmethod
    def create(cls, address: str, name: str, space: Space, *, stored: Stored = "float32", thumbnail: int = 0) -> Self:
        """Make an empty gallery.

        Args:
            address: of the database, as libpq takes it: ``postgresql://user@host/database``.
            name: of the schema that will hold it.
            space: what its rows are.
            stored: number format of the vectors; "float16" takes half the space, and no number beyond 65,504.
            thumbnail: longer side of thumbnails in pixels; 0 keeps none.

        Raises:
            SettingsError: the name, the width, the format or the size is out of range.
            RunError: the schema exists, the server cannot be reached, lacks pgvector or refuses.
        """
        space = checked_space(space)
        check_choice("stored", stored, list(TYPES))
        thumbnail = check_whole("thumbnail", thumbnail, least=0, most=MOST_THUMBNAIL)
        store = cls(address, _checked(name))
        try:
            store._fill(About(space, stored, thumbnail))
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
            content = {"format": FORMAT, **about._asdict(), "space": asdict(about.space)}
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

    @classmethod
    def exists(cls, address: str, name: str) -> bool:
        """Whether there is a gallery of this name.

        Raises:
            SettingsError: the name cannot be one.
            RunError: the server cannot be reached.
        """
        store = cls(address, _checked(name))
        try:
            with store.transaction(reading=True) as connection:
                return store._is_there(connection)
        finally:
            store.close()

    def _is_there(self, connection: Any) -> bool:
        (table,) = connection.execute("SELECT to_regclass(%s)", (f"{self._quoted()}.about",)).fetchone()
        return table is not None

    def about(self) -> About:
        """What the rows are."""
        if self._about is None:
            with self.transaction(reading=True) as connection:
                if not self._is_there(connection):
                    raise RunError(f"{shown(self.address)} has no gallery {self.name!r}. Make one, or check the name.")
                (content,) = connection.execute(f"SELECT content FROM {self._quoted()}.about").fetchone()
            if content.get("format") != FORMAT:
                raise RunError(
                    f"gallery {self.name!r} has format {content.get('format')}; this Cosphere reads {FORMAT}. "
                    "Update your clone of Cosphere, then run: pip install -e ."
                )
            self._about = About(Space(**content["space"]), content["stored"], content["thumbnail"])
        return self._about

    @property
    def place(self) -> str:
        """The gallery and its database, for messages."""
        return f"gallery {self.name!r} in {shown(self.address)}"

    @property
    def thumbnail(self) -> int:
        """Longer side of thumbnails in pixels; 0 keeps none."""
        return self.about().thumbnail

    def space(self) -> Space:
        """What the rows are."""
        return self.about().space

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
        with self.single_statements() as connection, connection.transaction():
            yield connection

    @contextlib.contextmanager
    def single_statements(self) -> Iterator[Any]:
        """A connection outside of any transaction, for statements that may not run in one; each is committed by itself.

        Raises:
            RunError: as for :meth:`transaction`.
        """
        with self._guard:
            if self._connection is None or self._connection.closed or self._connection.broken:
                self._connection = connect(self.address)
            connection = self._connection
            with explained(self.address, connection):
                yield connection

    def take_turn(self, connection: Any) -> None:
        """Let no other process write until the end of the transaction; those that read go on."""
        connection.execute(f"LOCK TABLE {self.table} IN SHARE ROW EXCLUSIVE MODE")

    def sizes(self) -> tuple[int, int]:
        """Bytes of the table with its long values, and of its indexes."""
        query = "SELECT pg_table_size(%s), pg_indexes_size(%s)"
        with self.transaction(reading=True) as connection:
            table, indexes = connection.execute(query, (self.table, self.table)).fetchone()
        return int(table), int(indexes)

    def compact(self) -> Compacted:
        """Rewrite the table and its indexes without what was deleted or replaced. Others wait until it is done.

        Raises:
            RunError: as for :meth:`transaction`.
        """
        self.about()
        before = sum(self.sizes())
        with self.single_statements() as connection:
            connection.execute(f"VACUUM (FULL, ANALYZE) {self.table}")
        return Compacted(before, sum(self.sizes()))

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
