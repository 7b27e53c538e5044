"""Which galleries this process has open, so that no lock of SQLite is lost when bytes are read or the process forks.

SQLite locks a file and its ``-shm`` with POSIX locks. The system drops those of a whole process when it closes *any* descriptor of the
file (https://www.sqlite.org/howtocorrupt.html, section 2.2); another program then takes itself for the last user, and removes the
write-ahead log with what was committed. So :func:`reading` keeps its descriptors until the last connection is closed.

A forked process has the connections of its parent without their locks, and SQLite would lend these to new connections. So idle
connections are closed before a fork, and opened again when they are needed. Where one was in use, the child may not open that file.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cosphere.errors import RunError

Identity = tuple[int, int]
"""Device and inode: what tells one file from another, whatever its names."""
ReadAt = Callable[[int, int], bytes]
"""Reads up to so many bytes from an offset; fewer at the end of the file."""
_BESIDE = ("-wal", "-shm", "-journal")


class _Forks(Protocol):
    """What has connections open."""

    def close_idle(self) -> None:
        """Close what is not in use: the process forks."""

    def leave_to_parent(self) -> None:
        """Forget, in the child, what the parent has open."""


@dataclass(eq=False)
class _Uses:
    """Who uses a file in this process."""

    connections: int = 0
    reads: int = 0
    driver: str = ""
    inherited: bool = False
    """Whether a connection was in use when the process was forked."""
    kept: list[tuple[Identity, int]] = field(default_factory=list)
    """Descriptors of the file, its log and its index."""


_guard = threading.RLock()  # the collector of garbage may close a gallery anywhere
_uses: dict[Identity, _Uses] = {}
_forks: weakref.WeakSet[_Forks] = weakref.WeakSet()
_parked: list[Any] = []
"""Connections of the parent: closing one here would undo what it has not committed."""


def identity(path: Path) -> Identity | None:
    """What tells a file from others; None where there is none."""
    try:
        return _identity_of(path.stat())
    except OSError:
        return None


def _identity_of(known: os.stat_result) -> Identity:
    return known.st_dev, known.st_ino


def connect(path: Path, driver: str, connected: Callable[[], Any]) -> tuple[Any, Identity | None]:
    """Open a connection, and count it until :func:`disconnected`.

    Args:
        path: the file.
        driver: the SQLite library: two of them in one process do not know each other's locks.
        connected: opens it.

    Raises:
        RunError: the file is open through another library, or was in use when this process was forked.
    """
    with _guard:
        key = identity(path)
        uses = None if key is None else _uses.get(key)
        if uses is not None and uses.inherited:
            raise forked(path)
        if uses is not None and uses.connections and uses.driver != driver:
            raise RunError(
                f"{path} is open here through {uses.driver}, so {driver} cannot open it too. Close it first."
            )
        connection = connected()
        key = identity(path)
        if key is not None:
            uses = _uses.setdefault(key, _Uses())
            uses.connections, uses.driver = uses.connections + 1, driver
        return connection, key


def disconnected(key: Identity | None) -> None:
    """A connection of :func:`connect` was closed."""
    with _guard:
        if key is not None and key in _uses:
            _uses[key].connections -= 1
            _close_unused(key)


def forked(path: Path) -> RunError:
    """The error for a file that was in use when the process was forked."""
    return RunError(
        f"{path} was in use when this process was forked, so it cannot be used here: SQLite would not lock it. Start processes by "
        "spawn, or when no search, iteration or write is under way."
    )


def park(connection: Any) -> None:
    """Keep a parent's connection open in the child."""
    _parked.append(connection)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[ReadAt]:
    """Read the bytes of a file that may be a gallery's, its log or its index.

    Raises:
        OSError: it cannot be opened or read.
    """
    main = next((path.with_name(path.name.removesuffix(end)) for end in _BESIDE if path.name.endswith(end)), path)
    with _guard:
        key = identity(main) or _identity_of(path.stat())
        uses = _uses.setdefault(key, _Uses())
        uses.reads += 1
    try:
        with _guard:
            handle = _kept(path, uses)
        yield lambda size, offset: _read_at(handle, size, offset)
    finally:
        with _guard:
            uses.reads -= 1
            _close_unused(key)


def _kept(path: Path, uses: _Uses) -> int:
    """A descriptor of a file, which stays open as long as the file is used."""
    own = identity(path)
    for one, handle in uses.kept:
        if one == own:
            return handle
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    uses.kept.append((_identity_of(os.fstat(handle)), handle))
    return handle


def _read_at(handle: int, size: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, size, offset)
    with _guard:  # Windows
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, size)


def _close_unused(key: Identity) -> None:
    uses = _uses[key]
    if not uses.connections and not uses.reads:
        del _uses[key]
        for _, handle in uses.kept:
            os.close(handle)


def remember(one: _Forks) -> None:
    """Call ``close_idle`` and ``leave_to_parent`` of an object when the process forks."""
    with _guard:
        _forks.add(one)


def _before_fork() -> None:
    try:
        with _guard:
            every = list(_forks)
        for one in every:
            with contextlib.suppress(RunError):
                one.close_idle()
    finally:
        _guard.acquire()


def _after_fork_in_child() -> None:
    for uses in _uses.values():
        uses.inherited = uses.connections > 0
    every = list(_forks)
    _guard.release()
    for one in every:
        one.leave_to_parent()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_before_fork, after_in_parent=_guard.release, after_in_child=_after_fork_in_child)
