from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from cosphere.data import Catalogue, check, read_folder
from cosphere.errors import DataError, SettingsError


def rows(catalogue: Catalogue, *columns: str) -> list[tuple[object, ...]]:
    return list(catalogue.table[list(columns)].itertuples(index=False, name=None))


def test_class_folders(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["b/2.jpg", "b/deeper/3.PNG", "a/1.jpeg"])
    found = read_folder(tmp_path)
    assert rows(found, "path", "label", "split") == [
        ("a/1.jpeg", "a", "all"),
        ("b/2.jpg", "b", "all"),
        ("b/deeper/3.PNG", "b", "all"),
    ]
    assert found.layout == "folder"
    assert found.notes == (
        "class folders contain folders, such as b/deeper; read as 2 classes; --classes leaf takes the folder of each image: "
        "3 classes",
    )
    assert all(Path(path).is_file() for path in found.paths)


def test_split_folders_in_any_spelling(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["Train/a/1.jpg", "Train/b/x/2.jpg", "VALID/c/3.jpg", "test/a/4.jpg"])
    found = read_folder(tmp_path)
    assert rows(found, "label", "split") == [("a", "train"), ("b", "train"), ("c", "val"), ("a", "test")]
    assert found.labels.tolist() == [0, 1, 2, 0]


def test_query_and_gallery_are_roles_in_test(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["train/a/1.jpg", "query/b/2.jpg", "gallery/b/3.jpg"])
    assert rows(read_folder(tmp_path), "path", "split", "is_query", "is_gallery") == [
        ("gallery/b/3.jpg", "test", False, True),
        ("query/b/2.jpg", "test", True, False),
        ("train/a/1.jpg", "train", False, False),
    ]


def test_query_without_gallery_is_an_ordinary_test(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["train/a/1.jpg", "query/b/2.jpg"])
    found = read_folder(tmp_path)
    assert "is_query" not in found.table
    assert found.split_names == ["train", "test"]
    assert "there is a query split but not its other half" in found.notes[0]


def test_query_beside_test_is_refused(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["test/a/1.jpg", "query/b/2.jpg", "gallery/b/3.jpg"])
    with pytest.raises(DataError, match="Keep one of the two forms"):
        read_folder(tmp_path)


def test_strays_are_left_out_and_counted(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["a/1.jpg", "a/._1.jpg", "b/2.jpg", ".cache/3.jpg", "__MACOSX/a/1.jpg"])
    for name in ("a/Thumbs.db", "a/notes.txt", "a/list.txt", "b/README"):
        (tmp_path / name).write_text("x")
    found = read_folder(tmp_path)
    assert rows(found, "path") == [("a/1.jpg",), ("b/2.jpg",)]
    assert found.notes == (
        "4 hidden or stray files or folders (such as ._name, Thumbs.db, __MACOSX) were left out",
        "3 files that are not images were left out: .txt 2, no suffix 1",
    )


def test_a_class_may_be_called_train(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["train/1.jpg", "bus/2.jpg", "car/red/3.jpg"])
    assert read_folder(tmp_path).label_names == ["bus", "car", "train"]
    draw(tmp_path, ["train/steam/4.jpg"])
    assert read_folder(tmp_path).label_names == ["bus", "car", "train"]


def test_an_unlabelled_test_folder_is_left_out(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["train/a/1.jpg", "train/b/2.jpg", "train/lost.jpg", "test/3.jpg"])
    found = read_folder(tmp_path)
    assert rows(found, "label", "split") == [("a", "train"), ("b", "train")]
    assert found.notes == (
        "left out: 1 image in a split folder but in no class folder, train/lost.jpg",
        "folders beside the splits were left out: test",
    )


def test_loose_images_are_left_out(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["a/1.jpg", "b/2.jpg", "cover.jpg"])
    found = read_folder(tmp_path)
    assert len(found) == 2
    assert found.notes == ("left out: 1 image in no class folder, cover.jpg",)


@pytest.mark.parametrize("inner", ["a/1.jpg b/2.jpg", "train/a/1.jpg test/b/2.jpg"])
def test_a_folder_around_everything_is_stepped_into(tmp_path: Path, draw, inner: str) -> None:
    draw(tmp_path, [f"archive/images/{path}" for path in inner.split()])
    found = read_folder(tmp_path)
    assert found.root == tmp_path / "archive" / "images"
    assert found.label_names == ["a", "b"]
    assert len(found.notes) == 2


def test_a_single_split_is_not_stepped_into(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["train/a/1.jpg", "train/b/2.jpg"])
    assert read_folder(tmp_path).split_names == ["train"]


def test_links_are_followed_and_circles_end(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["store/x/1.jpg", "data/a/2.jpg"])
    (tmp_path / "data" / "b").symlink_to(tmp_path / "store" / "x")
    (tmp_path / "data" / "a" / "again").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert set(read_folder(tmp_path / "data").label_names) == {"a", "b"}


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no image in .*Put the images of each class in a folder of its own"):
        read_folder(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"1 file that is not an image was left out: \.txt 1"):
        read_folder(tmp_path)
    for name in ("agedb_30.bin", "train.idx", "train.rec"):  # as InsightFace's folders are
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"Give the file that holds them: \S+train\.rec"):
        read_folder(tmp_path)


def test_no_class_folders(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["1.jpg", "2.jpg"])
    with pytest.raises(DataError, match=r"holds 2 images but no class folders.*give a table"):
        read_folder(tmp_path)


def test_splits_without_class_folders(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["train/1.jpg", "test/2.jpg"])
    with pytest.raises(DataError, match="holds the splits test, train, but no class folders in them"):
        read_folder(tmp_path)


def test_missing_folder_and_file_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_folder(tmp_path / "no")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file, and a folder was wanted"):
        read_folder(tmp_path / "file")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "permission denied. Change its rights"),
        (OSError(5, "Input/output error"), "cannot be read: Input/output error"),
    ],
)
def test_a_folder_that_cannot_be_read(tmp_path: Path, draw, monkeypatch, error: OSError, words: str) -> None:
    draw(tmp_path, ["a/1.jpg"])

    def refuse(path: object) -> None:  # root reads everything, so that rights cannot be tested with rights
        raise error

    monkeypatch.setattr("cosphere.data.listing.os.scandir", refuse)
    with pytest.raises(DataError, match=words):
        read_folder(tmp_path)


def test_two_links_to_one_folder_are_two_folders(tmp_path: Path, draw) -> None:
    draw(tmp_path / "elsewhere", ["a/1.jpg", "b/2.jpg"])
    root = tmp_path / "root"
    draw(root, ["train/c/3.jpg"])
    for split in ("val", "test"):
        (root / split).symlink_to(tmp_path / "elsewhere")
    found = read_folder(root)
    assert found.split_names == ["train", "val", "test"]
    assert [len(found.select(split)) for split in found.split_names] == [1, 2, 2]
    assert len(set(found.identities().tolist())) == 3
    roles = tmp_path / "roles"
    roles.mkdir()
    for split in ("query", "gallery"):
        (roles / split).symlink_to(tmp_path / "elsewhere")
    assert read_folder(roles).table["is_query"].sum() == read_folder(roles).table["is_gallery"].sum() == 2


def test_links_that_go_in_circles(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["a/1.jpg", "b/2.jpg"])
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "here").symlink_to(tmp_path / "b")
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "b" / "self.jpg").symlink_to(tmp_path / "b" / "self.jpg")
    found = read_folder(tmp_path)
    assert found.table["path"].tolist() == ["a/1.jpg", "a/other/2.jpg", "a/other/self.jpg", "b/2.jpg", "b/self.jpg"]
    assert "3 links that lead back to a folder around them were not followed" in found.notes
    report = check(found)
    assert [path for path, _ in report.unreadable] == ["a/other/self.jpg", "b/self.jpg"]


def test_folders_that_all_link_to_each_other_end(tmp_path: Path, draw) -> None:
    draw(tmp_path, [f"{n}/x.jpg" for n in range(5)])
    for one in range(5):
        for two in range(5):
            (tmp_path / str(one) / f"to{two}").symlink_to(tmp_path / str(two))
    below = 5  # each folder once more
    assert len(read_folder(tmp_path)) == 5 + 5 * 4 + 5 * 4 * 3 + 5 * 4 * 3 * 2 + below


@pytest.mark.parametrize(
    "name", ["@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "#recycle", "@Recycle", "__MACOSX"]
)
def test_folders_of_systems_are_left_out_at_any_depth(tmp_path: Path, draw, name: str) -> None:
    draw(tmp_path, ["a/1.jpg", f"a/{name}/thumb.jpg", f"{name}/2.jpg", "b/3.jpg"])
    found = read_folder(tmp_path)
    assert found.table["path"].tolist() == ["a/1.jpg", "b/3.jpg"]
    assert found.notes[0].startswith("2 hidden or stray files or folders")


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path: Path, draw) -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    draw(tmp_path, [f"train/{composed}/1.jpg", "train/b/2.jpg", f"test/{apart}/3.jpg", "test/B/4.jpg"])
    found = read_folder(tmp_path)
    assert found.label_names == ["B", "b", composed]
    assert all(Path(path).is_file() for path in found.paths)
    assert found.notes == (
        "2 classes differ only in capitals, spaces or form of characters: 'B' and 'b'. Rename them if they are one",
    )


NESTED = ["Fruit/Apple/Gala/1.jpg", "Fruit/Apple/Fuji/2.jpg", "Fruit/Pear/3.jpg", "Veg/Kale/4.jpg", "Veg/5.jpg"]


@pytest.mark.parametrize("split", ["", "train/"])
def test_nested_class_folders(tmp_path: Path, draw, split: str) -> None:
    draw(tmp_path, [split + path for path in NESTED])
    top = read_folder(tmp_path)
    assert top.label_names == ["Fruit", "Veg"]
    assert top.notes == (
        "class folders contain folders, such as Fruit/Apple/Fuji; read as 2 classes; --classes leaf takes the folder of "
        "each image: 5 classes",
    )
    leaf = read_folder(tmp_path, classes="leaf")
    assert leaf.label_names == ["Fruit/Apple/Fuji", "Fruit/Apple/Gala", "Fruit/Pear", "Veg", "Veg/Kale"]
    assert leaf.class_names == ["Fuji", "Gala", "Pear", "Veg", "Kale"]
    assert leaf.split_names == [split.rstrip("/") or "all"]
    assert leaf.notes == (
        "class folders contain folders, such as Fruit/Apple/Fuji; read as 5 classes by the folder of each image; "
        "--classes top takes 2 top folders",
    )


def test_leaves_of_one_name_stay_apart(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["Fruit/Red/1.jpg", "Car/Red/2.jpg"])
    found = read_folder(tmp_path, classes="leaf")
    assert found.class_names == found.label_names == ["Car/Red", "Fruit/Red"]
    with pytest.raises(SettingsError, match=r"classes must be 'top' or 'leaf'; got 'deep'"):
        read_folder(tmp_path, classes="deep")  # type: ignore[arg-type]


def test_names_that_are_not_utf_8_are_named(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["a/1.jpg", "b/2.jpg"])
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    (odd / "notes.txt").write_bytes(b"x")
    (odd / os.fsdecode(b"x.\xe9")).write_bytes(b"x")
    assert any(".\\xe9 1" in note for note in read_folder(tmp_path).notes)  # no image: passed over
    (odd / "3.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 image in \S+ are not UTF-8, first caf\\xe9/3\.jpg\. Rename them") as caught:
        read_folder(tmp_path)
    str(caught.value).encode("utf-8")


def test_a_folder_that_may_not_be_read(tmp_path: Path, draw, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path, ["a/1.jpg", "b/2.jpg"])
    scandir = os.scandir

    def refuse(path: str | Path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"b may not be read: permission denied\. Change its rights"):
        read_folder(tmp_path)
