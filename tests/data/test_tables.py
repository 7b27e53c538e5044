from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cosphere.data import read_table
from cosphere.errors import DataError

PATHS = ["a/1.jpg", "a/2.jpg", "b/3.jpg"]


@pytest.fixture
def photos(tmp_path: Path, draw) -> Path:
    draw(tmp_path, PATHS)
    return tmp_path


def write(folder: Path, text: str, name: str = "list.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_csv_with_everything_that_oml_has(photos: Path) -> None:
    header = "label,path,split,is_query,is_gallery,category,sequence,x_1,x_2,y_1,y_2\n"
    file = write(
        photos,
        header
        + "7,a/1.jpg,train,,,hats,,,,,\n"
        + "10,a/2.jpg,validation,True,False,hats,s1,1,5,2,6\n"
        + "10,b/3.jpg,validation,False,True,,s2,0,4,0,3\n",
    )
    found = read_table(file)
    assert found.root == photos
    assert found.label_names == ["7", "10"]
    assert found.splits.tolist() == ["train", "val", "val"]
    assert found.table["is_query"].tolist() == [False, True, False]
    assert found.table["is_gallery"].tolist() == [False, False, True]
    assert found.table["category"].tolist()[:2] == ["hats", "hats"]
    assert found.table["sequence"].tolist()[1:] == ["s1", "s2"]
    assert [found.box(row) for row in range(3)] == [None, (1, 2, 5, 6), (0, 0, 4, 3)]
    assert found.notes == ()


@pytest.mark.parametrize("form", ["semicolon", "tab", "bom", "parquet", "frame", "capitals"])
def test_other_forms_say_the_same(photos: Path, form: str) -> None:
    plain = read_table(write(photos, "path,label\na/1.jpg,x\na/2.jpg,x\nb/3.jpg,y\n"))
    rows = [("path", "label"), ("a/1.jpg", "x"), ("a/2.jpg", "x"), ("b/3.jpg", "y")]
    frame = pd.DataFrame(rows[1:], columns=list(rows[0]))
    if form == "parquet":
        frame.to_parquet(photos / "list.parquet")
        other = read_table(photos / "list.parquet")
    elif form == "frame":
        other = read_table(frame.set_index(pd.Index([5, 6, 7])), root=photos)
    else:
        separator = {"semicolon": ";", "tab": "\t"}.get(form, ",")
        text = "\n".join(separator.join(row) for row in rows)
        text = {"bom": "\ufeff" + text, "capitals": text.replace("path,label", " Path ,LABEL")}.get(form, text)
        other = read_table(write(photos, text, "other.tsv" if form == "tab" else "other.csv"))
    pd.testing.assert_frame_equal(other.table, plain.table)
    assert plain.split_names == ["all"]


def test_labels_stay_as_they_are_written(photos: Path) -> None:
    found = read_table(write(photos, "path,label\na/1.jpg,007\na/2.jpg,NA\nb/3.jpg,7\n"))
    assert found.table["label"].tolist() == ["007", "NA", "7"]


def test_numbers_as_labels(photos: Path) -> None:
    for labels in ([2, 10, 2], np.array([2, 10, 2], dtype=np.float64), ["2", "10", "2"]):
        found = read_table(pd.DataFrame({"path": PATHS, "label": labels}), root=photos)
        assert found.label_names == ["2", "10"]


def test_other_names_of_columns_are_noted(photos: Path) -> None:
    found = read_table(write(photos, "Image,target,subset\na/1.jpg,x,test\na/2.jpg,y,dev\n"))
    assert found.splits.tolist() == ["test", "val"]
    assert found.notes == (
        "column 'Image' was read as path",
        "column 'target' was read as label",
        "column 'subset' was read as split",
    )


def test_the_real_name_wins_over_another(photos: Path) -> None:
    found = read_table(write(photos, "class_name,label,path\nred,1,a/1.jpg\nblue,2,a/2.jpg\n"))
    assert found.label_names == ["1", "2"]
    assert found.class_names == ["red", "blue"]
    assert read_table(write(photos, "class_name,path\nred,a/1.jpg\n")).label_names == ["red"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,lable\na/1.jpg,x\n", r"no column 'label'; it has path, lable\. Did you mean 'lable'\?"),
        ("foo,label\na/1.jpg,x\n", r"no column 'path'; it has foo, label\. Rename the one that holds the image paths"),
        ("path,label\na/1.jpg,x\na/2.jpg,\nb/3.jpg, \n", r"2 of 3 rows have no label \(lines 3, 4\)"),
        ("path,label\n,x\n", r"1 of 1 rows have no path \(line 2\)"),
        ("path,label,split\na/1.jpg,x,\n", r"no split \(line 2\)"),
        ("path,label\n", "has no rows"),
        ("", "cannot be read as a table"),
        ("path,label\na/1.jpg,x\nb/3.jpg,y,z,w\n", "cannot be read as a table"),
        ("path,label\n../a/1.jpg,x\n", r"1 paths leave the table's folder \(line 2: '\.\./a/1\.jpg'\)"),
        ("path,label\na/../../1.jpg,x\n", "leave the table's folder"),
        ("path,label,is_query\na/1.jpg,x,maybe\n", r"is_query is 'maybe' in line 2\. Write True or False"),
        ("path,label,x_1,y_1,x_2,y_2\na/1.jpg,x,1,2,wide,4\n", "x_2 is no number in line 2"),
        ("path,label\nq/1.jpg,x\nq/2.jpg,x\n", r"none of the 2 files .*first: q/1\.jpg, q/2\.jpg"),
        ("path,label\na/1.jpg,x\nq/2.jpg,x\n", r"1 of the 2 files .* are missing in .*q/2\.jpg\. At most 1\.0%"),
        ("path,label,split\na/1.jpg,x,query\na/2.jpg,x,test\n", "Keep one of the two forms"),
    ],
)
def test_tables_that_cannot_be_used(photos: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_table(write(photos, text))


def test_missing_labels_in_a_frame_are_named_by_row(photos: Path) -> None:
    frame = pd.DataFrame({"path": PATHS, "label": [1.0, np.nan, 3.0]})
    with pytest.raises(DataError, match=r"the DataFrame: 1 of 3 rows have no label \(row 1\)"):
        read_table(frame, root=photos)


def test_files_that_are_no_tables(photos: Path) -> None:
    with pytest.raises(DataError, match=r"1\.jpg is no table that Cosphere reads\. Give \.csv"):
        read_table(photos / "a/1.jpg")
    with pytest.raises(DataError, match="does not exist"):
        read_table(photos / "none.csv")
    for name in ("wrong.parquet", "wrong.csv"):
        (photos / name).write_bytes(b"\xff\xfe\x00PAR")
        with pytest.raises(DataError, match=f"{name} cannot be read as a table"):
            read_table(photos / name)


def test_no_right_to_read_a_table(photos: Path, monkeypatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    file = write(photos, "path,label\n")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"permission denied\. Change its rights"):
        read_table(file)


def test_a_few_missing_files_are_left_out_and_named(photos: Path) -> None:
    lines = "".join(f"{path},x\n" for path in PATHS * 50) + "gone.jpg,y\n"
    found = read_table(write(photos, "path,label\n" + lines))
    assert len(found) == 150
    assert found.table.index.tolist() == list(range(150))
    assert found.notes[-1] == "1 of 151 listed files are missing and were left out: gone.jpg"
    with pytest.raises(DataError, match=r"At most 0\.0%"):
        read_table(photos / "list.csv", max_missing=0)


def test_absolute_paths_and_another_root(photos: Path, tmp_path_factory) -> None:
    elsewhere = tmp_path_factory.mktemp("tables")
    file = write(elsewhere, f"path,label\n{photos / 'a/1.jpg'},x\n")
    assert read_table(file).paths == [str(photos / "a/1.jpg")]
    file = write(elsewhere, "path,label\n./a//1.jpg,x\na/b/../2.jpg,y\n")
    assert read_table(file, root=photos).table["path"].tolist() == ["a/1.jpg", "a/2.jpg"]


def test_repeated_rows_are_noted_and_boxes_of_one_image_are_not_repeats(photos: Path) -> None:
    twice = read_table(write(photos, "path,label\na/1.jpg,x\na/1.jpg,x\n"))
    assert twice.notes == ("1 rows repeat an image that the table already has",)
    boxes = "path,label,x_1,y_1,x_2,y_2\na/1.jpg,x,0,0,2,2\na/1.jpg,y,2,2,4,4\n"
    assert read_table(write(photos, boxes)).notes == ()


def test_half_a_box_is_no_box(photos: Path) -> None:
    assert read_table(write(photos, "path,label,x_1,y_1\na/1.jpg,x,0,0\n")).boxes is None


def test_rows_of_a_batch_file_are_paths_too(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(bytes(2 * 3073))
    found = read_table(write(tmp_path, "path,label\ntest_batch.bin#0,x\ntest_batch.bin#1,y\n"))
    assert len(found) == 2
