"""What lies on the disk: images below a folder, what was passed over, and which listed files are missing."""

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
"""Files and folders that systems leave behind, in lower case; hidden names and ``._name`` are stray as well."""


@dataclass
class Listing:
    """The images below a folder."""

    images: list[str]
    """Paths relative to the folder, with ``/``, sorted."""
    stray: int = 0
    """Hidden files and folders, ``._name``, ``Thumbs.db`` and ``__MACOSX``."""
    others: Counter[str] = field(default_factory=Counter)
    """Files that are no images, by suffix."""

    def notes(self) -> list[str]:
        """What was passed over, as sentences; none when nothing was."""
        found = []
        if self.stray:
            found.append(
                f"{self.stray} hidden or stray files or folders (such as ._name, Thumbs.db, __MACOSX) were left out"
            )
        if self.others:
            kinds = ", ".join(f"{suffix or 'no suffix'} {count}" for suffix, count in self.others.most_common(5))
            what = "file that is no image was" if self.others.total() == 1 else "files that are no images were"
            found.append(f"{self.others.total()} {what} left out: {kinds}")
        return found


def is_stray(name: str) -> bool:
    """Whether a name is hidden, or one that macOS or Windows leaves behind.

    >>> [is_stray(name) for name in ("._0001.jpg", "Thumbs.db", "__MACOSX", "0001.jpg")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in STRAY_NAMES


def is_image(name: str) -> bool:
    """Whether the suffix is one that Cosphere decodes."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (called for every file)


def scan(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder.

    Raises:
        DataError: it does not exist, is no folder or may not be read.
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
    """All images below ``root`` at any depth. Links to folders are followed; a link back to a parent is entered once.

    Raises:
        DataError: a folder cannot be read.
    """
    found = Listing(images=[])
    seen: set[tuple[int, int]] = set()
    waiting = [(root, "")]
    while waiting:
        folder, prefix = waiting.pop()
        for entry in scan(folder):
            if is_stray(entry.name):
                found.stray += 1
            elif entry.is_dir():
                status = entry.stat()
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    waiting.append((Path(entry.path), f"{prefix}{entry.name}/"))
            elif is_image(entry.name):
                found.images.append(prefix + entry.name)
            else:
                found.others[os.path.splitext(entry.name)[1].lower()] += 1  # noqa: PTH122
    found.images.sort()
    return found


def list_members(container: Container, path: Path) -> Listing:
    """All images inside a container whose items are file paths, such as a zip archive; sorted.

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
    """For each path, whether its file is there. (N,) bool.

    Each folder is listed once: asking for 120 000 files one by one takes minutes on a network disk.
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
            # A disk that ignores capitals finds files that the listing spells differently.
            there[row] = os.path.basename(whole[row]) in listed or os.path.isfile(whole[row])  # noqa: PTH113, PTH119
    return there


def _items(container: Container, path: Path) -> set[str] | None:
    """What a container holds; None where it is damaged, which reading each item then reports."""
    try:
        return set(container.items(path))
    except DataError:
        return None


def drop_missing(root: Path, paths: list[str], *, share: float, source: str) -> tuple[Flags, list[str]]:
    """Which of the listed files are there, and a note about those that are not.

    Args:
        root: where relative paths start.
        paths: N listed paths.
        share: in [0, 1]; more than this share of the files missing is an error.
        source: what lists the files, for the error.

    Returns:
        ((N,) bool, notes).

    Raises:
        DataError: all are missing, or more than ``share``.
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
