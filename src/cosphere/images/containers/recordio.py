"""Images in MXNet's indexed RecordIO, the format of the InsightFace data sets: ``train.rec#17`` with ``train.idx`` beside it.

``train.idx`` has a line ``key<TAB>offset`` for each record. A record at its offset is::

    uint32 magic 0xced7230a | uint32: 3 bits continuation, 29 bits length | payload, padded to 4 bytes

A payload that holds the magic itself at a multiple of 4 is stored in parts (continuation 1, 2 ..., 3) without it. The
payload is ``uint32 flag, float32 label, uint64 id, uint64 id2``, then ``flag`` float32 labels if flag > 0, then the
encoded image. All numbers are little-endian. Where record 0 has labels and no image behind them, it is InsightFace's header:
its first label is the key after the last image, and the records behind it describe identities.

Source: dmlc-core ``recordio.h`` and MXNet ``recordio.py``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cosphere._types import Float32s, Integers
from cosphere.disk import FileState, file_state
from cosphere.errors import DataError, agreeing, counted
from cosphere.images.containers.kind import MAX_ITEM_BYTES, Container, ForkSafeLock, item_number, unreadable

MAGIC = struct.pack("<I", 0xCED7230A)
FRAME = struct.Struct("<4sI")
HEADER = struct.Struct("<IfQQ")
_LAST_PART = 3
_BUFFER = 2**20
"""Bytes that a sequential pass reads at a time, and at most read ahead for one record of unknown length."""


class Record(NamedTuple):
    """An image record."""

    key: int
    labels: tuple[float, ...]
    """Of InsightFace's images, the first is the identity."""
    content: bytes
    """The encoded image."""


class _Index(NamedTuple):
    keys: Integers
    """(N,) sorted, each once."""
    offsets: Integers
    """(N,) bytes, where each record starts."""


def keys(path: Path) -> list[str]:
    """The keys of the image records, ascending.

    Raises:
        DataError: the index is missing, or one of the two files is damaged.
    """
    return [str(key) for key in _images(path).keys.tolist()]


def labels(path: Path) -> list[str]:
    """The label of each image record: its number, or the first one where it has several; whole numbers without ``.0``.

    Raises:
        DataError: the index is missing, or one of the two files is damaged.
    """
    index = _images(path)
    content = _mapped(path)
    first = FRAME.size  # of the payload, behind the frame
    if len(index.offsets) and int(index.offsets.max()) + first + HEADER.size + 4 > len(content):
        raise _damaged(path, "the index points behind its end")
    wrong = np.flatnonzero((_words(content, index.offsets) != np.frombuffer(MAGIC, np.uint8)).any(axis=1))
    if len(wrong):
        place = index.offsets[wrong[0]]
        raise _damaged(
            path,
            f"{counted(len(wrong), 'entry')} of its index {agreeing(len(wrong), 'point')} to no record, first to byte {place}",
        )
    flags: NDArray[np.uint32] = _words(content, index.offsets + first).view("<u4")
    places = np.where(flags[:, 0] > 0, index.offsets + first + HEADER.size, index.offsets + first + 4)
    values: Float32s = _words(content, places).view("<f4")
    lost = np.flatnonzero(~np.isfinite(values[:, 0]))
    if len(lost):
        raise _damaged(
            path,
            f"{counted(len(lost), 'record')} {agreeing(len(lost), 'have')} no number for a label, first {index.keys[lost[0]]}",
        )
    return [str(int(value)) if value.is_integer() else str(value) for value in values[:, 0].tolist()]


def read_record(path: Path, key: str) -> bytes:
    """The encoded image of one record.

    Raises:
        DataError: there is no such record, or it is damaged.
    """
    opened = _opened_file(path)
    index = opened.index
    number = item_number(key)
    place = int(index.keys.searchsorted(number))
    if place == len(index.keys) or index.keys[place] != number:
        raise DataError(f"{path} has no record {key[:40]!r}; its keys go from {index.keys[0]} to {index.keys[-1]}.")
    payload = opened.payload(place)
    flag, *_ = _unpacked(payload, path)
    return payload[HEADER.size + 4 * flag :]


def records(path: Path, *, damaged: Callable[[int, str], object] | None = None) -> Iterator[Record]:
    """All image records in the order in which they lie in the file, which is the fastest order to read them in.

    Args:
        path: the .rec file, with its index beside it.
        damaged: called with the key of each record that cannot be read and the reason; such records are then skipped.
            Without it, the first one is an error.

    Raises:
        DataError: the index is missing or damaged, or a record is damaged and ``damaged`` is not given.
    """
    index = _images(path)
    order = np.argsort(index.offsets, kind="stable")
    try:
        with path.open("rb", buffering=_BUFFER) as file:
            for key, offset in zip(index.keys[order].tolist(), index.offsets[order].tolist(), strict=True):
                try:
                    file.seek(offset)  # costs nothing where the record before has ended here
                    payload = _payload(file, offset, path)
                    flag, label, *_ = _unpacked(payload, path)
                except DataError as error:
                    if damaged is None:
                        raise
                    damaged(key, str(error))
                    continue
                start = HEADER.size + 4 * flag
                labels = struct.unpack_from(f"<{flag}f", payload, HEADER.size) if flag else (label,)
                yield Record(key, labels, payload[start:])
    except OSError as error:
        raise unreadable(path, error) from error


class _Source(Protocol):
    """What a record is read from: an open file, or the file around one record."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, fewer at the end of the file."""
        ...


def _payload(file: _Source, offset: int, path: Path) -> bytes:
    """The payload of the record that begins here, its parts joined by the magic number that separated them."""
    parts: list[bytes] = []
    total = 0
    while True:
        frame = file.read(FRAME.size)
        if len(frame) < FRAME.size or frame[:4] != MAGIC:
            raise _damaged(path, f"there is no record at byte {offset}")
        word = FRAME.unpack(frame)[1]
        continuation, length = word >> 29, word & (1 << 29) - 1
        total += length
        if total > MAX_ITEM_BYTES:
            raise DataError(f"{path} has a record of more than {MAX_ITEM_BYTES:,} bytes, which is not read.")
        if (continuation >= 2) != bool(parts):
            raise _damaged(path, f"the record at byte {offset} begins or ends in the middle")
        part = file.read(length)
        if len(part) < length:
            raise _damaged(path, "it is cut off")
        if continuation == 0:
            return part
        parts.append(part)
        if continuation == _LAST_PART:
            return MAGIC.join(parts)
        file.read(-length % 4)


def _unpacked(payload: bytes, path: Path) -> tuple[int, float, int, int]:
    """Flag, label, id and id2; checked to leave something for the image."""
    if len(payload) < HEADER.size:
        raise _damaged(path, "a record is shorter than its header")
    header: tuple[int, float, int, int] = HEADER.unpack_from(payload)
    if HEADER.size + 4 * header[0] > len(payload):
        raise _damaged(path, f"a record of {len(payload)} bytes says that it has {header[0]} labels")
    return header


def _images(path: Path) -> _Index:
    """The index without InsightFace's header record and its records of identities.

    Raises:
        DataError: a file is damaged, or several images are at one place, as in the index of another file.
    """
    opened = _opened_file(path)
    index = opened.index
    end = _header_end(opened) if index.keys[0] == 0 else None
    if end is not None:
        chosen = (index.keys > 0) & (index.keys < end)
        index = _Index(index.keys[chosen], index.offsets[chosen])
    in_order = np.sort(index.offsets)
    shared = np.flatnonzero(np.diff(in_order) == 0)
    if len(shared):
        raise _damaged(path, f"several keys of its index point to byte {in_order[shared[0]]}")
    return index


def _header_end(opened: _Opened) -> float | None:
    """The key after the last image, which InsightFace's record 0 says; None where record 0 is an image."""
    payload = opened.payload(0)
    flag, *_ = _unpacked(payload, opened.path)
    if flag == 0 or len(payload) > HEADER.size + 4 * flag:  # Images with several labels have a flag too.
        return None
    (end,) = struct.unpack_from("<f", payload, HEADER.size)
    if not 1 <= end < 2**53:
        raise _damaged(opened.path, f"its header says that the images end at key {end:g}")
    return float(end)


class _Opened:
    """An open file with its index, so that reading a record costs one look at the disk."""

    def __init__(self, path: Path, index: _Index) -> None:
        self.path = path
        self.index = index
        self.file = path.open("rb", buffering=0)
        self.lock = ForkSafeLock()
        self.in_order: Integers = np.sort(index.offsets)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # the file could not be opened
            self.file.close()

    def payload(self, place: int) -> bytes:
        """The payload of the record with this place in the index."""
        offset = int(self.index.offsets[place])
        after = int(self.in_order.searchsorted(offset, side="right"))
        length = int(self.in_order[after]) - offset if after < len(self.in_order) else _BUFFER
        try:
            return _payload(_Part(self, offset, min(length, _BUFFER)), offset, self.path)
        except OSError as error:
            raise unreadable(self.path, error) from error

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes at a place, without moving a position that threads or processes share."""
        if hasattr(os, "pread"):
            return os.pread(self.file.fileno(), size, offset)
        with self.lock:  # Windows
            self.file.seek(offset)
            return self.file.read(size) or b""


class _Part:
    """Reads on from a place in a file. The first bytes, probably the whole record, are read at once."""

    def __init__(self, opened: _Opened, offset: int, ahead: int) -> None:
        self.opened = opened
        self.at = offset
        self.start = offset
        self.ahead = opened.read_at(offset, ahead)

    def read(self, size: int, /) -> bytes:
        first = self.at - self.start
        self.at += size
        if first + size <= len(self.ahead):
            return self.ahead[first : first + size]
        return self.opened.read_at(self.at - size, size)


def _opened_file(path: Path) -> _Opened:
    name = str(path)
    beside = f"{os.path.splitext(name)[0]}.idx"  # noqa: PTH122 (called for every record)
    try:
        own = os.stat(name)  # noqa: PTH116
        index = os.stat(beside)  # noqa: PTH116
    except FileNotFoundError as error:
        if error.filename == name:
            raise unreadable(path, error) from None
        short = os.path.basename(beside)  # noqa: PTH119
        raise DataError(f"{path} wants its index {short} beside it. Copy both files of the data set.") from None
    except OSError as error:
        raise unreadable(path, error) from error
    return _open(name, file_state(own), file_state(index), os.getpid())


@functools.lru_cache(maxsize=8)
def _open(name: str, own: FileState, index: FileState, process: int) -> _Opened:
    """The open file; both states are part of the key, so that a changed file is opened again, in each process."""
    del own, process
    path = Path(name)
    try:
        return _Opened(path, _read_index(path.with_suffix(".idx"), index[0]))
    except OSError as error:
        raise unreadable(path, error) from error


def _read_index(path: Path, size: int) -> _Index:
    format_hint = f"{path} should hold a line 'key<TAB>offset' for each record"
    if not size:
        raise DataError(f"{format_hint}, and it is empty. Copy it again.")
    try:
        table = np.loadtxt(path, dtype=np.int64, delimiter="\t", ndmin=2, comments=None)
    except ValueError as error:
        raise DataError(f"{format_hint}: {str(error).rstrip('.')}. Copy it again.") from error
    if table.size == 0 or table.shape[1] != 2 or int(table.min()) < 0:
        raise DataError(f"{format_hint}. Copy it again.")
    table = table[np.argsort(table[:, 0], kind="stable")]
    twice = np.flatnonzero(np.diff(table[:, 0]) == 0)
    if len(twice):
        raise DataError(f"{path} has key {table[twice[0], 0]} twice. Copy it again.")
    columns = np.ascontiguousarray(table.T)
    columns.flags.writeable = False  # shared by every later call
    return _Index(columns[0], columns[1])


def _mapped(path: Path) -> NDArray[np.uint8]:
    try:
        return np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:  # numpy maps no empty file
        raise DataError(f"{path} cannot be read: {error}. Check the path and the disk.") from error


def _words(content: NDArray[np.uint8], places: Integers) -> NDArray[np.uint8]:
    """The four bytes that start at each of these places. (N, 4)."""
    words: NDArray[np.uint8] = content[places[:, None] + np.arange(4)]
    return words


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path} is damaged: {what}. Copy or download it again, with its .idx.")


CONTAINER = Container(
    name="RecordIO file",
    pattern=re.compile(r".+\.rec", re.IGNORECASE),
    items=keys,
    read=read_record,
    labels=labels,
)
