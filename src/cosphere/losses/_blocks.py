"""How many similarities a loss holds at once: the size of every block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cosphere.errors import SettingsError

SIMILARITIES_HELD = {"cpu": 2**20, "cuda": 2**26}
"""Similarities in one block. On a CPU a block should stay in the cache; on a GPU one should fill the device."""
_held: int | None = None


@contextmanager
def similarities_held(count: int) -> Iterator[None]:
    """A block in which pair losses hold at most ``count`` similarities at once, but never less than one row.

    A loss keeps about ten such blocks while it works. Results do not depend on it beyond rounding.

    >>> with similarities_held(2**24):
    ...     pass
    """
    global _held
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise SettingsError(f"want a whole number of similarities >= 1, got {count!r}.")
    before, _held = _held, count
    try:
        yield
    finally:
        _held = before


def held_on(device: torch.device) -> int:
    """Similarities that one block may hold there."""
    return _held or SIMILARITIES_HELD.get(device.type, SIMILARITIES_HELD["cpu"])


def block_length(device: torch.device, width: int, count: int) -> int:
    """How many of ``count`` lines of ``width`` similarities make one block; at least 1, and blocks are about equal."""
    pieces = -(-count // max(1, held_on(device) // max(width, 1)))
    return max(1, -(-count // max(pieces, 1)))
