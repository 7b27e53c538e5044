from __future__ import annotations

from pathlib import Path

import pytest

from cosphere.data import read_catalogue
from cosphere.errors import DataError

PATHS = [
    "001.Black_footed_Albatross/a.jpg",
    "001.Black_footed_Albatross/b.jpg",
    "100.Brown_Pelican/c.jpg",
    "101.White_Pelican/d.jpg",
    "200.Common_Yellowthroat/e.jpg",
]


@pytest.fixture
def cub(tmp_path: Path, draw) -> Path:
    root = tmp_path / "CUB_200_2011"
    draw(root / "images", PATHS)
    (root / "images.txt").write_text("".join(f"{number} {path}\n" for number, path in enumerate(PATHS, 1)))
    numbers = [1, 1, 100, 101, 200]
    (root / "image_class_labels.txt").write_text("".join(f"{i} {label}\n" for i, label in enumerate(numbers, 1)))
    (root / "train_test_split.txt").write_text("".join(f"{i} {i % 2}\n" for i in range(1, 6)))
    return root


def test_classes_up_to_100_are_train(cub: Path) -> None:
    found = read_catalogue(cub)
    assert found.layout == "cub-200-2011"
    assert found.table["label"].tolist() == ["1", "1", "100", "101", "200"]
    assert found.splits.tolist() == ["train", "train", "train", "test", "test"]
    assert found.class_names == ["Black footed Albatross", "Brown Pelican", "White Pelican", "Common Yellowthroat"]
    assert all(Path(path).is_file() for path in found.paths)
    assert found.notes == ()


def test_a_stand_in_is_compared_with_the_published_counts(cub: Path) -> None:
    found = {check.what: (check.expected, check.found) for check in read_catalogue(cub).checks}
    assert found == {
        "train images": ("5864", "3"),
        "train classes": ("100", "2"),
        "train images per class": ("41-60", "1-2"),
        "train labels": ("1-100", "1-100"),
        "test images": ("5924", "2"),
        "test classes": ("100", "2"),
        "test images per class": ("49-60", "1"),
        "test labels": ("101-200", "101-200"),
    }
    assert len(read_catalogue(cub).differences) == 6
    with pytest.raises(DataError, match="is not CUB-200-2011 as published: train images: expected 5864, found 3;"):
        read_catalogue(cub, strict=True)


def test_the_folder_around_it_will_do(cub: Path) -> None:
    found = read_catalogue(cub.parent)
    assert found.root == cub
    assert found.notes == ("CUB-200-2011 was found one folder down, in CUB_200_2011/",)


def test_strays_and_images_of_no_list_are_noted(cub: Path, draw) -> None:
    draw(cub / "images", ["001.Black_footed_Albatross/._a.jpg", "001.Black_footed_Albatross/copy.jpg"])
    found = read_catalogue(cub)
    assert len(found) == 5
    assert found.notes == (
        "1 hidden or stray file (such as ._name) lies among the images and was left out",
        "left out: 1 image not named by the lists, images/001.Black_footed_Albatross/copy.jpg",
    )


def test_missing_images_stop_unless_allowed(cub: Path) -> None:
    (cub / "images" / PATHS[0]).unlink()
    with pytest.raises(DataError, match=r"1 of the 5 files that CUB-200-2011 lists are missing.*images/001"):
        read_catalogue(cub)
    found = read_catalogue(cub, max_missing=0.5)
    assert len(found) == 4
    assert found.checks[0].found == "2"


def test_without_the_list_the_folders_count(cub: Path) -> None:
    (cub / "images.txt").unlink()
    found = read_catalogue(cub)
    assert found.table["label"].tolist() == ["1", "1", "100", "101", "200"]
    assert found.notes == ("images.txt is missing, so the folders in images/ were read instead",)


@pytest.mark.parametrize("sign", ["lists", "count"])
def test_the_other_year_is_named(cub: Path, sign: str) -> None:
    if sign == "lists":
        (cub / "images.txt").unlink()
        (cub / "lists").mkdir()
        (cub / "lists" / "files.txt").write_text("\n".join(PATHS))
    else:
        (cub / "images.txt").write_text("".join(f"{number} {PATHS[0]}\n" for number in range(6033)))
    with pytest.raises(DataError, match=r"is CUB-200-2010 \(6033 images\); the papers use CUB-200-2011"):
        read_catalogue(cub)
    assert read_catalogue(cub / "images", layout="folder").label_names[0] == "001.Black_footed_Albatross"


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("images.txt", "1\n", r"images\.txt wants 2 columns, line 1 is '1'"),
        ("images.txt", "\n", "lists no images"),
        ("images.txt", "1 Albatross/a.jpg\n", "should be called like 001.Black_footed_Albatross"),
        ("images.txt", "1 a.jpg\n", "should be called like 001.Black_footed_Albatross"),
        ("image_class_labels.txt", "1 2\n2 1\n3 100\n4 101\n5 200\n", "disagree"),
        ("image_class_labels.txt", "1 x\n", "should hold a number where it holds 'x'"),
    ],
)
def test_damaged_lists(cub: Path, file: str, text: str, words: str) -> None:
    (cub / file).write_text(text)
    with pytest.raises(DataError, match=words):
        read_catalogue(cub)


def test_a_list_that_is_no_text(cub: Path) -> None:
    (cub / "images.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_catalogue(cub)
