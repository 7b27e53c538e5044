"""On-disk cache of decoded and resized images, so that only the first epoch decodes.

A cache folder holds two append-only files: ``pixels.dat`` with the pixels of all images, and ``pixels.index`` with one
fixed-size entry per image. An entry is written after its pixels and stores two checksums, of the pixels and of itself,
so a partial write left by a killed process is ignored. Several processes may share a folder: writers take turns with a
file lock, readers need no lock.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosphere.disk import file_state
from cosphere.errors import SizeError
from cosphere.files import exclusive, path_of
from cosphere.images.containers import find_item
from cosphere.images.decode import DECODING, Box
from cosphere.images.modes import Pixels

try:
    import fcntl
except ImportError:  # Windows has no flock: the cache disables itself there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

_ENTRY = struct.Struct("<16sQIII")
"""Key, offset in bytes, height and width in pixels, CRC-32 of the pixels."""
_CHECK = struct.Struct("<I")
"""CRC-32 of the entry; a partial or corrupted entry does not match."""
_STRIDE = _ENTRY.size + _CHECK.size


class _Place(NamedTuple):
    """Location of one image's pixels in ``pixels.dat``."""

    offset: int
    height: int
    width: int
    checksum: int


class PixelCache:
    """Cache of uint8 images of any size, keyed by file, its size and times of change, box, preprocessing rule and decoding version.

    A changed file has a new key. The cache never stops a run: if it cannot be read or written, it logs one warning and
    images are decoded again. It can be passed to worker processes, forked or spawned, and is safe to use from threads.
    """

    def __init__(self, folder: str | Path, *, rule: str, keep_free: int = 1_000_000_000) -> None:
        """Create a cache; the first :meth:`get` opens its files.

        Args:
            folder: created if missing; may be shared by several rules and several runs.
            rule: describes how images are processed before they are stored, such as :attr:`Preprocessing.rule`.
            keep_free: bytes; the cache stops growing when the disk has less free space, so that checkpoints still fit.
        """
        self.folder = path_of(folder)
        self.rule = rule
        self.keep_free = keep_free
        self._start()

    def _start(self) -> None:
        """Initialise the state of a process that has not opened the files yet."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._files: tuple[int, int] | None = None  # file descriptors of the data and the index
        self._reading = self._writing = True
        self._warned = False
        self._index_read = 0  # bytes of the index that have been read
        self._places: dict[bytes, _Place] = {}

    def get(self, path: str | Path, make: Callable[[], Pixels], *, box: Box | None = None) -> Pixels:
        """Return the cached pixels of an image, or call ``make()`` and store its result.

        Args:
            path: the image file, or ``"<container>#<item>"``.
            make: reads and resizes the image: (H, W, 3) uint8. Its exceptions propagate and nothing is stored.
            box: the region that ``make`` crops to, if any; part of the key.

        Returns:
            (H, W, 3) uint8, a writable copy.

        Raises:
            SizeError: ``make`` returned another shape or dtype.
        """
        key = self._key(path, box)
        if key is None:  # no such file; make() raises the right error
            return make()
        if os.getpid() != self._process:
            # Forked: flock belongs to the open file, so a lock taken here would also be the parent's.
            self.close()
            self._start()
        with self._lock:
            cached = self._find(key)
        if cached is not None:
            return cached
        pixels = make()
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise SizeError(
                f"want pixels to keep as uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}. Convert to RGB first."
            )
        with self._lock:
            self._store(key, pixels)
        return pixels

    def _key(self, path: str | Path, box: Box | None) -> bytes | None:
        """16-byte digest of the file's identity, rule, decoding version and box; None if the file does not exist."""
        item = find_item(path)
        try:
            status = (item.file if item else Path(path)).stat()
        except (OSError, ValueError):
            return None
        edges = None if box is None else tuple(int(edge) for edge in box)
        words = (str(Path(path).absolute()), file_state(status), self.rule, DECODING, edges)
        return hashlib.blake2b(repr(words).encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def _find(self, key: bytes) -> Pixels | None:
        try:
            data, index = self._open()
            if key not in self._places:
                self._read_new_entries(index)  # another process may have added it meanwhile
            place = self._places.get(key)
            return None if place is None else self._read(key, place, data)
        except OSError as error:
            self._reading = False
            self._stop_writing(error)
            return None

    def _open(self) -> tuple[int, int]:
        """Return the descriptors of data and index, opening them on first use; OSError if they cannot even be read."""
        if not self._reading:
            raise OSError("switched off")
        if self._files is None:
            if fcntl is None:
                raise OSError("it needs file locks, which this system does not have")
            names = [self.folder / "pixels.dat", self.folder / "pixels.index"]
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                data, index = (os.open(name, os.O_RDWR | os.O_CREAT, 0o666) for name in names)
            except OSError as error:  # a cache in a read-only folder can still be read
                self._stop_writing(error)
                data, index = (os.open(name, os.O_RDONLY) for name in names)
            self._files = data, index
        return self._files

    def _read_new_entries(self, index: int) -> None:
        """Read the complete entries added to the index since the last call; skip damaged ones."""
        end = os.fstat(index).st_size // _STRIDE * _STRIDE
        if end <= self._index_read:
            return
        added = os.pread(index, end - self._index_read, self._index_read)
        for start in range(0, len(added) - _STRIDE + 1, _STRIDE):
            entry, check = added[start : start + _ENTRY.size], added[start + _ENTRY.size : start + _STRIDE]
            if _CHECK.unpack(check)[0] == zlib.crc32(entry):
                key, *place = _ENTRY.unpack(entry)
                self._places[key] = _Place(*place)
        self._index_read += len(added) // _STRIDE * _STRIDE

    def _read(self, key: bytes, place: _Place, data: int) -> Pixels | None:
        """Return the pixels, or None if they do not match their entry.

        pread instead of a memory map: equally fast from the page cache, and a truncated data file gives a short read,
        where a map would kill the process with SIGBUS. The checksum costs 0.02 ms for 144 x 240 pixels.
        """
        size = place.height * place.width * 3
        content = os.pread(data, size, place.offset)
        if len(content) != size or zlib.crc32(content) != place.checksum:
            del self._places[key]
            return None
        return np.frombuffer(bytearray(content), np.uint8).reshape(place.height, place.width, 3)

    def _store(self, key: bytes, pixels: Pixels) -> None:
        if not (self._writing and self._files is not None):
            return
        try:
            free = shutil.disk_usage(self.folder).free
            if free - pixels.nbytes < self.keep_free:
                raise OSError(f"the disk has {free / 1e9:.1f} GB left, and {self.keep_free / 1e9:.1f} GB are kept free")
            data, index = self._files
            with exclusive(index):
                self._read_new_entries(index)
                if key not in self._places:
                    _append(data, index, key, pixels)
        except OSError as error:
            self._stop_writing(error)

    def _stop_writing(self, error: OSError) -> None:
        """Disable writing and log one warning."""
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
        """Close the files; the next :meth:`get` opens them again."""
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


def _append(data: int, index: int, key: bytes, pixels: Pixels) -> None:
    """Write the pixels, then their entry; if the disk fills up, truncate both files to their previous size."""
    pixels_end = os.fstat(data).st_size
    index_end = os.fstat(index).st_size // _STRIDE * _STRIDE  # overwrites a partial entry
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
    """Write everything: on a nearly full disk one call may write only a part, and only the next one fails."""
    rest = memoryview(content)
    while rest:
        count = os.pwrite(file, rest, offset)
        rest, offset = rest[count:], offset + count
