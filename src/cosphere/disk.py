"""What a file on the disk is, before it is opened: whether reading it would end, and whether it has changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

FileState = tuple[int, int, int]
"""Size, time of change, and time of the last change of name, rights or content, in bytes and nanoseconds."""


def file_state(status: os.stat_result) -> FileState:
    """By what one sees that a file has changed. Programs can set back its time of change, but not that of its state."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_waits(path: Path) -> None:
    """Raise for a pipe or a device that lies among files: reading it would wait for what writes it. ``/dev/stdin`` is meant.

    Raises:
        OSError: it is one, or does not exist.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or path.parts[:2] == ("/", "dev")):
        raise OSError(f"{path.name} is a pipe or a device, no file")
