"""List the images below a folder or in an archive, and find listed files that are missing."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from cosphere._types import Flags
from cosphere.disk import file_state
from cosphere.errors import DataError, agreeing, counted
from cosphere.files import is_address, is_utf8, printable
from cosphere.images import IMAGE_SUFFIXES, find_item
from cosphere.images.containers import Container
from cosphere.images.marks import is_left_by_search

STRAY_NAMES = {
    *("thumbs.db", "desktop.ini", "__macosx", "lost+found", "system volume information", "$recycle.bin", "recycler"),
    *("@eadir", "@recycle", "#recycle", "#snapshot", "@tmp", "@__thumb", "@recently-snapshot", "@transcode"),
    *("recycled", "lost.dir", "network trash folder", "temporary items", "icon\r"),
    *("~snapshot", "@synoresource", "_gsdata_"),
}
"""Files and folders that operating systems create, in lower case; hidden names, ``._name`` and :data:`_RESCUED` are stray as well."""
_RESCUED = re.compile(r"found\.\d{3}")
"""Folders in which Windows' chkdsk puts what it rescues, counted from ``found.000``."""


MAX_LINKS = 3
"""Links to folders that are followed inside each other. A folder that lies below more links is listed once, so that folders that all link
to each other come to an end."""


@dataclass
class Listing:
    """The images below a folder."""

    images: list[str]
    """Paths relative to the folder, with ``/``, sorted."""
    stray: int = 0
    """Hidden files and folders, ``._name``, ``Thumbs.db`` and ``__MACOSX``."""
    others: Counter[str] = field(default_factory=Counter)
    """Number of other files, by suffix."""
    loops: int = 0
    """Links to folders that were not followed because they lead to a folder around them."""
    deep: int = 0
    """Links to folders that were not followed because they lie below :data:`MAX_LINKS` other links that led to the same folder."""
    answers: int = 0
    """Pictures of a search."""

    def notes(self) -> list[str]:
        """Notes about ignored files; empty if there were none."""
        notes = []
        if self.answers:
            lies = f"{counted(self.answers, 'picture')} of a search {agreeing(self.answers, 'lie')}"
            notes.append(f"{lies} among the images and {agreeing(self.answers, 'were')} left out")
        if self.stray:
            notes.append(
                f"{self.stray:,} hidden or stray {'file or folder' if self.stray == 1 else 'files or folders'} (such as ._name, "
                f"Thumbs.db, __MACOSX) {agreeing(self.stray, 'were')} left out"
            )
        if self.loops:
            them = "it" if self.loops == 1 else "them"
            lead = f"{counted(self.loops, 'link')} that {agreeing(self.loops, 'lead')} back to a folder around {them}"
            notes.append(f"{lead} {agreeing(self.loops, 'were')} not followed")
        if self.deep:
            lie = "it lies" if self.deep == 1 else "they lie"
            notes.append(
                f"{counted(self.deep, 'link')} {agreeing(self.deep, 'were')} not followed, because {lie} below {MAX_LINKS} other links "
                "that led to the same folder; give that folder itself"
            )
        if self.others:
            kinds = ", ".join(f"{suffix or 'no suffix'} {count}" for suffix, count in self.others.most_common(5))
            what = "file that is not an image was" if self.others.total() == 1 else "files that are not images were"
            notes.append(f"{self.others.total()} {what} left out: {kinds}")
        return notes


def is_stray(name: str) -> bool:
    """Whether a file or folder is hidden or created by a system rather than by a user.

    >>> [is_stray(name) for name in ("._0001.jpg", "Thumbs.db", "__MACOSX ", "0001.jpg")]
    [True, True, True, False]
    """
    # Windows drops spaces and dots at the end of a name.
    plain = name.strip(" ").rstrip(" .").lower()
    return name.startswith(".") or plain in STRAY_NAMES or _RESCUED.fullmatch(plain) is not None


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
    except (OSError, ValueError) as error:  # a ValueError for a name with a zero byte
        raise DataError(f"{folder} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


class _Folder(NamedTuple):
    """A folder to be listed."""

    path: Path
    prefix: str
    """The path from the root, with a slash at its end."""
    around: tuple[tuple[int, int], ...]
    """Device and inode of this folder and of those around it."""
    links: int
    """How many links lead here."""


def list_images(root: Path) -> Listing:
    """List all images below ``root`` at any depth, following links.

    A link is not followed when it leads to a folder around it. Two links to one folder are two folders, as for every other
    program; below :data:`MAX_LINKS` other links they are one.

    Raises:
        DataError: a folder cannot be read, or a name is not UTF-8.
    """
    listing = Listing(images=[])
    odd: list[str] = []
    for path, entry, kind in walk(root):
        if kind == "stray":
            listing.stray += 1
        elif kind == "loop":
            listing.loops += 1
        elif kind == "deep":
            listing.deep += 1
        elif is_left_by_search(entry.name, entry.path):
            listing.answers += 1
        elif is_image(entry.name):
            listing.images.append(path)
            if not is_utf8(path):
                odd.append(path)
        else:
            listing.others[printable(os.path.splitext(entry.name)[1].lower())] += 1  # noqa: PTH122
    if odd:
        raise DataError(
            f"the names of {counted(len(odd), 'image')} in {printable(root)} are not UTF-8, first {printable(min(odd))}. "
            "Rename them, for example with: convmv -f latin1 -t utf8 -r --notest FOLDER"
        )
    listing.images.sort()
    return listing


class Entry(NamedTuple):
    """One entry of a folder tree."""

    path: str
    """Relative to the root, with ``/``."""
    entry: os.DirEntry[str]
    kind: Literal["file", "stray", "loop", "deep"]
    """``stray``: see :func:`is_stray`, not looked into; ``loop`` and ``deep``: links to folders that are not followed."""


def walk(root: Path) -> Iterator[Entry]:
    """The files below ``root`` at any depth, and the entries that are passed over. Follows links as :func:`list_images` says.

    Raises:
        DataError: a folder cannot be read.
    """
    try:
        around: tuple[tuple[int, int], ...] = (_place(root.stat()),)
    except (OSError, ValueError):
        around = ()  # scan() says what is wrong
    waiting = [_Folder(root, "", around, 0)]
    below: set[tuple[int, int]] = set()
    while waiting:
        folder = waiting.pop()
        for entry in scan(folder.path):
            path = folder.prefix + entry.name
            if is_stray(entry.name):
                yield Entry(path, entry, "stray")
            elif is_folder(entry):
                place, links = _place(entry.stat()), folder.links + entry.is_symlink()
                if place in folder.around:
                    yield Entry(path, entry, "loop")
                elif links > MAX_LINKS and place in below:
                    yield Entry(path, entry, "deep")
                else:
                    below |= {place} if links > MAX_LINKS else set()
                    waiting.append(_Folder(Path(entry.path), f"{path}/", (*folder.around, place), links))
            else:
                yield Entry(path, entry, "file")


def _place(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; False for a link to itself, which the system cannot follow."""
    try:
        return entry.is_dir()
    except OSError:
        return False


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


def file_keys(paths: Iterable[str], *, by: Literal["links", "path", "inode"] = "links") -> list[str]:
    """A key for each file: its real path, and for a file with several hard links its device and inode.

    A file has one key under names that differ in capitals or Unicode form where the disk takes them for one, and in two places where one
    folder is mounted: that of the first. Items of a container have the key of the container and their name. A missing file keeps its
    absolute path.

    Args:
        paths: of files or items.
        by: ``path`` takes the real path whatever its links, ``inode`` device and inode where the system has them.
    """
    folders: dict[str, str] = {}
    files: dict[str, str] = {}
    first: dict[tuple[int, ...], str] = {}

    def key(path: str) -> str:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.join(folders[folder], name)  # noqa: PTH118
        try:
            status = os.lstat(real)
            if stat.S_ISLNK(status.st_mode):
                real = os.path.realpath(real)
                status = os.stat(real)  # noqa: PTH116
        except (OSError, ValueError):
            return real
        if by == "path" or not status.st_ino:
            return real
        if by == "inode" or status.st_nlink > 1:
            return f"{status.st_dev}:{status.st_ino}"
        return first.setdefault((*_place(status), *file_state(status)), real)

    def keyed(path: str) -> str:
        item = find_item(path) if "#" in path else None
        if item is None:
            return key(path)
        file = str(item.file)
        if file not in files:
            files[file] = key(file)
        return f"{files[file]}#{item.name}"

    return [keyed(path) for path in paths]


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
            inside[item.file] = items_of(item.container, item.file)
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


def items_of(container: Container, path: Path) -> set[str] | None:
    """The items of a container; None if it is damaged, which is then reported for each image when it is read."""
    try:
        return set(container.items(path))
    except DataError:
        return None


def _advice(path: str) -> str:
    """What to do about a table none of whose files is there, by the form of its first path."""
    if is_address(path):
        return "These are addresses: download the images, and list the files."
    if path.startswith("/") or re.match(r"[A-Za-z]:[\\/]", path):
        return "These paths start from the root of a disk: write them relative to the folder of the table."
    return "Move it to the folder that its paths start from, or write absolute paths."


def drop_missing(
    root: Path, paths: list[str], *, share: float, source: str, there: Flags | None = None
) -> tuple[Flags, list[str]]:
    """Find the listed files that exist, and describe those that do not.

    Args:
        root: folder that relative paths start from.
        paths: N listed paths.
        share: tolerated share of missing files, in [0, 1].
        source: what lists the files, for the error message.
        there: (N,) bool, whether each file exists, where that is known.

    Returns:
        ((N,) bool, notes).

    Raises:
        DataError: all files are missing, or more than ``share`` of them.
    """
    there = exists(root, paths) if there is None else there
    lost = [paths[row] for row in np.flatnonzero(~there)]
    if not lost:
        return there, []
    first = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
    if len(lost) == len(paths):
        raise DataError(
            f"none of the {counted(len(paths), 'file')} that {source} lists is in {root} (first: {first}). {_advice(lost[0])}"
        )
    if len(lost) > share * len(paths):
        raise DataError(
            f"{len(lost)} of the {counted(len(paths), 'file')} that {source} lists {agreeing(len(paths), 'are')} missing in "
            f"{root}: {first}. "
            f"At most {share:.1%} may be missing. Complete the data, or take their lines out of the list."
        )
    files, are = counted(len(paths), "listed file"), agreeing(len(paths), "are")
    return there, [f"{len(lost)} of {files} {are} missing and {agreeing(len(paths), 'were')} left out: {first}"]
