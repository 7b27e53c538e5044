from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from cosphere.data import read_catalogue, training_parts
from cosphere.errors import DataError

TRAIN = {"Ann_Lee": 2, "Bo": 1, "Cy": 3}
TEST = {"Di": 2, "Eve": 1}


def images(people: dict[str, int], suffix: str = ".jpg") -> list[str]:
    return [f"{name}/{name}_{number:04d}{suffix}" for name, count in people.items() for number in range(1, count + 1)]


def write_list(path: Path, people: dict[str, int]) -> None:
    path.write_text(f"{len(people)}\n" + "".join(f"{name}\t{count}\n" for name, count in people.items()))


@pytest.fixture
def lfw(tmp_path: Path, draw) -> Path:
    root = tmp_path / "lfw"
    draw(root, images(TRAIN | TEST))
    write_list(root / "peopleDevTrain.txt", TRAIN)
    write_list(root / "peopleDevTest.txt", TEST)
    (root / "pairs.txt").write_text("1\t1\nDi\t1\t2\nDi\t1\tEve\t1\n")
    return root


def test_people_are_classes_and_view_1_splits_them(lfw: Path) -> None:
    found = read_catalogue(lfw)
    assert found.layout == "lfw"
    assert found.notes == ()
    assert Counter(found.select("train").table["label"]) == TRAIN
    assert Counter(found.select("test").table["label"]) == TEST
    assert found.class_names[0] == "Ann Lee"
    assert all(Path(path).is_file() for path in found.paths)


def test_training_sees_the_training_people_alone(lfw: Path) -> None:
    parts = training_parts(read_catalogue(lfw), val_share=0)
    assert set(parts.train.label_names) == set(TRAIN)


def test_counts_are_compared_with_the_published_ones(lfw: Path) -> None:
    found = {one.what: (one.expected, one.found) for one in read_catalogue(lfw).checks}
    assert found == {
        "train images": ("9525", "6"),
        "train classes": ("4038", "3"),
        "train images per class": ("1-530", "1-3"),
        "test images": ("3708", "3"),
        "test classes": ("1711", "2"),
        "test images per class": ("1-121", "1-2"),
    }
    assert 9525 + 3708 == 13233  # as published: images and people
    assert 4038 + 1711 == 5749
    with pytest.raises(
        DataError, match="is not Labeled Faces in the Wild as published: train images: expected 9525, found 6"
    ):
        read_catalogue(lfw, strict=True)


def test_images_may_lie_one_folder_down_and_have_another_suffix(tmp_path: Path, draw) -> None:
    draw(tmp_path / "lfw_funneled", images(TRAIN | TEST, ".png"))
    write_list(tmp_path / "peopleDevTrain.txt", TRAIN)
    write_list(tmp_path / "peopleDevTest.txt", TEST)
    found = read_catalogue(tmp_path)
    assert found.root == tmp_path / "lfw_funneled"
    assert sorted(found.table["path"]) == sorted(images(TRAIN | TEST, ".png"))


def test_missing_and_unlisted_images_are_named(lfw: Path, draw) -> None:
    draw(lfw, ["Zoe/Zoe_0001.jpg"])
    (lfw / "Cy" / "Cy_0003.jpg").unlink()
    with pytest.raises(DataError, match="1 of the 9 files that Labeled Faces in the Wild lists are missing"):
        read_catalogue(lfw)
    notes = read_catalogue(lfw, max_missing=0.2).notes
    assert any("Cy/Cy_0003.jpg" in note for note in notes)
    assert any("left out: 1 image not named by the lists, Zoe/Zoe_0001.jpg" in note for note in notes)


def test_a_list_of_test_people_may_be_missing(lfw: Path) -> None:
    (lfw / "peopleDevTest.txt").unlink()
    found = read_catalogue(lfw)
    assert found.split_names == ["train"]
    assert "peopleDevTest.txt is missing, so there is no test split" in found.notes


def test_a_wrong_list_is_refused(lfw: Path) -> None:
    (lfw / "peopleDevTest.txt").write_text("2\nDi\t2\n")
    with pytest.raises(DataError, match=r"peopleDevTest.txt promises 2 people where only 1 follow"):
        read_catalogue(lfw)


def test_a_person_in_both_lists_is_refused(lfw: Path) -> None:
    write_list(lfw / "peopleDevTest.txt", {**TEST, "Bo": 1})
    with pytest.raises(DataError, match=r"Bo is in peopleDevTrain.txt and in peopleDevTest.txt"):
        read_catalogue(lfw)


def test_without_images(tmp_path: Path) -> None:
    write_list(tmp_path / "peopleDevTrain.txt", TRAIN)
    with pytest.raises(DataError, match=r"has no folder of a person, such as Ann_Lee/Ann_Lee_0001.jpg"):
        read_catalogue(tmp_path)


@pytest.mark.data
def test_the_published_faces() -> None:
    root = Path(os.environ.get("COSPHERE_DATA", "")) / "lfw-112"
    if not (root / "peopleDevTrain.txt").is_file():
        pytest.skip("COSPHERE_DATA names no folder with lfw-112/peopleDevTrain.txt")
    found = read_catalogue(root, strict=True)
    assert (len(found), len(found.label_names)) == (13233, 5749)
    assert found.notes == ()
