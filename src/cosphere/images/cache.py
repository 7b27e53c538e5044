"""Decoded and resized pictures on disk, so that a second epoch decodes nothing.

A folder holds two files that only grow: ``pixels.dat``, the pixels of one picture after another, and ``pixels.index``,
one entry of fixed size for each. An entry is written after its pixels and carries their checksum and its own, so what a
kill leaves behind is either a whole entry or is ignored. Several processes may use one folder: writers take turns by a
file lock, readers need none.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosphere.errors import SizeError
from cosphere.images.containers import find_item
from cosphere.images.decode import Box, Pixels

try:
    import fcntl
except ImportError:  # no such locks on Windows: the cache switches itself off there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

_ENTRY = struct.Struct("<16sQIII")
"""Key, offset in bytes, height and width in pixels, CRC-32 of the pixels."""
_CHECK = struct.Struct("<I")
"""CRC-32 of the entry; a half-written or rotten one does not match."""
_STRIDE = _ENTRY.size + _CHECK.size


class _Place(NamedTuple):
    """Where one picture's pixels lie."""

    offset: int
    height: int
    width: int
    checksum: int


class PixelCache:
    """uint8 pictures of any size, found again by file, time, length, box and the rule that made them.

    A file that changes is a new key. The cache never fails a run: where it cannot be read or written, it says so once
    in the log and pictures are made anew. It may be handed to worker processes, forked or spawned, and used by threads.
    """

    def __init__(self, folder: str | Path, *, rule: str, keep_free: int = 1_000_000_000) -> None:
        """Nothing is touched on disk before the first :meth:`get`.

        Args:
            folder: made if missing; several rules and several runs may share it.
            rule: what is done to a picture before it is kept, such as :attr:`Preprocessing.rule`.
            keep_free: bytes; nothing more is kept once the disk has less than this left, so that checkpoints still fit.
        """
        self.folder = Path(folder)
        self.rule = rule
        self.keep_free = keep_free
        self._start()

    def _start(self) -> None:
        """The state of a process that has not opened the files yet."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._files: tuple[int, int] | None = None  # descriptors of the data and of the index
        self._reading = self._writing = True
        self._warned = False
        self._known_bytes = 0  # how far the index has been read
        self._places: dict[bytes, _Place] = {}

    def get(self, path: str | Path, make: Callable[[], Pixels], *, box: Box | None = None) -> Pixels:
        """The kept pixels of a picture, or those of ``make()``, which are then kept.

        Args:
            path: the picture's file, or ``"<container>#<item>"``.
            make: reads and resizes the picture: (H, W, 3) uint8. Its errors pass through and nothing is kept.
            box: the part of the picture that ``make`` takes, if it takes a part.

        Returns:
            (H, W, 3) uint8, writable, the caller's own.

        Raises:
            SizeError: ``make`` gave another shape or type.
        """
        key = self._key(path, box)
        if key is None:  # no such file; make() knows how to say so
            return make()
        if os.getpid() != self._process:
            # Forked: a lock taken through the parent's descriptor would be the parent's too.
            self.close()
            self._start()
        with self._lock:
            kept = self._find(key)
        if kept is not None:
            return kept
        pixels = make()
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise SizeError(
                f"want pixels to keep as uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}. Convert to RGB first."
            )
        with self._lock:
            self._keep(key, pixels)
        return pixels

    def _key(self, path: str | Path, box: Box | None) -> bytes | None:
        """16 bytes that change with the file, the rule and the box; None where there is no file."""
        item = find_item(path)
        try:
            status = (item.file if item else Path(path)).stat()
        except (OSError, ValueError):
            return None
        edges = None if box is None else tuple(int(edge) for edge in box)
        words = (str(Path(path).absolute()), status.st_mtime_ns, status.st_size, self.rule, edges)
        return hashlib.blake2b(repr(words).encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def _find(self, key: bytes) -> Pixels | None:
        try:
            data, index = self._open()
            if key not in self._places:
                self._learn(index)  # another process may have made it meanwhile
            place = self._places.get(key)
            return None if place is None else self._read(key, place, data)
        except OSError as error:
            self._reading = False
            self._give_up(error)
            return None

    def _open(self) -> tuple[int, int]:
        """The descriptors of data and index, opened on first use. OSError where they cannot be had even for reading."""
        if not self._reading:
            raise OSError("switched off")
        if self._files is None:
            if fcntl is None:
                raise OSError("it needs file locks, which this system does not have")
            names = [self.folder / "pixels.dat", self.folder / "pixels.index"]
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                data, index = (os.open(name, os.O_RDWR | os.O_CREAT, 0o666) for name in names)
            except OSError as error:  # a cache that somebody else filled may still be read
                self._give_up(error)
                data, index = (os.open(name, os.O_RDONLY) for name in names)
            self._files = data, index
        return self._files

    def _learn(self, index: int) -> None:
        """Take in the whole entries that were added to the index since the last time; skip the damaged ones."""
        whole = os.fstat(index).st_size // _STRIDE * _STRIDE
        if whole <= self._known_bytes:
            return
        added = os.pread(index, whole - self._known_bytes, self._known_bytes)
        for start in range(0, len(added) - _STRIDE + 1, _STRIDE):
            entry, check = added[start : start + _ENTRY.size], added[start + _ENTRY.size : start + _STRIDE]
            if _CHECK.unpack(check)[0] == zlib.crc32(entry):
                key, *place = _ENTRY.unpack(entry)
                self._places[key] = _Place(*place)
        self._known_bytes += len(added) // _STRIDE * _STRIDE

    def _read(self, key: bytes, place: _Place, data: int) -> Pixels | None:
        """The pixels, or None where the data are not what their entry says.

        A read at an offset rather than a memory map: as quick from the system's own cache, and a data file that was cut
        short gives a short read, where a map would kill the process. The check costs 0.02 ms for 144 x 240 pixels.
        """
        wanted = place.height * place.width * 3
        read = os.pread(data, wanted, place.offset)
        if len(read) != wanted or zlib.crc32(read) != place.checksum:
            del self._places[key]
            return None
        return np.frombuffer(bytearray(read), np.uint8).reshape(place.height, place.width, 3)

    def _keep(self, key: bytes, pixels: Pixels) -> None:
        if not (self._writing and self._files is not None):
            return
        try:
            free = shutil.disk_usage(self.folder).free
            if free - pixels.nbytes < self.keep_free:
                raise OSError(f"the disk has {free / 1e9:.1f} GB left, and {self.keep_free / 1e9:.1f} GB are kept free")
            data, index = self._files
            with _turn(index):
                self._learn(index)
                if key not in self._places:
                    _append(data, index, key, pixels)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Write no more, and say so once."""
        self._writing = False
        if not self._warned:
            self._warned = True
            log.warning(
                "the pixel cache %s keeps nothing more: %s. The run goes on and decodes what is not kept each time, "
                "which is slower; free some space or choose another folder.",
                self.folder,
                error.strerror or error,
            )

    def close(self) -> None:
        """Let go of the files; the next :meth:`get` opens them again."""
        files, self._files = self._files, None
        for descriptor in files or ():
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "rule": self.rule, "keep_free": self.keep_free}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


@contextlib.contextmanager
def _turn(index: int) -> Iterator[None]:
    """Alone among all processes that write to this cache; a killed one lets go by itself."""
    fcntl.flock(index, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(index, fcntl.LOCK_UN)


def _append(data: int, index: int, key: bytes, pixels: Pixels) -> None:
    """Pixels first, then their entry; where the disk fills up, both files are cut back to what they were."""
    pixels_end = os.fstat(data).st_size
    index_end = os.fstat(index).st_size // _STRIDE * _STRIDE  # a half-written entry is overwritten
    content = pixels.tobytes()
    entry = _ENTRY.pack(key, pixels_end, pixels.shape[0], pixels.shape[1], zlib.crc32(content))
    try:
        _write(data, content, pixels_end)
        _write(index, entry + _CHECK.pack(zlib.crc32(entry)), index_end)
    except OSError:
        for file, end in ((index, index_end), (data, pixels_end)):
            with contextlib.suppress(OSError):
                os.ftruncate(file, end)
        raise


def _write(file: int, content: bytes, offset: int) -> None:
    """All of it: a single call may write less when the disk is nearly full, and only the next one then fails."""
    rest = memoryview(content)
    while rest:
        count = os.pwrite(file, rest, offset)
        rest, offset = rest[count:], offset + count
