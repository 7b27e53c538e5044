"""Shuffled batches, without regard to classes: each image once in an epoch, in one or in several views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cosphere._types import Integers
from cosphere.checks import MOST_IMAGES, check_whole
from cosphere.data.samplers.epochs import EpochBatches
from cosphere.errors import SettingsError, agreeing, counted


class ShuffledBatches(EpochBatches):
    """All images in random order, cut into batches: the official default of NormSoftmax, and Proxy-Anchor's batches.

    Every image appears once in an epoch, and a batch holds whatever classes come. The last batch of an epoch is shorter, as
    in the official code (``DataLoader(shuffle=True, drop_last=False)``). With several ranks it is cut to equal shares; a
    share of fewer than 2 images is left out, since batch norm cannot train on one image.

    Args:
        labels: (N,) integers; only their number counts.
        batch_size: images in a batch of one rank.
        seed: of the order and of augmentation.
        rank: this process, in [0, world_size).
        world_size: number of processes.

    Attributes:
        notes: images left out of each epoch.

    Raises:
        SettingsError: a value out of range.
        DataError: no labels, or too few images for the ranks.
    """

    def __init__(
        self,
        labels: Sequence[int] | ArrayLike,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(labels, seed=seed, rank=rank, world_size=world_size)
        self.batch_size = check_whole("batch_size", batch_size, least=2, most=MOST_IMAGES)
        images, whole = len(self._codes), self.batch_size * world_size
        share = images % whole // world_size
        self._last = share * world_size if share >= 2 else 0
        self._length = images // whole + (self._last > 0)
        if not self._length:
            raise SettingsError(
                f"{counted(images, 'image')} {agreeing(images, 'do')} not fill a batch on {counted(world_size, 'rank')}. Use fewer ranks."
            )
        left_out = images % whole - self._last
        if left_out:
            self.notes = (f"{counted(left_out, 'image')} left out of each epoch, to make batches of equal shares",)

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self._length

    def _settings(self) -> dict[str, Any]:
        return {"sampler": "shuffled"}

    def _make_plan(self, rng: np.random.Generator) -> Sequence[Integers]:
        order, whole = rng.permutation(len(self._codes)), self.batch_size * self.world_size
        used = len(order) // whole * whole + self._last
        return [order[start : min(start + whole, used)] for start in range(0, used, whole)]


class ViewBatches(EpochBatches):
    """Every image of a batch several times, each time with another augmentation seed: SimCLR's two views.

    Images come in random order, each at most once in an epoch; what does not fill a last batch is left out. The views of an
    image stand side by side and stay on one rank. Label the rows by image to make the other views the only positives.

    Args:
        labels: (N,) integers; only their number counts.
        batch_size: pictures in a batch of one rank, views included: ``batch_size // views`` images.
        views: of each image, at least 2.
        seed: of the order and of augmentation.
        rank: this process, in [0, world_size).
        world_size: number of processes.

    Attributes:
        batch_size: a multiple of ``views``.
        notes: a batch size that was lowered.

    Raises:
        SettingsError: a value out of range, or a batch of fewer than 2 images.
        DataError: no labels.
    """

    def __init__(
        self,
        labels: Sequence[int] | ArrayLike,
        batch_size: int,
        *,
        views: int = 2,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(labels, seed=seed, rank=rank, world_size=world_size)
        self.views = check_whole("views", views, least=2)
        check_whole("batch_size", batch_size, least=1, most=MOST_IMAGES)
        images = min(batch_size // views, len(self._codes) // world_size)
        if images < 2:
            raise SettingsError(
                f"batch_size {batch_size} with {counted(views, 'view')} of {counted(len(self._codes), 'image')} on "
                f"{counted(world_size, 'rank')} leaves {counted(images, 'image')} to a batch; a loss "
                f"compares at least 2. Try batch_size {2 * views} or fewer ranks."
            )
        self.batch_size = images * views
        if self.batch_size != batch_size:
            self.notes = (
                f"batch size {batch_size} is lowered to {self.batch_size}: {counted(images, 'image')} x {counted(views, 'view')}",
            )

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return len(self._codes) // (self.batch_size // self.views * self.world_size)

    def _settings(self) -> dict[str, Any]:
        return {"sampler": "views", "views": self.views}

    def _make_plan(self, rng: np.random.Generator) -> Sequence[Integers]:
        images = self.batch_size // self.views * self.world_size
        order = rng.permutation(len(self._codes))[: len(self) * images]
        plan: Integers = np.repeat(order.reshape(len(self), images), self.views, axis=1)
        return plan  # type: ignore[return-value]
