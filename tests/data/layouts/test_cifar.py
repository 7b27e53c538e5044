from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from cosphere.data import read_catalogue
from cosphere.data.layouts.cifar import HUNDRED, TEN
from cosphere.errors import DataError
from cosphere.images import read_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
TRAIN, TEST = [f"data_batch_{number}" for number in range(1, 6)], ["test_batch"]


def write(file: Path, labels: list[int], coarse: list[int] | None = None) -> None:
    """One batch as published: binary when the name ends in .bin, else a pickle with byte keys."""
    pixels = PIXELS[: len(labels)]
    if file.suffix == ".bin":
        heads = [bytes([label]) if coarse is None else bytes([coarse[i], label]) for i, label in enumerate(labels)]
        file.write_bytes(b"".join(head + row.tobytes() for head, row in zip(heads, pixels, strict=True)))
        return
    content = {b"data": pixels, b"labels" if coarse is None else b"fine_labels": labels}
    file.write_bytes(pickle.dumps(content | ({} if coarse is None else {b"coarse_labels": coarse}), protocol=2))


@pytest.mark.parametrize("suffix", ["", ".bin"])
def test_cifar_10_batches(tmp_path: Path, suffix: str) -> None:
    root = tmp_path / "cifar-10"
    root.mkdir()
    for name in TRAIN + TEST:
        write(root / (name + suffix), [9, 0])
    found = read_catalogue(tmp_path)
    assert found.layout == "cifar10"
    assert found.table["path"].tolist()[:3] == [
        f"data_batch_1{suffix}#0",
        f"data_batch_1{suffix}#1",
        f"data_batch_2{suffix}#0",
    ]
    assert found.table["label"].tolist() == ["9", "0"] * 6
    assert found.splits.tolist() == ["train"] * 10 + ["test"] * 2
    assert found.class_names == ["airplane", "truck"]
    assert found.select("test").label_names == found.select("train").label_names
    # Row 1 as the network would see it: red, green, blue planes of 32 x 32, row by row.
    assert (read_image(found.paths[1]) == PIXELS[1].reshape(3, 32, 32).transpose(1, 2, 0)).all()
    assert found.notes == ("CIFAR-10 was found one folder down, in cifar-10/",)
    assert ("train images", "50000", "10") in found.checks
    assert ("test images per class", "1000", "1") in found.checks


@pytest.mark.parametrize("suffix", ["", ".bin"])
def test_cifar_100_batches(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"train{suffix}", [99, 0, 5], [19, 4, 3])
    write(tmp_path / f"test{suffix}", [5], [3])
    found = read_catalogue(tmp_path)
    assert found.layout == "cifar100"
    assert found.table["label"].tolist() == ["99", "0", "5", "5"]
    assert found.table["category"].tolist() == ["19", "4", "3", "3"]
    assert found.class_names == ["apple", "bed", "worm"]
    assert ("train labels", "0-99", "0-99") in found.checks
    assert ("test images", "10000", "1") in found.checks


def test_names_beside_the_batches_win(tmp_path: Path) -> None:
    write(tmp_path / "data_batch_1.bin", [1, 0])
    (tmp_path / "batches.meta.txt").write_text("zero\none\n\n")
    found = read_catalogue(tmp_path)
    assert found.class_names == ["zero", "one"]
    write(tmp_path / "test_batch.bin", [2])
    with pytest.raises(DataError, match="has label 2, but there are 2 class names"):
        read_catalogue(tmp_path)


def test_missing_batches_are_named(tmp_path: Path) -> None:
    for name in ("data_batch_1", "data_batch_3", "test_batch"):
        write(tmp_path / name, [3])
    found = read_catalogue(tmp_path)
    assert found.notes == ("batches are missing: data_batch_2, data_batch_4, data_batch_5",)
    with pytest.raises(DataError, match="is not CIFAR-10 as published"):
        read_catalogue(tmp_path, strict=True)


def test_binary_and_python_side_by_side_are_read_once(tmp_path: Path) -> None:
    for suffix in ("", ".bin"):
        write(tmp_path / f"data_batch_1{suffix}", [1])
    assert read_catalogue(tmp_path).table["path"].tolist() == ["data_batch_1#0"]


@pytest.mark.parametrize(("names", "layout"), [(TEN, "cifar10"), (HUNDRED, "cifar100")])
def test_class_folders(tmp_path: Path, draw, names: tuple[str, ...], layout: str) -> None:
    draw(tmp_path, [f"{split}/{name}/0001.png" for split in ("train", "test") for name in names[::-1]])
    found = read_catalogue(tmp_path)
    assert found.layout == layout
    assert found.class_names == list(names)  # the official order, not that of the folders
    assert found.label_names == [str(number) for number in range(len(names))]
    assert found.split_names == ["train", "test"]
    assert found.notes == ()


def test_some_of_the_class_folders_are_an_ordinary_folder(tmp_path: Path, draw) -> None:
    draw(tmp_path, [f"{split}/{name}/0001.png" for split in ("train", "test") for name in TEN[:4]])
    assert read_catalogue(tmp_path).layout == "folder"


def test_the_names_are_the_official_ones() -> None:
    assert len(set(HUNDRED)) == 100
    assert tuple(sorted(HUNDRED)) == HUNDRED  # the official order is the alphabet's
    assert tuple(sorted(TEN)) == TEN


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": Path("x")}, protocol=2))
    with pytest.raises(DataError, match="asks to run"):
        read_catalogue(tmp_path)
