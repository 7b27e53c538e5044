"""Training batches of cached features: the backbone is frozen and runs once for each view of an image, before the first step."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cosphere._types import Integers, Progress
from cosphere.data import Catalogue, Draw, ImageRows, Skipped
from cosphere.embeddings import FeatureCache, FeatureTable, Views, embed
from cosphere.errors import counted
from cosphere.images import Augmentation
from cosphere.models import Embedder
from cosphere.train.batches import decoding_workers, pixel_cache, scoring_precision
from cosphere.train.settings import TrainSettings
from cosphere.train.stream import Stream

FOLDER = ".features"
"""Name of the default folder, beside the runs that share it."""


def feature_cache(settings: TrainSettings, run: Path) -> FeatureCache | None:
    """Where a run's features are kept: ``features.folder``, or a folder beside the run's; None for a run on images.

    Args:
        settings: of the run.
        run: its folder.
    """
    if not settings.features.copies:
        return None
    return FeatureCache(settings.features.folder or run.absolute().parent / FOLDER)


def training_features(
    settings: TrainSettings,
    embedder: Embedder,
    catalogue: Catalogue,
    augmentation: Augmentation,
    cache: FeatureCache,
    progress: Progress | None = None,
) -> FeatureTable:
    """The features of ``features.copies`` views of each training image.

    Raises:
        DataError, DivergenceError, SettingsError: see :meth:`cosphere.embeddings.FeatureCache.table`.
    """
    seed = settings.seed if settings.features.seed is None else settings.features.seed
    return cache.table(
        embedder,
        catalogue,
        Views(augmentation, settings.features.copies, seed),
        workers=decoding_workers(settings, next(embedder.parameters()).device),
        cache=pixel_cache(settings, embedder.preprocessing),
        max_unreadable=settings.data.max_unreadable,
        progress=progress,
    )


class FeatureBatch(NamedTuple):
    """One batch of cached features."""

    features: Tensor
    """(B, W) float32."""
    labels: Tensor
    """(B,) int64 in [0, C)."""
    rows: Tensor
    """(B,) int64 rows of the catalogue."""
    skipped: tuple[Skipped, ...] = ()

    def cut(self, size: int) -> FeatureBatch:
        """The first ``size`` images."""
        return FeatureBatch(self.features[:size], self.labels[:size], self.rows[:size], self.skipped)


class FeatureStream(Stream[FeatureBatch]):
    """Rows of features, for the samplers and draws that :class:`BatchStream` takes images for.

    A draw takes the copy ``seed % copies`` of its image, so which copy is a function of (seed, draw), as an augmentation is. The views
    of an image are different copies, see :func:`different_copies`.

    Args:
        catalogue: the training images, under the labels that the loss sees.
        settings: of the run.
        embedder: the model, on its device.
        augmentation: random changes of an image.
        cache: where the features are kept.
        progress: called with the number of features that are there, and how many there will be.
        rank: this process, in [0, world_size).
        world_size: number of processes.

    Raises:
        DataError, DivergenceError, SettingsError: see :func:`training_features`.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        settings: TrainSettings,
        embedder: Embedder,
        augmentation: Augmentation,
        cache: FeatureCache,
        *,
        progress: Progress | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(catalogue, settings, rank=rank, world_size=world_size)
        self._cache, self._device = cache, next(embedder.parameters()).device
        self.table = training_features(settings, embedder, catalogue, augmentation, cache, progress)
        self.unreadable.add(self.table.skipped)
        self._sources = _stand_ins(catalogue, embedder, self.table, settings.batch.sampler != "views")
        self._labels = torch.from_numpy(catalogue.labels)
        self._views = settings.batch.views if settings.batch.sampler == "views" else 1

    @property
    def notes(self) -> tuple[str, ...]:
        """How many features there are and where they lie, and which settings have no effect."""
        size = f"{self.table.nbytes / 1e6:,.1f} MB in {self._cache.folder}"
        return (
            *self.sampler.notes,
            f"the backbone is frozen: {counted(self.table.copies, 'cached view')} of each image, {size}; optimizer.backbone_rate and "
            "freeze_norm have no effect",
        )

    def _rest_of_epoch(self) -> Iterable[FeatureBatch]:
        # As arrays: making a draw of each image and taking it apart again takes longer than copying its row.
        return itertools.starmap(self._batch, self.sampler.drawn())

    def load(self, draws: Sequence[Draw]) -> FeatureBatch:
        """Copy the rows out of the memory map. An image that cannot be read is replaced as on images."""
        return self._batch(np.array(draws, dtype=np.int64), np.array([draw.seed for draw in draws], dtype=np.int64))

    def _batch(self, rows: Integers, seeds: Integers) -> FeatureBatch:
        sources = self._sources[rows]
        present = sources >= 0
        sources, seeds = sources[present], seeds[present]
        chosen, copies = torch.from_numpy(sources), different_copies(seeds, self._views, self.table.copies)
        return FeatureBatch(self.table.take(sources, copies), self._labels[chosen], chosen)

    def inputs(self, batch: FeatureBatch) -> tuple[Tensor, Tensor]:
        """Features (B, W) and labels."""
        device = self._device
        return batch.features.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)

    def embed(self, embedder: Embedder) -> tuple[Tensor, Tensor]:
        """Through the head, from cached features of the images without augmentation."""
        table = embed(
            embedder,
            self._catalogue,
            workers=decoding_workers(self._settings, self._device),
            precision=scoring_precision(self._settings),
            cache=pixel_cache(self._settings, embedder.preprocessing),
            max_unreadable=self._settings.data.max_unreadable,
            features=self._cache,
        )
        return torch.from_numpy(table.embeddings), torch.from_numpy(table.labels)


def different_copies(seeds: Integers, views: int, copies: int) -> Integers:
    """A copy for each draw, so that the views of an image, which stand side by side, are different ones.

    The first view takes the copy ``seed % copies``, the next one the copy ``seed % (copies - 1)`` of those that are left, and so on:
    every choice of different copies is equally likely.

    Args:
        seeds: (B,) of the draws, at least 0; B is a multiple of ``views``.
        views: of each image, at least 1.
        copies: of each image, at least ``views``.

    Returns:
        (B,) in [0, copies).
    """
    drawn = seeds.reshape(-1, views)
    chosen = np.empty_like(drawn)
    for view in range(views):
        copy = drawn[:, view] % (copies - view)
        for taken in np.sort(chosen[:, :view], axis=1).T:
            copy = copy + (copy >= taken)
        chosen[:, view] = copy
    return chosen.reshape(-1)


def _stand_ins(
    catalogue: Catalogue, embedder: Embedder, table: FeatureTable, replace: bool
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """For each row the readable row that is taken for it, as :class:`ImageRows` chooses it; -1 where there is none. (N,)."""
    readable = table.readable
    sources = np.where(readable, np.arange(len(table)), -1)
    images = ImageRows(catalogue, embedder.preprocessing, stand_ins=replace)
    for row in np.flatnonzero(~readable).tolist():
        sources[row] = next((other for other in images.candidates(row) if readable[other]), -1)
    return sources
