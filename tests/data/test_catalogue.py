from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cosphere.data import Catalogue
from cosphere.data.catalogue import natural_key, normal_split
from cosphere.errors import DataError


def make(**columns: object) -> Catalogue:
    table = pd.DataFrame(
        {
            "path": ["a/1.jpg", "b/1.jpg", "b/2.jpg", "/else/3.jpg"],
            "label": ["10", "2", "2", "x"],
            "split": ["train", "test", "test", "val"],
        }
    ).assign(**columns)
    return Catalogue(table=table, root=Path("/data"))


def test_paths_start_from_the_root_unless_absolute() -> None:
    assert make().paths == ["/data/a/1.jpg", "/data/b/1.jpg", "/data/b/2.jpg", "/else/3.jpg"]


def test_labels_are_contiguous_in_natural_order() -> None:
    assert make().label_names == ["2", "10", "x"]
    assert make().labels.tolist() == [1, 0, 0, 2]
    assert make().labels.dtype == np.int64


def test_labels_of_a_selection_start_again_from_zero() -> None:
    test = make().select("test")
    assert test.labels.tolist() == [0, 0]
    assert test.table.index.tolist() == [0, 1]
    assert len(test) == 2


def test_select_everything_and_by_alias() -> None:
    assert len(make().select()) == len(make().select("all")) == 4
    assert make().select("Validation").table["label"].tolist() == ["x"]


def test_select_classes_by_label_or_name() -> None:
    named = make(class_name=["ten", "two", "two", "ex"])
    assert named.select(classes=["two", "x"]).table["label"].tolist() == ["2", "2", "x"]
    assert named.class_names == ["two", "ten", "ex"]


def test_names_that_do_not_belong_to_one_label_are_not_shown() -> None:
    assert make(class_name=["ten", "two", "deux", "ex"]).class_names == ["2", "10", "x"]  # two names for one label
    assert make(class_name=["two", "two", "two", "ex"]).class_names == ["2", "10", "x"]  # one name for two labels
    assert make(class_name=["ten", "two", "two", None]).class_names == ["2", "10", "x"]


def test_relabelled_rows_keep_all_but_the_label() -> None:
    named = make(class_name=["ten", "two", "two", "ex"])
    grouped = named.relabelled({"2": "even", "10": "even", "x": "odd", "unused": "odd"})
    assert grouped.labels.tolist() == [0, 0, 0, 1]
    assert grouped.class_names == ["even", "odd"]
    assert grouped.paths == named.paths
    assert grouped.splits.tolist() == named.splits.tolist()
    assert named.label_names == ["2", "10", "x"]
    assert grouped.fingerprint() != named.fingerprint()


def test_a_label_without_a_new_one_is_named() -> None:
    with pytest.raises(DataError, match=r"2 of 3 labels have no new label, first '10'\. Map them all"):
        make().relabelled({"2": "even"})


@pytest.mark.parametrize(
    ("split", "classes", "words"),
    [
        ("tset", None, "Did you mean 'test'?"),
        (None, ["y"], "there is no class 'y'"),
        ("train", ["2"], "no image of the classes asked for is in split 'train'"),
    ],
)
def test_select_says_what_there_is(split: str | None, classes: list[str] | None, words: str) -> None:
    with pytest.raises(DataError, match=words.replace("?", r"\?")):
        make().select(split, classes)


def test_select_in_data_without_splits_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"has no splits, so no split 'test'.*under train/ and test/"):
        make(split="all").select("test")


def test_a_thousand_classes_are_not_listed() -> None:
    table = pd.DataFrame(
        {"path": [f"{i}.jpg" for i in range(1000)], "label": [f"c{i}" for i in range(1000)], "split": "all"}
    )
    with pytest.raises(DataError) as caught:
        Catalogue(table=table, root=Path()).select(classes=["zebra"])
    assert len(str(caught.value)) < 120


def test_empty_and_incomplete_tables_are_refused() -> None:
    with pytest.raises(DataError, match="at least one image"):
        Catalogue(table=make().table.iloc[:0], root=Path())
    with pytest.raises(DataError, match="label not there"):
        Catalogue(table=make().table.drop(columns="label"), root=Path())


def test_boxes() -> None:
    none = np.nan
    boxed = make(x_1=[1.0, none, -1, 0], y_1=[2.0, none, 0, -0.6], x_2=[5.0, none, 4, 4], y_2=[6.4, none, 4, 4])
    assert boxed.box(0) == (1, 2, 5, 6)
    assert boxed.box(1) is None
    assert boxed.boxes is not None
    assert boxed.boxes[1].tolist() == [-1, -1, -1, -1]
    assert boxed.box(2) == (0, 0, 4, 4)  # one pixel over the border is rounding, on the left as on the right
    assert boxed.box(3) == (0, 0, 4, 4)
    assert make().boxes is None
    assert make().box(0) is None


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((3, 1, np.nan, 4), "edge that is missing"),
        ((3, 1, np.inf, 4), "edge that is infinite"),
        ((-np.inf, 1, 3, 4), "edge that is infinite"),
        ((0.05, 0.1, 0.95, 0.9), "looks like shares of the image; write pixels"),
        ((0, 0, 1, 1), "looks like shares"),
        ((5, 1, 3, 4), "reversed or empty"),
        ((1, 4, 3, 4), "reversed or empty"),
        ((1.6, 1, 2.4, 4), "smaller than one pixel"),
        ((-20, 1, 3, 4), "to the left of or above the image"),
        ((1, -20, 3, 4), "to the left of or above the image"),
        ((-2, 1, 3, 4), "to the left of or above the image"),
        ((-9, -9, 0, 0), "to the left of or above the image"),
    ],
)
def test_boxes_that_cannot_be_used(box: tuple[float, ...], words: str) -> None:
    columns = {name: [0.0, 0.0, edge, 0.0] for name, edge in zip(("x_1", "y_1"), box, strict=False)}
    columns |= {name: [4.0, 4.0, edge, 4.0] for name, edge in zip(("x_2", "y_2"), box[2:], strict=True)}
    with pytest.raises(DataError, match=rf"1 of 4 boxes cannot be used: the box \(.*\) .*{words}.*\(row 2\)"):
        make(**columns)


def test_identities_follow_links_and_tell_boxes_apart(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a" / "1.jpg")
    (tmp_path / "folder").symlink_to(tmp_path / "a")
    (tmp_path / "hard.jpg").hardlink_to(tmp_path / "a" / "2.jpg")
    names = ["a/1.jpg", "a/2.jpg", "link.jpg", "folder/1.jpg", "hard.jpg", "a/1.jpg", "gone.jpg", "./gone.jpg"]
    table = pd.DataFrame({"path": names, "label": "x", "split": "all"})
    catalogue = Catalogue(table=table, root=tmp_path)
    assert catalogue.identities().tolist() == [0, 1, 0, 0, 1, 0, 2, 2]
    assert catalogue.identities().dtype == np.int64
    none = np.nan
    boxes = {"x_1": [0, 0, none, 0, 0, 1, 0, 0], "y_1": [0, 0, none, 0, 0, 0, 0, 0]}
    boxes |= {"x_2": [4, 4, none, 4, 4, 4, 4, 4], "y_2": [4, 4, none, 4, 4, 4, 4, 4]}
    boxed = Catalogue(table=table.assign(**boxes), root=tmp_path)
    assert boxed.identities().tolist() == [0, 1, 2, 0, 1, 3, 4, 4]


def test_identities_of_items_follow_the_container(tmp_path: Path) -> None:
    row = bytes([5]) + bytes(3072)
    (tmp_path / "test_batch.bin").write_bytes(row * 2)
    (tmp_path / "data_batch_1.bin").symlink_to(tmp_path / "test_batch.bin")
    names = ["test_batch.bin#0", "test_batch.bin#1", "data_batch_1.bin#0"]
    catalogue = Catalogue(table=pd.DataFrame({"path": names, "label": "5", "split": "all"}), root=tmp_path)
    assert catalogue.identities().tolist() == [0, 1, 0]


def test_fingerprint_by_hand() -> None:
    catalogue = make().rows([0, 1])
    text = "path\x1flabel\x1fsplit\na/1.jpg\x1f10\x1ftrain\nb/1.jpg\x1f2\x1ftest"
    assert catalogue.fingerprint() == hashlib.sha256(text.encode()).hexdigest()


def test_fingerprint_ignores_order_and_place_and_sees_every_cell() -> None:
    one = make(is_query=[False, True, False, False])
    moved = Catalogue(table=one.table.iloc[::-1].reset_index(drop=True), root=Path("/elsewhere"))
    assert moved.fingerprint() == one.fingerprint()
    changes = [
        make(),
        make(is_query=[False, False, True, False]),
        one.rows([0, 1, 2]),
        make(is_query=[False, True, False, False], label=["10", "2", "2", "y"]),
        make(is_query=[False, True, False, False], split=["train", "test", "test", "test"]),
        make(is_query=[False, True, False, False], x_1=1.0, y_1=0.0, x_2=3.0, y_2=3.0),
    ]
    assert len({change.fingerprint() for change in [one, *changes]}) == len(changes) + 1


def test_fingerprint_does_not_depend_on_the_type_of_numbers() -> None:
    boxes = {"x_1": [0, 0, 0, 0], "y_1": [0] * 4, "x_2": [4] * 4, "y_2": [4] * 4}
    as_floats = {name: [float(value) for value in values] for name, values in boxes.items()}
    assert make(**boxes).fingerprint() == make(**as_floats).fingerprint()


def test_natural_order() -> None:
    names = ["img12", "img2", "Img1", "7", "10", "img02", ""]
    assert sorted(names, key=natural_key) == ["", "7", "10", "Img1", "img02", "img2", "img12"]


@pytest.mark.parametrize(
    ("given", "want"), [(" Train ", "train"), ("VALID", "val"), ("validation", "val"), ("fold3", "fold3")]
)
def test_spelling_of_splits(given: str, want: str) -> None:
    assert normal_split(given) == want
