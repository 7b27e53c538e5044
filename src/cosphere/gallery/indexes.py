"""Index files of a gallery: copies of its rows, so none of a deleted item may be in them when the deletion is acknowledged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosphere.errors import RunError
from cosphere.files import read_arrays, sync_folder
from cosphere.gallery import blocks
from cosphere.gallery.blocks import Numbers
from cosphere.gallery.schema import State, plain_object
from cosphere.gallery.sqlite import Connection

NUMBERS, ABOUT = "gallery_rows", "gallery_about"
"""Arrays of an index file: (n,) ascending row numbers of the gallery, and a JSON object with ``gallery`` and ``space``."""


class Flaw(NamedTuple):
    """A file that should not lie beside the indexes."""

    path: Path
    what: str
    copies: bool
    """Whether it holds rows that were deleted or replaced."""


def files_of(folder: Path) -> Iterator[Path]:
    """Every regular file of a folder, at any depth; links are not followed."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (path for name in sorted(names) if (path := Path(root, name)).is_file() and not path.is_symlink())


def about_of(content: Any) -> dict[str, Any]:
    """What an index file says about itself; empty where it is something else."""
    return plain_object(str(content)) or {}


def flaws(folder: Path, connection: Connection, state: State) -> list[Flaw]:
    """The files of ``index/`` that are not indexes of live rows of this gallery.

    Args:
        folder: the gallery's ``index/``, which may be missing.
        connection: inside a transaction.
        state: of that transaction.
    """
    found, live = [], None
    for path in files_of(folder):
        try:
            arrays = read_arrays(path, what="an index of a gallery", only=(NUMBERS, ABOUT))
        except RunError:
            arrays = {}
        numbers, about = arrays.get(NUMBERS), about_of(arrays.get(ABOUT))
        if numbers is None or numbers.dtype.kind != "i" or about.get("gallery") != state.name:
            found.append(Flaw(path, "file that is not an index of this gallery", copies=False))
        elif about.get("space") != state.space:
            found.append(Flaw(path, "index of rows that a migration replaced", copies=True))
        else:
            live = _live(connection) if live is None else live
            if not np.isin(numbers, live).all():
                found.append(Flaw(path, "index with rows of deleted items", copies=True))
    return found


def _live(connection: Connection) -> Numbers:
    return np.concatenate([alive for _, _, alive in blocks.alive_since(connection, -1)])


def remove(path: Path) -> None:
    """Remove an index file, or the whole folder of them, durably. Twice does no harm.

    Raises:
        RunError: something cannot be removed.
    """
    try:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
        else:
            return
        sync_folder(path.parent)
    except OSError as error:
        raise RunError(
            f"{error.filename or path} cannot be removed: {error.strerror}. It may hold copies of rows, so nothing was deleted. Remove "
            "it, or change its rights, and try again."
        ) from error
