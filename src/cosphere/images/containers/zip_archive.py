"""Images in a zip archive: ``photos.zip#bus/1.jpg``. Members are read into memory; nothing is extracted to disk."""

from __future__ import annotations

import functools
import lzma
import os
import posixpath
import re
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from cosphere.disk import FileState, file_state
from cosphere.errors import DataError, did_you_mean
from cosphere.images.containers.kind import MAX_ITEM_BYTES, Container, ForkSafeLock

# What a damaged archive makes of zipfile: an unknown method or version is "not implemented", or "encrypted".
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError)

_lock = ForkSafeLock()
"""Held while a member is opened or closed: zipfile counts its open members without a lock."""


def members(path: Path) -> list[str]:
    """Names of the files in the archive, in its order, each once, with ``/`` where a program of Windows wrote backslashes.

    A name that is absolute, climbs out of its folder or is not in normal form is left out: it could not be distinguished from
    another one.

    Raises:
        DataError: the file is not a zip archive, is damaged or cannot be read.
    """
    return list(_archive(path).names)


def read_member(path: Path, name: str) -> bytes:
    """The bytes of one member.

    Raises:
        DataError: there is no such member, it is encrypted or damaged, or larger than :data:`MAX_ITEM_BYTES`.
    """
    archive, names = _archive(path)
    try:
        info = archive.getinfo(names.get(name, name))
    except KeyError:
        near = did_you_mean(name, names)
        raise DataError(
            f"{path} has no member {name!r}. {near if near.startswith('Did') else 'Check the name.'}"
        ) from None
    if info.flag_bits & 0x1:
        raise DataError(f"{path}#{name} is encrypted. Unpack the archive with its password.")
    if info.file_size > MAX_ITEM_BYTES:
        raise DataError(
            f"{path}#{name} has {info.file_size:,} bytes, and at most {MAX_ITEM_BYTES:,} are read from an archive. "
            "Unpack it if you trust it."
        )
    try:
        with _lock:
            member = archive.open(info)
        try:
            return member.read()  # no more than file_size, whatever the compressed data hold; the CRC is checked
        finally:
            with _lock:
                member.close()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Check the path and the disk.") from error
    except _DAMAGED as error:
        raise DataError(f"{path}#{name} is damaged: {error}. Copy or download the archive again.") from error


class _Archive(NamedTuple):
    """An open archive."""

    file: zipfile.ZipFile
    names: dict[str, str]
    """The archive's own name of each member, by the name with slashes."""


def _archive(path: Path) -> _Archive:
    try:
        status = path.stat()
        return _opened(path, file_state(status), os.getpid())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Check the path and the disk.") from error
    except UnicodeDecodeError as error:  # a ValueError, so before the damaged ones
        raise DataError(
            f"{path} has names that are marked as UTF-8 and are not. Unpack it, or write it again with another program."
        ) from error
    except _DAMAGED as error:
        raise DataError(f"{path} is not a whole zip archive: {error}. Copy or download it again.") from error


@functools.lru_cache(maxsize=8)
def _opened(path: Path, state: FileState, process: int) -> _Archive:
    """The archive with its directory, which takes a third of a second to read at 60 000 members.

    The process is part of the key: a forked one would share the file's position with its parent.
    """
    del state, process
    file = zipfile.ZipFile(path)
    return _Archive(file, _slashed({info.filename for info in file.infolist() if not info.is_dir()}, file.namelist()))


def _slashed(files: set[str], order: list[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for own in order:
        slashed = own.replace("\\", "/")
        name = own if slashed in files else slashed  # beside a file of that name, the backslash is a letter
        if own in files and posixpath.normpath(name) == name and not name.startswith(("/", "../")):
            names.setdefault(name, own)
    return names


CONTAINER = Container(
    name="zip archive",
    pattern=re.compile(r".+\.zip", re.IGNORECASE),
    items=members,
    read=read_member,
    has_paths=True,
)
