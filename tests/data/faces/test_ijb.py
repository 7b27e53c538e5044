"""The lists of IJB, written here line by line in the form that InsightFace's scripts read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosphere.data import read_face_images, read_ijb, read_template_media, read_template_pairs, read_template_subjects
from cosphere.data.faces import ijb
from cosphere.errors import DataError

POINTS = "46.060 62.026 87.785 60.323 68.851 77.656 52.162 99.875 86.450 98.648"
MEDIA = "1.jpg 1 69544\n2.jpg 1 69544\n3.jpg 1 23199\n4.jpg 7 5\n"
SCORES = "".join(f"{n}.jpg {POINTS} 0.99{n}\n" for n in range(1, 5))
PAIRS = "1 7 0\n7 1 1\n"
SUBJECTS = "TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID\n9,4020,img/1.jpg,1\n2,4,frames/2.png,5\n9,4020,img/3.jpg,2\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "ijbc_face_tid_mid.txt").write_text(MEDIA)
    (tmp_path / "meta" / "ijbc_name_5pts_score.txt").write_text(SCORES)
    (tmp_path / "meta" / "ijbc_template_pair_label.txt").write_text(PAIRS)
    return tmp_path


def test_all_lists_of_a_set(root: Path) -> None:
    lists = read_ijb(root)
    assert lists.name == "ijbc"
    assert lists.paths[1] == str(root / "loose_crop" / "2.jpg")
    assert lists.media.templates.tolist() == [1, 1, 1, 7]
    assert lists.media.media.tolist() == [69544, 69544, 23199, 5]
    assert lists.pairs.templates.tolist() == [[1, 7], [7, 1]]
    assert lists.pairs.same.tolist() == [False, True]
    assert lists.images.landmarks.shape == (4, 5, 2)
    assert lists.images.landmarks[2, 3].tolist() == pytest.approx([52.162, 99.875])
    assert lists.images.scores.tolist() == pytest.approx([0.991, 0.992, 0.993, 0.994])


def test_the_names_of_ijb_b(root: Path) -> None:
    for path in sorted((root / "meta").iterdir()):
        path.rename(path.with_name(path.name.replace("ijbc", "ijbb")))
    assert read_ijb(root).name == "ijbb"


def test_lists_for_identification(tmp_path: Path) -> None:
    (tmp_path / "ijbc_1N_gallery_G1.csv").write_text(SUBJECTS)
    gallery = read_template_subjects(tmp_path / "ijbc_1N_gallery_G1.csv")
    assert gallery.templates.tolist() == [2, 9]
    assert gallery.subjects.tolist() == [4, 4020]


def test_many_pairs_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ijb, "_ROWS_AT_ONCE", 1000)
    rows = np.random.default_rng(0).integers(0, 2**31 - 1, (3500, 2))
    same = np.arange(3500) % 7 == 0
    path = tmp_path / "pairs.txt"
    path.write_text("".join(f"{a} {b} {int(s)}\n" for (a, b), s in zip(rows.tolist(), same, strict=True)))
    pairs = read_template_pairs(path)
    assert pairs.templates.tolist() == rows.tolist()
    assert pairs.same.tolist() == same.tolist()
    assert (pairs.templates.dtype, pairs.same.dtype) == (np.int32, bool)
    monkeypatch.setattr(ijb, "MAX_ROWS", 3000)
    with pytest.raises(DataError, match="has more than 3,000 lines"):
        read_template_pairs(path)


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (read_template_media, "", "has no lines"),
        (read_template_media, "1.jpg 1\n", "line 1 has 2 cells, wanted 3"),
        (read_template_media, "1.jpg 1 2 3\n", "line 1 has 4 cells, wanted 3"),
        (read_template_media, "1.jpg 1 2\n2.jpg 1 2 3\n", "Expected 3 fields in line 2, saw 4"),
        (read_template_media, "1.jpg one 2\n", "wants lines of the form 'name template medium': "),
        (read_template_media, "1.jpg 1 2\n2.jpg 1\n", "."),
        (read_template_media, f"1.jpg {2**70} 2\n", "."),
        (read_template_media, "../../etc/passwd 1 2\n", r"'\.\./\.\./etc/passwd' leaves the folder"),
        (read_template_media, "/etc/passwd 1 2\n", "'/etc/passwd' leaves the folder"),
        (read_template_pairs, "1 2 2\n", "the label in line 1 is 2; wanted 0 or 1"),
        (read_template_pairs, f"1 {2**40} 1\n", "."),
        (read_face_images, f"1.jpg {POINTS}\n", "line 1 has 11 cells, wanted 12"),
        (read_face_images, f"1.jpg {POINTS} 1.0\n2.jpg {POINTS} inf\n", "line 2 holds a number that is not finite"),
        (read_template_subjects, "TEMPLATE_ID,SUBJECT_ID\n1,2\n1,3\n", "template 1 shows two persons"),
        (read_template_subjects, "TEMPLATE_ID,SUBJECT_ID\n", "has no lines|No columns"),
        (read_template_subjects, "TEMPLATE_ID\n1\n", "."),
    ],
)
def test_damaged_lists(tmp_path: Path, read, text: str, words: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read(path)
    assert "list.txt" in str(caught.value)


def test_a_missing_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt is missing"):
        read_template_pairs(tmp_path / "none.txt")


def test_lists_that_do_not_fit_together(root: Path) -> None:
    (root / "meta" / "ijbc_template_pair_label.txt").write_text("1 8 0\n")
    with pytest.raises(DataError, match="compares 1 template without images, first 8"):
        read_ijb(root)
    (root / "meta" / "ijbc_name_5pts_score.txt").write_text(SCORES.replace("4.jpg", "5.jpg"))
    with pytest.raises(DataError, match="do not list the same images in the same order"):
        read_ijb(root)
    (root / "meta" / "ijbb_face_tid_mid.txt").write_text(MEDIA)
    with pytest.raises(DataError, match="has the lists of both IJB-B and IJB-C"):
        read_ijb(root)


def test_another_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no ijbb_face_tid_mid\.txt or ijbc_face_tid_mid\.txt"):
        read_ijb(tmp_path)
