from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cosphere.data import find_pairs, read_lfw_pairs, read_lfw_people
from cosphere.errors import DataError


def write(folder: Path, text: str) -> Path:
    (folder / "people.txt").write_text(text, encoding="utf-8")
    return folder / "people.txt"


def test_people_in_folds(tmp_path: Path) -> None:
    people = read_lfw_people(write(tmp_path, "2\n2\nAnn\t1\nBob Lee\t3\n1\nČapek\t2\n"))
    assert people.names == ("Ann", "Bob Lee", "Čapek")
    assert people.counts.tolist() == [1, 3, 2]
    assert people.folds is not None
    assert people.folds.tolist() == [0, 0, 1]
    assert len(people) == 3


def test_the_images_of_people(tmp_path: Path) -> None:
    people = read_lfw_people(write(tmp_path, "2\nBob Lee\t12\nAnn\t1\n"))
    assert people.folds is None
    assert people.images[0] == "Bob Lee/Bob Lee_0001.jpg"
    assert people.images[11:] == ["Bob Lee/Bob Lee_0012.jpg", "Ann/Ann_0001.jpg"]


def test_a_list_that_begins_with_a_mark(tmp_path: Path) -> None:
    assert read_lfw_people(write(tmp_path, "\ufeff1\r\nAnn\t2\r\n")).images == ["Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg"]


def test_a_name_may_hold_a_separator_of_unicode(tmp_path: Path) -> None:
    assert read_lfw_people(write(tmp_path, "2\nAnn\u2028Lee\t1\nBob\x0c\x85\t1\n")).names[0] == "Ann\u2028Lee"


def test_a_fold_of_nobody(tmp_path: Path) -> None:
    people = read_lfw_people(write(tmp_path, "2\n0\n1\nAnn\t1\n"))
    assert people.folds is not None
    assert people.folds.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "should begin with the number of folds or people"),
        ("Ann\t1\n", "should begin with the number of folds or people"),
        ("-1\nAnn\t1\n", "should begin with the number of folds or people"),
        ("9" * 5000 + "\n", "should begin with the number of folds or people"),
        ("2\nAnn\t1\n", "promises 2 people where only 1 follow"),
        ("1\nAnn\t1\nBob\t1\n", "has 1 line more than its counts promise"),
        ("2\n1\nAnn\t1\n", "promises 2 folds; fold 2 is missing"),
        ("999999999\n1\nAnn\t1\n", "promises 999,999,999 folds; fold 2 is missing"),
        ("1\nAnn 1\n", "want 'name<TAB>images', got 'Ann 1'"),
        ("1\nAnn\t0\n", "want 'name<TAB>images', got 'Ann.+0'"),
        ("1\nAnn\t1\t2\n", "want 'name<TAB>images'"),
        ("2\nAnn\t1\nAnn\t2\n", "lists 'Ann' twice"),
        ("1\n../x\t1\n", r"'\.\./x' is a path, not a name"),
        ("1\n..\t1\n", r"'\.\.' is a path, not a name"),
    ],
)
def test_lists_that_are_not_lfws(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_lfw_people(write(tmp_path, text))


def test_a_missing_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt is missing"):
        read_lfw_people(tmp_path / "none.txt")


@pytest.mark.data
def test_lfws_own_lists() -> None:
    if "COSPHERE_DATA" not in os.environ or not (root := Path(os.environ["COSPHERE_DATA"]) / "lfw-112").is_dir():
        pytest.skip("wants lfw-112 in the folder that COSPHERE_DATA names")
    whole, train, test = (read_lfw_people(root / f"people{part}.txt") for part in ("", "DevTrain", "DevTest"))
    assert (len(whole), int(whole.counts.sum())) == (5749, 13233)
    assert np.bincount(whole.folds).tolist() == [601, 555, 552, 560, 567, 527, 597, 601, 580, 609]
    assert (len(train), int(train.counts.sum()), len(test), int(test.counts.sum())) == (4038, 9525, 1711, 3708)
    assert sorted(train.names + test.names) == sorted(whole.names)
    assert all((root / image).is_file() for image in whole.images)
    pairs = find_pairs(read_lfw_pairs(root / "pairsDevTest.txt"), test.images)
    assert len(pairs) == 1000  # every image of a test pair belongs to one of the test people
