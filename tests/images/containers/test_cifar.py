"""CIFAR batches, made here in the published layouts, and pickles that want to run something."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosphere.errors import DataError, ImageError
from cosphere.images import (
    cifar_class_names,
    is_cifar_batch,
    read_cifar_labels,
    read_cifar_row,
    read_image,
)


def pictures(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, 3072), dtype=np.uint8)


def by_hand(row: np.ndarray) -> list[list[list[int]]]:
    """Red plane, green plane, blue plane; each row by row."""
    return [[[int(row[plane * 1024 + y * 32 + x]) for plane in range(3)] for x in range(32)] for y in range(32)]


def write_binary(path: Path, labels: list[tuple[int, ...]], images: np.ndarray) -> Path:
    path.write_bytes(b"".join(bytes(label) + image.tobytes() for label, image in zip(labels, images, strict=True)))
    return path


def python_2_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    """The opcodes of the official files: protocol 2, byte strings, numpy's module names of 2009."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) * 2 + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b") + b"tR"
    raw = b"T" + struct.pack("<i", images.nbytes) + images.tobytes()
    array += (
        b"("
        + number(1)
        + b"("
        + number(images.shape[0])
        + number(images.shape[1])
        + b"t"
        + dtype
        + b"\x89"
        + raw
        + b"tb"
    )
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listed + b"u."


def test_binary_cifar_10(tmp_path: Path) -> None:
    images = pictures(3)
    path = write_binary(tmp_path / "data_batch_1.bin", [(4,), (0,), (9,)], images)
    assert is_cifar_batch(path)
    assert read_cifar_labels(path).labels.tolist() == [4, 0, 9]
    assert read_cifar_labels(path).coarse is None
    for row in range(3):
        assert read_cifar_row(path, row).tolist() == by_hand(images[row])
        assert read_image(f"{path}#{row}").tolist() == by_hand(images[row])


def test_binary_cifar_100_has_two_label_bytes(tmp_path: Path) -> None:
    images = pictures(2)
    path = write_binary(tmp_path / "train.bin", [(19, 99), (3, 42)], images)
    labels = read_cifar_labels(path)
    assert labels.labels.tolist() == [99, 42]
    assert labels.labels.dtype == np.int64
    assert labels.coarse is not None
    assert labels.coarse.tolist() == [19, 3]
    assert read_cifar_row(path, 1).tolist() == by_hand(images[1])


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("keys", ["bytes", "text"])
def test_pickled_batches_of_today(protocol: int, keys: str, tmp_path: Path) -> None:
    images = pictures(3)
    content: dict[Any, Any] = {
        "data": images,
        "fine_labels": [1, 99, 0],
        "coarse_labels": [0, 19, 2],
        "filenames": ["a", "b", "c"],
    }
    if keys == "bytes":
        content = {key.encode(): value for key, value in content.items()}
    path = tmp_path / "train"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert is_cifar_batch(path)
    labels = read_cifar_labels(path)
    assert labels.labels.tolist() == [1, 99, 0]
    assert labels.coarse is not None
    assert labels.coarse.tolist() == [0, 19, 2]
    for read in (
        lambda: read_cifar_row(path, 2),
        lambda: read_image(f"{path}#2"),
        lambda: read_image(tmp_path / "train#2"),
    ):
        found = read()
        assert found.tolist() == by_hand(images[2])
        found[:] = 0  # the caller's own copy: the next one finds the batch as it was


def test_pickled_batches_of_2009(tmp_path: Path) -> None:
    images = pictures(2)
    path = tmp_path / "data_batch_3"
    path.write_bytes(python_2_pickle(images, [7, 2]))
    assert read_cifar_labels(path).labels.tolist() == [7, 2]
    assert read_image(f"{path}#1").tolist() == by_hand(images[1])


def test_a_batch_that_changed_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "test_batch"
    for seed in (1, 2):
        path.write_bytes(python_2_pickle(pictures(1, seed), [seed]))
        os.utime(path, ns=(seed, seed))
        assert read_cifar_labels(path).labels.tolist() == [seed]
        assert read_cifar_row(path, 0).tolist() == by_hand(pictures(1, seed)[0])


def test_a_box_of_a_row(tmp_path: Path) -> None:
    images = pictures(1)
    path = write_binary(tmp_path / "test_batch.bin", [(0,)], images)
    assert read_image(f"{path}#0", box=(2, 3, 10, 20)).tolist() == np.array(by_hand(images[0]))[3:20, 2:10].tolist()
    with pytest.raises(ImageError, match=r"#0 is 32 x 32 pixels"):
        read_image(f"{path}#0", box=(0, 0, 64, 64))


@pytest.mark.parametrize("name", ["test_batch.bin", "data_batch_2"])
def test_a_row_that_does_not_exist(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith(".bin"):
        write_binary(path, [(0,), (1,)], pictures(2))
    else:
        path.write_bytes(python_2_pickle(pictures(2), [0, 1]))
    with pytest.raises(ImageError, match="has rows 0 to 1, so there is no row 2"):
        read_image(f"{path}#2")
    for name in ("x", "", "9" * 5000):
        with pytest.raises(ImageError, match="has numbered rows, so there is no row"):
            read_image(f"{path}#{name}")
    with pytest.raises(DataError, match="no row -1"):
        read_cifar_row(path, -1)


def test_a_photo_whose_name_ends_like_a_row_is_a_photo(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photo").write_bytes(b"something else")
    Image.new("RGB", (5, 4), "red").save(tmp_path / "photo#7", "PNG")
    assert read_image(tmp_path / "photo#7").shape == (4, 5, 3)
    with pytest.raises(
        ImageError, match=r"photo#8 does not exist, and by its name \S+/photo is none of: CIFAR batch, zip"
    ):
        read_image(tmp_path / "photo#8")


@pytest.mark.parametrize(("name", "record"), [("data_batch_1.bin", 3073), ("test.bin", 3074)])
def test_a_wrong_size_names_the_right_one(name: str, record: int, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(2 * record + 1))
    assert not is_cifar_batch(path)
    official = {"data_batch_1.bin": "30,730,000", "test.bin": "30,740,000"}[name]
    with pytest.raises(
        DataError,
        match=rf"{2 * record + 1:,} bytes, want a multiple of {record:,} \(the official file has {official}\)",
    ):
        read_cifar_labels(path)
    path.write_bytes(b"")
    assert not is_cifar_batch(path)
    with pytest.raises(DataError, match="has 0 bytes"):
        read_cifar_row(path, 0)


def test_labels_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels from 0 to 10, want 0 to 9"):
        read_cifar_labels(write_binary(tmp_path / "data_batch_1.bin", [(0,), (10,)], pictures(2)))
    with pytest.raises(DataError, match="coarse labels from 20 to 20, want 0 to 19"):
        read_cifar_labels(write_binary(tmp_path / "test.bin", [(20, 5)], pictures(1)))
    path = tmp_path / "data_batch_1"
    path.write_bytes(python_2_pickle(pictures(1), [-1]))
    with pytest.raises(DataError, match="labels from -1 to -1"):
        read_cifar_labels(path)


class Runs:
    """Its pickle makes a file when it is loaded by an ordinary unpickler."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_that_runs_something_is_refused_unrun(protocol: int, tmp_path: Path) -> None:
    path, made = tmp_path / "data_batch_1", tmp_path / "made"
    path.write_bytes(pickle.dumps({"data": Runs(made)}, protocol=protocol))
    with pytest.raises(
        DataError, match=r"data_batch_1 asks to run (posix|os|nt)\.mkdir, which a CIFAR batch never does"
    ) as caught:
        read_cifar_row(path, 0)
    assert not made.exists()
    assert "\n" not in str(caught.value)
    pickle.loads(path.read_bytes())
    assert made.exists()  # else the test above would prove nothing


@pytest.mark.parametrize(
    "name",
    ["builtins eval", "builtins getattr", "numpy load", "numpy.core.multiarray scalar", "_codecs decode", "os system"],
)
def test_names_near_the_allowed_ones_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "train"
    path.write_bytes(b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n.")
    with pytest.raises(DataError, match=f"asks to run {name.replace(' ', '.')}"):
        read_cifar_labels(path)


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train"
    path.write_bytes(pickle.dumps({"data": np.array([{}, []], dtype=object), "fine_labels": [1, 2]}))
    with pytest.raises(DataError, match="array of Python objects"):
        read_cifar_labels(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"data": pictures(2), "labels": [1]}, "one label for each of its 2 images"),
        ({"data": pictures(2)}, "one label for each"),
        ({"data": pictures(2), "labels": ["a", "b"]}, "one label for each"),
        ({"data": pictures(2)[:, :100], "labels": [1, 2]}, "no uint8 array 'data' of N x 3072"),
        ({"data": pictures(2).astype(float), "labels": [1, 2]}, "no uint8 array"),
        ({"labels": [1, 2]}, "no uint8 array"),
        ([1, 2], "holds a list, want a dict"),
    ],
)
def test_a_pickle_without_a_batch(content: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=words):
        read_cifar_labels(path)


def test_a_truncated_pickle(tmp_path: Path) -> None:
    whole = python_2_pickle(pictures(1), [1])
    path = tmp_path / "data_batch_1"
    for end in (1, 10, 60, len(whole) - 1):
        path.write_bytes(whole[:end])
        os.utime(path, ns=(end, end))
        with pytest.raises(DataError, match=r"data_batch_1 (is not a whole pickle|asks to run)"):
            read_cifar_labels(path)


def test_missing_files_and_other_names(tmp_path: Path) -> None:
    for name in ("data_batch_1", "data_batch_1.bin"):
        assert not is_cifar_batch(tmp_path / name)
        with pytest.raises(DataError, match="cannot be read: No such file"):
            read_cifar_labels(tmp_path / name)
    other = tmp_path / "cats.bin"
    other.write_bytes(bytes(3073))
    assert not is_cifar_batch(other)
    with pytest.raises(DataError, match=r"cats\.bin is not named like a CIFAR batch"):
        read_cifar_labels(other)
    (tmp_path / "train").mkdir()
    assert not is_cifar_batch(tmp_path / "train")
    (tmp_path / "test").write_text("a list of files")
    assert not is_cifar_batch(tmp_path / "test")


def test_class_names(tmp_path: Path) -> None:
    assert cifar_class_names(tmp_path) is None
    (tmp_path / "meta").write_bytes(
        pickle.dumps({"fine_label_names": ["apple", "bear"], "coarse_label_names": ["x"]}, protocol=2)
    )
    assert cifar_class_names(tmp_path) == ["apple", "bear"]
    (tmp_path / "batches.meta.txt").write_text("airplane\nautomobile\n\n")
    assert cifar_class_names(tmp_path) == ["airplane", "automobile"]
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "batches.meta").write_bytes(pickle.dumps({"label_names": "airplane"}))
    with pytest.raises(DataError, match="holds no list 'label_names'"):
        cifar_class_names(wrong)
