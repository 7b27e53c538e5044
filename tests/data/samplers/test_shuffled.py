"""Shuffled batches and views: every image as often as promised, the same whatever the ranks, exact to resume."""

from __future__ import annotations

import collections
import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.data import EpochBatches, ShuffledBatches, ViewBatches
from cosphere.errors import DataError, RunError, SettingsError


def rows(batches: EpochBatches) -> list[list[int]]:
    return [[draw.row for draw in batch] for batch in batches]


@pytest.mark.parametrize(
    ("images", "size", "lengths"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3]), (9, 4, [4, 4])]
)
def test_a_shuffled_epoch_holds_every_image_once(images: int, size: int, lengths: list[int]) -> None:
    batches = ShuffledBatches(list(range(images)), size, seed=3)
    epoch = rows(batches)
    assert [len(batch) for batch in epoch] == lengths
    assert len(batches) == len(lengths)
    drawn = [row for batch in epoch for row in batch]
    assert len(set(drawn)) == len(drawn) == sum(lengths)
    # torch's loader, as the official code makes it, has the same batch sizes; it keeps a last batch of one image too.
    loader = torch.utils.data.DataLoader(range(images), batch_size=size, shuffle=True, drop_last=False)  # type: ignore[arg-type]
    assert [len(batch) for batch in loader if len(batch) > 1] == lengths
    assert batches.notes == (
        ("1 image left out of each epoch, to make batches of equal shares",) if images == 9 else ()
    )


def test_epochs_and_seeds_shuffle_differently_and_classes_come_as_they_come() -> None:
    def epoch(seed: int, number: int) -> list[list[int]]:
        batches = ShuffledBatches([0] * 90 + [1] * 10, 10, seed=seed)
        batches.set_epoch(number)
        return rows(batches)

    assert epoch(0, 0) == epoch(0, 0)
    assert epoch(0, 0) != epoch(0, 1)
    assert epoch(0, 0) != epoch(1, 0)
    rare = collections.Counter(sum(row >= 90 for row in batch) for number in range(20) for batch in epoch(0, number))
    assert len(rare) > 2  # not one of each class in every batch


@given(st.integers(2, 40), st.integers(2, 9), st.integers(1, 3), st.data())
@settings(deadline=None)
def test_ranks_share_what_one_rank_draws_and_a_resumed_run_draws_the_rest(
    images: int, size: int, ranks: int, data: st.DataObject
) -> None:
    views = data.draw(st.sampled_from([None, 2, 3]))

    def make(batch: int, rank: int, world: int) -> EpochBatches:
        labels = [0] * images
        if views is None:
            return ShuffledBatches(labels, batch, seed=5, rank=rank, world_size=world)
        return ViewBatches(labels, batch, views=views, seed=5, rank=rank, world_size=world)

    try:
        parts = [make(size, rank, ranks) for rank in range(ranks)]
    except SettingsError:
        return
    alone = make(parts[0].batch_size * ranks, 0, 1)
    for batches in (*parts, alone):
        batches.set_epoch(2)
    whole = list(alone)
    together = [list(itertools.chain(*shares)) for shares in zip(*parts, strict=True)]
    assert together[: len(whole) - 1] == whole[: len(together)][: len(whole) - 1]
    assert all(set(shares) <= set(batch) for shares, batch in zip(together, whole, strict=False))
    position = data.draw(st.integers(0, len(parts[0])))
    fresh = make(size, 0, ranks)
    fresh.load_state_dict(json.loads(json.dumps(parts[0].state_dict(position))))
    assert list(fresh) == list(parts[0])[position:]


def test_each_image_of_a_batch_of_views_comes_twice_with_different_seeds() -> None:
    batches = ViewBatches([0] * 9, 7, seed=1)
    assert batches.batch_size == 6
    assert batches.notes == ("batch size 7 is lowered to 6: 3 images x 2 views",)
    epoch = list(batches)
    assert len(epoch) == len(batches) == 3
    for batch in epoch:
        assert all(
            one.row == other.row and one.seed != other.seed for one, other in zip(batch[::2], batch[1::2], strict=True)
        )
    images = [draw.row for batch in epoch for draw in batch[::2]]
    assert sorted(images) == list(range(9))
    assert len({draw.seed for batch in epoch for draw in batch}) == 18
    assert ViewBatches([0] * 9, 8, views=4).batch_size == 8
    assert ViewBatches([0] * 3, 100).batch_size == 6


def test_what_cannot_be_cut_says_why() -> None:
    with pytest.raises(
        SettingsError, match=r"leaves 1 image to a batch; a loss compares at least 2\. Try batch_size 4"
    ):
        ViewBatches([0] * 9, 3)
    with pytest.raises(SettingsError, match="views must be a whole number >= 2; got 1"):
        ViewBatches([0] * 9, 4, views=1)
    with pytest.raises(SettingsError, match="batch_size must be a whole number from 2 to 1000000; got 1"):
        ShuffledBatches([0] * 9, 1)
    with pytest.raises(SettingsError, match="3 images do not fill a batch on 2 ranks"):
        ShuffledBatches([0] * 3, 8, world_size=2)
    with pytest.raises(DataError, match="no labels"):
        ShuffledBatches([], 4)


def test_the_state_of_another_sampler_is_refused() -> None:
    labels = np.zeros(12, dtype=int)
    state = ShuffledBatches(labels, 4).state_dict()
    with pytest.raises(RunError, match="drawn with sampler shuffled, and now it is views"):
        ViewBatches(labels, 4).load_state_dict(state)
    with pytest.raises(RunError, match="drawn with global batch size 4, and now it is 6"):
        ShuffledBatches(labels, 6).load_state_dict(state)
