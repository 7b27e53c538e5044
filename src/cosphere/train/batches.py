"""An endless, resumable stream of training batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cosphere.data import Batch, Catalogue, EpochBatches, ImageRows, UnreadableLog, collate, make_batches
from cosphere.embeddings import Precision, embed
from cosphere.images import Augmentation, PixelCache, Preprocessing
from cosphere.models import Embedder
from cosphere.train.settings import TrainSettings


def decoding_workers(settings: TrainSettings, device: torch.device) -> int:
    """Number of decoding processes: the setting, or by default one less than the cores where decoding is the bottleneck."""
    if settings.data.workers >= 0:
        return settings.data.workers
    cores = os.cpu_count() or 1
    if cores <= 2 or (settings.data.cache and device.type == "cpu"):
        return 0  # A worker would compete with the network for a core.
    return min(8, cores - 1)


def scoring_precision(settings: TrainSettings) -> Precision:
    """Precision of validation and of :meth:`BatchStream.embed`: that of training, or float32 for fp16."""
    return "bf16" if settings.precision == "bf16" else "float32"


class BatchStream:
    """Batches without end, epoch after epoch, resumable at any position.

    The position counts batches *taken*, so what workers decoded ahead is decoded again after a restart.

    Args:
        catalogue: the training images, under the labels that the loss sees.
        settings: of the run.
        preprocessing: geometry and size of the network input.
        augmentation: random changes of an image.
        device: that the batches will be moved to.
        rank: this process, in [0, world_size).
        world_size: number of processes.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        settings: TrainSettings,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._cache = PixelCache(settings.data.cache, rule=preprocessing.rule) if settings.data.cache else None
        # Two views of one image must not come from two images.
        stand_ins = settings.batch.sampler != "views"
        self.dataset = ImageRows(catalogue, preprocessing, augmentation, self._cache, stand_ins=stand_ins)
        self.unreadable = UnreadableLog(len(catalogue), settings.data.max_unreadable)
        self.position = 0
        self._catalogue, self._settings = catalogue, settings
        self.sampler = self._sampler(settings.seed, rank, world_size)
        workers = decoding_workers(settings, device)
        # A generator of its own: starting an epoch must not advance the global one, or a resumed run would differ.
        self._loader = DataLoader(
            self.dataset,
            batch_sampler=self.sampler,
            collate_fn=collate,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            generator=torch.Generator().manual_seed(settings.seed),
        )

    def _sampler(self, seed: int, rank: int, world_size: int) -> EpochBatches:
        batch = self._settings.batch
        return make_batches(
            batch.sampler,
            self._catalogue.labels,
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

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 0."""
        return self.sampler.epoch

    def __iter__(self) -> Iterator[Batch]:
        """:meth:`batches` with nothing to do between epochs."""
        return self.batches()

    def batches(self, after_epoch: Callable[[], None] = lambda: None) -> Iterator[Batch]:
        """Batches without end, from the current position.

        Args:
            after_epoch: called after the last batch of an epoch, before the next epoch is drawn.
        """
        self.sampler.load_state_dict(self.state_dict())
        while True:
            for batch in self._loader:
                self.position += 1
                self.unreadable.add(batch.skipped)
                if len(batch.pixels):
                    yield batch
            after_epoch()
            self.sampler.set_epoch(self.sampler.epoch + 1)
            self.position = 0

    def describe(self, batch: Batch) -> str:
        """Position and first images of the latest batch, for a message."""
        files = ", ".join(self._catalogue.paths[row] for row in batch.rows[:3].tolist())
        return f"epoch {self.epoch}, batch {self.position}; first images: {files}"

    def probe(self) -> Batch:
        """A fixed batch, drawn independently of the stream and the same in every process."""
        draws = next(iter(self._sampler(2**31 - 1, 0, 1)))
        return collate([self.dataset[draw] for draw in draws])

    def embed(self, embedder: Embedder) -> tuple[Tensor, Tensor]:
        """All training images without augmentation: raw embeddings (N, D) and labels (N,) in catalogue order, on the CPU.

        Images that cannot be read are left out. The random generators and the modules' modes are left as they are.
        """
        table = embed(
            embedder,
            self._catalogue,
            batch_size=self._settings.batch.size,
            workers=self._loader.num_workers,
            precision=scoring_precision(self._settings),
            cache=self._cache,
            max_unreadable=self._settings.data.max_unreadable,
        )
        return torch.from_numpy(table.embeddings), torch.from_numpy(table.labels)

    def state_dict(self) -> dict[str, Any]:
        """The current position."""
        return self.sampler.state_dict(self.position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a position. Takes effect at the next `iter()`."""
        self.sampler.load_state_dict(state)
        self.position = int(state["position"])
