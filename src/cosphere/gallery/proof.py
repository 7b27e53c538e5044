"""The proof of a deletion: every byte of every file of the folder is read, and what was deleted is looked for."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cosphere._types import Progress
from cosphere.errors import RunError
from cosphere.gallery.erasure import (
    QUICK_BITS,
    WINDOW,
    Receipt,
    quick_hash_of,
    read_log,
    scan_of,
    sure_hash,
    window_places,
    windows,
)
from cosphere.gallery.folder import FILE
from cosphere.gallery.sqlite import Connection
from cosphere.gallery.store import Store

SHORTEST_TEXT = 5
"""Texts of fewer UTF-8 bytes occur by chance."""
_PART = 4 * 2**20
"""Bytes that are looked at together."""
_WORD = 8
"""Bytes by which longer texts are found: many are looked for at once."""
_AROUND = 64
"""Bytes beside a match that are compared with a live text."""
_MOST = 1000
"""Findings of one kind that are told apart."""


@dataclass(frozen=True)
class Finding:
    """A trace of something that was deleted."""

    what: str
    file: str
    """Relative to the folder."""
    offset: int
    """Bytes from its start."""


@dataclass(frozen=True)
class Proof:
    """What was looked for, where, and what was found."""

    files: tuple[tuple[str, int], ...]
    """Each file of the folder that was read, and its bytes."""
    flushed: bool
    """Whether the write-ahead log could be emptied first."""
    alive: tuple[str, ...]
    """Ids that are items of the gallery."""
    found: tuple[Finding, ...]
    short: tuple[str, ...]
    """Texts too short to be told from chance: only the tables were asked for them."""
    windows: int
    """Windows of deleted vectors, codes and thumbnails that were looked for."""
    shared: int
    """Of these, windows that occur in live items too, and are not counted as found."""
    unknown: tuple[str, ...]
    """Times of receipts that do not belong to a deletion of this gallery."""

    @property
    def holds(self) -> bool:
        """Whether nothing is left of what was asked for."""
        return not (self.found or self.alive or self.unknown)


def prove_deleted(
    folder: str | Path,
    ids: Sequence[str] = (),
    receipts: Sequence[Receipt] = (),
    *,
    texts: Sequence[str] = (),
    progress: Progress | None = None,
) -> Proof:
    """Look for what was deleted in every byte of a gallery's folder, after its write-ahead log was emptied.

    Args:
        folder: the gallery.
        ids: of deleted items; looked for as UTF-8 and as JSON writes them.
        receipts: of deletions: windows of their vectors, codes and thumbnails are looked for.
        texts: other texts that must be gone, such as a label or a path.
        progress: called with the number of bytes read.

    Raises:
        RunError: there is no gallery, another process writes it, or a file cannot be read.
    """
    with Store.open(folder) as store:
        flushed = _flushed(store)
        alive = tuple(one for one in ids if one in store)
        with store.reading() as connection:
            known = {record["receipt"] for record in read_log(connection)}
        wanted = _wanted_texts([*ids, *texts])
        search = _Search(wanted, receipts)
        files = list(_files(store.folder))
        total, done = sum(path.stat().st_size for path in files), 0
        for path in files:
            for part in _parts(path):
                search.look(part, path.relative_to(store.folder).as_posix())
                done += len(part.fresh)
                if progress is not None:
                    progress(min(done, total), total)
        found, shared = search.findings(store)
        return Proof(
            files=tuple((path.relative_to(store.folder).as_posix(), path.stat().st_size) for path in files),
            flushed=flushed,
            alive=alive,
            found=tuple(found),
            short=tuple(one for one in dict.fromkeys([*ids, *texts]) if len(_utf8(one)) < SHORTEST_TEXT),
            windows=sum(len(one.sure) for one in receipts),
            shared=shared,
            unknown=tuple(one.time for one in receipts if one.digest not in known),
        )


def _flushed(store: Store) -> bool:
    """Empty the log; on a disk that cannot be written, it is read as it is."""
    try:
        return store.flush()
    except RunError as error:
        if "read-only" not in str(error).lower() and "Read-only" not in str(error):
            raise
        return False


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _wanted_texts(texts: Iterable[str]) -> dict[bytes, str]:
    """Each text as its bytes, plain and as JSON writes it."""
    wanted: dict[bytes, str] = {}
    for text in texts:
        for form in (text, json.dumps(text, ensure_ascii=False)[1:-1]):
            if len(_utf8(text)) >= SHORTEST_TEXT:
                wanted[_utf8(form)] = text
    return wanted


def _files(folder: Path) -> Iterator[Path]:
    """Every file of the folder, at any depth; links are not followed."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (path for name in sorted(names) if (path := Path(root, name)).is_file() and not path.is_symlink())


@dataclass(frozen=True)
class _Part:
    """Some bytes of a file, with those before and after them."""

    content: bytes
    start: int
    """Offset of ``content`` in the file."""
    before: int
    """Bytes of ``content`` that an earlier part looked at."""

    @property
    def fresh(self) -> memoryview:
        return memoryview(self.content)[self.before :]


def _parts(path: Path) -> Iterator[_Part]:
    """A file in overlapping parts, so that no match is cut."""
    over = 8192
    try:
        with path.open("rb") as file:
            kept, start = b"", 0
            while fresh := file.read(_PART):
                yield _Part(kept + fresh, start, len(kept))
                content = kept + fresh
                kept = content[-over:]
                start += len(content) - len(kept)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}. Check its rights.") from error


class _Search:
    """Looks for texts and windows, and keeps what it found until live items are compared with it."""

    def __init__(self, texts: dict[bytes, str], receipts: Sequence[Receipt]) -> None:
        self._texts = texts
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
        self._text_hits: dict[bytes, list[tuple[str, int, bytes, int]]] = defaultdict(list)
        self._windows: dict[bytes, tuple[str, int]] = {}
        self._table = np.zeros(2**QUICK_BITS, dtype=bool)
        self._sure: list[tuple[bytes, set[int]]] = []
        for receipt in receipts:
            self._table[receipt.quick] = True
            self._sure.append((receipt.salt, set(receipt.sure.tolist())))

    def look(self, part: _Part, name: str) -> None:
        """Search one part of a file."""
        for wanted in self._brief:
            at = part.content.find(wanted)
            while at >= 0:
                self._hit(part, name, wanted, at)
                at = part.content.find(wanted, at + 1)
        for shift in range(8):
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
                        self._windows.setdefault(window, (name, part.start + at))

    def _hit(self, part: _Part, name: str, wanted: bytes, at: int) -> None:
        """Keep a match, unless the part before had it, with the bytes beside it."""
        if at + len(wanted) > part.before and len(self._text_hits[wanted]) < 100 * _MOST:
            low, high = max(0, at - _AROUND), at + len(wanted) + _AROUND
            self._text_hits[wanted].append((name, part.start + at, part.content[low:high], at - low))

    def findings(self, store: Store) -> tuple[list[Finding], int]:
        """What is left once matches in live items are taken out, and the number of windows that live items share."""
        found: list[Finding] = []
        with store.reading() as connection:
            for wanted, hits in self._text_hits.items():
                live = _live_texts(connection, self._texts[wanted], wanted)
                left = [hit for hit in hits if not (hit[0].startswith(FILE) and _is_live(hit[2], hit[3], wanted, live))]
                found += [Finding(f"text {self._texts[wanted]!r}", file, at) for file, at, *_ in left[:_MOST]]
        shared = _live_windows(store, set(self._windows)) if self._windows else set()
        left_windows = [place for window, place in self._windows.items() if window not in shared]
        found += [Finding("vector, code or thumbnail", *place) for place in left_windows[:_MOST]]
        return found, len(shared)


def _word_hash(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A 24-bit hash of 8 bytes."""
    return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - QUICK_BITS)


def _live_texts(connection: Connection, text: str, wanted: bytes) -> list[tuple[bytes, int]]:
    """Texts of live items that contain a wanted one, with where they do."""
    forms = {text, json.dumps(text, ensure_ascii=False)[1:-1]}
    found: set[bytes] = set()
    for form in forms:
        for column, table in (("id", "item"), ("columns", "item"), ("value", "fact"), ("name", "name")):
            query = f"SELECT {column} FROM {table} WHERE typeof({column}) = 'text' AND instr({column}, ?) > 0"
            found |= {_utf8(one) for (one,) in connection.rows(query, (form,))}
    places: list[tuple[bytes, int]] = []
    for one in found:
        at = one.find(wanted)
        while at >= 0:
            places.append((one, at))
            at = one.find(wanted, at + 1)
    return places


def _is_live(around: bytes, at: int, wanted: bytes, live: Sequence[tuple[bytes, int]]) -> bool:
    """Whether a match lies inside a live text: the bytes beside it are that text's."""
    for text, place in live:
        before, after = min(place, at), min(len(text) - place - len(wanted), len(around) - at - len(wanted))
        if around[at - before : at + len(wanted) + after] == text[place - before : place + len(wanted) + after]:
            return True
    return False


def _live_windows(store: Store, wanted: set[bytes]) -> set[bytes]:
    """The wanted windows that live items have, as two photos of one picture do."""
    shared: set[bytes] = set()
    for _, rows in store.vectors():
        for part in rows[1:]:
            if part is not None:
                content, wide = np.ascontiguousarray(part).tobytes(), part.strides[0] if len(part) else 0
                places = [row * wide + at for row in range(len(part)) for at in window_places(wide)]
                shared |= wanted & {content[at : at + WINDOW] for at in places}
    with store.reading() as connection:
        for (picture,) in connection.each("SELECT content FROM thumbnail"):
            shared |= wanted & set(windows(scan_of(picture)))
    return shared
