"""Whether a match in a gallery's file is part of a text of an item that is still there."""

from __future__ import annotations

from collections import defaultdict

from cosphere.gallery.folder import FILE
from cosphere.gallery.sqlite import PAGE_BYTES, Connection
from cosphere.gallery.traces import AROUND, Hit

_TEXTS = (("id", "item"), ("columns", "item"), ("value", "fact"), ("name", "name"))
_SPLIT = 1900
"""Bytes of a text below which SQLite keeps it, or at least its first 1000, on one page."""
_ALIKE = 8
"""Bytes beside a match that must be a live text's, where this goes on on another page."""
_LOG = (32, 24)
"""Bytes at the start of a write-ahead log, and before each page in it."""


class LiveTexts:
    """The live texts that contain some bytes, with what they have beside them.

    Args:
        connection: inside a transaction.
        wanted: the bytes.
    """

    def __init__(self, connection: Connection, wanted: bytes) -> None:
        self.wanted = wanted
        self._beside: dict[tuple[int, int], set[tuple[bytes, bytes]]] = defaultdict(set)
        """What lies before and after, by its lengths: at most :data:`AROUND` bytes each, fewer where the text ends."""
        self._split: set[tuple[bytes, bytes]] = set()
        """Those of texts that SQLite may have split."""
        for column, table in _TEXTS:
            content = f"CAST({column} AS BLOB)"
            query = f"SELECT {content} FROM {table} WHERE typeof({column}) = 'text' AND instr({content}, ?) > 0"
            for (text,) in connection.each(query, (wanted,)):
                self._take_in(text)

    def _take_in(self, text: bytes) -> None:
        at = text.find(self.wanted)
        while at >= 0:
            end = at + len(self.wanted)
            pair = text[max(0, at - AROUND) : at], text[end : end + AROUND]
            self._beside[len(pair[0]), len(pair[1])].add(pair)
            if len(text) > _SPLIT:
                self._split.add(pair)
            at = text.find(self.wanted, at + 1)

    def contain(self, hit: Hit) -> bool:
        """Whether a match lies inside a live text: the bytes beside it are that text's.

        SQLite continues a long record on other pages. So bytes of other pages are not compared, and a long text may end before four
        bytes that are the number of a page.
        """
        if not hit.file.startswith(FILE):
            return False
        before, after = hit.around[: hit.at], hit.around[hit.at + len(self.wanted) :]
        for (left, right), pairs in self._beside.items():
            if left <= len(before) and right <= len(after) and (before[len(before) - left :], after[:right]) in pairs:
                return True
        cut = len(before) < AROUND or len(after) < AROUND  # where bytes were read in parts
        room = _room(hit, len(self.wanted))
        before, after = before[max(0, len(before) - room[0]) :], after[: room[1]]
        if any(_continues(before, after, *pair, split=True) for pair in self._split):
            return True
        every = (pair for pairs in self._beside.values() for pair in pairs) if cut else ()
        return any(_continues(before, after, *pair, split=False) for pair in every)


def _continues(before: bytes, after: bytes, own_before: bytes, own_after: bytes, *, split: bool) -> bool:
    """Whether the bytes beside a match are a text's, as far as they go, or up to where it goes on on another page."""
    left = min(len(before), len(own_before))
    if before[len(before) - left :] != own_before[len(own_before) - left :]:
        return False
    same = next((at for at, (one, two) in enumerate(zip(after, own_after, strict=False)) if one != two), None)
    return same is None or (split and left + same >= _ALIKE and after[same] < ord("\t"))


def _room(hit: Hit, size: int) -> tuple[int, int]:
    """Bytes before and after a match on its page. Where a record goes on, the page begins with the number of the next one."""
    head, gap = _LOG if hit.file == f"{FILE}-wal" else (0, 0)
    at = (hit.offset - head - gap) % (PAGE_BYTES + gap)
    return max(0, at - 4), max(0, PAGE_BYTES - at - size)
