"""A gallery's folder: one SQLite file is the truth, one writer changes it, and readers see committed states.

gallery.sqlite        metadata, vectors, codes and thumbnails
gallery.sqlite-wal    SQLite's write-ahead log, and -shm, its index
writer.lock           held by the one writer, whom it names
index/                files made from the truth, which may be removed at any time
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from cosphere.checks import MOST_DIM, check_choice, check_whole
from cosphere.errors import DamagedError, RunError
from cosphere.files import is_there, path_of
from cosphere.gallery import blocks, handles, indexes
from cosphere.gallery.items import groups
from cosphere.gallery.lock import WriterLock
from cosphere.gallery.schema import (
    HOLDS,
    Space,
    State,
    check_format,
    create_tables,
    is_unfinished,
    read_space,
    read_state,
)
from cosphere.gallery.sqlite import Connection

FILE, LOCK, INDEXES = "gallery.sqlite", "writer.lock", "index"
MOST_THUMBNAIL = 1024
"""Largest thumbnails, pixels of the longer side."""
_LOG_BYTES = 16 * 2**20
"""Size of the write-ahead log after which the writer copies it into the file."""


class GalleryFolder:
    """An open gallery's folder: who may read and write it. Made with :meth:`create` and :meth:`open`.

    The first call that writes takes the writer's lock, and :meth:`close` lets it go. Every method may be called from several threads.
    A forked process reads it with connections of its own, and may write it when its parent has closed it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard = threading.RLock()
        self._lock: WriterLock | None = None
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        handles.remember(self)

    @property
    def file(self) -> Path:
        """The SQLite file."""
        return self.folder / FILE

    @classmethod
    def create(cls, path: str | Path, space: Space, *, thumbnail: int = 0) -> Self:
        """Make an empty gallery.

        Args:
            path: its folder; made if missing. Files of other names in it are left alone.
            space: what its rows are.
            thumbnail: longer side of thumbnails in pixels; 0 keeps none.

        Raises:
            SettingsError: a width, a kind of rows or a size is out of range.
            RunError: there is a gallery already, or the folder cannot be written.
        """
        space = checked_space(space)
        thumbnail = check_whole("thumbnail", thumbnail, least=0, most=MOST_THUMBNAIL)
        store = cls(path_of(path))
        try:
            store.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path} cannot be made: {error.strerror}. Choose another folder.") from error
        store._lock = WriterLock(store.folder / LOCK, store.folder)
        try:
            store._fill(State(thumbnail=thumbnail, name=secrets.token_hex(8)), space)
        except BaseException:
            store.close()
            raise
        return store

    def _fill(self, state: State, space: Space) -> None:
        if is_made(self.file):
            raise RunError(f"{self.folder} is a gallery already. Open it, or choose another folder.")
        self._writer = Connection(self.file, "create")
        with self._writer.transaction():
            create_tables(self._writer, state, space)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a gallery, which may lie on a read-only disk.

        Raises:
            RunError: there is none, or its file is damaged or of a newer format.
        """
        store = cls(path_of(path))
        if not is_there(store.file):
            raise RunError(f"{path} is not a gallery: it has no {FILE}. Make one with `cosphere index add`.")
        store._reader = reading_only(store.file)
        try:
            check_format(store._reader)
            read_state(store._reader)
        except BaseException:
            store.close()
            raise
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let another writer in. Twice does no harm; a later call opens it again."""
        with self._guard:
            try:
                self._close_connections()
            finally:
                if self._lock is not None:
                    self._lock.release()
                    self._lock = None

    def _close_connections(self) -> None:
        try:
            for connection in (self._reader, self._writer):
                if connection is not None:
                    if connection is self._writer:
                        with contextlib.suppress(RunError):  # a full disk: all is committed, in the log
                            connection.checkpoint("PASSIVE")
                    connection.close()
        finally:
            self._reader = self._writer = None

    def close_idle(self) -> None:
        """Close connections that are not in use, because the process forks. The right to write is kept."""
        if self._guard.acquire(blocking=False):
            try:
                if not any(one is not None and one.inside for one in (self._reader, self._writer)):
                    self._close_connections()
            finally:
                self._guard.release()

    def leave_to_parent(self) -> None:
        """Forget, in a forked process, what its parent has open, the right to write included."""
        self._guard = threading.RLock()
        for one in (self._reader, self._writer):
            if one is not None:
                one.close()
        if self._lock is not None:
            self._lock.leave_to_parent()
        self._reader = self._writer = self._lock = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one committed state."""
        with self._guard:
            connection = self._writer
            if connection is None:
                if self._reader is not None and self._reader.outdated:
                    self._reader.close()
                    self._reader = None
                if self._reader is None:
                    self._reader = reading_only(self.file)
                connection = self._reader
            connection.check_place()
            with connection.reading():
                yield connection

    def state(self) -> State:
        """The last committed state."""
        with self.reading() as connection:
            return read_state(connection)

    def space(self) -> Space:
        """What the rows are that are searched."""
        with self.reading() as connection:
            return read_space(connection, read_state(connection).space)

    @contextlib.contextmanager
    def writing(self) -> Iterator[tuple[Connection, State, Space]]:
        """A transaction of the one writer: all that is done inside is committed, durably, or nothing.

        Raises:
            RunError: another process writes, the disk is full, or the folder is read-only.
        """
        with self._guard:
            connection = self._claimed()
            with connection.transaction():
                state = read_state(connection)
                yield connection, state, read_space(connection, state.space)
            self._checkpoint()

    def _claimed(self) -> Connection:
        if self._writer is not None:
            self._writer.check_place()
            return self._writer
        if not is_there(self.file):
            raise RunError(f"{self.folder} is not a gallery: it has no {FILE}. Make one with `cosphere index add`.")
        if self._reader is not None and self._reader.inside:
            raise self._reader.being_read()
        if self._lock is None:
            self._lock = WriterLock(self.folder / LOCK, self.folder)
        connection = None
        try:
            connection = Connection(self.file, "write")
            check_format(connection)
            _finish_switch(connection)
            _remove_flawed(connection, self.folder / INDEXES, copies=True)
        except BaseException:
            if connection is not None:
                connection.close()
            self._lock.release()
            self._lock = None
            raise
        self._writer = connection
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        return connection

    def _checkpoint(self) -> None:
        log = self.file.with_name(f"{FILE}-wal")
        with contextlib.suppress(OSError, RunError):  # committed already: a later checkpoint may have space
            size = log.stat().st_size
            if size > _LOG_BYTES and self._writer is not None:
                self._writer.checkpoint("TRUNCATE" if size > 8 * _LOG_BYTES else "PASSIVE")

    def remove_space(self, number: int) -> None:
        """Remove the rows of a space that is neither searched nor staged, some blocks at a time."""
        with self._guard:
            _remove_space(self._claimed(), number)

    def remove_flawed_indexes(self) -> None:
        """Remove every file of ``index/`` that is not an index of live rows.

        Raises:
            RunError: one cannot be removed.
        """
        with self._guard:
            _remove_flawed(self._claimed(), self.folder / INDEXES, copies=False)

    def vacuum(self) -> None:
        """Rewrite the file without its free pages.

        Raises:
            RunError: the disk is full. While it runs, it needs as many bytes as the file has twice: in the folder of temporary files
                (``SQLITE_TMPDIR``, ``TMPDIR`` or ``/var/tmp``) for a copy, and in the gallery's for the write-ahead log.
        """
        with self._guard:
            connection = self._claimed()
            try:
                connection.run("VACUUM")
            except DamagedError:
                raise
            except RunError as error:
                size = self.file.stat().st_size
                raise RunError(
                    f"{error} Rewriting the file takes up to {size:,} bytes in the folder of temporary files (SQLITE_TMPDIR, TMPDIR "
                    f"or /var/tmp), and as many in {self.folder}."
                ) from error

    def flush(self) -> bool:
        """Copy the write-ahead log into the file and empty it; returns whether no reader was in the way."""
        with self._guard:
            return self._claimed().checkpoint("TRUNCATE")


def checked_space(space: Space) -> Space:
    """The space, its width as a Python number, which JSON takes.

    Raises:
        SettingsError: the width or the kind is out of range.
    """
    check_choice("holds", space.holds, HOLDS)
    return replace(space, dim=check_whole("dim", space.dim, least=1, most=MOST_DIM))


def is_made(file: Path) -> bool:
    """Whether a file is there that is not to be filled: a gallery, or anything else but what an interrupted creation leaves."""
    if not is_there(file) or not file.stat().st_size:
        return False
    try:
        connection = reading_only(file)
    except RunError:  # damaged, or no database: whoever opens it learns that
        return True
    try:
        with connection.reading():
            return not is_unfinished(connection)
    except RunError:
        return True
    finally:
        connection.close()


def may(path: Path, right: int) -> bool:
    """Whether this process has a right, such as ``os.W_OK``, to a file or folder; on a read-only disk nobody may write."""
    return os.access(path, right, effective_ids=os.access in os.supports_effective_ids)


def reading_only(file: Path) -> Connection:
    """A connection that only reads.

    Where the folder may not be written, because of its disk or its rights, SQLite opens a cleanly closed file only if told that
    nobody changes it; such a connection notices when somebody did.
    """
    connection = Connection(file, "read")
    try:
        connection.one("PRAGMA schema_version")
        return connection
    except DamagedError:
        connection.close()
        raise
    except RunError as error:
        connection.close()
        log = file.with_name(f"{file.name}-wal")
        if not may(file, os.R_OK) or may(file.parent, os.W_OK):
            raise
        if log.exists() and log.stat().st_size:
            raise RunError(
                f"{file} cannot be read here: {log.name} holds changes that SQLite must first copy into it. Open the folder once "
                "where it can be written, with `cosphere index info`."
            ) from error
        return Connection(file, "frozen")


def _finish_switch(connection: Connection) -> None:
    """Remove the rows of spaces that a migration left or gave up, which a kill may have interrupted."""
    with connection.transaction():
        state = read_state(connection)
        wanted = {state.space, state.staged}
        old = [number for (number,) in connection.rows("SELECT number FROM space") if number not in wanted]
    for number in old:
        _remove_space(connection, number)


def _remove_flawed(connection: Connection, folder: Path, *, copies: bool) -> None:
    """Remove indexes of rows that are gone, which an older Cosphere left where it was killed; or all files that are no index."""
    with connection.reading():
        flaws = indexes.flaws(folder, connection, read_state(connection))
    for flaw in flaws:
        if flaw.copies or not copies:
            indexes.remove(flaw.path)


def _remove_space(connection: Connection, number: int) -> None:
    """Remove the rows of a space that is neither searched nor staged, some blocks at a time."""
    space = read_space(connection, number)
    for part in groups(sorted(blocks.has_content(connection, number, space)), 64):
        with connection.transaction():
            blocks.drop_space(connection, number, part)
    with connection.transaction():
        connection.run("DELETE FROM space WHERE number = ?", (number,))
