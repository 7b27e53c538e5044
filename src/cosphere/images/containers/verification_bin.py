"""Images in the verification sets of InsightFace (``lfw.bin``, ``cfp_fp.bin``, ``agedb_30.bin``): ``lfw.bin#17`` is image 17, from 0.

The file is a pickle of two lists: 2 n encoded images, of which 2 i and 2 i + 1 are pair i, and n booleans that say whether a
pair shows one person. An image is stored as bytes (``lfw.bin``) or as the numpy array that OpenCV's ``imencode`` returns
(``cfp_fp.bin``). The pickle is interpreted by :mod:`cosphere.images.containers.plain_pickle`, which runs no code; images stay
in the file until they are read.

Source: InsightFace ``lfw2pack.py``, ``cfp2pack`` and ``verification.py``.
"""

from __future__ import annotations

import functools
import math
import mmap
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosphere._types import Flags, Integers
from cosphere.disk import FileState, file_state
from cosphere.errors import DataError
from cosphere.images.containers.kind import MAX_ITEM_BYTES, Container, item_number, unreadable
from cosphere.images.containers.plain_pickle import PlainArray, Span, plain_value


class _Set(NamedTuple):
    starts: Integers
    """(2 n,) where each image begins, in bytes."""
    sizes: Integers
    """(2 n,) in bytes."""
    same: Flags
    """(n,) whether a pair shows one person."""


def images(path: Path) -> list[str]:
    """The numbers of the images, from 0.

    Raises:
        DataError: the file is not a verification set, is damaged, or holds anything but images and booleans.
    """
    return [str(number) for number in range(len(_set_in(path).starts))]


def verification_labels(path: Path) -> Flags:
    """(n,) bool: whether images 2 i and 2 i + 1 show one person.

    Raises:
        DataError: the file is not a verification set, is damaged, or holds anything but images and booleans.
    """
    return _set_in(path).same


def read_item(path: Path, name: str) -> bytes:
    """The encoded image with this number.

    Raises:
        DataError: there is no such image, the file cannot be read, or the image is larger than :data:`MAX_ITEM_BYTES`.
    """
    content = _set_in(path)
    number = item_number(name)
    if not 0 <= number < len(content.starts):
        raise DataError(f"{path} has images 0 to {len(content.starts) - 1}, so there is no image {name[:40]!r}.")
    size = int(content.sizes[number])
    if size > MAX_ITEM_BYTES:
        raise DataError(
            f"{path}#{name} has {size:,} bytes, and at most {MAX_ITEM_BYTES:,} are read. Check what wrote the file."
        )
    try:
        with path.open("rb") as file:
            file.seek(int(content.starts[number]))
            return file.read(size)
    except OSError as error:
        raise unreadable(path, error) from error


def _set_in(path: Path) -> _Set:
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    return _read_set(path, file_state(status))


@functools.lru_cache(maxsize=8)
def _read_set(path: Path, state: FileState) -> _Set:
    """Where the images lie; the state is part of the cache key, so that a changed file is read again."""
    if not state[0]:
        raise DataError(f"{path} is empty. Copy or download it again.")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            result = _checked(plain_value(content), content)
    except DataError as error:
        raise DataError(
            f"{path} {error}. A verification set is a pickle of a list of images and a list of booleans; use the official file."
        ) from None
    except OSError as error:
        raise unreadable(path, error) from error
    for part in result:
        part.flags.writeable = False  # shared by all later calls
    return result


def _checked(value: Any, content: mmap.mmap) -> _Set:
    """The two lists of the file.

    Raises:
        DataError: they have another form. The message goes behind the file's name.
    """
    match value:
        case (list() | tuple() as encoded, list() | tuple() | PlainArray() as flags):
            spans = [_image(one) for one in encoded]
            same = _flags(flags, content)
        case _:
            raise DataError("does not hold two lists")
    if not spans or len(spans) != 2 * len(same):
        raise DataError(f"holds {len(spans)} images and {len(same)} booleans, wanted two images for each boolean")
    table = np.array(spans, dtype=np.int64)
    return _Set(table[:, 0].copy(), table[:, 1].copy(), same)


def _image(value: Any) -> Span:
    """Where an encoded image lies: bytes, or an array of n, n x 1 or 1 x n bytes."""
    if isinstance(value, PlainArray) and value.dtype == "u1" and math.prod(value.shape) == value.data.size:
        if max(value.shape, default=0) != value.data.size:
            raise DataError("holds decoded pixels, and encoded images (JPEG or PNG) are wanted")
        return value.data
    if not isinstance(value, Span):
        raise DataError("holds something else than bytes among its images")
    return value


def _flags(values: Any, content: mmap.mmap) -> Flags:
    if isinstance(values, PlainArray) and values.dtype == "b1" and math.prod(values.shape) == values.data.size:
        start, size = values.data
        flags: Flags = np.frombuffer(content[start : start + size], dtype=np.uint8) != 0
        return flags
    if isinstance(values, PlainArray) or not all(isinstance(one, bool | int) and one in (0, 1) for one in values):
        raise DataError("holds something else than booleans in its second list")
    return np.array(values, dtype=bool)


CONTAINER = Container(
    name="verification set",
    pattern=re.compile(r".+\.bin", re.IGNORECASE),
    items=images,
    read=read_item,
)
