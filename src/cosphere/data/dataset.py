"""Data set and collation: rows of a catalogue to batches of pixels. Unreadable images are skipped, counted and named."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cosphere.checks import allowed, check_number, check_switches
from cosphere.data.boxes import NO_BOX
from cosphere.data.catalogue import Catalogue
from cosphere.data.remarks import MAX_UNREADABLE, Skipped
from cosphere.data.samplers import Draw
from cosphere.errors import DataError, ImageError, SettingsError, counted
from cosphere.images import Augmentation, PixelCache, Pixels, Preprocessing, read_image

log = logging.getLogger(__name__)

_TRIES = 10
"""Number of images of a class to try, including the requested one, before its place in the batch stays empty."""


class Item(NamedTuple):
    """One place in a batch."""

    pixels: Tensor | None
    """(3, S, S) uint8 RGB; None if no image could be read for this place."""
    label: int
    row: int
    """The row that the pixels come from: the requested one, or a stand-in of the same class if that was unreadable."""
    skipped: tuple[Skipped, ...]
    seed: int = 0
    """Of its augmentation."""


class Batch(NamedTuple):
    """One batch of a data loader."""

    pixels: Tensor
    """(B, 3, S, S) uint8 RGB; (0, 3, 0, 0) if no image of the batch could be read."""
    labels: Tensor
    """(B,) int64 in [0, C), :attr:`Catalogue.labels` of the rows."""
    rows: Tensor
    """(B,) int64 rows of the catalogue."""
    skipped: tuple[Skipped, ...]
    """Images of this batch that could not be read, to be passed to :meth:`UnreadableLog.add`."""
    seeds: Tensor
    """(B,) int64, of the augmentation of each image."""

    def cut(self, size: int) -> Batch:
        """The first ``size`` images."""
        pixels, labels, rows, skipped, seeds = self
        return Batch(pixels[:size], labels[:size], rows[:size], skipped, seeds[:size])


class ImageRows(Dataset[Item]):
    """The images of a catalogue as uint8 pixels, for a data loader with :func:`collate`.

    An image is decoded, cropped to its box, resized to ``preprocessing.resize`` (cached at that size) and then
    augmented or centre cropped.

    In training (items requested by :class:`Draw`) an unreadable image is replaced by the next one of its class, so that
    a batch keeps its P x K images. The replacement depends on the row only, so a resumed run makes the same choice. In
    evaluation (items requested by row number) its place is dropped.

    Args:
        catalogue: N rows with C classes.
        preprocessing: sizes and crop.
        augmentation: random views for training; items are then requested by :class:`Draw`. None takes centre crops.
        cache: cache of resized pixels, created with ``rule=preprocessing.rule``.
        stand_ins: whether an unreadable image is replaced in training. False drops its place, as two views of one image
            require: an image that cannot be read leaves the batch with all its views.
        finished: whether pixels are whole views. False leaves out :meth:`Augmentation.finished`, for one who applies it to
            whole batches, such as on a GPU.

    Raises:
        SettingsError: the cache was created for another rule.

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
        finished: bool = True,
    ) -> None:
        check_switches(stand_ins=stand_ins, finished=finished)
        if cache is not None and cache.rule != preprocessing.rule:
            raise SettingsError(
                f"the cache holds pixels for {cache.rule!r}, wanted {preprocessing.rule!r}. Make it with "
                "rule=preprocessing.rule."
            )
        self.preprocessing, self.augmentation, self.cache = preprocessing, augmentation, cache
        self.stand_ins, self.finished = stand_ins, finished
        # Lists and arrays only: the catalogue's table would be copied into every worker.
        self.paths = catalogue.paths
        self.labels = catalogue.labels
        self._boxes = catalogue.boxes
        self._order = np.argsort(self.labels, kind="stable")
        self._place = np.empty_like(self._order)
        self._place[self._order] = np.arange(len(self._order))
        count = np.bincount(self.labels)
        self._first = np.cumsum(count) - count
        self._count = count
        self._last: tuple[int, Pixels | ImageError] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.paths)

    def __getitem__(self, draw: Draw | int) -> Item:
        """Load one item, by :class:`Draw` in training and by row number in evaluation.

        Raises:
            IndexError: there is no such row.
            SettingsError: augmentation needs the seed of a :class:`Draw`, and a row number was given.
        """
        if not isinstance(draw, Draw):
            return self._plain(int(draw))
        label = int(self.labels[draw.row])
        skipped: list[Skipped] = []
        for row in self.candidates(draw.row):
            pixels = self._read(row, skipped)
            if pixels is not None:
                return Item(self._view(pixels, draw.seed), label, row, tuple(skipped), draw.seed)
        return Item(None, label, draw.row, tuple(skipped), draw.seed)

    def _plain(self, row: int) -> Item:
        if self.augmentation is not None:
            raise SettingsError("augmentation wants a seed: ask for Draw(row, seed), or leave augmentation out.")
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        skipped: list[Skipped] = []
        pixels = self._read(row, skipped)
        return Item(None if pixels is None else self._view(pixels, 0), int(self.labels[row]), row, tuple(skipped))

    def candidates(self, row: int) -> list[int]:
        """The row itself, followed by the rows that may replace it: the next ones of its class, cyclically."""
        if not self.stand_ins:
            return [row]
        label = int(self.labels[row])
        first, count = int(self._first[label]), int(self._count[label])
        start = int(self._place[row]) - first
        return [int(self._order[first + (start + step) % count]) for step in range(min(count, _TRIES))]

    def _read(self, row: int, skipped: list[Skipped]) -> Pixels | None:
        """Read and resize an image; append to ``skipped`` and return None if it is unreadable."""
        if self._last is None or self._last[0] != row:  # several views of one image come in a row, and share its fate
            self._last = row, self._decoded(row)
        pixels = self._last[1]
        if isinstance(pixels, ImageError):
            skipped.append(Skipped(self.paths[row], str(pixels)))
            return None
        return pixels

    def _decoded(self, row: int) -> Pixels | ImageError:
        """The resized image, or why there is none."""
        path, box = self.paths[row], self._box(row)

        def make() -> Pixels:
            return self.preprocessing.resized(read_image(path, box=box, target=self.preprocessing.sufficient_side))

        try:
            return make() if self.cache is None else self.cache.get(path, make, box=box)
        except ImageError as error:
            return error

    def _box(self, row: int) -> tuple[int, int, int, int] | None:
        if self._boxes is None or self._boxes[row, 0] == NO_BOX:
            return None
        left, top, right, bottom = self._boxes[row].tolist()
        return left, top, right, bottom

    def _view(self, pixels: Pixels, seed: int) -> Tensor:
        if self.augmentation is None:
            return self.preprocessing.pixels(pixels)
        view = self.augmentation.pixels if self.finished else self.augmentation.prepared
        return view(pixels, self.preprocessing, seed)


def collate(items: Sequence[Item]) -> Batch:
    """Stack the items that have pixels and collect what was skipped."""
    whole = [(item.pixels, item.label, item.row, item.seed) for item in items if item.pixels is not None]
    skipped = tuple(one for item in items for one in item.skipped)
    if not whole:
        nothing = torch.empty(0, dtype=torch.int64)
        return Batch(torch.empty((0, 3, 0, 0), dtype=torch.uint8), nothing, nothing.clone(), skipped, nothing.clone())
    pixels, labels, rows, seeds = zip(*whole, strict=True)
    return Batch(torch.stack(pixels), torch.tensor(labels), torch.tensor(rows), skipped, torch.tensor(seeds))


class UnreadableLog:
    """Counts the unreadable images of a run, logs each once, and raises when there are too many.

    Used in the main process, so that there is one count for all workers of a loader.

    Args:
        total: number of image files in the catalogue; several rows may be boxes of one.
        max_share: tolerated share of unreadable images, in [0, 1]. Above 0, one image is always tolerated.

    Raises:
        SettingsError: ``max_share`` is not in [0, 1].
    """

    def __init__(self, total: int, max_share: float = MAX_UNREADABLE) -> None:
        check_number("max_unreadable", max_share, at_least=0, at_most=1)
        self.total, self.max_share = total, max_share
        self.allowed = max(allowed(max_share, total), 1 if max_share else 0)
        self.reasons: dict[str, str] = {}

    def __len__(self) -> int:
        """Number of distinct images that could not be read so far."""
        return len(self.reasons)

    def add(self, skipped: Iterable[Skipped]) -> None:
        """Add :attr:`Batch.skipped` of a batch.

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
                f"{len(self)} of {counted(self.total, 'image')} cannot be read, more than the {self.max_share:.1%} that are "
                f"forgiven: {first}. "
                "Run `cosphere data check` and mend or remove them, or raise max_unreadable "
                "(--max_unreadable; in training --data.max_unreadable)."
            )
