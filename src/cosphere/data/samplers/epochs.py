"""What all samplers share: an epoch planned for all processes at once, the share of one process, and exact resumption."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import Sampler

from cosphere._types import Integers
from cosphere.errors import DataError, RunError, SettingsError, SizeError
from cosphere.images.draws import mixed

Embed = Callable[[], tuple[Tensor, Tensor]]
"""Embeds all images: raw embeddings (N, D) and labels (N,) on the CPU. Images that cannot be read are left out."""


class Draw(int):
    """One image to load, and the seed of its augmentation.

    It is the row number, so that any data set with rows takes it as an index. Two draws are equal if their rows and seeds are.

    Args:
        row: row number in the catalogue.
        seed: in [0, 2**63). It depends on the run's seed, the epoch and the position in the epoch, never on workers or ranks.
    """

    seed: int

    def __new__(cls, row: int, seed: int) -> Self:
        """Make a draw of Python's own integers."""
        draw = super().__new__(cls, row)
        draw.seed = int(seed)
        return draw

    @property
    def row(self) -> int:
        """Row number in the catalogue."""
        return int(self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Draw) and self.seed != other.seed:
            return False
        return int.__eq__(self, other)

    def __ne__(self, other: object) -> bool:  # which int has of its own
        if isinstance(other, Draw) and self.seed != other.seed:
            return True
        return int.__ne__(self, other)

    def __hash__(self) -> int:
        return int.__hash__(self)

    def __repr__(self) -> str:
        return f"Draw(row={self.row}, seed={self.seed})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Draw, (self.row, self.seed)


class Seen(NamedTuple):
    """How much of the data an epoch has drawn so far."""

    images: int
    total: int


class EpochBatches(Sampler[list[Draw]]):
    """Base of the batch samplers.

    The plan of an epoch is a function of (seed, epoch), the same on every rank. It lists the global batches of all ranks;
    each rank takes an equal, contiguous share of every batch, so the union is what one rank with the global batch size
    would draw.

    A subclass sets :attr:`batch_size` and :attr:`notes`, and defines ``_make_plan``, ``__len__`` and ``_settings``.

    Resuming: a loader with workers runs ahead of training, so tell :meth:`state_dict` how many batches training has
    finished.

    Args:
        labels: (N,) integers, any values; row i of the catalogue has label i.
        seed: of rows and augmentation, >= 0.
        rank: this process, in [0, world_size).
        world_size: number of processes.

    Raises:
        SettingsError: a value out of range.
        SizeError, DataError: labels of another shape, or none.
    """

    batch_size: int
    """Images in a full batch of one rank."""
    notes: tuple[str, ...] = ()
    """What a user should know about the batches, one sentence each."""

    def __init__(self, labels: Sequence[int] | ArrayLike, *, seed: int, rank: int, world_size: int) -> None:
        super().__init__()
        self.seed, self.rank, self.world_size = seed, rank, world_size
        if seed < 0:
            raise SettingsError(f"the seed must be 0 or more, got {seed}.")
        if not 0 <= rank < world_size:
            raise SettingsError(f"rank must lie in [0, world_size), got rank {rank} of {world_size}.")
        array = np.asarray(labels)
        if array.ndim != 1:
            raise SizeError(f"want labels (N,), got {array.shape}.")
        if not len(array):
            raise DataError("there are no labels to draw batches from. Check the split.")
        self._labels, codes, self._count = np.unique(array, return_inverse=True, return_counts=True)
        self._codes: Integers = codes.astype(np.int64)
        self.epoch = 0
        self._start = 0
        self._given = 0

    @abstractmethod
    def __len__(self) -> int:
        """Batches in a whole epoch."""

    @abstractmethod
    def _make_plan(self, rng: np.random.Generator) -> Sequence[Integers]:
        """Row numbers of each global batch of the epoch. A batch's length is a multiple of the number of ranks."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """What the plan depends on beside labels, seed and number of ranks, as plain values."""

    def after_epoch(self, embed: Embed) -> None:
        """Called between two epochs, with a way to embed all training images. Does nothing by default."""

    def __iter__(self) -> Iterator[list[Draw]]:
        """The rest of the epoch: from the loaded position, or from its beginning."""
        for rows, seeds in self.drawn():
            yield [Draw(row, seed) for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True)]

    def drawn(self) -> Iterator[tuple[Integers, Integers]]:
        """The same batches as arrays: rows (B,) and seeds (B,)."""
        self._given, self._start = self._start, 0
        plan = self._plan
        for number in range(self._given, len(self)):
            share = len(plan[number]) // self.world_size
            mine = np.arange(self.rank * share, (self.rank + 1) * share)
            seeds = _mixed(self.seed, self.epoch, number * self.batch_size * self.world_size + mine)
            self._given = number + 1
            yield plan[number][mine], seeds

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0. The position goes back to the beginning, unless it is already this epoch."""
        if epoch != self.epoch:
            self.epoch, self._start, self._given = epoch, 0, 0
            self._forget_plan()

    def seen(self) -> Seen:
        """Different images in the batches of this epoch given out so far, over all ranks, and all images."""
        given = np.concatenate([np.empty(0, dtype=np.int64), *self._plan[: self._given]])
        return Seen(len(np.unique(given)), len(self._codes))

    def state_dict(self, position: int | None = None) -> dict[str, Any]:
        """Where the run stands, as plain numbers.

        Args:
            position: batches of this epoch that training has finished. None: those given out, which is more when a
                loader's workers run ahead.
        """
        position = self._given if position is None else position
        if not 0 <= position <= len(self):
            raise SettingsError(f"position must lie in [0, {len(self)}], got {position}.")
        return {"epoch": self.epoch, "position": position, "plan": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` stood: the next iteration gives the remaining batches.

        The number of ranks may change as long as the global batch stays the same.

        Raises:
            RunError: the state comes from other data or settings, which would give other batches.
        """
        for name, value in self._identity().items():
            stored = state["plan"].get(name)
            if stored != value:
                raise RunError(
                    f"cannot resume: the batches were drawn with {name} {stored}, and now it is {value}. Use the old "
                    "value or start a new run."
                )
        self.set_epoch(int(state["epoch"]))
        self._start = self._given = int(state["position"])

    def _identity(self) -> dict[str, Any]:
        """Everything that the plan of an epoch depends on."""
        return {
            "global batch size": self.batch_size * self.world_size,
            **self._settings(),
            "seed": self.seed,
            "number of images": len(self._codes),
            "number of classes": len(self._count),
            "labels (checksum)": zlib.crc32(self._codes.tobytes()),
            "length": len(self),
        }

    @cached_property
    def _plan(self) -> Sequence[Integers]:
        return self._make_plan(np.random.default_rng([self.seed, self.epoch]))

    def _forget_plan(self) -> None:
        self.__dict__.pop("_plan", None)


def _mixed(seed: int, epoch: int, places: Integers) -> Integers:
    """Seeds in [0, 2**63) from (seed, epoch, position), by the finaliser of splitmix64."""
    base = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    values = mixed(base + places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    seeds: Integers = (values >> np.uint64(1)).astype(np.int64)
    return seeds
