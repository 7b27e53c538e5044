"""Training batches of augmented images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cosphere.data import Batch, Catalogue, Draw, ImageRows, collate
from cosphere.embeddings import Precision, embed
from cosphere.images import Augmentation, PixelCache, Preprocessing
from cosphere.models import Embedder
from cosphere.train.settings import TrainSettings
from cosphere.train.stream import Stream


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


def pixel_cache(settings: TrainSettings, preprocessing: Preprocessing) -> PixelCache | None:
    """The cache of decoded pixels that the settings ask for."""
    return PixelCache(settings.data.cache, rule=preprocessing.rule) if settings.data.cache else None


class BatchStream(Stream[Batch]):
    """The images themselves, decoded and augmented for each batch.

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
        super().__init__(catalogue, settings, rank=rank, world_size=world_size)
        self._cache, self._device = pixel_cache(settings, preprocessing), device
        # Two views of one image must not come from two images.
        stand_ins = settings.batch.sampler != "views"
        self._augmentation = augmentation
        self.dataset = ImageRows(
            catalogue, preprocessing, augmentation, self._cache, stand_ins=stand_ins, finished=False
        )
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

    def _rest_of_epoch(self) -> Iterable[Batch]:
        return self._loader

    def load(self, draws: Sequence[Draw]) -> Batch:
        """Decode and augment in this process."""
        return collate([self.dataset[draw] for draw in draws])

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Network input (B, 3, H, W) and labels. What of the views is done batch by batch is done here, on the device."""
        layout = torch.channels_last if self._settings.channels_last else torch.contiguous_format
        pixels = batch.pixels.to(self._device, non_blocking=True)
        pixels = self._augmentation.finished(pixels, self.dataset.preprocessing, batch.seeds.numpy())
        inputs = self.dataset.preprocessing.to_input(pixels).to(memory_format=layout)
        return inputs, batch.labels.to(self._device, non_blocking=True)

    def embed(self, embedder: Embedder) -> tuple[Tensor, Tensor]:
        """Through the whole network."""
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
