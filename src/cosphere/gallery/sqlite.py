"""One connection to a SQLite file, through Python's own ``sqlite3`` or through ``apsw``, with errors that say what to do."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from cosphere.checks import check_choice
from cosphere.disk import file_state
from cosphere.errors import DamagedError, MissingExtraError, RunError
from cosphere.gallery import handles

SAFE_VERSION = (3, 51, 3)
"""The first SQLite without the WAL-reset bug: before it, two connections racing a checkpoint can lose committed pages."""
DRIVER_VARIABLE = "COSPHERE_SQLITE"
"""Environment variable: ``sqlite3`` (the version that Python links, the default) or ``apsw`` (its own, usually newer)."""
PAGE_BYTES = 8192
BUSY_MILLISECONDS = 2000
"""How long a connection waits for another one's lock, and a checkpoint for readers."""

_READ, _WRITE = "BEGIN", "BEGIN IMMEDIATE"
Mode = Literal["create", "write", "read", "frozen"]
Row = tuple[Any, ...]


def driver_name() -> str:
    """``sqlite3`` or ``apsw``, as :data:`DRIVER_VARIABLE` says.

    Raises:
        SettingsError: it names another one.
    """
    return check_choice(DRIVER_VARIABLE, os.environ.get(DRIVER_VARIABLE) or "sqlite3", ["sqlite3", "apsw"])


def library_version() -> tuple[int, ...]:
    """The version of the SQLite library that connections use."""
    text = sqlite3.sqlite_version if driver_name() == "sqlite3" else _apsw().sqlite_lib_version()
    return tuple(int(part) for part in text.split("."))


def version_warning() -> str | None:
    """What to know about an old SQLite library; None for a current one."""
    version = library_version()
    if version >= SAFE_VERSION:
        return None
    return (
        f"SQLite {_dotted(version)} is older than {_dotted(SAFE_VERSION)} and can lose committed pages when two connections "
        "checkpoint at once. A gallery has one writer, which alone checkpoints, so this cannot happen through Cosphere; open the "
        f"file with no other program. For a newer library: pip install 'cosphere[apsw]' and set {DRIVER_VARIABLE}=apsw."
    )


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _apsw() -> Any:
    try:
        import apsw
    except ImportError:
        raise MissingExtraError("apsw", "apsw") from None
    return apsw


class Connection:
    """An open SQLite file. Statements commit by themselves outside :meth:`transaction`.

    Args:
        path: the file.
        mode: ``create`` makes it, ``write`` and ``read`` want it to be there, ``frozen`` reads a file that nobody writes, such as
            one on a read-only disk.

    Raises:
        RunError: the file cannot be opened.
    """

    def __init__(self, path: Path, mode: Mode) -> None:
        self.path, self.mode = path, mode
        self._open: Any = None
        self._begun = ""
        self._stamp = _stamp(path)
        self._process = os.getpid()
        with self.explained():
            self._open, self._file = handles.connect(path, driver_name(), lambda: _opened(path, mode))
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        with self.explained():
            self.run(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
            self.run("PRAGMA trusted_schema = OFF")  # the file may be a stranger's
            self.run("PRAGMA cell_size_check = ON")
            if self.mode == "create":
                self.run(f"PRAGMA page_size = {PAGE_BYTES}")
                self.run("PRAGMA journal_mode = WAL")
            if self.mode in ("create", "write"):
                self._prepare_writing()
            else:
                self.run("PRAGMA query_only = ON")

    def _prepare_writing(self) -> None:
        self.run("PRAGMA synchronous = FULL")
        self.run("PRAGMA secure_delete = ON")
        self.run("PRAGMA wal_autocheckpoint = 0")  # the store says when
        self.run("PRAGMA journal_size_limit = 0")

    def run(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Execute one statement."""
        with self.explained():
            self._open.execute(sql, values).fetchall()

    def run_many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        """Execute one statement for each set of values."""
        with self.explained():
            cursor = self._open.cursor()
            cursor.executemany(sql, values)

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query."""
        with self.explained():
            found: list[Row] = self._open.execute(sql, values).fetchall()
            return found

    def one(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        """The first row of a query; None without one."""
        found = self.rows(sql, values)
        return found[0] if found else None

    def each(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        """The rows of a query, one after the other."""
        with self.explained():
            yield from self._open.execute(sql, values)

    def overwrite(self, table: str, key: int, offsets: Iterable[int], content: bytes) -> None:
        """Write the same bytes at several places of the blob ``content`` of one row; its other pages are not touched.

        Args:
            table: of ours, never a name from outside.
            key: the row.
            offsets: bytes from the start of the blob.
            content: what to write at each.
        """
        with self.explained():
            if driver_name() == "apsw":
                blob = self._open.blob_open("main", table, "content", key, True)
            else:
                blob = self._open.blobopen(table, "content", key)
            try:
                for offset in offsets:
                    blob.seek(offset)
                    blob.write(content)
            finally:
                blob.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Write everything inside, or nothing; the end is durable on disk.

        Raises:
            RunError: inside :meth:`reading`, where the end would not commit.
        """
        if self._begun == _READ:
            raise self.being_read()
        with self._between(_WRITE):
            yield

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """One committed state for every query inside, whatever a writer does meanwhile.

        Raises:
            RunError: the file of a ``frozen`` connection was written meanwhile, so what was read may be of two states.
        """
        try:
            with self._between(_READ):
                yield
        except DamagedError as error:
            if self.outdated:
                raise self._changed() from error
            raise
        if self.outdated:
            raise self._changed()

    def check_place(self) -> None:
        """Raise unless the file still lies where it was opened; elsewhere, what is written would go where nobody looks.

        Raises:
            RunError: it was moved, removed, or replaced by another one.
        """
        if handles.identity(self.path) != self._file:
            raise RunError(
                f"{self.path} was moved, removed or replaced while it was open. Open it again, where it is now."
            )

    @property
    def inside(self) -> bool:
        """Whether a transaction is under way."""
        return bool(self._begun)

    def being_read(self) -> RunError:
        """The error for writing in the middle of reading."""
        return RunError(
            f"{self.path} is being read by the call that would write it. Write after the reading has ended."
        )

    def _changed(self) -> RunError:
        return RunError(
            f"{self.path} was changed by another process while it was read from a folder that may not be written. Try again."
        )

    @property
    def outdated(self) -> bool:
        """Whether the file of a ``frozen`` connection, which takes no locks, was written since it was opened."""
        return self.mode == "frozen" and _stamp(self.path) != self._stamp

    @contextlib.contextmanager
    def _between(self, begin: str) -> Iterator[None]:
        if self._begun:
            yield
            return
        self.run(begin)
        self._begun = begin
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            with contextlib.suppress(RunError):  # SQLite has rolled back by itself after a full disk
                self.run("ROLLBACK")
            raise
        finally:
            self._begun = ""

    def checkpoint(self, kind: Literal["PASSIVE", "TRUNCATE"]) -> bool:
        """Copy the write-ahead log into the file. Only the one writer may.

        Args:
            kind: ``PASSIVE`` copies what no reader is in the way of; ``TRUNCATE`` waits, copies all and empties the log.

        Returns:
            whether all was copied; inside a transaction, nothing is.
        """
        if self._begun:
            return False
        found = self.one(f"PRAGMA wal_checkpoint({kind})")
        return found is not None and found[0] == 0 and found[1] == found[2]

    def close(self) -> None:
        """Close it; twice does no harm. A connection of the process that forked this one is left to it."""
        if self._open is None:
            return
        if os.getpid() != self._process:
            handles.park(self._open)
        else:
            with self.explained():
                self._open.close()
            handles.disconnected(self._file)
        self._open = None

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the errors of the library into a RunError with advice.

        Raises:
            RunError: also where another process opened the connection, and forked this one.
        """
        if os.getpid() != self._process:
            raise handles.forked(self.path)
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where its words quote damaged bytes
            raise explanation(self.path, error) from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "apsw" and "apsw" not in type(error).__module__:
                raise
            raise explanation(self.path, error) from error


def _stamp(path: Path) -> tuple[tuple[int, ...] | None, ...]:
    """What tells whether a file or its write-ahead log was written."""
    stamps: list[tuple[int, ...] | None] = []
    for one in (path, path.with_name(f"{path.name}-wal")):
        try:
            known = one.stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((known.st_ino, *file_state(known)))
    return tuple(stamps)


def _opened(path: Path, mode: Mode) -> Any:
    options = {"create": "mode=rwc", "write": "mode=rw", "read": "mode=ro", "frozen": "mode=ro&immutable=1"}[mode]
    address = f"file:{quote(os.fsencode(path.absolute()))}?{options}"
    if driver_name() == "apsw":
        apsw = _apsw()
        kind = {"create": apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_READWRITE, "write": apsw.SQLITE_OPEN_READWRITE}
        return apsw.Connection(address, flags=kind.get(mode, apsw.SQLITE_OPEN_READONLY) | apsw.SQLITE_OPEN_URI)
    return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)


_DAMAGE = (
    "malformed",
    "not a database",
    "corrupt",
    "short read",
    "no such table",
    "no such column",
    "unsupported file format",
    "could not decode to utf-8",
)
"""What SQLite says of bytes that it did not write, in lower case."""


def explanation(path: Path, error: Exception) -> RunError:
    """A sentence for an error of SQLite: what happened to the file, and what to do."""
    text = "its schema is not text" if isinstance(error, UnicodeDecodeError) else str(error)
    lower = text.lower()
    if isinstance(error, UnicodeDecodeError) or any(words in lower for words in _DAMAGE):
        return DamagedError(f"{path} is damaged: {text}. Restore the folder from a copy; nothing of it was changed.")
    if "full" in lower or "too big" in lower:
        return RunError(f"{path} cannot be written: no space left. Free some space; what was committed is intact.")
    if "readonly" in lower or "read-only" in lower:
        return RunError(f"{path} cannot be written: its folder or disk is read-only. Copy the folder to another place.")
    if "locked" in lower or "busy" in lower:
        return RunError(f"{path} is in use by another program: {text}. Close it and try again.")
    if "disk i/o error" in lower:
        return RunError(f"{path} cannot be read or written: {text}: the disk is full or failing, or the file is cut.")
    return RunError(f"{path} cannot be used: {text}. Check the folder and its rights.")
