"""Data sets that lie in one file: a zip archive of class folders, a RecordIO file, a CIFAR batch."""

from __future__ import annotations

import pickle
import shutil
import struct
from pathlib import Path

import pytest

from cosphere.data import check, read_catalogue, read_folder
from cosphere.errors import DataError
from cosphere.images import read_image


@pytest.fixture
def folder(tmp_path: Path, draw) -> Path:
    root = tmp_path / "photos"
    draw(root, ["train/a/1.png", "train/a/2.png", "train/b/deep/3.png", "test/c/4.png", "test/c/5.png"])
    shutil.copy(root / "train/a/1.png", root / "test/c/copy.png")
    (root / "train/a/._1.png").write_bytes(b"x")
    (root / "train/readme.txt").write_bytes(b"x")
    return root


def test_a_zip_of_class_folders_reads_like_the_folder(tmp_path: Path, folder: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    one, two = read_catalogue(folder), read_catalogue(packed)
    assert [path.removeprefix("packed.zip#") for path in two.table["path"]] == one.table["path"].tolist()
    assert two.table["path"].str.startswith("packed.zip#").all()
    columns = ["label", "split"]
    assert two.table[columns].equals(one.table[columns])
    assert two.layout == "folder"
    assert two.notes == one.notes
    assert (read_image(two.paths[0]) == read_image(one.paths[0])).all()


def test_the_check_of_a_zip(tmp_path: Path, folder: Path) -> None:
    report = check(Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder)))
    assert (report.images, report.classes, report.protocol) == (6, 3, "zero-shot")
    assert report.unreadable == ()
    assert report.duplicates_across_splits == (("packed.zip#test/c/copy.png", "packed.zip#train/a/1.png"),)
    assert report.widths == check(folder).widths


def test_a_folder_wrapped_around_the_classes_of_a_zip(tmp_path: Path, folder: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder.parent, "photos"))
    catalogue = read_catalogue(packed, layout="folder")
    assert catalogue.table["path"].iloc[0] == "packed.zip#photos/test/c/4.png"
    assert "the classes were found one folder down, in photos/" in catalogue.notes
    assert catalogue.label_names == read_folder(folder).label_names


def test_a_table_may_name_members_and_their_absence_is_noticed(tmp_path: Path, folder: Path) -> None:
    shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    lines = ["path,label", *(f"packed.zip#train/a/{n % 2 + 1}.png,x" for n in range(200)), "packed.zip#no.png,x"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    catalogue = read_catalogue(tmp_path / "list.csv")
    assert len(catalogue) == 200
    assert "1 of 201 listed files are missing and were left out: packed.zip#no.png" in catalogue.notes


def test_items_of_a_damaged_container_are_left_to_reading(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "list.csv").write_text("path,label\nbroken.zip#a.png,x\nbroken.zip#b.png,x\n")
    report = check(tmp_path / "list.csv")
    assert len(report.unreadable) == 2
    assert "is not a whole zip archive" in report.unreadable[0].reason


def test_zips_without_classes(tmp_path: Path, draw) -> None:
    draw(tmp_path / "flat", ["1.png"])
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"flat\.zip holds 1 image but no class folders"):
        read_catalogue(shutil.make_archive(str(tmp_path / "flat"), "zip", tmp_path / "flat"))
    with pytest.raises(DataError, match=r"there is no image in \S+none\.zip"):
        read_catalogue(shutil.make_archive(str(tmp_path / "none"), "zip", tmp_path / "none"))
    (tmp_path / "bad.zip").write_bytes(b"x")
    with pytest.raises(DataError, match=r"bad\.zip is not a whole zip archive"):
        read_catalogue(tmp_path / "bad.zip")


def test_a_record_file_brings_its_labels(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["1.png", "2.png"])
    content, index = b"", ""
    for key, label in ((1, 5.0), (2, 3.0)):
        payload = struct.pack("<IfQQ", 0, label, 0, 0) + (tmp_path / f"{key}.png").read_bytes()
        index += f"{key}\t{len(content)}\n"
        content += struct.pack("<II", 0xCED7230A, len(payload)) + payload + bytes(-len(payload) % 4)
    (tmp_path / "train.rec").write_bytes(content)
    (tmp_path / "train.idx").write_text(index)
    catalogue = read_catalogue(tmp_path / "train.rec")
    assert catalogue.table.to_numpy().tolist() == [["train.rec#1", "5", "all"], ["train.rec#2", "3", "all"]]
    assert (read_image(catalogue.paths[1]) == read_image(tmp_path / "2.png")).all()
    assert check(catalogue).unreadable == ()


def test_a_single_cifar_batch(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes((bytes([5]) + bytes(3072)) * 2 + bytes([7]) + bytes(3072))
    catalogue = read_catalogue(tmp_path / "test_batch.bin")
    assert catalogue.table["label"].tolist() == ["5", "5", "7"]
    assert read_image(catalogue.paths[2]).shape == (32, 32, 3)


def test_a_pdf_has_no_labels(tmp_path: Path) -> None:
    (tmp_path / "scan.pdf").write_bytes(b"%PDF-1.7")
    with pytest.raises(DataError, match=r"a PDF such as scan\.pdf holds images without labels"):
        read_catalogue(tmp_path / "scan.pdf")


def test_the_check_of_a_verification_set(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["1.png", "2.png", "3.png"])
    images = [(tmp_path / f"{n}.png").read_bytes() for n in (1, 2, 1, 3)] + [b"no image", b"x"]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((images, [True, False, True])))
    report = check(tmp_path / "lfw.bin")
    assert (report.images, report.classes, report.histogram, report.one_image_classes) == (6, 0, (), ())
    assert report.duplicates == (("lfw.bin#0", "lfw.bin#2"),)
    assert [path for path, _ in report.unreadable] == ["lfw.bin#4", "lfw.bin#5"]
    assert "the images have no labels, so only the files were checked" in report.notes
    assert [(split.images, split.classes, split.one_image) for split in report.splits] == [(6, 0, 0)]
    with pytest.raises(DataError, match=r"a verification set such as lfw\.bin holds images without labels"):
        read_catalogue(tmp_path / "lfw.bin")
