"""Moves of images between class folders. A move never replaces a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cosphere.data.catalogue import EVERYTHING, Catalogue, normal_split
from cosphere.data.folders import SPLIT_FOLDERS
from cosphere.data.names import nfc
from cosphere.data.patches.proposal import REMOVE, Change
from cosphere.errors import DataError, RunError

REMOVED = ".cosphere-removed"
"""Folder inside the images' where removed ones lie; names with a leading point are not read as images."""


class Move(NamedTuple):
    """One image, both paths relative to the folder of all."""

    source: str
    target: str


def moves_of(catalogue: Catalogue, changes: Sequence[Change]) -> list[Move]:
    """Where each image goes.

    Raises:
        DataError: a new label cannot be the name of a folder, the class folder of an image is not known, or a link is in the way:
            an image may not leave the folder of all, nor come into it, because undoing touches nothing outside.
    """
    rows = _rows(catalogue)
    folders = {label: _around(path, label, split)[1] for path, label, split in rows}
    splits = {path: split for path, _, split in rows}
    taken: set[str] = set()
    moves = []
    for change in changes:
        if (catalogue.root / change.path).is_symlink():
            raise DataError(f"{change.path} is a link, which may not lead there from another folder. Move it by hand.")
        if change.action == REMOVE:
            target = f"{REMOVED}/{change.path}"
        else:
            before, _, rest = _around(change.path, change.label, splits[change.path])
            new = folders.get(change.new_label) or _plain_name(change.new_label)
            target = "/".join(part for part in (before, new, rest) if part)
        moves.append(Move(change.path, _free(catalogue.root, target, taken)))
        for path in moves[-1]:
            _check_inside(catalogue.root, path)
    return moves


def _check_inside(root: Path, path: str) -> None:
    place = (root / path).parent.resolve()
    if not place.is_relative_to(root.resolve()):
        raise DataError(
            f"{PurePosixPath(path).parent} leads by a link to {place}, outside of {root}, where a patch changes nothing. "
            "Replace the link by the folder, or move the images by hand."
        )


def move(root: Path, source: str, target: str) -> None:
    """Move a file, unless something is at the target.

    Raises:
        RunError: it cannot be moved.
    """
    place = root / target
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(root / source, place, follow_symlinks=False)
        except FileExistsError:
            raise
        except (OSError, NotImplementedError):  # no hard links on this file system
            if os.path.lexists(place):
                raise FileExistsError(f"{place} exists") from None
            (root / source).rename(place)
        else:
            (root / source).unlink()
    except OSError as error:
        raise RunError(
            f"cannot move {root / source} to {place}: {error.strerror or error}. Undo the patch, mend this, then apply it again."
        ) from error


def folders_to_make(root: Path, moves: Sequence[Move]) -> list[str]:
    """The folders that moves will make, relative to the root, the deepest first."""
    parents = {parent for one in moves for parent in PurePosixPath(one.target).parents if parent.parts}
    return sorted((str(one) for one in parents if not (root / one).exists()), key=lambda one: (-one.count("/"), one))


def remove_made(root: Path, made: Sequence[str]) -> None:
    """Remove those of the folders of :func:`folders_to_make` that are empty again."""
    for one in made:
        folder = root / one
        if not folder.is_symlink() and folder.parent.resolve().is_relative_to(root):
            with contextlib.suppress(OSError):  # not empty, or gone
                folder.rmdir()


def _rows(catalogue: Catalogue) -> list[tuple[str, str, str]]:
    return list(zip(*(catalogue.table[name] for name in ("path", "label", "split")), strict=True))


def _around(path: str, label: str, split: str) -> tuple[str, str, str]:
    """What stands before the class folder in a path, the folder itself as the disk writes it, and what stands after it.

    Raises:
        DataError: no folder of the path has the name of the class.
    """
    parts = PurePosixPath(path).parts
    wide = label.count("/") + 1
    # A class may have the name of a split, as in train/train/1.png.
    in_split = split != EVERYTHING and normal_split(parts[0]) in SPLIT_FOLDERS
    for start in (1,) if in_split else (0, 1):  # split/class/image, or class/image
        own = "/".join(parts[start : start + wide])
        if len(parts) > start + wide and nfc(own) == label:
            return "/".join(parts[:start]), own, "/".join(parts[start + wide :])
    raise DataError(f"{path} does not lie in a folder of its class {label!r}, so it cannot be moved. Move it by hand.")


def _plain_name(label: str) -> str:
    """A new class as the name of a folder."""
    name = label.strip()
    if not name or name.startswith(".") or name != PurePosixPath(name).name or any(c in name for c in '\\\0:*?"<>|'):
        raise DataError(f"the new label {label!r} cannot be the name of a folder. Choose letters, digits and spaces.")
    return name


def _free(root: Path, target: str, taken: set[str]) -> str:
    """The target, numbered where another file has its name."""
    path, number = PurePosixPath(target), 1
    found = path
    while str(found) in taken or os.path.lexists(root / found):
        found = path.with_stem(f"{path.stem}-{number}")
        number += 1
    taken.add(str(found))
    return str(found)
