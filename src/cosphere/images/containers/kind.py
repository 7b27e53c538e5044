"""What a container kind is: a file format that holds many images, each with a name inside the file."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from cosphere.errors import DataError

Content = bytes | NDArray[np.uint8]
"""An encoded image file, or decoded pixels (H, W, 3) uint8 RGB."""

MAX_ITEM_BYTES = 256 * 2**20
"""Largest item that is read, in bytes after decompression, so that a zip bomb cannot fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """One kind of container.

    All three functions raise :class:`~cosphere.errors.DataError` for a damaged file and
    :class:`~cosphere.errors.MissingExtraError` where an optional package is missing.

    Attributes:
        name: the kind in words, for messages: ``"zip archive"``.
        pattern: matches the whole name of a file of this kind. The name alone decides, so that a damaged container is
            reported as damaged rather than ignored.
        items: the names of all images inside, in the container's order.
        read: one image by name: an encoded image file or decoded pixels.
        labels: the class of each of ``items``, in the same order; None where the format has no labels.
        has_paths: whether item names are file paths, so that folders inside the container can be classes.
    """

    name: str
    pattern: re.Pattern[str]
    items: Callable[[Path], list[str]]
    read: Callable[[Path, str], Content]
    labels: Callable[[Path], list[str]] | None = None
    has_paths: bool = False


def item_number(name: str) -> int:
    """The number that an item's name is; -1 for any other name, and for one of more than 18 digits, which no container holds.

    A number with zeros before it is none: an image has one name.

    >>> item_number("17"), item_number("017"), item_number("seven"), item_number("9" * 5000)
    (17, -1, -1, -1)
    """
    plain = name.isascii() and name.isdigit() and len(name) < 19 and (name == "0" or name[0] != "0")
    return int(name) if plain else -1


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file that the disk does not give."""
    return DataError(f"{path} cannot be read: {error.strerror or error}. Check the path, the permissions and the disk.")


class ForkSafeLock:
    """A lock that is free in a forked process: the thread that held it stayed in the parent and would never release it."""

    def __init__(self) -> None:
        self._forget()
        if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
