"""From rows of a catalogue to batches of pixels; an unreadable image is skipped, counted and named."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cosphere.checks import check_number
from cosphere.data.catalogue import Catalogue
from cosphere.data.samplers import Draw
from cosphere.errors import DataError, ImageError, SettingsError
from cosphere.images import Augmentation, PixelCache, Pixels, Preprocessing, read_image

log = logging.getLogger(__name__)

MAX_UNREADABLE = 0.01
"""Share of the images that may be unreadable before a run stops."""
_TRIES = 10
"""How many other images of the class stand in for an unreadable one before its place stays empty."""


class Skipped(NamedTuple):
    """An image that could not be read."""

    path: str
    reason: str


class Item(NamedTuple):
    """One place of a batch."""

    pixels: Tensor | None
    """(3, S, S) uint8 RGB; None when no image could be read for this place."""
    label: int
    row: int
    """The row whose pixels these are, which is another of the same class when the one asked for could not be read."""
    skipped: tuple[Skipped, ...]


class Batch(NamedTuple):
    """What a data loader gives."""

    pixels: Tensor
    """(B, 3, S, S) uint8 RGB; (0, 3, 0, 0) when no image of the batch could be read."""
    labels: Tensor
    """(B,) int64 in [0, C), the labels of the catalogue."""
    rows: Tensor
    """(B,) int64 rows of the catalogue."""
    skipped: tuple[Skipped, ...]
    """The images of this batch that could not be read; give them to :class:`UnreadableLog`."""


class ImageRows(Dataset[Item]):
    """The images of a catalogue as uint8 pixels, for a data loader with :func:`collate`.

    A picture is decoded, cut to its box, brought to ``preprocessing.resize`` (kept in the cache at that size) and then
    augmented or cropped in the centre.

    In training (a :class:`Draw`) an unreadable image is replaced by the next one of its class, so that a batch keeps
    its P x K; the choice depends on the row only, so a resumed run makes the same. In evaluation (an int) its place is
    dropped.

    Args:
        catalogue: N rows with C classes.
        preprocessing: sizes and crop.
        augmentation: for training; then items are asked for by :class:`Draw`. None crops the centre.
        cache: of resized pixels, made with ``rule=preprocessing.rule``.
        stand_ins: whether another image of the class replaces an unreadable one in training. False drops its place
            instead, as in evaluation: two views of one image must not come from two images.

    Raises:
        SettingsError: the cache was made for another size.

    Example:
        ``DataLoader(ImageRows(catalogue, preprocessing), batch_size=64, collate_fn=collate)``
    """

    def __init__(
        self,
        catalogue: Catalogue,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
        cache: PixelCache | None = None,
        *,
        stand_ins: bool = True,
    ) -> None:
        if cache is not None and cache.rule != preprocessing.rule:
            raise SettingsError(
                f"the cache holds pixels for {cache.rule!r}, wanted {preprocessing.rule!r}. Make it with "
                "rule=preprocessing.rule."
            )
        self.preprocessing, self.augmentation, self.cache = preprocessing, augmentation, cache
        self.stand_ins = stand_ins
        # Plain lists and arrays only: a catalogue's table would be copied into every worker.
        self.paths = catalogue.paths
        self.labels = catalogue.labels
        self._boxes = catalogue.boxes
        self._order = np.argsort(self.labels, kind="stable")
        self._place = np.empty_like(self._order)
        self._place[self._order] = np.arange(len(self._order))
        count = np.bincount(self.labels)
        self._first = np.cumsum(count) - count
        self._count = count

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.paths)

    def __getitem__(self, draw: Draw | int) -> Item:
        """One item, by draw in training and by row in evaluation.

        Raises:
            IndexError: there is no such row.
            SettingsError: augmentation is on and a plain row was asked for, so there is no seed.
        """
        if not isinstance(draw, Draw):
            return self._plain(int(draw))
        label = int(self.labels[draw.row])
        skipped: list[Skipped] = []
        for row in self._candidates(draw.row):
            pixels = self._read(row, skipped)
            if pixels is not None:
                return Item(self._view(pixels, draw.seed), label, row, tuple(skipped))
        return Item(None, label, draw.row, tuple(skipped))

    def _plain(self, row: int) -> Item:
        if self.augmentation is not None:
            raise SettingsError("augmentation wants a seed: ask for Draw(row, seed), or leave augmentation out.")
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        skipped: list[Skipped] = []
        pixels = self._read(row, skipped)
        return Item(None if pixels is None else self._view(pixels, 0), int(self.labels[row]), row, tuple(skipped))

    def _candidates(self, row: int) -> list[int]:
        """The row, then those that may replace it: the next ones of its class, in a circle."""
        if not self.stand_ins:
            return [row]
        label = int(self.labels[row])
        first, count = int(self._first[label]), int(self._count[label])
        start = int(self._place[row]) - first
        return [int(self._order[first + (start + step) % count]) for step in range(min(count, _TRIES))]

    def _read(self, row: int, skipped: list[Skipped]) -> Pixels | None:
        """The picture at the size from which crops are taken; None, and a line in ``skipped``, if it is unreadable."""
        path, box = self.paths[row], self._box(row)

        def make() -> Pixels:
            return self.preprocessing.resized(read_image(path, box=box, target=self.preprocessing.resize))

        try:
            return make() if self.cache is None else self.cache.get(path, make, box=box)
        except ImageError as error:
            skipped.append(Skipped(path, str(error)))
            return None

    def _box(self, row: int) -> tuple[int, int, int, int] | None:
        if self._boxes is None or self._boxes[row, 0] < 0:
            return None
        left, top, right, bottom = self._boxes[row].tolist()
        return left, top, right, bottom

    def _view(self, pixels: Pixels, seed: int) -> Tensor:
        if self.augmentation is None:
            return self.preprocessing.pixels(pixels)
        return self.augmentation.pixels(pixels, self.preprocessing, seed)


def collate(items: Sequence[Item]) -> Batch:
    """Stack the places that hold an image, and gather what was skipped."""
    whole = [(item.pixels, item.label, item.row) for item in items if item.pixels is not None]
    skipped = tuple(one for item in items for one in item.skipped)
    if not whole:
        nothing = torch.empty(0, dtype=torch.int64)
        return Batch(torch.empty((0, 3, 0, 0), dtype=torch.uint8), nothing, nothing.clone(), skipped)
    pixels, labels, rows = zip(*whole, strict=True)
    return Batch(torch.stack(pixels), torch.tensor(labels), torch.tensor(rows), skipped)


class UnreadableLog:
    """Counts the unreadable images of a run, names each once in the log, and stops the run at too many.

    It lives in the main process, so that the workers of a loader share one count.

    Args:
        total: images in the catalogue.
        max_share: in [0, 1], of the images; more unreadable ones stop the run. Above 0, one image is always forgiven.

    Raises:
        SettingsError: ``max_share`` is not in [0, 1].
    """

    def __init__(self, total: int, max_share: float = MAX_UNREADABLE) -> None:
        check_number("max_unreadable", max_share, at_least=0, at_most=1)
        self.total, self.max_share = total, max_share
        self.allowed = max(math.floor(max_share * total), 1 if max_share else 0)
        self.reasons: dict[str, str] = {}

    def __len__(self) -> int:
        """Number of different images that could not be read so far."""
        return len(self.reasons)

    def add(self, skipped: Iterable[Skipped]) -> None:
        """Take in :attr:`Batch.skipped`.

        Raises:
            DataError: more than ``max_share`` of the images are unreadable; the error names the first three.
        """
        for path, reason in skipped:
            if path not in self.reasons:
                self.reasons[path] = reason
                log.warning("skipped an unreadable image (%d of at most %d): %s", len(self), self.allowed, reason)
        if len(self) > self.allowed:
            first = "; ".join(reason.rstrip(".") for reason in list(self.reasons.values())[:3])
            raise DataError(
                f"{len(self)} of {self.total} images cannot be read, more than the {self.max_share:.1%} that are "
                f"forgiven: {first}. "
                "Run `cosphere data check` and mend or remove them, or raise the share."
            )
