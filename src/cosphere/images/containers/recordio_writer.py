"""Write images as InsightFace's data sets are written: ``train.rec``, ``train.idx`` and ``property``.

Record 0 is a header with two labels: the key after the last image and the key after the last identity. Images have keys from
1; behind them lies a record without an image for each identity, with the labels ``first key, key after the last``.
``property`` is a line ``identities,height,width``. The format of a record is described in
:mod:`cosphere.images.containers.recordio`.

Source: InsightFace ``face2rec2.py`` and MXNet ``recordio.py``.
"""

from __future__ import annotations

import io
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

from cosphere.checks import check_whole
from cosphere.errors import DataError, ImageError
from cosphere.images.containers.kind import MAX_ITEM_BYTES
from cosphere.images.containers.recordio import FRAME, HEADER, MAGIC
from cosphere.images.decode import image_kind

MOST = 2**24
"""Keys and identities below this are exact as float32, in which the format keeps them."""
_HEADER_BYTES = FRAME.size + HEADER.size + 8


@dataclass
class WriterState:
    """Where a :class:`RecordWriter` stands: all that it needs to go on after its process was killed."""

    record_bytes: int = 0
    index_bytes: int = 0
    next_key: int = 0
    side: tuple[int, int] = (0, 0)
    """Height and width of the first image, in pixels."""
    people: list[list[int]] = field(default_factory=list)
    """Identity, first key and the key after the last, for each identity that is complete or begun."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> WriterState:
        """Undo :meth:`as_dict`."""
        return cls(**values | {"side": tuple(values["side"])})


class RecordWriter:
    """Writes a data set image by image, in bounded memory.

    Args:
        path: the .rec file; ``.idx`` and ``property`` are written beside it. What is there is replaced.
        state: from :meth:`checkpoint` of a writer of the same file, to go on from there. What it wrote later is cut off.

    Raises:
        DataError: the files are shorter than ``state`` says.
        OSError: the files cannot be written.
    """

    def __init__(self, path: Path, *, state: WriterState | None = None) -> None:
        self.state = WriterState() if state is None else state
        self.path = path
        self.records = self._opened(path, self.state.record_bytes)
        self.index = self._opened(path.with_suffix(".idx"), self.state.index_bytes)
        self.seen = {identity for identity, _, _ in self.state.people}
        if state is None:
            self._append(self._payload(b"", (0.0, 0.0)))  # a place for the header

    @staticmethod
    def _opened(path: Path, size: int) -> BinaryIO:
        file = path.open("r+b" if size else "wb")
        if file.seek(0, io.SEEK_END) < size:
            file.close()
            raise DataError(f"{path} is shorter than it was when its state was kept. Start again.")
        file.truncate(size)
        file.seek(size)
        return file

    def add(self, content: bytes, identity: int) -> int:
        """Append an image. All images of an identity must follow each other.

        Args:
            content: an encoded image; its bytes are kept.
            identity: a number from 0; numbers may be left out.

        Returns:
            Its key.

        Raises:
            SettingsError: the identity is negative, or above 2^24.
            DataError: images of the identity ended before, the image is too large, or there are too many.
        """
        identity = check_whole("identity", identity, least=0, most=MOST)
        if len(content) > MAX_ITEM_BYTES - HEADER.size:
            raise DataError(f"an image has {len(content):,} bytes, and at most {MAX_ITEM_BYTES:,} are written.")
        if self.state.next_key >= MOST:
            raise DataError(f"a RecordIO file holds at most {MOST:,} images, because it keeps their number as float32.")
        people = self.state.people
        if not people or people[-1][0] != identity:
            if identity in self.seen:
                raise DataError(f"the images of identity {identity} do not follow each other. Sort them by identity.")
            self.seen.add(identity)
            people.append([identity, self.state.next_key, self.state.next_key])
        if self.state.next_key == 1:
            self.state.side = _side(content)
        key = self._append(self._payload(content, float(identity)))
        people[-1][2] = key + 1
        return key

    def checkpoint(self) -> WriterState:
        """Write everything to the files, and return a state from which another writer can go on."""
        for file in (self.records, self.index):
            file.flush()
        self.state.record_bytes, self.state.index_bytes = self.records.tell(), self.index.tell()
        return self.state

    def close(self) -> None:
        """Write the records of the identities, the header and ``property``, and close the files.

        Raises:
            DataError: there are more images and identities than the format can number.
        """
        end = self.state.next_key
        if end + len(self.state.people) > MOST:
            raise DataError(f"a RecordIO file holds at most {MOST:,} images and identities. Divide the data.")
        people = self.state.people.copy()
        for _, first, after in people:
            self._append(self._payload(b"", (float(first), float(after))))
        header = self._payload(b"", (float(end), float(self.state.next_key)))
        self.records.seek(0)
        self.records.write(FRAME.pack(MAGIC, len(header)) + header)
        self.leave()
        height, width = self.state.side
        self.path.with_name("property").write_text(f"{len(people)},{height},{width}\n", encoding="ascii")

    def leave(self) -> None:
        """Close the files as they are, unfinished."""
        self.records.close()
        self.index.close()

    def __enter__(self) -> Self:
        """Finish the files at the end of a ``with`` block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Finish the files, or only close them after an error."""
        self.close() if kind is None else self.leave()

    def _payload(self, content: bytes, label: float | tuple[float, float]) -> bytes:
        if isinstance(label, float):
            return HEADER.pack(0, label, self.state.next_key, 0) + content
        return HEADER.pack(2, 0.0, self.state.next_key, 0) + struct.pack("<2f", *label) + content

    def _append(self, payload: bytes) -> int:
        """Append a record and its line in the index; return its key."""
        key = self.state.next_key
        self.index.write(b"%d\t%d\n" % (key, self.records.tell()))
        parts = _parts(payload)
        for number, part in enumerate(parts):
            kind = 0 if len(parts) == 1 else 1 if number == 0 else 3 if number == len(parts) - 1 else 2
            self.records.write(FRAME.pack(MAGIC, kind << 29 | len(part)) + part + bytes(-len(part) % 4))
        self.state.next_key += 1
        return key


def _parts(payload: bytes) -> list[bytes]:
    """A payload without the magic numbers that lie in it at a multiple of 4, where a reader would look for a record."""
    parts: list[bytes] = []
    start, at = 0, payload.find(MAGIC)
    while at >= 0:
        if at % 4 == 0:
            parts.append(payload[start:at])
            start = at + 4
        at = payload.find(MAGIC, at + (4 if at % 4 == 0 else 1))
    return [*parts, payload[start:]]


def _side(content: bytes) -> tuple[int, int]:
    """Height and width of an encoded image; 0 where it is none, of which its reader will say what is wrong."""
    try:
        kind = image_kind(content)
    except ImageError:
        return 0, 0
    return kind.height, kind.width
