"""The endless stream of training batches, and where in it the run stands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from cosphere.data import Batch, Catalogue, ClassBalancedBatches, ImageRows, UnreadableLog, collate
from cosphere.errors import DataError
from cosphere.images import Augmentation, PixelCache, Preprocessing
from cosphere.train.settings import TrainSettings


def split_for_training(catalogue: Catalogue, settings: TrainSettings) -> tuple[Catalogue, Catalogue | None]:
    """Training images and, if any, validation images.

    A validation split in the data wins; without one a share of the training classes is held out, because classes never seen
    in training are what an embedding is for. Without any split all images are for training.

    Raises:
        DataError: fewer than two classes are left to train on.
    """
    splits = set(catalogue.splits)
    train = catalogue.select("train") if "train" in splits else catalogue
    if "train" not in splits and splits & {"val", "test"}:
        raise DataError(f"{catalogue.root} has splits {sorted(splits)} but no training images. Name one split `train`.")
    validation = None
    if "val" in splits:
        validation = catalogue.select("val")
    elif settings.data.validation_share > 0 and len(train.class_names) >= 4:
        train, validation = train.hold_out_classes(settings.data.validation_share, settings.data.validation_seed)
    if len(train.class_names) < 2:
        raise DataError(
            f"{catalogue.root} has {len(train.class_names)} training class(es); a loss compares classes and wants at least 2. "
            "Put each class's images into a folder of its own."
        )
    return train, validation


def decoding_workers(settings: TrainSettings, device: torch.device) -> int:
    """Processes that decode: what was asked, or one less than the cores where decoding is what one would wait for."""
    if settings.data.workers >= 0:
        return settings.data.workers
    cores = os.cpu_count() or 1
    if cores <= 2 or (settings.data.cache and device.type == "cpu"):
        return 0  # A worker would take its core from the network.
    return min(8, cores - 1)


class BatchStream:
    """Batches without end, epoch after epoch, that can be put back to any place exactly.

    The place counts batches *taken*, so images that workers decoded ahead are drawn again after a restart.
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
        batch = settings.batch
        cache = PixelCache.open_for(settings.data.cache, preprocessing) if settings.data.cache else None
        self.dataset = ImageRows(catalogue, preprocessing, augmentation, cache)
        self.sampler = ClassBalancedBatches(
            catalogue.labels,
            batch.size,
            batch.images_per_class,
            coverage=batch.coverage,
            replacement=batch.replacement,
            seed=settings.seed,
            rank=rank,
            world_size=world_size,
        )
        self.unreadable = UnreadableLog(len(catalogue), settings.data.max_unreadable)
        self.epoch = 0
        self.position = 0
        # Its own generator: starting an epoch must not move the global one, or a resumed run would differ.
        self._loader = DataLoader(
            self.dataset,
            batch_sampler=self.sampler,
            collate_fn=collate,
            num_workers=decoding_workers(settings, device),
            pin_memory=device.type == "cuda",
            generator=torch.Generator().manual_seed(settings.seed),
        )

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.sampler.load_state_dict({"epoch": self.epoch, "position": self.position})
            for batch in self._loader:
                self.position += 1
                self.unreadable.add(batch.skipped)
                if len(batch.pixels):
                    yield batch
            self.epoch, self.position = self.epoch + 1, 0

    def probe(self) -> Batch:
        """One batch that is always the same, drawn apart from the stream."""
        draws = next(iter(ClassBalancedBatches(
            self.sampler.labels, self.sampler.batch_size, self.sampler.images_per_class, seed=2**31 - 1
        )))
        return collate([self.dataset[draw] for draw in draws])

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the stream back. Takes effect at the next `iter()`."""
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
