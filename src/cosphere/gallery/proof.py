"""The proof of a deletion: every byte of every file of the folder is read, and what was deleted is looked for."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosphere._types import Progress
from cosphere.errors import RunError
from cosphere.gallery import handles
from cosphere.gallery.erasure import (
    WINDOW,
    Receipt,
    read_log,
    scan_of,
    sure_hash,
    window_places,
    windows,
)
from cosphere.gallery.folder import INDEXES, may
from cosphere.gallery.indexes import files_of, flaws
from cosphere.gallery.living import LiveTexts
from cosphere.gallery.schema import read_state
from cosphere.gallery.store import Store
from cosphere.gallery.traces import MOST, PIECE, Hit, Part, Search, unsought, wanted_texts
from cosphere.gallery.values import quoted

_PART = 4 * 2**20
"""Bytes that are looked at together."""


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
    """Texts too short or too uniform to be told from chance: only the tables were asked for them."""
    windows: int
    """Windows of deleted vectors, codes and thumbnails that were looked for."""
    shared: int
    """Of these, windows that occur in live items too, and are not counted as found."""
    unknown: tuple[str, ...]
    """Times of receipts that do not belong to a deletion of this gallery. One of a deletion that was stopped before its commit counts
    only while what it covers is still in the gallery."""
    receipts: tuple[Receipt, ...] = ()
    """Those that were looked for; :attr:`Receipt.left_out` says how much each does not cover."""

    @property
    def complete(self) -> bool:
        """Whether all texts, and every vector, code and thumbnail of the receipts, were looked for.

        Not where one was left out or too short, or a receipt is empty.
        """
        return not self.short and not any(one.left_out or one.short or not one.items for one in self.receipts)

    @property
    def holds(self) -> bool:
        """Whether nothing is left of what was looked for."""
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
        ids: of deleted items; looked for as UTF-8 and as JSON writes them, in every Unicode form. Of more than 512 bytes, any 64 that
            belong together count.
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
            state = read_state(connection)
            odd = flaws(store.folder / INDEXES, connection, state)
        wanted = wanted_texts([*ids, *texts])
        search = Search(wanted, receipts)
        files = list(files_of(store.folder))
        total, done = sum(path.stat().st_size for path in files), 0
        for path in files:
            for part in _parts(path):
                search.look(part, path.relative_to(store.folder).as_posix())
                done += len(part.fresh)
                if progress is not None:
                    progress(min(done, total), total)
        found, shared = _findings(search, store)
        found += [Finding(one.what, one.path.relative_to(store.folder).as_posix(), 0) for one in odd]
        return Proof(
            files=tuple((path.relative_to(store.folder).as_posix(), path.stat().st_size) for path in files),
            flushed=flushed,
            alive=alive,
            found=tuple(found),
            short=tuple(unsought([*ids, *texts])),
            windows=sum(len(one.sure) for one in receipts),
            shared=len(shared),
            unknown=tuple(
                one.time
                for one in receipts
                if one.items and one.digest not in known and not (one.gallery == state.name and _is_gone(one, shared))
            ),
            receipts=tuple(receipts),
        )


def _flushed(store: Store) -> bool:
    """Empty the log; in a folder that may not be written, it is read as it is."""
    if all(may(path, os.W_OK) for path in (store.folder, store.file)):
        return store.flush()
    return False


def _parts(path: Path) -> Iterator[Part]:
    """A file in overlapping parts, so that no match is cut."""
    over = 8192
    try:
        with handles.reading(path) as read_at:
            kept, start = b"", 0
            while fresh := read_at(_PART, start + len(kept)):
                yield Part(kept + fresh, start, len(kept))
                content = kept + fresh
                kept = content[-over:]
                start += len(content) - len(kept)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}. Check its rights.") from error


def _is_gone(receipt: Receipt, shared: set[bytes]) -> bool:
    """Whether no live item has a window of a receipt that the log does not know.

    A kill between the receipt and its commit leaves one; the same command then deletes the items with a receipt of its own. Of a
    folder that was restored from a copy, live items have the windows.
    """
    alive = {sure_hash(window, receipt.salt) for window in shared}
    return bool(len(receipt.sure)) and alive.isdisjoint(receipt.sure.tolist())


def _findings(search: Search, store: Store) -> tuple[list[Finding], set[bytes]]:
    """What is left once matches in live items are taken out, and the windows that live items share."""
    left: dict[str, list[Hit]] = defaultdict(list)
    with store.reading() as connection:
        for wanted, hits in search.text_hits.items():
            text = search.texts[wanted]
            if text in left and len(wanted) == PIECE:
                continue  # another piece of it is enough
            live = LiveTexts(connection, wanted)
            traces = [hit for hit in hits if not live.contain(hit)]
            if traces:
                left[text] += traces[:MOST]
    found = [Finding(f"text {quoted(text)}", hit.file, hit.offset) for text, hits in left.items() for hit in hits]
    shared = _live_windows(store, set(search.windows)) if search.windows else set()
    left_windows = [place for window, place in search.windows.items() if window not in shared]
    found += [Finding("vector, code or thumbnail", *place) for place in left_windows[:MOST]]
    return found, shared


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
