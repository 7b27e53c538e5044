"""Looking for many texts and windows in many bytes at once, and in the unused bytes of a SQLite file's pages."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cosphere.errors import RunError
from cosphere.gallery import handles
from cosphere.gallery.erasure import FEWEST_VALUES, QUICK_BITS, WINDOW, Receipt, quick_hash_of, sure_hash
from cosphere.gallery.sqlite import PAGE_BYTES
from cosphere.gallery.values import forms_of

SHORTEST_TEXT = 5
"""Texts of fewer UTF-8 bytes occur by chance."""
LONGEST_WHOLE = 512
"""Texts of more bytes are looked for in pieces."""
PIECE = 64
MOST = 1000
"""Findings of one kind that are told apart."""
_WORD = 8
"""Bytes by which longer texts are found: many are looked for at once."""
AROUND = 64
"""Bytes beside a match that are compared with a live text."""
_TREE_PAGES = {2: 12, 5: 12, 10: 8, 13: 8}
"""First byte of a page of a tree, and the bytes of its header."""


class Hit(NamedTuple):
    """A match, with the bytes beside it."""

    file: str
    offset: int
    around: bytes
    at: int
    """Where the match begins in ``around``."""


@dataclass(frozen=True)
class Part:
    """Some bytes of a file, with those before and after them."""

    content: bytes
    start: int
    """Offset of ``content`` in the file."""
    before: int
    """Bytes of ``content`` that an earlier part looked at."""

    @property
    def fresh(self) -> memoryview:
        """The bytes that no earlier part looked at."""
        return memoryview(self.content)[self.before :]


def utf8(text: str) -> bytes:
    """The bytes of a text, lone surrogates too."""
    return text.encode("utf-8", "surrogatepass")


def wanted_texts(texts: Iterable[str]) -> dict[bytes, str]:
    """What to look for: each text as its bytes in every Unicode form, plain and as JSON writes it; of a long one, pieces.

    SQLite keeps the first 1000 bytes or more of a record together, and continues it on other pages, in any order. So a text of more than
    :data:`LONGEST_WHOLE` bytes is looked for in pieces of :data:`PIECE`, without those of too few different bytes. :func:`unsought` names
    texts of which nothing is left then.
    """
    return {content: text for text in texts for form in forms_of(text) for content in _contents(form)}


def _contents(text: str) -> Iterator[bytes]:
    """What to look for of one form of a text."""
    for written in (text, json.dumps(text, ensure_ascii=False)[1:-1]):
        content = utf8(written)
        if len(content) > LONGEST_WHOLE:
            pieces = (content[at : at + PIECE] for at in range(0, len(content) - PIECE + 1, PIECE))
            yield from (piece for piece in pieces if len(set(piece)) >= FEWEST_VALUES)
        elif len(utf8(text)) >= SHORTEST_TEXT:
            yield content


def unsought(texts: Iterable[str]) -> list[str]:
    """The texts that are too short or too uniform, in any of their Unicode forms, to be told from chance."""
    return [text for text in dict.fromkeys(texts) if not all(any(_contents(form)) for form in forms_of(text))]


class Search:
    """Looks for texts and windows, and keeps what it found until live items are compared with it."""

    def __init__(self, texts: dict[bytes, str], receipts: Sequence[Receipt]) -> None:
        self.texts = texts
        self._brief = [one for one in texts if len(one) < _WORD]
        self._by_word: dict[bytes, list[tuple[bytes, int]]] = defaultdict(list)
        self._word_table = np.zeros(2**QUICK_BITS, dtype=bool)
        for one in texts:
            if len(one) >= _WORD:
                place = max(
                    0, len(one) - _WORD - 4
                )  # the end tells texts apart better than the beginning, but for .jpg
                self._by_word[one[place : place + _WORD]].append((one, place))
                self._word_table[_word_hash(np.frombuffer(one[place : place + _WORD], dtype="<u8"))] = True
        self.text_hits: dict[bytes, list[Hit]] = defaultdict(list)
        self.windows: dict[bytes, tuple[str, int]] = {}
        self._table = np.zeros(2**QUICK_BITS, dtype=bool)
        self._sure: list[tuple[bytes, set[int]]] = []
        for receipt in receipts:
            self._table[receipt.quick] = True
            self._sure.append((receipt.salt, set(receipt.sure.tolist())))

    def look(self, part: Part, name: str) -> None:
        """Search one part of a file."""
        for wanted in self._brief:
            at = part.content.find(wanted)
            while at >= 0:
                self._hit(part, name, wanted, at)
                at = part.content.find(wanted, at + 1)
        for shift in range(min(8, len(part.content))):
            words = np.frombuffer(part.content, dtype="<u8", count=max(0, len(part.content) - shift) // 8, offset=shift)
            if self._by_word:
                for at in (8 * np.flatnonzero(self._word_table[_word_hash(words)]) + shift).tolist():
                    for wanted, place in self._by_word.get(part.content[at : at + _WORD], ()):
                        if at >= place and part.content.startswith(wanted, at - place):
                            self._hit(part, name, wanted, at - place)
            if self._sure:
                hits = np.flatnonzero(self._table[quick_hash_of(words[:-1], words[1:])])
                for at in (8 * hits + shift).tolist():
                    window = part.content[at : at + WINDOW]
                    if any(sure_hash(window, salt) in hashes for salt, hashes in self._sure):
                        self.windows.setdefault(window, (name, part.start + at))

    def _hit(self, part: Part, name: str, wanted: bytes, at: int) -> None:
        """Keep a match, unless the part before had it, with the bytes beside it."""
        if at + len(wanted) > part.before and len(self.text_hits[wanted]) < 100 * MOST:
            low, high = max(0, at - AROUND), at + len(wanted) + AROUND
            self.text_hits[wanted].append(Hit(name, part.start + at, part.content[low:high], at - low))


def _word_hash(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A 24-bit hash of 8 bytes."""
    return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - QUICK_BITS)


def unused_bytes(file: Path) -> Iterator[bytes]:
    """What lies between the cells of each page of a tree in a SQLite file whose write-ahead log is empty, where it is not zero.

    SQLite copies cells when it balances a tree, and does not overwrite the places that they leave, whatever ``secure_delete`` says;
    of a deleted cell, such a copy would stay.
    """
    with handles.reading(file) as read_at:
        number = 0
        while len(content := read_at(512 * PAGE_BYTES, number * PAGE_BYTES)) >= PAGE_BYTES:
            pages = np.frombuffer(content, np.uint8, count=len(content) // PAGE_BYTES * PAGE_BYTES).reshape(
                -1, PAGE_BYTES
            )
            for at in np.flatnonzero(np.isin(pages[:, 0], list(_TREE_PAGES))).tolist():
                page = pages[at].tobytes()
                start = _TREE_PAGES[page[0]] + 2 * int.from_bytes(page[3:5], "big")
                end = int.from_bytes(page[5:7], "big") or 65536
                gap = page[start : min(end, PAGE_BYTES)]
                if number + at and start < end and gap.strip(b"\0"):
                    yield gap
            number += len(pages)


def left_over(file: Path, texts: Iterable[str], receipts: Sequence[Receipt]) -> bool:
    """Whether unused bytes of a SQLite file hold one of these texts, or a window of one of these receipts.

    Raises:
        RunError: the file cannot be read.
    """
    search = Search(wanted_texts(texts), receipts)
    try:
        gaps = b"\0\0".join(unused_bytes(file))
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}. Check the disk.") from error
    search.look(Part(gaps, 0, 0), file.name)
    return bool(search.windows) or any(search.text_hits.values())
