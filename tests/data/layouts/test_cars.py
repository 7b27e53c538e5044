from __future__ import annotations

from pathlib import Path

import pytest

from cosphere.data import read_catalogue
from cosphere.errors import DataError

NAMES = [f"Car {number}" for number in range(1, 197)]
CLASSES = {"000001.jpg": 1, "000002.jpg": 98, "000003.jpg": 99, "000004.jpg": 196}


@pytest.fixture
def all_in_one(tmp_path: Path, draw, save_annotations) -> Path:
    draw(tmp_path / "car_ims", list(CLASSES))
    # The test flag contradicts the split by class, and the class is not the last field.
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    rows = [(f"car_ims/{name}", 1, 2, 3, 4, label, int(label < 99)) for name, label in CLASSES.items()]
    save_annotations(tmp_path / "cars_annos.mat", fields, rows, NAMES)
    return tmp_path


@pytest.fixture
def halves(tmp_path: Path, draw, save_annotations) -> Path:
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    for half, file, labels in (
        ("cars_train", "cars_train_annos.mat", [1, 99, 98]),
        ("cars_test", "cars_test_annos_withlabels.mat", [196, 2]),
    ):
        names = [f"{number:05d}.jpg" for number in range(1, len(labels) + 1)]
        draw(tmp_path / half, names)
        rows = [(1, 2, 3, 4, label, name) for name, label in zip(names, labels, strict=True)]
        save_annotations(tmp_path / "devkit" / file, fields, rows)
    save_annotations(tmp_path / "devkit" / "cars_meta.mat", ["x"], [(0,)], NAMES)
    return tmp_path


def test_all_in_one(all_in_one: Path) -> None:
    found = read_catalogue(all_in_one)
    assert found.layout == "cars196"
    assert found.table["path"].tolist() == [f"car_ims/{name}" for name in CLASSES]
    assert found.table["label"].tolist() == ["1", "98", "99", "196"]
    assert found.splits.tolist() == ["train", "train", "test", "test"]
    assert found.class_names == ["Car 1", "Car 98", "Car 99", "Car 196"]
    assert found.boxes is None  # published results do not cut the cars out
    expected = {check.what: check.expected for check in found.checks}
    assert expected["train images"] == "8054"
    assert expected["test images"] == "8131"
    assert expected["test images per class"] == "48-136"


def test_halves_are_put_together_and_split_by_class(halves: Path) -> None:
    found = read_catalogue(halves)
    assert found.layout == "cars196"
    rows = list(found.table[["path", "label", "split", "class_name"]].itertuples(index=False, name=None))
    assert rows == [
        ("cars_train/00001.jpg", "1", "train", "Car 1"),
        ("cars_train/00002.jpg", "99", "test", "Car 99"),
        ("cars_train/00003.jpg", "98", "train", "Car 98"),
        ("cars_test/00001.jpg", "196", "test", "Car 196"),
        ("cars_test/00002.jpg", "2", "train", "Car 2"),
    ]
    assert found.notes == ()


def test_mirrors_wrap_folders_and_put_the_labels_beside_them(halves: Path) -> None:
    (halves / "devkit" / "cars_test_annos_withlabels.mat").rename(halves / "cars_test_annos_withlabels.mat")
    (halves / "devkit").rename(halves / "inner")
    (halves / "car_devkit").mkdir()
    (halves / "inner").rename(halves / "car_devkit" / "devkit")
    (halves / "cars_train").rename(halves / "inner")
    (halves / "cars_train").mkdir()
    (halves / "inner").rename(halves / "cars_train" / "cars_train")
    found = read_catalogue(halves)
    assert len(found) == 5
    assert found.table["path"][0] == "cars_train/cars_train/00001.jpg"


def test_a_missing_half_is_named(halves: Path) -> None:
    labels = halves / "devkit" / "cars_test_annos_withlabels.mat"
    labels.rename(halves / "devkit" / "cars_test_annos.mat")
    found = read_catalogue(halves)
    assert len(found) == 3
    assert "half of the data is left out, because cars_test_annos_withlabels.mat (the labels" in found.notes[0]
    (halves / "devkit" / "cars_test_annos.mat").rename(labels)
    (halves / "cars_train").rename(halves / "gone")
    found = read_catalogue(halves)
    assert len(found) == 2
    assert "because cars_train/ (the images) is missing" in found.notes[0]
    with pytest.raises(DataError, match="is not Cars196 as published"):
        read_catalogue(halves, strict=True)
    (halves / "cars_test").rename(halves / "gone too")
    with pytest.raises(DataError, match="neither cars_train/ nor cars_test/"):
        read_catalogue(halves)


def test_a_damaged_and_a_strange_mat_file(all_in_one: Path, save_annotations) -> None:
    save_annotations(all_in_one / "cars_annos.mat", ["fname", "class"], [("1.jpg", 1)])
    with pytest.raises(
        DataError, match=r"should hold 'annotations' with the fields 'relative_im_path' and 'class', it has"
    ):
        read_catalogue(all_in_one)
    (all_in_one / "cars_annos.mat").write_bytes(b"MATLAB 5.0" + bytes(200))
    with pytest.raises(DataError, match=r"cannot be read as a MATLAB file \(.*Unpack the archive again"):
        read_catalogue(all_in_one)


def test_one_image_and_no_names(all_in_one: Path, save_annotations) -> None:
    save_annotations(all_in_one / "cars_annos.mat", ["relative_im_path", "class"], [("car_ims/000003.jpg", 99)])
    found = read_catalogue(all_in_one)
    assert found.class_names == ["99"]
    assert "3 images not named by the lists" in found.notes[0]
    assert [check.found for check in found.checks if check.what == "train labels"] == ["none"]
