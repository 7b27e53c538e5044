from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosphere.data import Skipped
from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, RunError, SizeError


def made(**changes: Any) -> Embeddings:
    parts: dict[str, Any] = {
        "embeddings": np.arange(6, dtype=np.float32).reshape(3, 2),
        "labels": np.array([1, 0, 1]),
        "paths": ("a.jpg", "Ünïcode/b c.jpg", "batch.bin#7"),
        "class_names": ("null", "eins"),
    }
    return Embeddings(**(parts | changes))


@pytest.mark.parametrize("full", [False, True])
def test_a_file_gives_back_what_was_saved(tmp_path: Path, full: bool) -> None:
    optional = {
        "is_query": np.array([True, False, True]),
        "is_gallery": np.array([False, True, True]),
        "boxes": np.array([[1, 2, 3, 4], [-1, -1, -1, -1], [0, 0, 9, 9]]),
        "groups": np.array([4, 4, 0]),
        "group_names": ("left",),
        "files": ("/x/a.jpg", "/x/b c.jpg", "/x/batch.bin#7"),
        "model_id": "0f",
        "fingerprint": "1e",
    }
    want = made(**(optional if full else {}))
    path = tmp_path / "embeddings" / "test.npz"
    want.save(path)
    found = Embeddings.load(path)
    for field in dataclasses.fields(Embeddings):
        ours, theirs = getattr(found, field.name), getattr(want, field.name)
        assert type(ours) is type(theirs)
        assert np.array_equal(ours, theirs) if isinstance(theirs, np.ndarray) else ours == theirs
    assert [file.name for file in path.parent.iterdir()] == ["test.npz"]


def test_a_file_that_holds_no_embeddings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(RunError, match="does not exist"):
        Embeddings.load(path)
    np.savez(path, embeddings=np.eye(2), labels=np.arange(2))
    with pytest.raises(RunError, match="it has no paths, class_names"):
        Embeddings.load(path)
    np.savez(path, embeddings=np.array([{}]), labels=[0], paths=["a"], class_names=["a"])
    with pytest.raises(RunError, match="it holds pickled objects, which could run code"):
        Embeddings.load(path)
    for count, label in ((0, 0), (1, 1), (1, -1), (1, 0.5)):
        np.savez(path, embeddings=np.eye(count, 2), labels=[label] * count, paths=["a"] * count, class_names=["a"])
        with pytest.raises(RunError, match=r"holds no image, or a label without a class name. Embed again."):
            Embeddings.load(path)
    path.write_bytes(b"text")
    with pytest.raises(RunError, match="is not a file of embeddings"):
        Embeddings.load(path)


@pytest.mark.parametrize(
    ("kind", "want"),
    [("f8", "f8"), (">f8", "f8"), ("f2", "f4"), (">f4", "f4"), ("i2", "f4"), ("i8", "f8"), ("g", "f8")],
)
def test_rows_of_other_programs_keep_their_values(kind: str, want: str, tmp_path: Path) -> None:
    """float64 stays: narrowed to float32, neighbours that differ in the ninth digit would tie."""
    rows = np.array([[1, 2], [3, 4], [1 + 1e-9, 2]]).astype(kind)
    np.savez(tmp_path / "a.npz", embeddings=rows, labels=[0] * 3, paths=list("abc"), class_names=["x"])
    table = Embeddings.load(tmp_path / "a.npz")
    assert table.embeddings.dtype == np.dtype(want)
    assert np.array_equal(table.embeddings, rows.astype(want))
    table.save(tmp_path / "b.npz")
    again = Embeddings.load(tmp_path / "b.npz").embeddings
    assert again.dtype == table.embeddings.dtype
    assert np.array_equal(again, table.embeddings)


def test_packed_bits_stay_bits_on_disk(tmp_path: Path) -> None:
    """Bytes read as floats would be ranked by cosine."""
    codes = np.array([[1, 255], [0, 7], [128, 3]], dtype=np.uint8)
    made(embeddings=codes).save(tmp_path / "bits.npz")
    found = Embeddings.load(tmp_path / "bits.npz").embeddings
    assert found.dtype == np.uint8
    assert found.tolist() == codes.tolist()


@pytest.mark.parametrize("part", ["labels", "paths", "is_query", "boxes"])
def test_parts_of_another_length_are_refused(part: str) -> None:
    with pytest.raises(SizeError, match=f"want one of {part} for each of 3 embeddings, got 2"):
        made(**{part: np.zeros(2, dtype=bool)})
    with pytest.raises(SizeError, match=r"want embeddings \(N, D\), got \(3,\)"):
        made(embeddings=np.zeros(3, dtype=np.float32))


def test_skipped_images_are_not_part_of_the_file(tmp_path: Path) -> None:
    made(skipped=(Skipped("a", "b"),)).save(tmp_path / "x.npz")
    assert Embeddings.load(tmp_path / "x.npz").skipped == ()


def test_rows_take_every_column_along() -> None:
    table = made(
        is_query=np.array([True, False, True]),
        is_gallery=np.array([False, True, True]),
        boxes=np.arange(12).reshape(3, 4),
        groups=np.array([4, 4, 0]),
        group_names=("x",),
    )
    some = table.rows([2, 0])
    assert some.embeddings.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert (some.labels.tolist(), some.class_names) == ([1, 1], ("null", "eins"))
    assert some.paths == ("batch.bin#7", "a.jpg")
    assert [part.tolist() for part in (some.is_query, some.is_gallery, some.groups) if part is not None] == [
        [True, True],
        [True, False],
        [0, 4],
    ]
    assert some.boxes is not None
    assert some.boxes.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert made().rows(np.array([False, True, False])).paths == ("Ünïcode/b c.jpg",)
    assert made().rows(slice(1, None)).paths == ("Ünïcode/b c.jpg", "batch.bin#7")


@pytest.mark.parametrize("selection", [[3], np.array([True, False])])
def test_rows_that_do_not_exist_are_refused(selection: Any) -> None:
    with pytest.raises(SizeError, match=r"the selection does not fit 3 embeddings: .* Give rows from 0 to 2\."):
        made().rows(selection)


def test_joined_parts_share_classes_by_name() -> None:
    second = made(class_names=("eins", "zwei"), skipped=(Skipped("a", "b"),))
    joined = Embeddings.concat([made(), second])
    assert joined.class_names == ("null", "eins", "zwei")
    assert joined.labels.tolist() == [1, 0, 1, 2, 1, 2]
    names = [joined.class_names[label] for label in joined.labels]
    assert names == ["eins", "null", "eins", "zwei", "eins", "zwei"]
    assert joined.embeddings.tolist() == [*made().embeddings.tolist(), *second.embeddings.tolist()]
    assert joined.paths == made().paths * 2
    assert joined.skipped == (Skipped("a", "b"),)
    assert (joined.is_query, joined.is_gallery, joined.boxes, joined.groups) == (None, None, None, None)


def test_joined_parts_take_defaults_for_missing_columns() -> None:
    full = made(is_query=np.array([False] * 3), boxes=np.zeros((3, 4), np.int64), groups=np.array([0, 5, 0]))
    joined = Embeddings.concat([made(), full])
    assert joined.is_query is not None
    assert joined.is_query.tolist() == [True] * 3 + [False] * 3
    assert joined.is_gallery is None
    assert joined.boxes is not None
    assert joined.boxes.tolist() == [[-1] * 4] * 3 + [[0] * 4] * 3
    assert joined.groups is not None
    groups = joined.groups.tolist()
    assert groups[3] == groups[5]
    assert len(set(groups)) == 5  # rows without a group stand alone


def test_groups_of_one_name_are_one_group_in_all_parts() -> None:
    first = made(groups=np.array([0, 1, 7]), group_names=("left", "right"))
    second = made(groups=np.array([0, 0, 7]), group_names=("right",))
    joined = Embeddings.concat([first, second])
    assert joined.group_names == ("left", "right")
    assert joined.groups is not None
    assert joined.groups.tolist() == [0, 1, 2, 1, 1, 3]


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SizeError, match="there are no embeddings to join"):
        Embeddings.concat([])
    with pytest.raises(SizeError, match=r"got float32 of width 2 and float32 of width 3\. Embed all with one model"):
        Embeddings.concat([made(), made(embeddings=np.zeros((3, 3), np.float32))])


def test_sides_without_flags_are_the_whole_set() -> None:
    sides = made(groups=np.array([4, 4, 0])).sides()
    assert sides.is_whole
    assert sides.query_rows.tolist() == sides.gallery_rows.tolist() == sides.exclude.tolist() == [0, 1, 2]
    assert sides.query_groups is not None
    assert sides.gallery_groups is not None
    assert sides.query_groups.tolist() == sides.gallery_groups.tolist() == [4, 4, 0]
    assert made().sides().query_groups is None


def test_sides_name_the_position_of_each_query_in_the_gallery() -> None:
    flags = {"is_query": np.array([True, False, True]), "is_gallery": np.array([False, True, True])}
    sides = made(**flags, groups=np.array([7, 8, 9])).sides()
    assert not sides.is_whole
    assert sides.query_rows.tolist() == [0, 2]
    assert sides.gallery_rows.tolist() == [1, 2]
    assert sides.exclude.tolist() == [-1, 1]
    assert sides.query_groups is not None
    assert sides.query_groups.tolist() == [7, 9]
    assert sides.gallery_groups is not None
    assert sides.gallery_groups.tolist() == [8, 9]


@pytest.mark.parametrize("flag", ["is_query", "is_gallery"])
def test_an_empty_side_is_refused(flag: str) -> None:
    with pytest.raises(DataError, match=f"no image has {flag} set"):
        made(**{flag: np.zeros(3, dtype=bool)}).sides()


def test_rows_of_one_file_and_box_show_one_picture() -> None:
    assert made().identities().tolist() == [0, 1, 2]
    assert made(paths=("a", "a", "b")).identities().tolist() == [0, 0, 1]
    assert made(files=("x", "y", "x")).identities().tolist() == [0, 1, 0]
    boxes = np.array([[0, 0, 9, 9], [-1] * 4, [0, 0, 9, 9]])
    assert made(paths=("a", "a", "a"), boxes=boxes).identities().tolist() == [0, 1, 0]


def test_distinct_keeps_one_row_a_picture_and_none_with_two_labels() -> None:
    table = made(embeddings=np.eye(6, 2, dtype=np.float32), labels=np.array([0, 0, 1, 1, 0, 1]), paths=tuple("bbacca"))
    assert table.distinct().paths == ("b", "a")
    assert table.distinct().labels.tolist() == [0, 1]
    whole = made()
    assert whole.distinct() is whole


def test_sides_name_the_pictures_only_where_some_are_repeated() -> None:
    assert made().sides().query_identities is None
    flags = {"is_query": np.array([True, False, True]), "is_gallery": np.array([False, True, True])}
    sides = made(paths=("a", "a", "b"), **flags).sides()
    assert sides.query_identities is not None
    assert sides.query_identities.tolist() == [0, 1]
    assert sides.gallery_identities is not None
    assert sides.gallery_identities.tolist() == [0, 1]
    assert sides.exclude.tolist() == [-1, 1]
