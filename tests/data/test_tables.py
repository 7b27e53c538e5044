from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cosphere.data import read_catalogue, read_table
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
        ("path,label\n,x\n", r"1 of 1 row has no path \(line 2\)"),
        ("path,label,split\na/1.jpg,x,\n", r"no split \(line 2\)"),
        ("path,label\n", "has no rows"),
        ("", "cannot be read as a table: it has no header"),
        ("\n \n", "it has no header"),
        ("\npath,label\n", "has no rows"),
        ("path,label\na/1.jpg,x\nb/3.jpg,y,z,w\n", "line 3 has 4 cells, and the header has 2"),
        ("a/1.jpg,x\na/2.jpg,y\n", r"list\.csv has no header: its first line is a/1\.jpg, x\. Add a first line"),
        ("path,label\n..\\a\\1.jpg,x\n", "leave the table's folder"),
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
    with pytest.raises(DataError, match=r"1\.jpg is no table that Cosphere reads\. It looks like an image"):
        read_table(photos / "a/1.jpg")
    with pytest.raises(DataError, match="does not exist"):
        read_table(photos / "none.csv")
    for name in ("wrong.parquet", "wrong.csv"):
        (photos / name).write_bytes(b"\xff\xfe\x00PAR\x00")
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


def test_windows_paths(photos: Path) -> None:
    found = read_table(write(photos, "path,label\na\\1.jpg,x\n.\\b\\3.jpg,y\n"))
    assert found.table["path"].tolist() == ["a/1.jpg", "b/3.jpg"]
    assert found.notes == ("2 paths with backslashes were read with slashes",)


@pytest.mark.parametrize(("listed", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_in_another_form(tmp_path: Path, draw, listed: str, on_disk: str) -> None:
    name = "café/crème.jpg"
    draw(tmp_path, [unicodedata.normalize(on_disk, name)])
    text = f"path,label\n{unicodedata.normalize(listed, name)},{unicodedata.normalize(listed, 'thé')}\n"
    for path in (name, str(tmp_path / name)):
        found = read_table(write(tmp_path, text.replace(unicodedata.normalize(listed, name), path)))
        assert Path(found.paths[0]).is_file()
        assert found.label_names == [unicodedata.normalize("NFC", "thé")]
        assert unicodedata.is_normalized(on_disk, found.table["path"].iloc[0])


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        ("path,label\na/1.jpg,été\nb/3.jpg,x\n".encode("utf-16"), ()),
        ("path;label\na/1.jpg;été\nb/3.jpg;x\n".encode("utf-16-le"), ()),
        ("path\tlabel\na/1.jpg\tété\nb/3.jpg\tx\n".encode("utf-16-be"), ()),
        ("path,label\na/1.jpg,été\nb/3.jpg,x\n".encode("utf-8-sig"), ()),
        (
            "path,label\na/1.jpg,été\nb/3.jpg,x\n".encode("cp1252"),
            ("the table is not UTF-8 and was read as Windows-1252; save it as UTF-8 if names look wrong",),
        ),
        (b"sep=;\r\npath;label\r\na/1.jpg;\xc3\xa9t\xc3\xa9\r\nb/3.jpg;x\r\n", ()),
        (b'"sep=|"\npath|label\na/1.jpg|\xc3\xa9t\xc3\xa9\nb/3.jpg|x\n', ()),
        ("path,label,\na/1.jpg,été,\nb/3.jpg,x,\n".encode(), ()),
        ("path,label\na/1.jpg,été,\nb/3.jpg,x,\n".encode(), ()),
        ('path, label\na/1.jpg, "été"\n"b/3.jpg", "x"\n'.encode(), ()),
        ("path,label\n\na/1.jpg,été\n\n,\nb/3.jpg,x\n\n".encode(), ()),
        ('path,label\n"a/1.jpg","été"\nb/3.jpg,x'.encode(), ()),
    ],
)
def test_tables_as_other_programs_write_them(photos: Path, content: bytes, notes: tuple[str, ...]) -> None:
    (photos / "list.csv").write_bytes(content)
    found = read_table(photos / "list.csv")
    assert found.table["path"].tolist() == ["a/1.jpg", "b/3.jpg"]
    assert found.table["label"].tolist() == ["été", "x"]
    assert found.notes == notes
    assert read_catalogue(photos, layout="table").label_names == found.label_names


def test_lines_are_counted_as_an_editor_shows_them(photos: Path) -> None:
    text = 'sep=,\npath,label\n\n"a/1.jpg","x\ny"\na/2.jpg,\n'
    with pytest.raises(DataError, match=r"1 of 2 rows have no label \(line 6\)"):
        read_table(write(photos, text))


def test_labels_that_look_like_lists_are_noted(photos: Path) -> None:
    found = read_table(write(photos, "path,label\na/1.jpg,red;apple\na/2.jpg,red;apple\nb/3.jpg,a|b\n"))
    assert len(found.label_names) == 2
    assert found.notes == ("2 labels look like several in one cell and are one class each, such as 'red;apple'",)


def test_labels_that_differ_in_capitals_or_spaces_are_noted(photos: Path) -> None:
    found = read_table(write(photos, "path,label\na/1.jpg,Mug\na/2.jpg,mug\nb/3.jpg,tea cup\nb/3.jpg,tea_cup\n"))
    assert len(found.label_names) == 4
    assert found.notes[0] == (
        "4 classes differ only in capitals, spaces or form of characters: 'Mug' and 'mug'. Rename them if they are one"
    )


def test_absolute_paths_and_another_root(photos: Path, tmp_path_factory) -> None:
    elsewhere = tmp_path_factory.mktemp("tables")
    file = write(elsewhere, f"path,label\n{photos / 'a/1.jpg'},x\n")
    assert read_table(file).paths == [str(photos / "a/1.jpg")]
    file = write(elsewhere, "path,label\n./a//1.jpg,x\na/b/../2.jpg,y\n")
    assert read_table(file, root=photos).table["path"].tolist() == ["a/1.jpg", "a/2.jpg"]


def test_repeated_rows_are_noted_and_boxes_of_one_image_are_not_repeats(photos: Path) -> None:
    twice = read_table(write(photos, "path,label\na/1.jpg,x\na/1.jpg,x\n"))
    assert twice.notes == ("1 row repeats an image that the table already has",)
    boxes = "path,label,x_1,y_1,x_2,y_2\na/1.jpg,x,0,0,2,2\na/1.jpg,y,2,2,4,4\n"
    assert read_table(write(photos, boxes)).notes == ()


def test_half_a_box_is_no_box_and_is_named(photos: Path) -> None:
    found = read_table(write(photos, "path,label,x_1,y_1\na/1.jpg,x,0,0\n"))
    assert found.boxes is None
    assert found.notes == ("columns x_1, y_1 look like boxes and were not read; name them x_1, y_1, x_2, y_2 (pixels)",)


@pytest.mark.parametrize(
    ("columns", "values", "words"),
    [
        ("x_1,y_1,x_2,y_2", "1,2,4,5", None),
        ("X1,Y1,X2,Y2", "1,2,4,5", "columns X1, Y1, X2, Y2 were read as the box x_1, y_1, x_2, y_2"),
        ("xmin,ymin,xmax,ymax", "1,2,4,5", "columns xmin, ymin, xmax, ymax were read as the box x_1, y_1, x_2, y_2"),
        (
            "left,top,right,bottom",
            "1,2,4,5",
            "columns left, top, right, bottom were read as the box x_1, y_1, x_2, y_2",
        ),
        ("x,y,w,h", "1,2,3,3", "columns x, y, w, h were read as the box x_1, y_1, width and height"),
        ("bbox_x,bbox_y,bbox_w,bbox_h", "1,2,3,3", "columns bbox_x, bbox_y, bbox_w, bbox_h were read as the box"),
    ],
)
def test_boxes_under_other_names(photos: Path, columns: str, values: str, words: str | None) -> None:
    found = read_table(write(photos, f"path,label,{columns}\na/1.jpg,7,{values}\n"))
    assert found.box(0) == (1, 2, 4, 5)
    assert found.label_names == ["7"]
    assert len(found.notes) == (0 if words is None else 1)
    assert all(note.startswith(words or "") for note in found.notes)


@pytest.mark.parametrize("columns", ["x,y,width,height", "bbox", "xmin,ymin"])
def test_columns_that_may_be_boxes_are_named(photos: Path, columns: str) -> None:
    values = ",".join("1" for _ in columns.split(","))
    found = read_table(write(photos, f"path,label,{columns}\na/1.jpg,7,{values}\n"))
    assert found.boxes is None
    assert "look like boxes and were not read" in found.notes[0]
    assert columns.split(",")[0] in found.notes[0]


def test_boxes_in_shares_are_refused(photos: Path) -> None:
    text = "path,label,x_1,y_1,x_2,y_2\na/1.jpg,x,0.05,0.1,0.95,0.9\na/2.jpg,x,,,,\n"
    with pytest.raises(
        DataError,
        match=r"1 of 2 boxes cannot be used, first in line 2: the box \(0\.05, 0\.1, 0\.95, 0\.9\) looks like",
    ):
        read_table(write(photos, text))


def test_a_few_bad_boxes_are_left_out_and_named(photos: Path) -> None:
    rows = "a/1.jpg,x,0,0,4,4\n" * 150 + "a/2.jpg,x,4,0,2,4\n"
    found = read_table(write(photos, "path,label,x_1,y_1,x_2,y_2\n" + rows))
    assert len(found) == 150
    assert found.skipped == (("a/2.jpg", "the box (4, 0, 2, 4) is reversed or empty; want x_1 < x_2 and y_1 < y_2"),)
    assert found.notes[0] == "1 of 151 rows have a box that cannot be used and were left out"


def test_rows_of_a_batch_file_are_paths_too(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(bytes(2 * 3073))
    found = read_table(write(tmp_path, "path,label\ntest_batch.bin#0,x\ntest_batch.bin#1,y\n"))
    assert len(found) == 2
