"""Samplers by name, and batches that fit the data."""

from __future__ import annotations

import collections

import pytest

from cosphere.data import ClassBalancedBatches, NeighbourBatches, ShuffledBatches, ViewBatches, make_batches
from cosphere.errors import SettingsError


def labels(*counts: int) -> list[int]:
    return [label for label, count in enumerate(counts) for _ in range(count)]


def test_each_name_makes_its_sampler() -> None:
    made = {name: make_batches(name, labels(*[4] * 10), 12) for name in ("balanced", "shuffled", "views")}  # type: ignore[arg-type]
    assert {name: type(batches) for name, batches in made.items()} == {
        "balanced": ClassBalancedBatches,
        "shuffled": ShuffledBatches,
        "views": ViewBatches,
    }
    assert type(make_batches("neighbours", labels(*[4] * 10), 15)) is NeighbourBatches
    with pytest.raises(SettingsError, match=r"batch.sampler must be 'balanced' or .* got 'balancd'"):
        make_batches("balancd", labels(4, 4), 4)  # type: ignore[arg-type]


def test_the_balanced_sampler_draws_as_it_always_did() -> None:
    made = make_batches("balanced", labels(*[5] * 9), 12, images_per_class=4, seed=8)
    assert list(made) == list(ClassBalancedBatches(labels(*[5] * 9), 12, 4, seed=8))


@pytest.mark.parametrize(("each", "used"), [(12, 72), (37, 74), (25, 75)])
def test_a_batch_of_75_is_rounded_down_as_the_official_code_does(each: int, used: int) -> None:
    """`num_classes = batch_size // images_per_class`, and `len(targets) // batch_size` batches an epoch."""
    batches = make_batches("balanced", labels(*[50] * 8), 75, images_per_class=each, replacement="always")
    assert batches.batch_size == used
    assert len(batches) == 400 // 75
    for batch in batches:
        assert len(batch) == used
        classes = collections.Counter(draw.row // 50 for draw in batch)
        assert set(classes.values()) == {each}
    note = f"batch size 75 is rounded down to {used}: {75 // each} classes x {each} images"
    assert batches.notes == (() if used == 75 else (note,))


@pytest.mark.parametrize(
    ("counts", "size", "each", "notes"),
    [
        (
            (2, 2),
            4,
            2,
            (
                "images per class are lowered from 3 to 2: no class has more",
                "batch size is lowered from 120 to 4: there are 2 classes",
            ),
        ),
        (
            (2,) * 50,
            80,
            2,
            (
                "images per class are lowered from 3 to 2: no class has more",
                "batch size is lowered from 120 to 80: 40 classes x 2",
            ),
        ),
        ((9, 9, 9), 9, 3, ("batch size is lowered from 120 to 9: there are 3 classes",)),
        ((9,) * 40, 120, 3, ()),
    ],
)
def test_the_default_batch_fits_any_data(counts: tuple[int, ...], size: int, each: int, notes: tuple[str, ...]) -> None:
    batches = make_batches("balanced", labels(*counts), 120)
    assert isinstance(batches, ClassBalancedBatches)
    assert (batches.batch_size, batches.images_per_class, batches.notes) == (size, each, notes)
    assert all(len(batch) == size for batch in batches)


def test_ranks_lower_the_batch_together() -> None:
    batches = make_batches("balanced", labels(*[4] * 7), 30, rank=1, world_size=2)
    assert batches.batch_size == 9
    assert batches.notes == ("batch size is lowered from 30 to 9: there are 7 classes for 2 ranks",)


def test_neighbours_fit_the_classes_too() -> None:
    batches = make_batches("neighbours", labels(4, 4, 4), 120)
    assert isinstance(batches, NeighbourBatches)
    assert (batches.neighbours, batches.batch_size) == (2, 9)
