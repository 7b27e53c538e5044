from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cosphere.data import (
    PairList,
    Pairs,
    find_pairs,
    read_catalogue,
    read_lfw_pairs,
    read_pairs,
    read_verification_bin,
)
from cosphere.errors import DataError, SettingsError, SizeError

TWO_FOLDS = "2\t1\nAnn\t1\t2\nAnn\t1\tBob\t12\nBob\t12\t3\nCy\t4\tAnn\t2\n"


def write(folder: Path, text: str, name: str = "pairs.txt") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_lfws_list_of_folds(tmp_path: Path) -> None:
    pairs = read_lfw_pairs(write(tmp_path, TWO_FOLDS))
    assert pairs.names == (
        ("Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg"),
        ("Ann/Ann_0001.jpg", "Bob/Bob_0012.jpg"),
        ("Bob/Bob_0012.jpg", "Bob/Bob_0003.jpg"),
        ("Cy/Cy_0004.jpg", "Ann/Ann_0002.jpg"),
    )
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.folds is not None
    assert pairs.folds.tolist() == [0, 0, 1, 1]


def test_lfws_development_list_has_no_folds(tmp_path: Path) -> None:
    pairs = read_lfw_pairs(write(tmp_path, "2\nAnn\t1\t2\nBob\t1\t3\nAnn\t1\tBob\t2\nAnn\t2\tBob\t1\n"))
    assert pairs.folds is None
    assert pairs.same.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"cannot be read as a list of LFW pairs: it should begin with 'folds<TAB>n' or 'n', got ''"),
        ("Ann\t1\t2\n", "cannot be read as a list of LFW pairs"),
        ("1 1 1\nAnn\t1\t2\nAnn\t1\tBob\t1\n", "cannot be read as a list of LFW pairs"),
        ("9" * 6000 + "\n", "cannot be read as a list of LFW pairs"),
        ("0\n", "promises 0 same and as many different pairs; it has 0 and 0"),
        ("1\nAnn 1 2\nAnn\t1\tBob\t1\n", r"want 'name<TAB>n<TAB>m' or 'name<TAB>n<TAB>other<TAB>m', got 'Ann 1 2'"),
        ("1\nAnn\tone\t2\nAnn\t1\tBob\t1\n", "want 'name<TAB>n<TAB>m'"),
        ("1\nAnn\t1\t\u00b2\nAnn\t1\tBob\t1\n", "want 'name<TAB>n<TAB>m'"),
        ("1\nAnn\t1\t" + "9" * 6000 + "\nAnn\t1\tBob\t1\n", "want 'name<TAB>n<TAB>m'"),
        ("2\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\n", "promises 2 same and as many different pairs; it has 1 and 1"),
        ("1\nAnn\t1\t2\nAnn\t1\t3\n", "promises 1 same and as many different pairs; it has 2 and 0"),
    ],
)
def test_lists_that_are_not_lfws(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_lfw_pairs(write(tmp_path, text))


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt is missing"):
        read_lfw_pairs(tmp_path / "none.txt")


@pytest.mark.parametrize("begin", ["", "\ufeff", "\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_from_a_windows_editor(tmp_path: Path, begin: str, end: str) -> None:
    (tmp_path / "own.txt").write_bytes((begin + f"1{end}Bär Bel\t1\t2{end}Bär Bel\t1\tBob\t3{end}").encode())
    assert read_lfw_pairs(tmp_path / "own.txt").names[1] == ("Bär Bel/Bär Bel_0001.jpg", "Bob/Bob_0003.jpg")


@pytest.mark.parametrize(
    "text",
    [
        "a,b,same,fold\nx/1.jpg,x/2.jpg,1,one\nx/1.jpg,y/1.jpg,0,two\ny/1.jpg,x/2.jpg,False,one\n",
        "path_1;path_2;is_same;set\nx/1.jpg;x/2.jpg;yes;7\nx/1.jpg;y/1.jpg;no;3\ny/1.jpg;x/2.jpg;no;7\n",
    ],
)
def test_a_table_of_pairs(tmp_path: Path, text: str) -> None:
    pairs = read_pairs(write(tmp_path, text, "pairs.csv"))
    assert pairs.names == (("x/1.jpg", "x/2.jpg"), ("x/1.jpg", "y/1.jpg"), ("y/1.jpg", "x/2.jpg"))
    assert pairs.same.tolist() == [True, False, False]
    assert pairs.folds is not None
    assert pairs.folds.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,same\nx,1\n", r"no column 'b'; it has a, same\. A table of pairs wants the columns a, b and same"),
        ("a,b,same\n", "has no rows"),
        ("a,b,same\nx,,1\n", r"1 of 1 row has no b \(line 2\)"),
        ("a,b,same\nx,y,\n", r"1 of 1 row has no same \(line 2\)"),
        ("a,b,same\nx,y,perhaps\n", r"same is 'perhaps' in line 2"),
    ],
)
def test_tables_that_hold_no_pairs(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_pairs(write(tmp_path, text, "pairs.csv"))


def test_pairs_are_found_in_a_catalogue(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["faces/Ann/Ann_0001.png", "faces/Ann/Ann_0002.png", "faces/Bob/Bob_0012.png"])
    catalogue = read_catalogue(tmp_path / "faces")
    listed = read_lfw_pairs(write(tmp_path, "1\nAnn\t1\t2\nBob\t12\tAnn\t1\n"))
    pairs = find_pairs(listed, catalogue.paths)
    assert len(pairs) == 2
    names = [[Path(catalogue.paths[row]).name for row in pair] for pair in pairs.rows.tolist()]
    assert names == [["Ann_0001.png", "Ann_0002.png"], ["Bob_0012.png", "Ann_0001.png"]]
    labels = catalogue.labels[pairs.rows]
    assert (labels[:, 0] == labels[:, 1]).tolist() == pairs.same.tolist()


def test_a_name_may_be_longer_or_shorter_than_another(tmp_path: Path) -> None:
    paths = ["/d/a/1.jpg", "/d/b/1.jpg", "/d/b/2.jpg"]
    listed = PairList((("a/1.jpg", "2"), ("/d/b/1.jpg", "2.png")), np.array([True, False]), None)
    assert find_pairs(listed, paths).rows.tolist() == [[0, 2], [1, 2]]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("B\u00e4r/1.jpg", "/faces/Ba\u0308r/1.jpg"),
        ("Ann\\1.jpg", "/faces/Ann/1.jpg"),
        ("Dr. No/Dr. No_0001", "/faces/Dr. No/Dr. No_0001.jpg"),
        ("Ann/1.v2", "/faces/Ann/1.v2.png"),
        ("Ann/1.jpg", "/faces/all.zip#Ann/1.jpg"),
        ("all.zip#Ann/1.jpg", "/faces/all.zip#Ann/1.jpg"),
    ],
)
def test_one_image_by_two_names(name: str, path: str) -> None:
    listed = PairList(((name, "other.jpg"),), np.array([False]), None)
    assert find_pairs(listed, ["/faces/other.jpg", path]).rows.tolist() == [[1, 0]]


def test_images_that_are_missing_or_not_clear() -> None:
    listed = PairList((("a/1.jpg", "a/2.jpg"), ("a/1.jpg", "a/3.jpg")), np.array([True, False]), None)
    with pytest.raises(DataError, match=r"2 of 3 images of the pairs are not among the 1 image, first a/2\.jpg"):
        find_pairs(listed, ["/d/a/1.jpg"])
    with pytest.raises(DataError, match=r"a/1\.jpg of the pairs matches 2 images"):
        find_pairs(listed, ["/d/a/1.jpg", "/e/a/1.png", "/d/a/2.jpg", "/d/a/3.jpg"])


def test_parts_of_different_length() -> None:
    rows = np.array([[0, 1], [1, 2]])
    with pytest.raises(SizeError, match=r"want same \(2,\), one for each pair, got \(3,\)"):
        Pairs(rows=rows, same=np.ones(3, dtype=bool))
    with pytest.raises(SizeError, match=r"want folds \(2,\)"):
        Pairs(rows=rows, same=np.ones(2, dtype=bool), folds=np.zeros(1, dtype=np.int64))
    with pytest.raises(SizeError, match=r"want rows of pairs \(P, 2\), got \(2,\)"):
        Pairs(rows=rows[0], same=np.ones(2, dtype=bool))


def test_a_parquet_of_pairs(tmp_path: Path) -> None:
    pd.DataFrame({"a": ["1"], "b": ["2"], "same": [True]}).to_parquet(tmp_path / "pairs.parquet")
    pairs = read_pairs(tmp_path / "pairs.parquet")
    assert pairs.same.tolist() == [True]
    assert pairs.folds is None


def verification_set(folder: Path, pairs: int) -> Path:
    """Pair i shows one person if i is divisible by 3."""
    path = folder / "lfw.bin"
    path.write_bytes(pickle.dumps(([b"%d" % n for n in range(2 * pairs)], [n % 3 == 0 for n in range(pairs)])))
    return path


@pytest.mark.parametrize("pairs", [10, 40, 43])
def test_a_verification_set_has_ten_contiguous_folds(tmp_path: Path, pairs: int) -> None:
    listed = read_verification_bin(verification_set(tmp_path, pairs))
    assert listed.names[3] == ("lfw.bin#6", "lfw.bin#7")
    assert listed.same.tolist() == [n % 3 == 0 for n in range(pairs)]
    assert listed.folds is not None
    start = 0
    for fold in range(10):  # scikit-learn's KFold(10), with which InsightFace divides them
        size = pairs // 10 + (fold < pairs % 10)
        assert np.flatnonzero(listed.folds == fold).tolist() == list(range(start, start + size))
        start += size
    assert start == pairs


def test_a_small_verification_set_has_no_folds(tmp_path: Path) -> None:
    assert read_verification_bin(verification_set(tmp_path, 9)).folds is None


def test_the_pairs_of_a_verification_set_are_found_among_its_images(tmp_path: Path) -> None:
    path = verification_set(tmp_path, 12)
    catalogue = read_catalogue(path, labels="optional")
    pairs = find_pairs(read_verification_bin(path), catalogue.paths)
    assert pairs.rows.tolist() == [[2 * n, 2 * n + 1] for n in range(12)]


def test_a_share_of_the_images_may_be_missing(tmp_path: Path) -> None:
    listed = read_lfw_pairs(write(tmp_path, TWO_FOLDS))
    paths = ["Ann/Ann_0001.png", "Ann/Ann_0002.png", "Bob/Bob_0012.png", "Bob/Bob_0003.png"]  # Cy is missing
    with pytest.raises(
        DataError, match=r"1 of 5 images of the pairs .* first Cy/Cy_0004.jpg. At most 10.0% may be missing"
    ):
        find_pairs(listed, paths, max_missing=0.1)
    found = find_pairs(listed, paths, max_missing=0.2)
    assert found.rows.tolist() == [[0, 1], [0, 2], [2, 3]]
    assert found.same.tolist() == [True, False, True]
    assert found.folds is not None
    assert found.folds.tolist() == [0, 0, 1]
    assert found.missing == ("Cy/Cy_0004.jpg",)
    with pytest.raises(SettingsError, match="max_missing"):
        find_pairs(listed, paths, max_missing=2)
