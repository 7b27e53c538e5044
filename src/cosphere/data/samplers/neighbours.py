"""Batches of classes that are hard to tell apart: random classes, each with its nearest ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cosphere._types import Integers
from cosphere.checks import check_whole
from cosphere.data.samplers.balanced import ClassBalancedBatches
from cosphere.data.samplers.epochs import Embed
from cosphere.errors import SettingsError, counted
from cosphere.tensors import directions


class NeighbourBatches(ClassBalancedBatches):
    """The hierarchical triplet loss's anchor-neighbour batches, refreshed after every epoch.

    A batch holds random classes, each followed by the ``neighbours`` classes whose mean unit vectors are nearest to its own,
    and K images of every class; see :class:`cosphere.losses.AnchorNeighbourBatches`. Neighbours come from the embeddings of
    all images after the epoch before. In the first epoch there are none yet, and batches are class-balanced.

    Args:
        labels: (N,) integers, any values; row i of the catalogue has label i.
        batch_size: images in a batch of one rank; it is rounded down to groups of ``(1 + neighbours) * images_per_class``.
        images_per_class: K, images of each class in a batch.
        neighbours: classes drawn beside each random class, at least 1; the paper's m - 1.
        seed: of classes, images and augmentation.
        rank: this process, in [0, world_size).
        world_size: number of processes.

    Raises:
        SettingsError: the settings do not fit the data; the error names what fits.
        DataError: no labels.
    """

    def __init__(
        self,
        labels: Sequence[int] | ArrayLike,
        batch_size: int,
        images_per_class: int,
        *,
        neighbours: int = 4,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.neighbours = check_whole("neighbours", neighbours, least=1)
        group = (1 + neighbours) * check_whole("images_per_class", images_per_class, least=1)
        if batch_size < group:
            raise SettingsError(
                f"batch_size {batch_size} holds no class with its {counted(neighbours, 'neighbour')} of "
                f"{counted(images_per_class, 'image')} each. Try batch_size {group} or fewer neighbours."
            )
        size = batch_size // group * group
        super().__init__(labels, size, images_per_class, seed=seed, rank=rank, world_size=world_size)
        if size != batch_size:
            groups = size // group
            self.notes += (
                f"batch size {batch_size} is rounded down to {size}: {groups} x {1 + neighbours} classes x "
                f"{counted(images_per_class, 'image')}",
            )
        self._means: Tensor | None = None

    def after_epoch(self, embed: Embed) -> None:
        """Find each class's mean unit vector among the embeddings of all images."""
        embeddings, labels = embed()
        unit, valid = directions(embeddings.detach().cpu().float())
        codes = torch.from_numpy(np.searchsorted(self._labels, labels.cpu().numpy()))[valid]
        sums = torch.zeros(len(self._count), unit.shape[1]).index_add_(0, codes, unit[valid])
        # A class without a readable image keeps a zero vector, which is near to nothing.
        self._means = sums / torch.bincount(codes, minlength=len(self._count)).clamp(min=1)[:, None]
        self._forget_plan()

    def state_dict(self, position: int | None = None) -> dict[str, Any]:
        """Where the run stands, and the class means behind the plan of this epoch."""
        return {**super().state_dict(position), "means": self._means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` stood.

        Raises:
            RunError: the state comes from other data or settings.
        """
        super().load_state_dict(state)
        self._means = state["means"]
        self._forget_plan()

    def _settings(self) -> dict[str, Any]:
        return {"sampler": "neighbours", "neighbours": self.neighbours, **super()._settings()}

    def _make_plan(self, rng: np.random.Generator) -> Sequence[Integers]:
        if self._means is None:
            return super()._make_plan(rng)
        from cosphere.losses import AnchorNeighbourBatches, ClassTree  # slow to import, and only this sampler needs it

        classes, zeros = torch.arange(len(self._means)), torch.zeros(len(self._means))
        # Neighbours follow from the means alone: a tree without levels is enough.
        tree = ClassTree(
            classes=classes, nodes=zeros.int()[None], thresholds=zeros[:1], spreads=zeros, means=self._means
        )
        batches = AnchorNeighbourBatches(
            torch.from_numpy(self._codes),
            tree,
            classes=self._global_classes // (1 + self.neighbours),
            neighbours=self.neighbours,
            images_per_class=self.images_per_class,
            seed=int(rng.integers(2**63)),
        )
        return [np.array(batch, dtype=np.int64) for batch in batches]
