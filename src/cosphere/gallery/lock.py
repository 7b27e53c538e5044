"""One writer of a folder: an operating-system lock that ends with its process, and says who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from cosphere.errors import RunError

try:
    import fcntl
except ImportError:  # Windows has no flock: there, SQLite's own lock keeps writers apart, one transaction at a time
    fcntl = None  # type: ignore[assignment]


class WriterLock:
    """The right to write a folder, held until :meth:`release` or the end of the process.

    Args:
        path: the lock file; made if missing, never removed.
        what: what it protects, for the error.

    Raises:
        RunError: another writer holds it, or the file cannot be made.
    """

    def __init__(self, path: Path, what: Path) -> None:
        try:
            self._handle: int | None = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise RunError(
                f"{what} cannot be written: {error.strerror}. Choose a folder that you may write."
            ) from error
        try:
            if fcntl is not None:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sign(self._handle)
        except OSError as error:
            holder = _holder(self._handle)
            os.close(self._handle)
            self._handle = None
            taken = isinstance(error, BlockingIOError)
            raise RunError(
                f"{what} is being written by {holder}. A gallery has one writer: wait until it ends, or close it."
                if taken
                else f"{what} cannot be written: {error.strerror}. Free some space, or choose another folder."
            ) from error

    def release(self) -> None:
        """Let another writer in; twice does no harm."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, 0)
                if fcntl is not None:
                    fcntl.flock(self._handle, fcntl.LOCK_UN)  # a forked process may have the descriptor too
            self.leave_to_parent()

    def leave_to_parent(self) -> None:
        """Close the descriptor that a forked process inherited; its parent keeps the lock."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _sign(handle: int) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"process": os.getpid(), "host": platform.node(), "since": now})
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, text.encode())


def _holder(handle: int) -> str:
    """Who signed the lock file, in words."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        signed = json.loads(os.read(handle, 4096))
        process, host, since = int(signed["process"]), str(signed["host"])[:100], str(signed["since"])[:40]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
    here = "this process" if process == os.getpid() and host == platform.node() else f"process {process} on {host}"
    return f"{here} since {since}"
