"""Samplers: which images make a batch. All are seeded, resumable and the same whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cosphere.checks import check_choice, check_switches
from cosphere.data.samplers.balanced import ClassBalancedBatches as ClassBalancedBatches
from cosphere.data.samplers.balanced import Replacement as Replacement
from cosphere.data.samplers.epochs import Draw as Draw
from cosphere.data.samplers.epochs import EpochBatches as EpochBatches
from cosphere.data.samplers.epochs import Seen as Seen
from cosphere.data.samplers.neighbours import NeighbourBatches as NeighbourBatches
from cosphere.data.samplers.shuffled import ShuffledBatches as ShuffledBatches
from cosphere.data.samplers.shuffled import ViewBatches as ViewBatches
from cosphere.errors import agreeing, counted

SamplerName = Literal["balanced", "shuffled", "views", "neighbours"]


def make_batches(
    name: SamplerName,
    labels: Sequence[int] | ArrayLike,
    batch_size: int,
    *,
    images_per_class: int = 3,
    coverage: bool = False,
    replacement: Replacement = "when_short",
    views: int = 2,
    neighbours: int = 4,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> EpochBatches:
    """Make a sampler by name, with a batch that fits the data.

    A batch that asks for more classes than there are, or for more images of a class than any class has, is lowered, and the
    sampler's notes say so.

    Args:
        name: "balanced" (P classes x K images), "shuffled" (every image once in an epoch), "views" (every image several
            times in a batch) or "neighbours" (classes with the ones nearest to them).
        labels: (N,) integers, any values; row i of the catalogue has label i.
        batch_size: images in a batch of one rank.
        images_per_class: K, for "balanced" and "neighbours".
        coverage: for "balanced"; see :class:`ClassBalancedBatches`.
        replacement: for "balanced"; see :class:`ClassBalancedBatches`.
        views: of each image, for "views".
        neighbours: nearest classes drawn beside each random class, for "neighbours".
        seed: of rows and augmentation.
        rank: this process, in [0, world_size).
        world_size: number of processes.

    Raises:
        SettingsError: an unknown name, a value out of range, or too little data for the ranks.
        DataError: no labels.
    """
    check_switches(coverage=coverage)
    check_choice("batch.sampler", name, ["balanced", "shuffled", "views", "neighbours"])
    place = {"seed": seed, "rank": rank, "world_size": world_size}
    if name == "shuffled":
        return ShuffledBatches(labels, batch_size, **place)
    if name == "views":
        return ViewBatches(labels, batch_size, views=views, **place)
    fit = _fitting(labels, batch_size, images_per_class, replacement, world_size)
    sampler: EpochBatches
    if name == "neighbours":
        beside = min(neighbours, max(1, fit.size // fit.images_per_class - 1))
        sampler = NeighbourBatches(labels, fit.size, fit.images_per_class, neighbours=beside, **place)
    else:
        sampler = ClassBalancedBatches(
            labels, fit.size, fit.images_per_class, coverage=coverage, replacement=replacement, **place
        )
    sampler.notes = (*fit.notes, *sampler.notes)
    return sampler


class _Fit(NamedTuple):
    """A batch that the data can fill."""

    size: int
    images_per_class: int
    notes: tuple[str, ...]


def _fitting(
    labels: Sequence[int] | ArrayLike, size: int, each: int, replacement: Replacement, world_size: int
) -> _Fit:
    """The batch as asked for, or lowered to the classes and images that there are."""
    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    largest, most = int(counts.max(initial=0)), len(counts) // world_size
    used, notes = size, []
    if replacement == "when_short" and 1 < largest < each:
        notes.append(f"images per class are lowered from {each} to {largest}: no class has more")
        used, each = size // each * largest, largest
    if 0 < most < used // each:
        used = most * each
    if used < size // each * each:
        shared = f" for {world_size} ranks" if world_size > 1 else ""
        reason = (
            f"there {agreeing(len(counts), 'are')} {counted(len(counts), 'class')}{shared}"
            if used == most * each
            else f"{counted(used // each, 'class')} x {each}"
        )
        notes.append(f"batch size is lowered from {size} to {used}: {reason}")
    return _Fit(used if notes else size, each, tuple(notes))
