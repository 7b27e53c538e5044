"""Names of files and folders that every file system takes, made from labels and names that may hold anything."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from cosphere.data.listing import is_stray
from cosphere.data.names import nfc

LONGEST = 120
"""Bytes of a name in UTF-8. File systems take 255; the rest is for suffixes, numbers and encryption that lengthens names."""
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*#\ud800-\udfff]')
"""Characters that Windows refuses, that separate parts of a path, that would begin an item (``file#item``), or are not text."""
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
"""Names of devices in Windows, with or without a suffix."""


def safe_name(text: str) -> str:
    r"""A name for a file or folder that is as near to ``text`` as every file system allows; never a path, hidden or empty.

    >>> [safe_name(text) for text in ("Ann Lee", "../x", "/etc/passwd", "con.txt", "a/b", "", "dot.")]
    ['Ann Lee', '_.._x', '_etc_passwd', '_con.txt', 'a_b', '_', 'dot._']
    """
    name = _FORBIDDEN.sub("_", nfc(text))
    if name.startswith("."):
        name = f"_{name}" if len(name.strip(".")) else "_" * len(name)
    if name.endswith((".", " ")):
        name += "_"
    if name.startswith(" "):
        name = f"_{name}"
    if name.split(".")[0].rstrip(" ").lower() in _RESERVED or is_stray(name):
        name = f"_{name}"
    if len(name.encode()) > LONGEST:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        name = f"{name.encode()[: LONGEST - 13].decode('utf-8', 'ignore').rstrip('. ')}-{digest}"
    return name or "_"


class DistinctNames:
    """Gives each name once: names that differ in capitals or in the form of their characters only are one name on many disks."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def distinct(self, name: str) -> str:
        """The name itself, or with ``-2``, ``-3`` ... before its suffix where it was given before."""
        key = _folded(name)
        if key not in self._taken:
            self._taken.add(key)
            return name
        stem, dot, suffix = name.rpartition(".")
        stem, suffix = (stem, dot + suffix) if stem else (name, "")
        number = self._next.get(key, 2)
        while _folded(f"{stem}-{number}{suffix}") in self._taken:
            number += 1
        self._next[key] = number + 1
        self._taken.add(_folded(f"{stem}-{number}{suffix}"))
        return f"{stem}-{number}{suffix}"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()
