"""List the images below a folder or in an archive, and find listed files that are missing."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cosphere._types import Flags
from cosphere.errors import DataError
from cosphere.images import IMAGE_SUFFIXES, find_item
from cosphere.images.containers import Container

STRAY_NAMES = {"thumbs.db", "desktop.ini", "__macosx"}
"""Files and folders that operating systems create, in lower case; hidden names and ``._name`` are stray as well."""


@dataclass
class Listing:
    """The images below a folder."""

    images: list[str]
    """Paths relative to the folder, with ``/``, sorted."""
    stray: int = 0
    """Hidden files and folders, ``._name``, ``Thumbs.db`` and ``__MACOSX``."""
    others: Counter[str] = field(default_factory=Counter)
    """Number of other files, by suffix."""

    def notes(self) -> list[str]:
        """Notes about ignored files; empty if there were none."""
        notes = []
        if self.stray:
            notes.append(
                f"{self.stray} hidden or stray files or folders (such as ._name, Thumbs.db, __MACOSX) were left out"
            )
        if self.others:
            kinds = ", ".join(f"{suffix or 'no suffix'} {count}" for suffix, count in self.others.most_common(5))
            what = "file that is no image was" if self.others.total() == 1 else "files that are no images were"
            notes.append(f"{self.others.total()} {what} left out: {kinds}")
        return notes


def is_stray(name: str) -> bool:
    """Whether a file or folder is hidden or created by macOS or Windows rather than by a user.

    >>> [is_stray(name) for name in ("._0001.jpg", "Thumbs.db", "__MACOSX", "0001.jpg")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in STRAY_NAMES


def is_image(name: str) -> bool:
    """Whether the suffix is one of a supported image format."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (called for every file)


def scan(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder.

    Raises:
        DataError: it does not exist, is not a folder or cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        raise DataError(f"{folder} does not exist. Check the path.") from None
    except NotADirectoryError:
        raise DataError(f"{folder} is a file, and a folder was wanted.") from None
    except PermissionError:
        raise DataError(
            f"{folder} may not be read: permission denied. Change its rights, or copy it to where you may."
        ) from None
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}.") from error


def list_images(root: Path) -> Listing:
    """List all images below ``root`` at any depth, following links; each folder is entered once.

    Raises:
        DataError: a folder cannot be read.
    """
    listing = Listing(images=[])
    seen: set[tuple[int, int]] = set()
    waiting = [(root, "")]
    while waiting:
        folder, prefix = waiting.pop()
        for entry in scan(folder):
            if is_stray(entry.name):
                listing.stray += 1
            elif entry.is_dir():
                status = entry.stat()
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    waiting.append((Path(entry.path), f"{prefix}{entry.name}/"))
            elif is_image(entry.name):
                listing.images.append(prefix + entry.name)
            else:
                listing.others[os.path.splitext(entry.name)[1].lower()] += 1  # noqa: PTH122
    listing.images.sort()
    return listing


def list_members(container: Container, path: Path) -> Listing:
    """List all images in a container whose items are file paths, such as a zip archive.

    Raises:
        DataError: the container is damaged.
    """
    listing = Listing(images=[])
    for name in container.items(path):
        if any(is_stray(part) for part in name.split("/")):
            listing.stray += 1
        elif is_image(name):
            listing.images.append(name)
        else:
            listing.others[os.path.splitext(name)[1].lower()] += 1  # noqa: PTH122
    listing.images.sort()
    return listing


def exists(root: Path, paths: Iterable[str]) -> Flags:
    """Whether each path exists. (N,) bool.

    Lists each folder once, because 120 000 single queries take minutes on a network disk.
    """
    whole = [os.path.join(root, path) for path in paths]  # noqa: PTH118
    there = np.zeros(len(whole), dtype=bool)
    by_folder: dict[str, list[int]] = defaultdict(list)
    inside: dict[Path, set[str] | None] = {}
    for row, path in enumerate(whole):
        item = find_item(path) if "#" in path else None
        if item is None:
            by_folder[os.path.dirname(path)].append(row)  # noqa: PTH120
            continue
        if item.file not in inside:
            inside[item.file] = _items(item.container, item.file)
        names = inside[item.file]
        there[row] = names is None or item.name in names
    for folder, rows in by_folder.items():
        try:
            listed = set(os.listdir(folder))  # noqa: PTH208
        except (OSError, ValueError):
            continue
        for row in rows:
            # A case-insensitive file system also finds names that the listing spells differently.
            there[row] = os.path.basename(whole[row]) in listed or os.path.isfile(whole[row])  # noqa: PTH113, PTH119
    return there


def _items(container: Container, path: Path) -> set[str] | None:
    """The items of a container; None if it is damaged, which is then reported for each image when it is read."""
    try:
        return set(container.items(path))
    except DataError:
        return None


def drop_missing(root: Path, paths: list[str], *, share: float, source: str) -> tuple[Flags, list[str]]:
    """Find the listed files that exist, and describe those that do not.

    Args:
        root: folder that relative paths start from.
        paths: N listed paths.
        share: tolerated share of missing files, in [0, 1].
        source: what lists the files, for the error message.

    Returns:
        ((N,) bool, notes).

    Raises:
        DataError: all files are missing, or more than ``share`` of them.
    """
    there = exists(root, paths)
    lost = [paths[row] for row in np.flatnonzero(~there)]
    if not lost:
        return there, []
    first = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
    if len(lost) == len(paths):
        raise DataError(
            f"none of the {len(paths)} files that {source} lists is in {root} (first: {first}). Is root right?"
        )
    if len(lost) > share * len(paths):
        raise DataError(
            f"{len(lost)} of the {len(paths)} files that {source} lists are missing in {root}: {first}. "
            f"At most {share:.1%} may be missing; complete the data, or allow more with max_missing."
        )
    return there, [f"{len(lost)} of {len(paths)} listed files are missing and were left out: {first}"]
