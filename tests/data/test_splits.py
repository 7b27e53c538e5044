from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosphere.data import Catalogue, hold_out_classes, hold_out_images, training_parts, with_class_splits
from cosphere.errors import DataError, SettingsError


def catalogue(counts: list[int], split: str | list[str] = "all") -> Catalogue:
    """Class c has counts[c] images."""
    labels = [str(label) for label, count in enumerate(counts) for _ in range(count)]
    table = pd.DataFrame({"path": [f"{row}.jpg" for row in range(len(labels))], "label": labels, "split": split})
    return Catalogue(table=table, root=Path("/data"))


@given(
    counts=st.lists(st.integers(1, 4), min_size=4, max_size=30), share=st.floats(0.01, 0.99), seed=st.integers(0, 99)
)
def test_held_out_classes_are_whole_and_others(counts: list[int], share: float, seed: int) -> None:
    if sum(count > 1 for count in counts) < min(max(2, round(share * len(counts))), len(counts) - 2):
        with pytest.raises(DataError, match="at least 4 classes"):
            hold_out_classes(catalogue(counts), share=share, seed=seed)
        return
    train, val = hold_out_classes(catalogue(counts), share=share, seed=seed)
    assert not set(train.label_names) & set(val.label_names)
    assert sorted([*train.table["path"], *val.table["path"]]) == sorted(catalogue(counts).table["path"])
    assert len(train.label_names) >= 2
    assert len(val.label_names) == min(max(2, round(share * len(counts))), len(counts) - 2)
    assert all(counts[int(label)] >= 2 for label in val.label_names)
    assert set(val.table["split"]) == {"val"}


def test_the_seed_chooses_and_the_order_of_rows_does_not() -> None:
    data = catalogue([3] * 40)
    chosen = [tuple(hold_out_classes(data, share=0.2, seed=seed)[1].label_names) for seed in range(20)]
    assert len(set(chosen)) == 20
    assert set().union(*chosen) == set(data.label_names)  # no class is always spared
    turned = data.rows(list(range(len(data)))[::-1])
    assert tuple(hold_out_classes(turned, share=0.2, seed=3)[1].label_names) == chosen[3]


@pytest.mark.parametrize("share", [0, 1, -0.2, float("nan")])
def test_the_share_is_a_share(share: float) -> None:
    with pytest.raises(
        SettingsError, match=r"the share of classes to hold out must be a number above 0 and below 1, finite; got "
    ):
        hold_out_classes(catalogue([2] * 9), share=share)


@pytest.mark.parametrize("counts", [[5, 5, 5], [1, 1, 1, 1, 9]])
def test_too_few_classes(counts: list[int]) -> None:
    with pytest.raises(DataError, match=rf"at least 4 classes.*got {len(counts)} classes"):
        hold_out_classes(catalogue(counts), share=0.3)


def test_class_splits() -> None:
    data = catalogue([3] * 20)
    split = with_class_splits(data, val=0.2, test=0.3, seed=5)
    assert split.table["path"].tolist() == data.table["path"].tolist()
    sizes = {name: len(split.select(name).label_names) for name in split.split_names}
    assert sizes == {"train": 10, "val": 4, "test": 6}
    assert (split.table.groupby("label")["split"].nunique() == 1).all()
    assert with_class_splits(data, val=0.2, test=0.3, seed=6).table["split"].tolist() != split.table["split"].tolist()
    assert with_class_splits(data).split_names == ["train", "val"]


def test_class_splits_leave_single_images_in_train() -> None:
    split = with_class_splits(catalogue([1, 1, 2, 2, 2, 2]), val=0.3, test=0.3)
    assert set(split.select("train").label_names) >= {"0", "1"}


def test_class_splits_refuse_what_makes_no_sense() -> None:
    with pytest.raises(DataError, match="has splits already: train"):
        with_class_splits(catalogue([2] * 9, "train"))
    for val, test, words in (
        (0.5, 0.5, "val 0.5 and test 0.5 leave no classes to train on"),
        (-0.1, 0.1, "val must be a number >= 0 and below 1, finite; got -0.1"),
        (0.1, float("nan"), "test must be a number >= 0 and below 1, finite; got nan"),
    ):
        with pytest.raises(SettingsError, match=words):
            with_class_splits(catalogue([2] * 9), val=val, test=test)
    with pytest.raises(DataError, match="each part wants at least 2 classes"):
        with_class_splits(catalogue([2] * 5), val=0.1, test=0.1)


def test_training_parts_take_the_data_s_own_val_split() -> None:
    parts = training_parts(catalogue([2, 2, 2], ["train", "train", "val", "val", "test", "test"]))
    assert parts.train.label_names == ["0"]
    assert parts.val is not None
    assert parts.val.label_names == ["1"]
    assert parts.how == "validation on the data's own val split"


def test_training_parts_hold_classes_of_train_out_and_never_touch_test() -> None:
    parts = training_parts(catalogue([2] * 10, ["train"] * 16 + ["test"] * 4), val_share=0.25, seed=1)
    assert parts.val is not None
    assert {*parts.train.label_names, *parts.val.label_names} == {str(label) for label in range(8)}
    assert parts.how == "validation on 2 of 8 training classes, held out with seed 1"


def test_held_out_rows_have_no_roles_where_only_the_test_has() -> None:
    data = catalogue([2] * 8, ["train"] * 12 + ["test"] * 4)
    roles = {"is_query": [False] * 12 + [True, False] * 2, "is_gallery": [False] * 12 + [False, True] * 2}
    data = Catalogue(table=data.table.assign(**roles), root=data.root)
    parts = training_parts(data, val_share=0.4, seed=1)
    assert parts.val is not None
    assert not {"is_query", "is_gallery"} & set(parts.val.table)
    assert {"is_query", "is_gallery"} < set(data.select("test").table)
    split = ["train"] * 8 + ["val"] * 4 + ["test"] * 4
    own = Catalogue(table=data.table.assign(split=split), root=data.root)
    val = training_parts(own).val
    assert val is not None
    assert "is_query" not in val.table
    with_roles = own.table.assign(is_query=[False] * 8 + [True, False] * 4, is_gallery=[False] * 8 + [False, True] * 4)
    val = training_parts(Catalogue(table=with_roles, root=own.root)).val
    assert val is not None
    assert val.table["is_query"].tolist() == [True, False, True, False]


def test_training_parts_without_splits_and_without_validation() -> None:
    parts = training_parts(catalogue([2] * 4), val_share=0)
    assert len(parts.train) == 8
    assert parts.val is None
    assert "no validation" in parts.how
    assert training_parts(catalogue([2] * 8)).val is not None


def test_training_parts_without_anything_to_train_on() -> None:
    with pytest.raises(DataError, match="no split 'train'"):
        training_parts(catalogue([2] * 4, "test"))


def test_a_seed_is_not_negative() -> None:
    for divide in (
        lambda data: hold_out_classes(data, share=0.3, seed=-1),
        lambda data: with_class_splits(data, seed=-1),
    ):
        with pytest.raises(SettingsError, match="seed must be a whole number from 0 to 9223372036854775807; got -1"):
            divide(catalogue([2] * 9))


@given(
    counts=st.lists(st.integers(1, 12), min_size=2, max_size=9), share=st.floats(0.01, 0.99), seed=st.integers(0, 99)
)
def test_held_out_images_are_a_share_of_each_class(counts: list[int], share: float, seed: int) -> None:
    data = catalogue(counts)
    if sum(count >= 3 for count in counts) < 2:
        with pytest.raises(DataError, match="holding out images wants at least 2 classes with 3 images"):
            hold_out_images(data, share=share, seed=seed)
        return
    train, val = hold_out_images(data, share=share, seed=seed)
    assert sorted([*train.table["path"], *val.table["path"]]) == sorted(data.table["path"])
    assert set(val.table["split"]) == {"val"}
    for label, count in enumerate(counts):
        held = int((val.table["label"] == str(label)).sum())
        assert held == (0 if count < 3 else min(max(2, round(share * count)), count - 1))


def test_the_seed_chooses_images_and_the_order_of_rows_does_not() -> None:
    data = catalogue([20] * 4)
    chosen = [frozenset(hold_out_images(data, share=0.25, seed=seed)[1].table["path"]) for seed in range(8)]
    assert len(set(chosen)) == 8
    turned = data.rows(list(range(len(data)))[::-1])
    assert frozenset(hold_out_images(turned, share=0.25, seed=3)[1].table["path"]) == chosen[3]


def test_training_parts_may_hold_out_images() -> None:
    data = catalogue([8] * 4, ["train"] * 24 + ["test"] * 8)
    parts = training_parts(data, val_share=0.25, seed=1, of="images")
    assert parts.val is not None
    assert parts.train.label_names == parts.val.label_names == ["0", "1", "2"]
    assert (len(parts.train), len(parts.val)) == (18, 6)
    assert parts.how == "validation on 6 images of 3 training classes, held out with seed 1"
