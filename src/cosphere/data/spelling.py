"""Listed images whose names are written differently on this disk: with backslashes, or with other forms of accented characters."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path

import numpy as np

from cosphere._types import Flags
from cosphere.data.listing import exists, items_of
from cosphere.data.names import nfc
from cosphere.errors import agreeing, counted
from cosphere.images import container_of


def matching_paths(root: Path, paths: list[str]) -> tuple[list[str], Flags, list[str]]:
    r"""Find listed files, and items of containers, whose names are written differently on this disk.

    Tables from Windows write ``img\a.png``; tables and disks may hold an accent as one character or as two.

    Args:
        root: folder that relative paths start from.
        paths: N listed paths.

    Returns:
        The paths as the disk has them, or as listed where nothing matches; (N,) bool, whether each exists; and notes
        about what was changed.
    """
    there = exists(root, paths)
    disk = _Disk(root)
    candidates = list(paths)
    slashes = forms = 0
    for row in np.flatnonzero(~there).tolist():
        path = posixpath.normpath(paths[row].replace("\\", "/")) if os.sep == "/" else paths[row]
        slashed = path != paths[row] and disk.is_file(path)
        real = path if slashed else disk.item(path) or disk.in_other_form(path)
        if real is not None:
            candidates[row], there[row] = real, True
            slashes += "\\" in paths[row]
            forms += real != path
    notes = []
    if slashes:
        notes.append(f"{counted(slashes, 'path')} with backslashes {agreeing(slashes, 'were')} read with slashes")
    if forms:
        notes.append(
            f"{counted(forms, 'path')} {agreeing(forms, 'are')} written with other forms of accented characters than on the disk, "
            f"and {agreeing(forms, 'were')} matched"
        )
    return candidates, there, notes


class _Disk:
    """What lies below a folder, each folder and each container listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, dict[str, str]] = {}
        self._containers: dict[str, dict[str, str] | None] = {}

    def is_file(self, path: str) -> bool:
        """Whether a path is that of a file, letter for letter."""
        return os.path.isfile(os.path.join(self._root, path))  # noqa: PTH113, PTH118

    def in_other_form(self, path: str) -> str | None:
        """The path on the disk that is equal up to the Unicode form of its names; None where there is none."""
        if path.isascii():
            return None
        start = "/" if path.startswith("/") else ""
        folder, parts = start or str(self._root), []
        for part in path.removeprefix("/").split("/"):
            if folder not in self._folders:
                try:
                    self._folders[folder] = {nfc(name): name for name in os.listdir(folder)}  # noqa: PTH208
                except (OSError, ValueError):
                    self._folders[folder] = {}
            name = self._folders[folder].get(nfc(part))
            if name is None:
                return None
            parts.append(name)
            folder = os.path.join(folder, name)  # noqa: PTH118
        return start + "/".join(parts)

    def item(self, path: str) -> str | None:
        """The path of the item of a container that is equal up to the Unicode form of names; None where there is none."""
        mark = path.find("#")
        while mark >= 0:
            file = path[:mark]
            if container_of(file) is not None:
                real = file if self.is_file(file) else self.in_other_form(file)
                if real is not None:
                    names = self._names(real)
                    name = path[mark + 1 :] if names is None else names.get(nfc(path[mark + 1 :]))
                    return None if name is None else f"{real}#{name}"
            mark = path.find("#", mark + 1)
        return None

    def _names(self, file: str) -> dict[str, str] | None:
        """The items of a container by their names in NFC; None for a damaged one, which is reported when it is read."""
        if file not in self._containers:
            kind, whole = container_of(file), self._root / file
            names = None if kind is None else items_of(kind, whole)
            self._containers[file] = None if names is None else {nfc(name): name for name in names}
        return self._containers[file]
