"""Images in the batch files of CIFAR-10 and CIFAR-100: ``data_batch_1#17``.

Binary and pickled batches; pickles are read by a restricted unpickler that runs no code.
"""

from __future__ import annotations

import functools
import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from cosphere._types import Integers
from cosphere.disk import FileState, file_state
from cosphere.errors import DataError
from cosphere.images.containers.kind import Container, item_number, unreadable

SIDE = 32
"""Height and width of a CIFAR image, in pixels."""
_IMAGE_BYTES = 3 * SIDE * SIDE
_CIFAR_10 = re.compile(r"(data_batch_\d+|test_batch)(\.bin)?")
_CIFAR_100 = re.compile(r"(train|test)(\.bin)?")
_OFFICIAL_BYTES = {"data_batch": 30_730_000, "test_batch": 30_730_000, "train": 153_700_000, "test": 30_740_000}


class CifarLabels(NamedTuple):
    """The labels of one batch file."""

    labels: Integers
    """(N,) in [0, 10) for CIFAR-10, fine labels in [0, 100) for CIFAR-100."""
    coarse: Integers | None
    """(N,) in [0, 20), CIFAR-100's superclasses; None for CIFAR-10."""


class _Batch(NamedTuple):
    images: NDArray[np.uint8]
    """(N, 3072): red plane, green plane, blue plane, each 32 x 32 row by row."""
    labels: Integers
    coarse: Integers | None


def is_cifar_batch(path: Path) -> bool:
    """Whether a file is a CIFAR batch, judged by name, size and first byte; nothing is unpickled."""
    name = _classes(path)
    try:
        if name is None or not path.is_file():
            return False
        size = path.stat().st_size
        if path.suffix == ".bin":
            return size > 0 and size % _record_bytes(path) == 0
        with path.open("rb") as file:
            return file.read(1) == b"\x80"  # first byte of every pickle since protocol 2
    except OSError:
        return False


def read_cifar_labels(path: Path) -> CifarLabels:
    """Read the labels of a batch file, for CIFAR-100 fine and coarse.

    Raises:
        DataError: the file is not a batch, its size or a label is wrong, or its pickle contains more than arrays.
    """
    if path.suffix != ".bin":
        batch = _pickled_batch(path)
        return CifarLabels(batch.labels, batch.coarse)
    record = _check_binary(path)
    ahead = record - _IMAGE_BYTES  # number of label bytes before the pixels
    table = _read_bytes(path).reshape(-1, record)[:, :ahead].astype(np.int64)
    labels, coarse = (table[:, 0], None) if ahead == 1 else (table[:, 1], table[:, 0])
    _check_labels(path, labels, coarse)
    return CifarLabels(labels, coarse)


def cifar_class_names(folder: Path) -> list[str] | None:
    """Read the class names stored beside the batches (10, or the 100 fine ones); None if there is no such file.

    Raises:
        DataError: the file is damaged or contains more than plain values.
    """
    for file in ("batches.meta.txt", "fine_label_names.txt"):
        if (folder / file).is_file():
            text = _read_bytes(folder / file).tobytes().decode("utf-8", "replace")
            return [line.strip() for line in text.splitlines() if line.strip()]
    for file, key in (("batches.meta", "label_names"), ("meta", "fine_label_names")):
        if (folder / file).is_file():
            names = _unpickled(folder / file).get(key)
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise DataError(f"{folder / file} holds no list {key!r}. Unpack the official archive again.")
            return names
    return None


def read_cifar_row(path: Path, row: int) -> NDArray[np.uint8]:
    """Read one image of a batch file.

    Args:
        path: ``data_batch_1.bin``, ``test_batch``, ``train``, ``test.bin`` and so on.
        row: counted from 0.

    Returns:
        (32, 32, 3) uint8 RGB, writable.

    Raises:
        DataError: the file is not a batch, has no such row or a wrong size, or its pickle contains more than arrays.
    """
    if path.suffix == ".bin":
        record = _check_binary(path)
        _check_row(path, row, path.stat().st_size // record)
        planes = _read_bytes(path, start=(row + 1) * record - _IMAGE_BYTES, count=_IMAGE_BYTES)
    else:
        images = _pickled_batch(path).images
        _check_row(path, row, len(images))
        planes = images[row]
    return planes.reshape(3, SIDE, SIDE).transpose(1, 2, 0).copy(order="C")


def _read_bytes(path: Path, *, start: int = 0, count: int = -1) -> NDArray[np.uint8]:
    try:
        return np.fromfile(path, dtype=np.uint8, offset=start, count=count)
    except OSError as error:
        raise unreadable(path, error) from error


def _check_row(path: Path, row: int, rows: int) -> None:
    if not 0 <= row < rows:
        raise DataError(f"{path} has rows 0 to {rows - 1}, so there is no row {row}.")


def _classes(path: Path) -> int | None:
    """10 or 100, from the file name; None if it is not the name of a batch."""
    if _CIFAR_10.fullmatch(path.name):
        return 10
    return 100 if _CIFAR_100.fullmatch(path.name) else None


def _record_bytes(path: Path) -> int:
    return _IMAGE_BYTES + (1 if _classes(path) == 10 else 2)


def _check_name(path: Path) -> None:
    if _classes(path) is None:
        raise DataError(
            f"{path} is not named like a CIFAR batch. Want data_batch_1 ... 5 or test_batch (CIFAR-10), train or test "
            "(CIFAR-100), each with or without .bin."
        )


def _check_binary(path: Path) -> int:
    """Check name and size of a binary batch and return the bytes in one record."""
    _check_name(path)
    record = _record_bytes(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if size == 0 or size % record:
        official = next(size for name, size in _OFFICIAL_BYTES.items() if path.name.startswith(name))
        raise DataError(
            f"{path} has {size:,} bytes, want a multiple of {record:,} (the official file has {official:,}). "
            "Unpack the official archive again."
        )
    return record


def _check_labels(path: Path, labels: Integers, coarse: Integers | None) -> None:
    for what, values, classes in (("labels", labels, _classes(path) or 0), ("coarse labels", coarse, 20)):
        if values is not None and len(values) and not 0 <= values.min() <= values.max() < classes:
            raise DataError(
                f"{path} has {what} from {values.min()} to {values.max()}, want 0 to {classes - 1}. "
                "Unpack the official archive again."
            )


def _pickled_batch(path: Path) -> _Batch:
    _check_name(path)
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    return _load_batch(path, file_state(status))


@functools.lru_cache(maxsize=6)  # CIFAR-10's six files: 184 MB
def _load_batch(path: Path, state: FileState) -> _Batch:
    """Checked content of a pickled batch; the state is part of the cache key, so that a changed file is reread."""
    del state
    content = _unpickled(path)
    images = content.get("data")
    fine = content.get("labels") if _classes(path) == 10 else content.get("fine_labels")
    coarse = None if _classes(path) == 10 else content.get("coarse_labels")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (_IMAGE_BYTES,):
        raise DataError(f"{path} holds no uint8 array 'data' of N x {_IMAGE_BYTES}. Unpack the official archive again.")
    try:
        labels = np.asarray(fine, dtype=np.int64)
        groups = None if coarse is None else np.asarray(coarse, dtype=np.int64)
    except (TypeError, ValueError):
        labels, groups = np.empty(0, np.int64), None
    if labels.shape != (len(images),) or (groups is not None and groups.shape != labels.shape):
        raise DataError(
            f"{path} does not hold one label for each of its {len(images)} images. Unpack the archive again."
        )
    _check_labels(path, labels, groups)
    images.flags.writeable = labels.flags.writeable = False  # shared by all later calls
    return _Batch(images, labels, groups)


def _unpickled(path: Path) -> dict[str, Any]:
    """Load the dict in a pickle; keys become str."""
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{path} {error}") from None
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # unpickling damaged data may raise anything
        raise DataError(
            f"{path} is not a whole pickle ({type(error).__name__}). Unpack the official archive again."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, want a dict. Unpack the official archive again.")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}


def _plain_dtype(kind: Any, align: Any = False, copy: Any = False) -> np.dtype[Any]:
    """numpy.dtype, refusing Python objects. The pickles of 2009 pass ``align`` as 0, which numpy warns about."""
    dtype: np.dtype[Any] = np.dtype(kind, align=bool(align), copy=bool(copy))
    if dtype.hasobject:
        raise DataError("holds an array of Python objects, which is not read. Use the official file.")
    return dtype


def _encoded(text: str, encoding: str) -> bytes:
    """``_codecs.encode`` as protocol 2 uses it to store bytes, limited to latin1."""
    if encoding != "latin1":
        raise DataError(f"holds bytes encoded as {encoding!r}, which is not read. Use the official file.")
    return text.encode(encoding)


class _ArraysOnly(pickle.Unpickler):
    """Loads dicts, lists, text, bytes, numbers and arrays. A pickle that names any other callable is refused."""

    def find_class(self, module: str, name: str) -> Any:
        plain = module.replace("numpy._core", "numpy.core")
        match plain, name:
            case "numpy", "ndarray":
                return np.ndarray
            case "numpy", "dtype":
                return _plain_dtype
            case "numpy.core.multiarray", "_reconstruct":
                return np.ndarray.__reduce__(np.empty(0))[0]
            case "numpy.core.numeric", "_frombuffer":
                return np.ndarray.__reduce_ex__(np.empty(1), 5)[0]
            case "_codecs", "encode":
                return _encoded
            case _:
                self._refuse(f"{module}.{name}")

    def _refuse(self, what: str) -> NoReturn:
        raise DataError(
            f"asks to run {what}, which a CIFAR batch never does, so it was not opened. Use the official file."
        )


def _rows(path: Path) -> list[str]:
    count = path.stat().st_size // _check_binary(path) if path.suffix == ".bin" else len(_pickled_batch(path).images)
    return [str(row) for row in range(count)]


def _read(path: Path, item: str) -> NDArray[np.uint8]:
    if item_number(item) < 0:
        raise DataError(f"{path} has numbered rows, so there is no row {item[:40]!r}.")
    return read_cifar_row(path, item_number(item))


def _label_texts(path: Path) -> list[str]:
    return [str(label) for label in read_cifar_labels(path).labels.tolist()]


CONTAINER = Container(
    name="CIFAR batch",
    pattern=re.compile(rf"{_CIFAR_10.pattern}|{_CIFAR_100.pattern}"),
    items=_rows,
    read=_read,
    labels=_label_texts,
)
