"""An endless, resumable stream of training batches, whatever a batch holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from cosphere.data import Catalogue, Draw, EpochBatches, Skipped, UnreadableLog, make_batches
from cosphere.models import Embedder
from cosphere.tensors import fewest_anywhere
from cosphere.train.settings import BatchSettings, TrainSettings


class Rows(Protocol):
    """What every batch says of its images."""

    @property
    def labels(self) -> Tensor:
        """(B,) int64 in [0, C)."""

    @property
    def rows(self) -> Tensor:
        """(B,) int64 rows of the catalogue; none if no image could be read."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images of this batch that could not be read."""

    def cut(self, size: int) -> Self:
        """The first ``size`` images."""


def sampler_of(
    batch: BatchSettings, catalogue: Catalogue, seed: int, rank: int = 0, world_size: int = 1
) -> EpochBatches:
    """The sampler of a run; its notes say what was changed to fit the images.

    Args:
        batch: how batches are drawn.
        catalogue: the training images, under the labels that the loss sees.
        seed: of the run.
        rank: this process, in [0, world_size).
        world_size: number of processes.
    """
    return make_batches(
        batch.sampler,
        catalogue.labels,
        batch.size,
        images_per_class=batch.images_per_class,
        coverage=batch.coverage,
        replacement=batch.replacement,
        views=batch.views,
        neighbours=batch.neighbours,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


B = TypeVar("B", bound=Rows)


class Stream(ABC, Generic[B]):
    """Batches without end, epoch after epoch, resumable at any position.

    The position counts batches *taken*, so what workers decoded ahead is decoded again after a restart.

    Args:
        catalogue: the training images, under the labels that the loss sees.
        settings: of the run.
        rank: this process, in [0, world_size).
        world_size: number of processes.
    """

    _device: torch.device

    def __init__(self, catalogue: Catalogue, settings: TrainSettings, *, rank: int, world_size: int) -> None:
        self.unreadable = UnreadableLog(len(set(catalogue.paths)), settings.data.max_unreadable)
        self.position = 0
        self._catalogue, self._settings = catalogue, settings
        self.sampler = self._sampler(settings.seed, rank, world_size)

    def _sampler(self, seed: int, rank: int, world_size: int) -> EpochBatches:
        return sampler_of(self._settings.batch, self._catalogue, seed, rank, world_size)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the batches, one sentence each."""
        return self.sampler.notes

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 0."""
        return self.sampler.epoch

    @abstractmethod
    def load(self, draws: Sequence[Draw]) -> B:
        """The batch of these draws."""

    @abstractmethod
    def _rest_of_epoch(self) -> Iterable[B]:
        """The batches that the sampler has left in this epoch."""

    @abstractmethod
    def inputs(self, batch: B) -> tuple[Tensor, Tensor]:
        """A batch as the network and the loss take it, on the device: inputs and labels (B,)."""

    @abstractmethod
    def embed(self, embedder: Embedder) -> tuple[Tensor, Tensor]:
        """All training images without augmentation: raw embeddings (N, D) and labels (N,) in catalogue order, on the CPU.

        Images that cannot be read are left out. The random generators and the modules' modes are left as they are.
        """

    def __iter__(self) -> Iterator[B]:
        """:meth:`batches` with nothing to do between epochs."""
        return self.batches()

    def batches(self, after_epoch: Callable[[], None] = lambda: None) -> Iterator[B]:
        """Batches without end, from the current position.

        Where several processes train, an image that one of them cannot read shortens the batch in all: they step together, and a
        loss that gathers wants equal batches. The views of an image stay together, as each process leaves out whole images.

        Args:
            after_epoch: called after the last batch of an epoch, before the next epoch is drawn.
        """
        self.sampler.load_state_dict(self.state_dict())
        while True:
            for batch in self._rest_of_epoch():
                self.position += 1
                self.unreadable.add(batch.skipped)
                size = fewest_anywhere(len(batch.rows), self._device)
                if size:
                    yield batch if size == len(batch.rows) else batch.cut(size)
            after_epoch()
            self.sampler.set_epoch(self.sampler.epoch + 1)
            self.position = 0

    def describe(self, batch: B) -> str:
        """Position and first images of the latest batch, for a message."""
        files = ", ".join(self._catalogue.paths[row] for row in batch.rows[:3].tolist())
        return f"epoch {self.epoch}, batch {self.position}; first images: {files}"

    def probe(self) -> B:
        """A fixed batch, drawn independently of the stream and the same in every process."""
        return self.load(next(iter(self._sampler(2**31 - 1, 0, 1))))

    def state_dict(self) -> dict[str, Any]:
        """The current position."""
        return self.sampler.state_dict(self.position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a position. Takes effect at the next `iter()`."""
        self.sampler.load_state_dict(state)
        self.position = int(state["position"])
