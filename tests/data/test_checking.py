from __future__ import annotations

import itertools
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosphere.data import check, read_folder
from cosphere.data.checking import _histogram
from cosphere.errors import DataError


@pytest.fixture
def messy(tmp_path: Path, draw) -> Path:
    """Copies within a class, across splits and across classes; a damaged file; a class with one image."""
    root = tmp_path / "photos"
    draw(root, ["train/a/1.png", "train/a/2.png", "train/b/3.png", "train/b/4.png", "test/c/5.png", "test/d/6.png"])
    shutil.copy(root / "train/a/1.png", root / "train/a/copy.png")
    shutil.copy(root / "train/b/3.png", root / "test/c/leak.png")
    (root / "train/a/bad.jpg").write_bytes(b"no image")
    (root / "train/b/empty.jpg").write_bytes(b"")
    return root


def test_counts(messy: Path) -> None:
    report = check(messy)
    assert (report.images, report.classes, report.layout) == (10, 4, "folder")
    assert report.per_class == (1, 2.5, 4)
    assert report.protocol == "zero-shot"
    train, test = report.splits
    assert train == ("train", 7, 2, (3, 3.5, 4), 0, None, None)
    assert test == ("test", 3, 2, (1, 1.5, 2), 1, None, None)
    assert report.one_image_classes == ("d",)
    widths = []
    for path in messy.rglob("*.png"):
        with Image.open(path) as picture:
            widths.append(picture.width)
    assert report.widths == (min(widths), float(np.median(widths)), max(widths))
    assert report.heights == (6, 6, 6)
    assert report.fingerprint == read_folder(messy).fingerprint()
    assert not report.clean


def test_copies_and_leaks(messy: Path) -> None:
    report = check(messy)
    assert report.duplicates == (("test/c/leak.png", "train/b/3.png"), ("train/a/1.png", "train/a/copy.png"))
    assert report.duplicates_across_splits == (("test/c/leak.png", "train/b/3.png"),)
    assert report.duplicates_across_classes == (("test/c/leak.png", "train/b/3.png"),)


def test_files_of_one_size_with_other_bytes_are_no_copies(tmp_path: Path) -> None:
    for name, gray in (("a/1.bmp", 1), ("a/2.bmp", 2), ("b/3.bmp", 3)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (5, 5), (gray, 0, 0)).save(tmp_path / name)
    assert len({path.stat().st_size for path in tmp_path.rglob("*.bmp")}) == 1
    report = check(tmp_path)
    assert report.duplicates == ()
    assert report.clean
    assert report.protocol == "no splits"


def test_unreadable_files_are_reported_with_the_reason(messy: Path) -> None:
    bad = dict(check(messy).unreadable)
    assert set(bad) == {"train/a/bad.jpg", "train/b/empty.jpg"}
    assert "empty (0 bytes)" in bad["train/b/empty.jpg"]


def test_nothing_readable_is_still_a_report(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    report = check(tmp_path)
    assert report.widths is report.heights is None
    assert len(report.unreadable) == 2


def test_a_file_that_vanishes_meanwhile(messy: Path) -> None:
    catalogue = read_folder(messy)
    (messy / "test/d/6.png").unlink()
    assert "test/d/6.png" in dict(check(catalogue).unreadable)


def test_progress_and_threads(messy: Path) -> None:
    calls: list[tuple[int, int]] = []
    alone = check(messy, threads=1, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(number, 10) for number in range(1, 11)]
    assert check(messy, threads=5) == alone


def test_protocols(tmp_path: Path, draw) -> None:
    draw(tmp_path / "closed", ["train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png"])
    closed = check(tmp_path / "closed")
    assert closed.protocol == "closed-set"
    assert closed.shared_classes == (("train", "test", 2),)
    draw(tmp_path / "mixed", ["train/a/1.png", "train/b/2.png", "test/a/3.png", "test/c/4.png"])
    assert check(tmp_path / "mixed").protocol == "mixed"
    draw(tmp_path / "one", ["train/a/1.png", "train/b/2.png"])
    assert check(tmp_path / "one").protocol == "one split"


def test_roles_are_counted(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["train/a/1.png", "query/b/2.png", "gallery/b/3.png", "gallery/b/4.png"])
    train, test = check(tmp_path).splits
    assert (test.queries, test.gallery) == (1, 2)
    assert (train.queries, train.gallery) == (None, None)


def test_missing_files_of_a_table_are_a_note(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["1.png"])
    (tmp_path / "list.csv").write_text("path,label\n1.png,x\n2.png,x\n")
    assert "1 of 2 listed files are missing and were left out: 2.png" in check(tmp_path / "list.csv").notes
    with pytest.raises(DataError, match="does not exist"):
        check(tmp_path / "no.csv")


def test_boxes_of_one_image_are_one_image(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["1.png"])
    (tmp_path / "list.csv").write_text("path,label,x_1,y_1,x_2,y_2\n1.png,x,0,0,2,2\n1.png,y,2,2,4,4\n")
    report = check(tmp_path / "list.csv")
    assert (report.images, report.classes, report.duplicates) == (1, 2, ())


def test_boxes_are_applied(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["1.png", "2.png"])  # 8 x 6 and 9 x 6 pixels
    lines = ["path,label,x_1,y_1,x_2,y_2", "1.png,a,0,0,8,6", "1.png,a,2,2,9,7", "2.png,b,0,0,20,6", "2.png,b,5,5,3,6"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    report = check(tmp_path / "list.csv")
    assert [(path, reason.split(".")[0]) for path, reason in report.unreadable] == [
        ("2.png", "the box (5, 5, 3, 6) is reversed or empty; want x_1 < x_2 and y_1 < y_2"),
        ("2.png", "2"),
    ]
    assert "is 9 x 6 pixels, so the box (0, 0, 20, 6) does not fit" in report.unreadable[1].reason
    assert "1 of 4 rows have a box that cannot be used and were left out" in report.notes
    assert not report.clean


def test_an_image_in_two_rows_is_a_duplicate_and_two_labels_are_named(tmp_path: Path, draw) -> None:
    draw(tmp_path, ["1.png", "2.png", "3.png"])
    (tmp_path / "list.csv").write_text(
        "path,label,split\n1.png,x,train\n2.png,x,train\n1.png,y,train\n2.png,x,test\n3.png,z,test\n"
    )
    report = check(tmp_path / "list.csv")
    assert report.duplicates == (("1.png", "1.png"), ("2.png", "2.png"))
    assert report.duplicates_across_classes == (("1.png", "1.png"),)
    assert report.duplicates_across_splits == (("2.png", "2.png"),)
    assert not report.clean


@pytest.mark.parametrize("python", [True, False])
def test_equal_rows_of_a_batch_are_copies(tmp_path: Path, python: bool) -> None:
    pixels = np.zeros((3, 3072), dtype=np.uint8)
    pixels[1] = 9
    if python:
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": pixels, b"labels": [1, 2, 3]}, protocol=2))
    else:
        rows = [bytes([label]) + row.tobytes() for label, row in zip([1, 2, 3], pixels, strict=True)]
        (tmp_path / "data_batch_1.bin").write_bytes(b"".join(rows))
    report = check(tmp_path)
    name = "data_batch_1" + ("" if python else ".bin")
    assert report.duplicates == report.duplicates_across_classes == ((f"{name}#0", f"{name}#2"),)
    assert report.widths == (32, 32, 32)
    assert len(report.checks) == 8
    assert not report.clean


def test_histogram_by_hand() -> None:
    assert _histogram([3, 3, 3]) == ((3, 3, 3),)
    assert _histogram([1, 2, 2, 4]) == ((1, 1, 1), (2, 2, 2), (3, 3, 0), (4, 4, 1))
    counts = np.random.default_rng(0).integers(5, 140, 200).tolist()
    bars = _histogram(counts)
    assert len(bars) <= 10
    assert sum(bar.classes for bar in bars) == 200
    assert (bars[0].lowest, bars[-1].highest) == (min(counts), max(counts))
    assert all(bar.classes == sum(bar.lowest <= count <= bar.highest for count in counts) for bar in bars)
    assert all(one.highest + 1 == two.lowest for one, two in itertools.pairwise(bars))


def test_as_dict_is_json_with_names(messy: Path) -> None:
    content = json.loads(json.dumps(check(messy).as_dict(), allow_nan=False))
    assert content["clean"] is False
    assert content["splits"][0]["per_class"] == {"smallest": 3.0, "median": 3.5, "largest": 4.0}
    assert content["unreadable"][0]["path"] == "train/a/bad.jpg"
    assert content["duplicates"][0] == ["test/c/leak.png", "train/b/3.png"]
