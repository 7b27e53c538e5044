"""Images in MXNet's indexed RecordIO, the format of the InsightFace data sets: ``train.rec#17`` with ``train.idx`` beside it.

``train.idx`` has a line ``key<TAB>offset`` for each record. A record at its offset is::

    uint32 magic 0xced7230a | uint32: 3 bits continuation, 29 bits length | payload, padded to 4 bytes

A payload that holds the magic itself at a multiple of 4 is stored in parts (continuation 1, 2 ..., 3) without it. The
payload is ``uint32 flag, float32 label, uint64 id, uint64 id2``, then ``flag`` float32 labels if flag > 0, then the
encoded image. All numbers are little-endian. Where record 0 has a flag above 0, it is InsightFace's header: its first
label is the key after the last image, and the records behind it describe identities.

Source: dmlc-core ``recordio.h`` and MXNet ``recordio.py``.
"""

from __future__ import annotations

import functools
import re
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosphere._types import Float32s, Integers
from cosphere.errors import DataError
from cosphere.images.containers.kind import MAX_ITEM_BYTES, Container

_MAGIC = struct.pack("<I", 0xCED7230A)
_FRAME = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")
_FIRST_PART, _LAST_PART = 1, 3


class _Index(NamedTuple):
    keys: Integers
    """(N,) sorted."""
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
    first = _FRAME.size  # of the payload, behind the frame
    if len(index.offsets) and int(index.offsets.max()) + first + _HEADER.size + 4 > len(content):
        raise _damaged(path, "the index points behind its end")
    flags: NDArray[np.uint32] = _words(content, index.offsets + first).view("<u4")
    places = np.where(flags[:, 0] > 0, index.offsets + first + _HEADER.size, index.offsets + first + 4)
    values: Float32s = _words(content, places).view("<f4")
    return [str(int(value)) if value.is_integer() else str(value) for value in values[:, 0].tolist()]


def read_record(path: Path, key: str) -> bytes:
    """The encoded image of one record.

    Raises:
        DataError: there is no such record, or it is damaged.
    """
    index = _index_of(path)
    place = int(np.searchsorted(index.keys, int(key))) if key.isascii() and key.isdigit() else len(index.keys)
    if place == len(index.keys) or index.keys[place] != int(key):
        raise DataError(f"{path} has no record {key!r}; its keys go from {index.keys[0]} to {index.keys[-1]}.")
    try:
        with path.open("rb") as file:
            payload = _payload(file, int(index.offsets[place]), path)
    except OSError as error:
        raise _unreadable(path, error) from error
    flag, *_ = _unpacked(payload, path)
    return payload[_HEADER.size + 4 * flag :]


def _payload(file: BinaryIO, offset: int, path: Path) -> bytes:
    """The payload of the record at ``offset``, its parts joined by the magic number that separated them."""
    file.seek(offset)
    parts: list[bytes] = []
    total = 0
    while True:
        frame = file.read(_FRAME.size)
        if len(frame) < _FRAME.size or frame[:4] != _MAGIC:
            raise _damaged(path, f"there is no record at byte {offset}")
        word = _FRAME.unpack(frame)[1]
        continuation, length = word >> 29, word & (1 << 29) - 1
        total += length
        if total > MAX_ITEM_BYTES:
            raise DataError(f"{path} has a record of more than {MAX_ITEM_BYTES:,} bytes, which is not read.")
        if (continuation >= 2) != bool(parts):
            raise _damaged(path, f"the record at byte {offset} begins or ends in the middle")
        part = file.read(length)
        if len(part) < length:
            raise _damaged(path, "it is cut off")
        parts.append(part)
        if continuation in (0, _LAST_PART):
            return _MAGIC.join(parts)
        file.seek(-length % 4, 1)


def _unpacked(payload: bytes, path: Path) -> tuple[int, float, int, int]:
    """Flag, label, id and id2; checked to leave something for the image."""
    if len(payload) < _HEADER.size:
        raise _damaged(path, "a record is shorter than its header")
    header: tuple[int, float, int, int] = _HEADER.unpack_from(payload)
    if _HEADER.size + 4 * header[0] > len(payload):
        raise _damaged(path, f"a record of {len(payload)} bytes says that it has {header[0]} labels")
    return header


def _images(path: Path) -> _Index:
    """The index without InsightFace's header record and its records of identities."""
    index = _index_of(path)
    if index.keys[0] != 0:
        return index
    try:
        with path.open("rb") as file:
            payload = _payload(file, int(index.offsets[0]), path)
    except OSError as error:
        raise _unreadable(path, error) from error
    flag, *_ = _unpacked(payload, path)
    if flag == 0:
        return index
    (end,) = struct.unpack_from("<f", payload, _HEADER.size)
    chosen = (index.keys > 0) & (index.keys < end)
    return _Index(index.keys[chosen], index.offsets[chosen])


def _index_of(path: Path) -> _Index:
    beside = path.with_suffix(".idx")
    try:
        status = beside.stat()
        return _read_index(beside, status.st_mtime_ns, status.st_size)
    except FileNotFoundError:
        raise DataError(f"{path} wants its index {beside.name} beside it. Copy both files of the data set.") from None
    except OSError as error:
        raise _unreadable(beside, error) from error


@functools.lru_cache(maxsize=8)
def _read_index(path: Path, mtime_ns: int, size: int) -> _Index:
    """The index; time and size are part of the key, so that a changed file is read again."""
    del mtime_ns
    format_hint = f"{path} should hold a line 'key<TAB>offset' for each record"
    if not size:
        raise DataError(f"{format_hint}, and it is empty. Copy it again.")
    try:
        table = np.loadtxt(path, dtype=np.int64, delimiter="\t", ndmin=2, comments=None)
    except ValueError as error:
        raise DataError(f"{format_hint}: {error}. Copy it again.") from error
    if table.size == 0 or table.shape[1] != 2 or int(table.min()) < 0:
        raise DataError(f"{format_hint}. Copy it again.")
    table = table[np.argsort(table[:, 0], kind="stable")]
    table.flags.writeable = False  # shared by every later call
    return _Index(table[:, 0], table[:, 1])


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


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {error.strerror or error}. Check the path, the permissions and the disk.")


CONTAINER = Container(
    name="RecordIO file",
    pattern=re.compile(r".+\.rec", re.IGNORECASE),
    items=keys,
    read=read_record,
    labels=labels,
)
