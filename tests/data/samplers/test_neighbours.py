"""Neighbour batches: balanced at first, then each class with the classes nearest to it."""

from __future__ import annotations

import collections
import math

import pytest
import torch
from torch import Tensor

from cosphere.data import ClassBalancedBatches, NeighbourBatches
from cosphere.errors import RunError, SettingsError

ANGLES = [0, 100, 10, 90, 200, 190]
"""Degrees; classes 0 and 2, 1 and 3, 4 and 5 are neighbours."""
LABELS = [10 * label for label in range(6) for _ in range(4)]


def embed() -> tuple[Tensor, Tensor]:
    """Four images of each class around its angle, of different lengths; one row without a direction."""
    rows = []
    for angle in ANGLES:
        for image in range(4):
            radians = math.radians(angle + image)
            rows.append([(1 + image) * math.cos(radians), (1 + image) * math.sin(radians)])
    return torch.tensor([*rows, [0.0, 0.0]]), torch.tensor([*LABELS, 0])


def classes(batches: NeighbourBatches) -> list[list[int]]:
    return [[LABELS[draw.row] // 10 for draw in batch] for batch in batches]


def test_the_first_epoch_is_balanced_and_the_next_joins_neighbours() -> None:
    batches = NeighbourBatches(LABELS, 8, 2, neighbours=1, seed=4)
    assert list(batches) == list(ClassBalancedBatches(LABELS, 8, 2, seed=4))
    batches.after_epoch(embed)
    batches.set_epoch(1)
    epoch = classes(batches)
    assert len(epoch) == len(batches) == 3
    pairs = {frozenset(pair) for pair in ((0, 2), (1, 3), (4, 5))}
    for batch in epoch:
        assert set(collections.Counter(batch).values()) == {2}
        # A class whose neighbour is in the batch already takes the next nearest one.
        groups = [frozenset(batch[:4]), frozenset(batch[4:])]
        assert any(group in pairs for group in groups)
    batches.set_epoch(2)
    assert classes(batches) != epoch


def test_it_resumes_in_the_middle_of_a_refreshed_epoch() -> None:
    batches = NeighbourBatches(LABELS, 8, 2, neighbours=1, seed=4)
    batches.after_epoch(embed)
    batches.set_epoch(1)
    state, rest = batches.state_dict(1), list(batches)[1:]
    fresh = NeighbourBatches(LABELS, 8, 2, neighbours=1, seed=4)
    fresh.load_state_dict(state)
    assert list(fresh) == rest
    with pytest.raises(RunError, match="drawn with neighbours 1, and now it is 3"):
        NeighbourBatches(LABELS, 8, 2, neighbours=3, seed=4).load_state_dict(state)


def test_ranks_share_what_one_rank_draws() -> None:
    alone = NeighbourBatches(LABELS, 8, 2, neighbours=1)
    ranks = [NeighbourBatches(LABELS, 4, 2, neighbours=1, rank=rank, world_size=2) for rank in range(2)]
    for batches in (alone, *ranks):
        batches.after_epoch(embed)
        batches.set_epoch(1)
    assert [one + two for one, two in zip(*ranks, strict=True)] == list(alone)


def test_a_class_that_could_not_be_embedded_is_still_drawn() -> None:
    batches = NeighbourBatches(LABELS, 4, 2, neighbours=1)
    batches.after_epoch(lambda: tuple(part[4:] for part in embed()))  # type: ignore[arg-type, return-value]
    seen = set()
    for epoch in range(1, 12):
        batches.set_epoch(epoch)
        seen |= {label for batch in classes(batches) for label in batch}
    assert seen == set(range(6))


def test_the_batch_is_rounded_down_to_whole_groups() -> None:
    batches = NeighbourBatches(LABELS, 11, 2, neighbours=1)
    assert batches.batch_size == 8
    assert batches.notes == ("batch size 11 is rounded down to 8: 2 x 2 classes x 2 images",)
    with pytest.raises(
        SettingsError, match=r"5 holds no class with its 2 neighbours of 2 images each\. Try batch_size 6"
    ):
        NeighbourBatches(LABELS, 5, 2, neighbours=2)
