"""The memory of this process: reuse that of one training step in the next, and measure the peak of one run."""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from pathlib import Path

from cosphere.models.quick import expect_kept_memory

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Stop the C library from returning freed memory to the system between steps.

    A step frees hundreds of megabytes of activations that the next one asks for again. Returning it and fetching
    it again, page by page, took a quarter of a step's time on two cores. The process keeps its peak memory until it ends; the
    peak itself is the same.

    Returns:
        whether it took effect; False without glibc, where nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    kept = bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _LARGEST))
    if kept:
        expect_kept_memory()
    return kept


def forget_peak() -> bool:
    """Start a new measurement of :func:`peak_memory`: what was freed goes back to the system, and the peak so far is forgotten.

    The peak of a process only grows otherwise, so that in a process of several runs each would show the largest before it.

    Returns:
        whether it took effect; False outside Linux, or where the process may not write its own `/proc`.
    """
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def peak_memory() -> int | None:
    """Largest resident memory of this process in bytes, since :func:`forget_peak` where that took effect; None where it is not known."""
    with contextlib.suppress(OSError):
        line = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
        if line is not None:
            return 1024 * int(line.group(1))
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
