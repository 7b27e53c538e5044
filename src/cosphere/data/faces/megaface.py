"""The files of MegaFace: features as its devkit reads them, lists of images, and InsightFace's lists of noisy images.

A feature is a file of its own, ``IMAGE_ALGORITHM.bin``: int32 rows, columns (1), stride (4) and type (5, float32), then the
float32 values, all little-endian.

Source: MegaFace's devkit and InsightFace's ``gen_megaface.py`` and ``remove_noises.py``.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from cosphere._types import Flags, Float32s
from cosphere.checks import MOST_DIM
from cosphere.data.text_lists import read_lines
from cosphere.errors import DataError, SizeError
from cosphere.files import path_of, write_atomic

_HEADER = struct.Struct("<4i")
_COLUMNS, _STRIDE, _FLOAT32 = 1, 4, 5


@dataclass(frozen=True, kw_only=True, eq=False)
class MegaFaceList:
    """N images of MegaFace or FaceScrub.

    Attributes:
        names: N paths relative to the images, such as ``Ann_Lee/Ann_Lee_12.png`` or ``363/41990311@N00/104_0.jpg``.
        people: N names, the person of each; None for distractors.
    """

    names: tuple[str, ...]
    people: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.names)

    def without(self, noisy: frozenset[str]) -> Flags:
        """Which images are kept when noisy ones are left out. (N,) bool.

        A noisy image is named by its whole path or, as InsightFace's list of FaceScrub does, by its file name.

        Args:
            noisy: from :func:`read_megaface_noises`.
        """
        return np.array([name not in noisy and name.rpartition("/")[2] not in noisy for name in self.names], dtype=bool)


def read_megaface_feature(path: str | Path) -> Float32s:
    """Read one feature. (D,) float32.

    Raises:
        DataError: the file cannot be read, has another header, is longer or shorter than its header says, or holds NaN or infinity.
    """
    path = path_of(path)
    try:
        with path.open("rb") as file:
            content = file.read(_HEADER.size + 4 * MOST_DIM + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Check the path and the disk.") from error
    if len(content) < _HEADER.size:
        raise DataError(f"{path} has {len(content)} bytes, which is less than the header of a feature.")
    rows, columns, stride, kind = _HEADER.unpack_from(content)
    if (columns, stride, kind) != (_COLUMNS, _STRIDE, _FLOAT32) or not 1 <= rows <= MOST_DIM:
        raise DataError(
            f"{path} is not a feature of MegaFace: its header is {rows}, {columns}, {stride}, {kind}; wanted the width "
            f"(1 to {MOST_DIM}), 1, 4, 5."
        )
    if len(content) != _HEADER.size + 4 * rows:
        raise DataError(f"{path} should have {_HEADER.size + 4 * rows:,} bytes for {rows} values. Write it again.")
    values = np.frombuffer(content, dtype="<f4", offset=_HEADER.size).astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{path} holds NaN or infinity. Write it again, or leave that image out of the list.")
    return values


def write_megaface_feature(path: str | Path, feature: ArrayLike) -> None:
    """Write one feature, atomically. Its folder is created if missing.

    Args:
        path: the file.
        feature: (D,) or (D, 1) finite numbers, D from 1 to 65536.

    Raises:
        SizeError: the feature has another shape.
        DataError: it holds NaN or infinity.
        RunError: the file cannot be written.
    """
    values = np.asarray(feature, dtype="<f4")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or not 1 <= len(values) <= MOST_DIM:
        raise SizeError(f"a feature is (D,) with D from 1 to {MOST_DIM}; got {np.shape(feature)}. Give one row.")
    if not np.isfinite(values).all():
        raise DataError("the feature holds NaN or infinity. Leave that image out.")
    content = _HEADER.pack(len(values), _COLUMNS, _STRIDE, _FLOAT32) + values.tobytes()
    write_atomic(path_of(path), lambda part: part.write_bytes(content))


def read_megaface_list(path: str | Path, *, parts: int | None = None) -> MegaFaceList:
    """Read a list of images: the devkit's JSON (``path`` and, for probes, ``id``), or text with one path a line.

    Args:
        path: ``facescrub_features_list.json``, ``megaface_features_list.json_1000000_1``, ``facescrub_lst``,
            ``megaface_lst`` and the like.
        parts: keep the last parts of each path only: 2 for ``facescrub_lst``, 3 for ``megaface_lst``, whose lines begin with
            folders of the machine that wrote them. Defaults to the whole path.

    Raises:
        DataError: the file cannot be read, lists no images, or a path is absolute or leaves its folder.
    """
    path = path_of(path)
    lines = read_lines(path)
    if not lines:
        raise DataError(f"{path.name} lists no images. Copy it again.")
    if lines[0].lstrip().startswith("{"):
        names, people = _json_list(path, "\n".join(lines))
    else:
        names, people = [line.strip() for line in lines], None
    if parts is not None:
        names = ["/".join(name.split("/")[-parts:]) for name in names]
    outside = next((name for name in names if name.startswith("/") or ".." in name.split("/")), None)
    if outside is not None:
        raise DataError(
            f"{path.name}: {outside!r} is outside the folder of the images. Give parts: 2 for FaceScrub, 3 for MegaFace."
        )
    return MegaFaceList(names=tuple(names), people=None if people is None else tuple(people))


def _json_list(path: Path, text: str) -> tuple[list[str], list[str] | None]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is not a list of the devkit: {error}. Copy it again.") from error
    names, people = content.get("path"), content.get("id")
    if not _texts(names) or not names or (people is not None and (not _texts(people) or len(people) != len(names))):
        raise DataError(
            f"{path.name} should hold a list 'path' and perhaps a list 'id' of the same length. Copy it again."
        )
    return names, people


def _texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def read_megaface_noises(path: str | Path) -> frozenset[str]:
    """Read InsightFace's list of noisy images: a name, or ``number<TAB>name``, in each line; ``#`` begins a comment.

    Raises:
        DataError: the file cannot be read.
    """
    lines = [line for line in read_lines(path_of(path)) if not line.startswith("#")]
    return frozenset(line.strip().split("\t")[min(1, line.strip().count("\t"))] for line in lines)
