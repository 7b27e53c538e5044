from __future__ import annotations

from pathlib import Path

import pytest

from cosphere.data import read_catalogue
from cosphere.errors import DataError

HEADER = "image_id class_id super_class_id path\n"
TRAIN = ["bicycle_final/1_0.JPG", "bicycle_final/1_1.JPG", "coffee_maker_final/2_0.JPG"]
TEST = ["bicycle_final/3_0.JPG", "bicycle_final/3_1.JPG"]


@pytest.fixture
def sop(tmp_path: Path, draw) -> Path:
    root = tmp_path / "Stanford_Online_Products"
    draw(root, [*TRAIN, *TEST])
    train = [f"1 1 1 {TRAIN[0]}", f"2 1 1 {TRAIN[1]}", f"3 11318 4 {TRAIN[2]}"]
    (root / "Ebay_train.txt").write_text(HEADER + "\n".join(train) + "\n")
    (root / "Ebay_test.txt").write_text(HEADER + "\n".join(f"{4 + i} 11319 1 {path}" for i, path in enumerate(TEST)))
    return root


def test_products_and_their_kind(sop: Path) -> None:
    found = read_catalogue(sop)
    assert found.layout == "sop"
    assert found.table["path"].tolist() == [*TRAIN, *TEST]
    assert found.table["label"].tolist() == ["1", "1", "11318", "11319", "11319"]
    assert found.table["category"].tolist() == ["bicycle", "bicycle", "coffee_maker", "bicycle", "bicycle"]
    assert found.splits.tolist() == ["train"] * 3 + ["test"] * 2
    assert found.notes == ()
    expected = {check.what: check.expected for check in found.checks}
    assert [expected[f"{split} images"] for split in ("train", "test")] == ["59551", "60502"]
    assert [expected[f"{split} classes"] for split in ("train", "test")] == ["11318", "11316"]
    assert read_catalogue(sop.parent).root == sop


def test_a_missing_half(sop: Path) -> None:
    (sop / "Ebay_test.txt").unlink()
    found = read_catalogue(sop)
    assert found.split_names == ["train"]
    assert found.notes[0] == "Ebay_test.txt is missing, so there is no test split"
    assert found.notes[1].startswith("left out: 2 images not named by the lists")
    assert ("test images", "60502", "0") in found.differences


def test_a_damaged_list(sop: Path) -> None:
    (sop / "Ebay_test.txt").write_text(HEADER + "1 2 3\n")
    with pytest.raises(DataError, match=r"Ebay_test\.txt wants 4 columns, line 2 is '1 2 3'"):
        read_catalogue(sop)
    (sop / "Ebay_test.txt").write_text(HEADER + "1 chair 3 a.jpg\n")
    with pytest.raises(DataError, match="should hold a number where it holds 'chair'"):
        read_catalogue(sop)
