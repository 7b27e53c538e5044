from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from cosphere.data import read_catalogue
from cosphere.data.patches import Change, apply_patch, read_patch, undo_patch, write_patch
from cosphere.data.patches import applying as applying_module
from cosphere.errors import DataError, RunError


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_dir())


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for number, name in enumerate(["cat/1.png", "cat/2.png", "cat/deep/3.png", "dog/1.png", "dog/4.png"]):
        picture(root / name, number)
    return root


def patched(folder: Path, *changes: Change) -> Path:
    path = folder / "patch.csv"
    write_patch(path, changes)
    return path


def test_images_move_between_class_folders_and_back(folders: Path, tmp_path: Path) -> None:
    before, times = everything(folders), {path: path.stat().st_mtime_ns for path in folders.rglob("*.png")}
    made = folders_in(folders)
    patch = patched(
        tmp_path,
        Change("relabel", "cat/1.png", "cat", "dog"),  # dog/1.png is there already
        Change("relabel", "cat/deep/3.png", "cat", "dog"),
        Change("relabel", "dog/4.png", "dog", "wolf"),
        Change("remove", "cat/2.png", "cat"),
        Change("relabel", "cat/9.png", "cat", "dog"),
        Change("relabel", "dog/1.png", "cat", "dog"),
    )
    applied = apply_patch(patch, folders)
    assert (applied.relabelled, applied.removed) == (3, 1)
    assert [(one.path, one.reason) for one in applied.skipped] == [
        ("cat/9.png", "there is no such image"),
        ("dog/1.png", "its label is 'dog', not 'cat'"),
    ]
    after = everything(folders)
    assert set(after) == {"dog/1.png", "dog/1-1.png", "dog/deep/3.png", "wolf/4.png", ".cosphere-removed/cat/2.png"}
    assert after["dog/1.png"] == before["dog/1.png"]
    assert after["dog/1-1.png"] == before["cat/1.png"]
    assert sorted(after.values()) == sorted(before.values())  # no image is lost
    assert read_catalogue(folders).table["label"].tolist() == ["dog", "dog", "dog", "wolf"]
    with pytest.raises(RunError, match=r"patch.csv is applied already, as patch.csv.applied.json says"):
        apply_patch(patch, folders)
    assert undo_patch(patch) == 4
    assert everything(folders) == before
    assert folders_in(folders) == made  # no empty class is left
    assert {path: path.stat().st_mtime_ns for path in folders.rglob("*.png")} == times
    assert not applied.record.exists()
    with pytest.raises(RunError, match=r"patch\.csv is not applied"):
        undo_patch(patch)
    assert apply_patch(patch, folders).relabelled == 3


def test_splits_and_leaves_keep_their_place(tmp_path: Path) -> None:
    for number, name in enumerate(["train/cat/1.png", "train/dog/1.png", "test/cat/2.png", "test/dog/3.png"]):
        picture(tmp_path / "photos" / name, number)
    patch = patched(tmp_path, Change("relabel", "test/cat/2.png", "cat", "dog"))
    apply_patch(patch, tmp_path / "photos")
    assert "test/dog/2.png" in everything(tmp_path / "photos")
    for number, name in enumerate(["a/x/1.png", "a/y/1.png", "b/x/2.png"]):
        picture(tmp_path / "nested" / name, number)
    other = tmp_path / "other.csv"
    write_patch(other, [Change("relabel", "a/x/1.png", "a/x", "b/x")])
    apply_patch(other, tmp_path / "nested", classes="leaf")
    assert set(everything(tmp_path / "nested")) == {"b/x/1.png", "a/y/1.png", "b/x/2.png"}


@pytest.mark.parametrize("split", ["train", "Training"])
def test_a_class_may_have_the_name_of_a_split(tmp_path: Path, split: str) -> None:
    root = tmp_path / "photos"
    for number, name in enumerate(["train/0.png", "train/1.png", "bus/2.png", "bus/3.png"]):
        picture(root / split / name, number)
    picture(root / "test/bus/4.png", 4)
    assert set(read_catalogue(root).table["split"]) == {"train", "test"}
    changes = [Change("relabel", f"{split}/train/0.png", "train", "bus")]
    changes.append(Change("relabel", f"{split}/bus/2.png", "bus", "train"))
    apply_patch(patched(tmp_path, *changes), root)
    moved = {f"{split}/{name}" for name in ("bus/0.png", "train/1.png", "train/2.png", "bus/3.png")}
    assert set(everything(root)) == moved | {"test/bus/4.png"}


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_interrupted_patch_is_undone(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    before = everything(folders)
    patch = patched(
        tmp_path,
        Change("relabel", "cat/1.png", "cat", "dog"),
        Change("remove", "cat/2.png", "cat"),
        Change("relabel", "dog/4.png", "dog", "cat"),
    )
    done, move = [], applying_module.move

    def fails(*arguments: object) -> None:
        if len(done) == at:
            raise RunError("the disk is full")
        done.append(arguments)
        move(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(applying_module, "move", fails)
    with pytest.raises(RunError, match="the disk is full"):
        apply_patch(patch, folders)
    monkeypatch.setattr(applying_module, "move", move)
    if at == 1:  # killed between the new name and the removal of the old one
        (folders / ".cosphere-removed" / "cat").mkdir(parents=True)
        os.link(folders / "cat" / "2.png", folders / ".cosphere-removed" / "cat" / "2.png")
    assert undo_patch(patch) == at
    assert everything(folders) == before


def test_undoing_replaces_nothing_that_came_since(folders: Path, tmp_path: Path) -> None:
    patch = patched(tmp_path, Change("relabel", "cat/1.png", "cat", "dog"), Change("remove", "cat/2.png", "cat"))
    apply_patch(patch, folders)
    picture(folders / "cat" / "1.png", 77)
    here = everything(folders)
    with pytest.raises(RunError, match=r"1\.png is there again; 1 image cannot be moved back, so none was"):
        undo_patch(patch)
    assert everything(folders) == here
    (folders / "cat" / "1.png").unlink()
    (folders / "dog" / "1-1.png").unlink()
    with pytest.raises(RunError, match=r"1-1\.png is gone"):
        undo_patch(patch)


def test_a_strangers_record_moves_nothing_out(folders: Path, tmp_path: Path) -> None:
    patch = patched(tmp_path, Change("remove", "cat/2.png", "cat"))
    record = apply_patch(patch, folders).record
    content = json.loads(record.read_text())
    content["moves"] = [["../../stolen.png", ".cosphere-removed/cat/2.png"]]
    record.write_text(json.dumps(content))
    with pytest.raises(RunError, match="names files outside of"):
        undo_patch(patch)
    record.write_text("{}")
    with pytest.raises(RunError, match="is damaged: 'version'"):
        undo_patch(patch)


def table(folder: Path, text: str, encoding: str = "utf-8", name: str = "labels.csv") -> Path:
    for number in range(4):
        picture(folder / "images" / f"{number}.png", number)
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


TEXT = (
    'path,label,class_name,note\r\nimages/0.png,1,"Cat, house",\r\nimages/1.png,2,Dog,"two\nlines"\r\n'
    '\r\nimages/2.png,1,"Cat, house", spaced \r\nimages/3.png,2,Dog,last'
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_keeps_the_lines_that_do_not_change(tmp_path: Path, encoding: str) -> None:
    path = table(tmp_path, TEXT, encoding)
    before = path.read_bytes()
    patch = patched(
        tmp_path,
        Change("relabel", "images/1.png", "2", "1"),
        Change("remove", "images/2.png", "1"),
        Change("relabel", "images/3.png", "2", "9"),
    )
    applied = apply_patch(patch, path)
    assert (applied.relabelled, applied.removed, applied.skipped) == (2, 1, ())
    assert path.read_bytes().decode(encoding) == (
        'path,label,class_name,note\r\nimages/0.png,1,"Cat, house",\r\nimages/1.png,1,"Cat, house","two\nlines"\r\n'
        "\r\nimages/3.png,9,9,last"
    )
    assert read_catalogue(path).table["label"].tolist() == ["1", "1", "9"]
    assert undo_patch(patch) == 1
    assert path.read_bytes() == before
    assert len(list((tmp_path / "images").iterdir())) == 4


def test_a_table_in_a_folder_with_excels_separator_and_aliases(tmp_path: Path) -> None:
    path = table(tmp_path, "sep=;\nfile_name;class;x\nimages/0.png; a ;1\nimages/1.png;b;2\n")
    patch = patched(tmp_path / "elsewhere", Change("relabel", "images/0.png", "a", "b"))
    apply_patch(patch, tmp_path)
    assert path.read_text() == "sep=;\nfile_name;class;x\nimages/0.png;b;1\nimages/1.png;b;2\n"


@pytest.mark.parametrize("name", ["labels.csv", "labels.parquet"])
def test_lines_are_found_as_the_catalogue_reads_them(tmp_path: Path, name: str) -> None:
    odd = "a\x0cb\x85c\u2028d\u2029e"  # ends of lines to str.splitlines, and to nothing that reads tables
    rows = [
        ("images\\0.png", "x"),
        ("./images//1.png", odd),
        ("images/cafe\u0301.png", "e\u0301"),
        ("images/3.png", "x"),
    ]
    path = table(tmp_path, "path,label\n" + "".join(f"{image},{label}\n" for image, label in rows), name="labels.csv")
    picture(tmp_path / "images" / "caf\xe9.png", 9)
    if name != path.name:
        pd.DataFrame(rows, columns=["path", "label"]).to_parquet(tmp_path / name)
        path.unlink()
    read = read_catalogue(tmp_path / name).table
    assert read["label"].tolist() == ["x", odd, "\xe9", "x"]
    changes = [Change("relabel", one.path, one.label, f"new {row}") for row, one in enumerate(read[:3].itertuples())]
    assert apply_patch(patched(tmp_path / "elsewhere", *changes), tmp_path / name).relabelled == 3
    after = read_catalogue(tmp_path / name).table
    assert after["label"].tolist() == ["new 0", "new 1", "new 2", "x"]
    assert after["path"].tolist() == read["path"].tolist()


def test_boxes_of_one_label_are_not_told_apart_and_stay(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "path,label,x_1,y_1,x_2,y_2\nimages/0.png,a,0,0,3,3\nimages/0.png,a,2,2,6,6\nimages/0.png,b,1,1,4,4\nimages/1.png,a,0,0,3,3\n",
    )
    before = path.read_bytes()
    changes = [Change("relabel", "images/0.png", one, "c") for one in "ab"] + [Change("remove", "images/1.png", "a")]
    applied = apply_patch(patched(tmp_path, *changes), path)
    assert [(one.path, one.reason) for one in applied.skipped] == [
        ("images/0.png", "several boxes of it carry 'a'; change the table by hand")
    ]
    assert path.read_bytes() == before.replace(b"png,b", b"png,c").replace(b"images/1.png,a,0,0,3,3\n", b"")


def test_a_parquet_table_keeps_its_types(tmp_path: Path) -> None:
    path = table(tmp_path, "", name="labels.parquet")
    frame = pd.DataFrame({"path": [f"images/{n}.png" for n in range(4)], "label": [1, 2, 1, 2], "size": [0.5, 1, 2, 3]})
    frame.to_parquet(path)
    before = path.read_bytes()
    patch = patched(tmp_path, Change("relabel", "images/1.png", "2", "1"), Change("remove", "images/0.png", "1"))
    apply_patch(patch, path)
    pd.testing.assert_frame_equal(pd.read_parquet(path), frame.assign(label=[1, 1, 1, 2])[1:].reset_index(drop=True))
    undo_patch(patch)
    assert path.read_bytes() == before
    write_patch(patch, [Change("relabel", "images/1.png", "2", "one")])
    with pytest.raises(
        DataError, match=r"holds values of type int64 in column 'label'; 'one' is not one\. Give a label"
    ):
        apply_patch(patch, path)
    assert path.read_bytes() == before


def test_a_parquet_table_keeps_what_the_patch_does_not_name(tmp_path: Path) -> None:
    path = table(tmp_path, "", name="labels.parquet")
    columns = {
        "path": pa.array([f"images/{n}.png" for n in range(4)]),
        "label": pa.array(["a", "b", "a", "c"]).dictionary_encode(),
        "class_name": pa.array(["A", "B", "A", "C"], pa.large_string()),
        "number": pa.array([2**53 + 1, None, 3, 2**62 + 1]),
        "flag": pa.array([True, None, False, True]),
        "list": pa.array([[1], None, [], [2, 3]]),
        "time": pa.array([1, 2, None, 4], pa.timestamp("ms", "UTC")),
        "key": pa.array([7, 5, 8, 1]),
    }
    before = pa.table(columns)
    frame = before.to_pandas().set_index("key")
    schema = before.schema.with_metadata({**pa.Schema.from_pandas(frame).metadata, b"mine": b"kept"})
    parquet.write_table(before.cast(schema), path)
    before, own = parquet.read_table(path), path.read_bytes()
    changes = [Change("relabel", "images/1.png", "b", "a"), Change("relabel", "images/3.png", "c", "wolf")]
    patch = patched(tmp_path, *changes, Change("remove", "images/0.png", "a"))
    apply_patch(patch, path)
    after = parquet.read_table(path)
    assert after.schema.equals(before.schema, check_metadata=True)
    rest = ["path", "number", "flag", "list", "time", "key"]
    assert after.select(rest).equals(before.select(rest)[1:])
    assert after.column("label").to_pylist() == ["a", "a", "wolf"]
    assert after.column("class_name").to_pylist() == ["A", "A", "wolf"]
    assert pd.read_parquet(path).index.tolist() == [5, 8, 1]
    undo_patch(patch)
    assert path.read_bytes() == own


def test_a_table_behind_a_link_is_patched_and_restored(tmp_path: Path) -> None:
    path = table(tmp_path, TEXT)
    before, link = path.read_bytes(), tmp_path / "link.csv"
    link.symlink_to(path.name)
    patch = patched(tmp_path, Change("remove", "images/2.png", "1"))
    apply_patch(patch, link)
    assert link.is_symlink()
    assert b"images/2.png" not in path.read_bytes()
    undo_patch(patch)
    assert link.is_symlink()
    assert path.read_bytes() == before


def test_a_table_that_was_changed_since_is_not_overwritten(tmp_path: Path) -> None:
    path = table(tmp_path, TEXT)
    patch = patched(tmp_path, Change("remove", "images/2.png", "1"))
    apply_patch(patch, path)
    path.write_bytes(path.read_bytes() + b"\r\nimages/0.png,1,x,more")
    with pytest.raises(RunError, match=r"labels.csv was changed since the patch was applied"):
        undo_patch(patch)
    path.unlink()
    with pytest.raises(RunError, match=r"labels.csv is gone"):
        undo_patch(patch)


def test_a_patch_survives_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "patch.csv"
    changes = [Change("relabel", "=cmd/1.png", "-1", "+2", 0.123456, "near, 'so'"), Change("remove", "a/ü.png", "x")]
    write_patch(path, changes)
    assert "'=cmd/1.png,'-1,'+2,0.1235" in path.read_text(encoding="utf-8")
    assert [one[:4] for one in read_patch(path)] == [one[:4] for one in changes]
    path.write_text("Action;Path;Label;New_Label\nKEEP;a;b;c\n;a;b;c\nRelabel;a;b;c\n")
    assert read_patch(path) == [Change("relabel", "a", "b", "c")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\na,b\n", "is not a patch: it has no column action, new_label"),
        (
            "action,path,label,new_label\ndelete,a,b,\n",
            "line 2: the action is 'delete'; wanted relabel, remove or keep",
        ),
        ("action,path,label,new_label\nkeep,a,b,\nrelabel,a,b,\n", "line 3: there is no new label"),
        ("action,path,label,new_label\nremove,,b,\n", "line 2: there is no path"),
        ("action,path,label,new_label\nremove,a,b,\nrelabel,a,b,c\n", "changes a twice"),
        ("action,path,label,new_label\nkeep,cat/1.png,cat,\n", "changes nothing: every line is kept"),
        (
            "action,path,label,new_label\nremove,../x.png,cat,\n",
            r"no line of .* fits .*\.\./x\.png: there is no such image",
        ),
        (
            "action,path,label,new_label\nrelabel,cat/1.png,cat,../dog\n",
            r"new label '\.\./dog' cannot be the name of a folder",
        ),
        ("action,path,label,new_label\nrelabel,cat/1.png,cat,.x\n", r"new label '\.x' cannot be the name of a folder"),
    ],
)
def test_patches_that_cannot_be_applied(folders: Path, tmp_path: Path, text: str, words: str) -> None:
    before = everything(folders)
    path = tmp_path / "patch.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        apply_patch(path, folders)
    assert everything(folders) == before
    assert not (tmp_path / "patch.csv.applied.json").exists()


def test_links_and_archives_are_refused(folders: Path, tmp_path: Path) -> None:
    (folders / "cat" / "link.png").symlink_to(folders / "dog" / "1.png")
    patch = patched(tmp_path, Change("relabel", "cat/link.png", "cat", "dog"))
    with pytest.raises(DataError, match=r"cat/link\.png is a link"):
        apply_patch(patch, folders)
    import shutil

    shutil.make_archive(str(tmp_path / "photos"), "zip", folders)
    archive = read_catalogue(tmp_path / "photos.zip")
    write_patch(patch, [Change("remove", archive.table["path"][0], archive.table["label"][0])])
    with pytest.raises(DataError, match="patches change tables and class folders"):
        apply_patch(patch, tmp_path / "photos.zip")


@pytest.mark.parametrize("outside", ["cat", "dog", ".cosphere-removed"])
def test_a_folder_that_is_a_link_out_of_the_images_is_refused(folders: Path, tmp_path: Path, outside: str) -> None:
    """Neither out of it nor into it: undoing would refuse to touch what lies outside."""
    elsewhere = tmp_path / "elsewhere"
    (folders / outside).rename(elsewhere) if outside in "cat dog" else elsewhere.mkdir()
    (folders / outside).symlink_to(elsewhere)
    before = everything(folders), everything(elsewhere)
    change = (
        Change("remove", "cat/1.png", "cat")
        if outside.startswith(".")
        else Change("relabel", "cat/1.png", "cat", "dog")
    )
    patch = patched(tmp_path, change)
    words = rf"{outside}(/cat)? leads by a link to .*elsewhere(/cat)?, outside of .*photos, where a patch changes"
    with pytest.raises(DataError, match=words):
        apply_patch(patch, folders)
    assert (everything(folders), everything(elsewhere)) == before
    assert not (tmp_path / "patch.csv.applied.json").exists()


def test_links_to_and_within_the_images_do_no_harm(folders: Path, tmp_path: Path) -> None:
    (folders / "dog").rename(folders / ".dogs")
    (folders / "dog").symlink_to(".dogs")
    (tmp_path / "link").symlink_to(folders)
    before = everything(folders)
    patch = patched(
        tmp_path, Change("relabel", "cat/1.png", "cat", "dog"), Change("relabel", "dog/4.png", "dog", "cat")
    )
    apply_patch(patch, tmp_path / "link")
    assert everything(folders).keys() == {".dogs/1.png", ".dogs/1-1.png", "cat/2.png", "cat/4.png", "cat/deep/3.png"}
    assert undo_patch(patch) == 2
    assert everything(folders) == before
