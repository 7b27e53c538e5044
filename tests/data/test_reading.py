from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from cosphere.data import read_catalogue
from cosphere.errors import DataError, SettingsError


def test_each_kind_of_source(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["a/1.jpg", "b/2.jpg"])
    assert read_catalogue(tmp_path).layout == "folder"
    assert read_catalogue(str(tmp_path)).label_names == ["a", "b"]
    frame = pd.DataFrame({"path": ["a/1.jpg"], "label": ["x"]})
    assert read_catalogue(frame, root=tmp_path).label_names == ["x"]
    frame.to_csv(tmp_path / "list.csv", index=False)
    assert read_catalogue(tmp_path / "list.csv").layout == "table"


def test_a_folder_with_a_table(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["images/1.jpg", "images/2.jpg", "other/3.jpg"])
    (tmp_path / "labels.csv").write_text("path,label\nimages/1.jpg,x\nimages/2.jpg,y\n")
    (tmp_path / "history.csv").write_text("epoch,loss\n1,2\n")
    (tmp_path / "._labels.csv").write_text("path,label\nq,x\n")
    found = read_catalogue(tmp_path)
    assert found.label_names == ["x", "y"]
    assert found.notes[0].startswith("read from labels.csv inside the folder")
    assert read_catalogue(tmp_path, layout="table").label_names == ["x", "y"]
    assert read_catalogue(tmp_path, layout="folder").label_names == ["images", "other"]


@pytest.mark.parametrize("name", ["some.csv", "suspects.csv", "classes.csv"])
@pytest.mark.parametrize("rows", [["a/1.jpg,a", "b/3.jpg,b"], ["a/1.jpg,q", "b/3.jpg,r"], ["a/1.jpg,a", "a/2.jpg,a"]])
def test_a_table_of_part_of_the_class_folders_does_not_replace_them(
    tmp_path: Path, draw, name: str, rows: list[str]
) -> None:
    draw(tmp_path, ["a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"])
    (tmp_path / name).write_text("\n".join(["path,label", *rows]))
    found = read_catalogue(tmp_path)
    assert found.table["label"].tolist() == ["a", "a", "b", "b"]
    note = "the class folders were read; some.csv names 2 of the 4 images, and --layout table reads it"
    assert (note in found.notes) == (name == "some.csv")
    if name == "some.csv":
        assert len(read_catalogue(tmp_path, layout="table")) == 2
    else:
        with pytest.raises(DataError, match=r"one table with path and label, found none\. Name the table itself"):
            read_catalogue(tmp_path, layout="table")
    assert len(read_catalogue(tmp_path / name)) == 2


@pytest.mark.parametrize("name", ["all.csv", "suspects.csv"])
def test_a_table_of_all_images_is_read_unless_it_is_our_own(tmp_path: Path, draw, name: str) -> None:
    draw(tmp_path, ["a/1.jpg", "b/2.jpg"])
    (tmp_path / name).write_text("path,label\na/1.jpg,x\nb/2.jpg,y\n")
    assert read_catalogue(tmp_path).label_names == (["x", "y"] if name == "all.csv" else ["a", "b"])


def test_a_table_of_other_files_does_not_block_the_class_folders(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["a/1.jpg", "b/2.jpg"])
    (tmp_path / "other.csv").write_text("path,label\nz/1.jpg,x\n")
    found = read_catalogue(tmp_path)
    assert found.label_names == ["a", "b"]
    assert found.notes[0].startswith("the class folders were read, because none of the 1 file that other.csv lists")


@pytest.mark.parametrize("wrapped", [False, True])
def test_images_without_labels(tmp_path: Path, draw, wrapped: bool) -> None:
    root = tmp_path / "photos"
    draw(root / "inner" if wrapped else root, ["1.jpg", "2.jpg"])
    with pytest.raises(DataError, match="no class folders"):
        read_catalogue(root / "inner" if wrapped else root)
    found = read_catalogue(root / "inner" if wrapped else root, labels="optional")
    assert (len(found), found.labelled, found.label_names, found.labels.tolist()) == (2, False, [""], [0, 0])
    assert "there are no class folders, so the images have no labels" in found.notes


def test_split_folders_without_classes(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["train/1.jpg", "query/2.jpg", "gallery/3.jpg"])
    found = read_catalogue(tmp_path, labels="optional")
    assert not found.labelled
    assert found.split_names == ["train", "test"]
    assert found.select("test").table["is_query"].tolist() == [False, True]


def test_optional_labels_are_read_where_there_are_some(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["a/1.jpg", "b/2.jpg"])
    assert read_catalogue(tmp_path, labels="optional").label_names == ["a", "b"]
    assert read_catalogue(tmp_path, labels="optional").labelled
    (tmp_path / "list.csv").write_text("path\na/1.jpg\nb/2.jpg\n")
    assert not read_catalogue(tmp_path / "list.csv", labels="optional").labelled
    with pytest.raises(DataError, match="has no column 'label'"):
        read_catalogue(tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text("path,label\na/1.jpg,x\nb/2.jpg,\n")
    assert read_catalogue(tmp_path / "list.csv", labels="optional").label_names == ["", "x"]
    with pytest.raises(SettingsError, match=r"labels must be 'required' or 'optional'; got 'none'"):
        read_catalogue(tmp_path, labels="none", layout="folder")


def test_paths_that_nothing_can_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"cannot be read: File name too long\. Check the path"):
        read_catalogue(tmp_path / ("x" * 300))
    with pytest.raises(DataError, match=r"cannot be read|does not exist"):
        read_catalogue("~nobody-of-that-name/photos")
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    with pytest.raises(DataError, match=r"caf\\xe9 is not UTF-8\. Rename it"):
        read_catalogue(odd)

    def refuse(*args: object, **kwargs: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(DataError, match=r"cannot be read: Permission denied"):
        read_catalogue(tmp_path / "closed")


def test_a_folder_with_two_tables_needs_a_word(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["a/1.jpg", "b/2.jpg"])
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("path,label\na/1.jpg,x\n")
    assert read_catalogue(tmp_path).layout == "folder"
    with pytest.raises(DataError, match=r"found one\.csv, two\.csv\. Name the table itself"):
        read_catalogue(tmp_path, layout="table")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no does not exist\. Give a folder of images"):
        read_catalogue(tmp_path / "no")
    with pytest.raises(SettingsError, match=r"no layout 'cars169'\. Did you mean 'cars196'\?"):
        read_catalogue(tmp_path, layout="cars169")
    with pytest.raises(DataError, match=r"is no root of Cars196: want cars_annos\.mat"):
        read_catalogue(tmp_path, layout="cars196")
    (tmp_path / "list.csv").write_text("path,label\n")
    with pytest.raises(DataError, match="is a file, and layout 'sop' wants a folder"):
        read_catalogue(tmp_path / "list.csv", layout="sop")


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), True])
def test_the_share_of_missing_files_is_a_share(tmp_path: Path, share: float) -> None:
    with pytest.raises(SettingsError, match="max_missing must be a number >= 0 and at most 1"):
        read_catalogue(tmp_path, max_missing=share)


def test_strict_forgives_no_missing_file(tmp_path: Path, draw) -> None:
    draw(tmp_path, [f"a/{number}.jpg" for number in range(3)])
    lines = [f"a/{number % 3}.jpg,x" for number in range(200)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines, "gone.jpg,x"]))
    assert len(read_catalogue(tmp_path / "list.csv")) == 200
    with pytest.raises(DataError, match="1 of the 201 files"):
        read_catalogue(tmp_path / "list.csv", strict=True)


@pytest.mark.data
def test_the_half_of_cars196_as_packed() -> None:
    root = Path(os.environ.get("COSPHERE_DATA", "")) / "cars196-half"
    if not (root / "labels.csv").is_file():
        pytest.skip("COSPHERE_DATA names no folder with cars196-half/labels.csv")
    found = read_catalogue(root)
    assert (len(found), len(found.select("train")), len(found.select("test"))) == (8144, 4052, 4092)
    assert found.select("train").label_names == [str(number) for number in range(1, 99)]
    assert found.select("test").label_names == [str(number) for number in range(99, 197)]
    assert found.class_names[0] == "AM General Hummer SUV 2000"
