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
