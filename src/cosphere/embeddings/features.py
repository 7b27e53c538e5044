"""Pooled features of a frozen backbone, computed once for each view of an image and kept on disk.

FOLDER/<features>-<device>/<views>/
    lock              held by the process that computes
    <digest>.npy      rows of one stretch of images: (R,) of key (16 bytes) and features (W,) float32

A file is written whole or not at all, never changed, and named by the digest of its content, so readers need no lock and a
damaged file counts as none. Processes that want the same features wait for each other and compute them once.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from cosphere._types import Float32s, Integers, Progress
from cosphere.data import Batch, Catalogue, Draw, ImageRows, Item, Skipped, UnreadableLog, collate
from cosphere.data.remarks import MAX_UNREADABLE
from cosphere.embeddings.store import KEY_BYTES, image_keys
from cosphere.errors import DataError, RunError, counted
from cosphere.files import exclusive, remove_left_parts, write_atomic
from cosphere.images import Augmentation, PixelCache
from cosphere.models import Embedder
from cosphere.models.inference import evaluation_mode, infer_features
from cosphere.tensors import own_generator

log = logging.getLogger(__name__)

_BATCH = 64
"""Images in one forward pass. A constant: another number would round differently."""
_MOST_ROWS_BYTES, _MOST_SECONDS = 64 * 2**20, 60.0
"""A file is written when it holds as much, or when as long has passed: what a kill loses."""


@dataclass(frozen=True)
class Views:
    """Which views of each image: copy k of an image is the view of one seed, a function of (``seed``, k, the image's path).

    Attributes:
        augmentation: of each copy; None for the centre crop of evaluation.
        copies: views of each image; 1 without augmentation, whose views are all equal.
        seed: of the augmentation.
    """

    augmentation: Augmentation | None = None
    copies: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.augmentation is None or self.augmentation.preset == "none":
            for name, value in (("augmentation", None), ("copies", 1), ("seed", 0)):
                object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """Name of the folder of these views."""
        if self.augmentation is None:
            return "plain"
        digest = hashlib.blake2b(repr(sorted(self.augmentation.as_dict().items())).encode(), digest_size=8)
        return f"{digest.hexdigest()}-{self.seed}"

    def seeds(self, catalogue: Catalogue) -> Integers:
        """The seed of each view, in [0, 2**63). -> (N, copies)."""
        if self.augmentation is None:
            return np.zeros((len(catalogue), 1), dtype=np.int64)
        boxes = [None] * len(catalogue) if catalogue.boxes is None else catalogue.boxes.tolist()
        # The path below the root: the views do not depend on where the folder lies, nor on the other images.
        images = [f"{path}\n{box}" for path, box in zip(catalogue.table["path"], boxes, strict=True)]
        return np.array(
            [[_number(f"{self.seed} {copy}\n{image}") for copy in range(self.copies)] for image in images],
            dtype=np.int64,
        )


PLAIN = Views()
"""The centre crop of evaluation."""


def _number(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little") // 2


class FeatureTable:
    """Features of N images, memory-mapped where they lie on disk.

    Attributes:
        copies: views of each image.
        width: W of a row.
        skipped: images that cannot be read.
        readable: (N,) bool, which images have features.
    """

    def __init__(self, parts: list[Float32s], places: Integers, width: int, skipped: tuple[Skipped, ...]) -> None:
        """Create the table.

        Args:
            parts: each (R, W).
            places: (N, copies, 2) part and row in it; -1 where the image cannot be read.
            width: W.
            skipped: images that cannot be read.
        """
        self._parts, self._places = parts, places
        self.copies, self.width, self.skipped = int(places.shape[1]), width, skipped
        self.readable: NDArray[np.bool_] = np.all(places[:, :, 0] >= 0, axis=1)

    def __len__(self) -> int:
        """N, the number of images, whether they can be read or not."""
        return len(self._places)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows of these images."""
        return int(self.readable.sum()) * self.copies * self.width * 4

    def take(self, rows: Integers, copies: Integers | int = 0) -> Tensor:
        """Features of views, copied into memory.

        Args:
            rows: (B,) images, each readable.
            copies: (B,) which view of each, in [0, ``copies``).

        Returns:
            (B, W) float32.
        """
        part, place = self._places[rows, copies].T
        if len(self._parts) == 1:
            return torch.from_numpy(self._parts[0][place])
        features = np.empty((len(rows), self.width), dtype=np.float32)
        for one in np.unique(part):
            here = part == one
            features[here] = self._parts[one][place[here]]
        return torch.from_numpy(features)


class FeatureCache:
    """Features of images by backbone, views and image, on disk. It is never trimmed: delete the folder to free its space.

    A row belongs to everything that it depends on: weights of the backbone, pooling and preprocessing (:attr:`Embedder.feature_id`),
    kind of device, augmentation and its seed, and the image's path, size, times of change and box. Features of a trained
    backbone would be of no use after the next step; keep a frozen one's.

    Args:
        folder: may be shared by several runs and processes. Where it may not be written, features stay in memory.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._tables: WeakKeyDictionary[Catalogue, dict[tuple[Path, int], FeatureTable]] = WeakKeyDictionary()

    def table(
        self,
        embedder: Embedder,
        catalogue: Catalogue,
        views: Views = PLAIN,
        *,
        workers: int = 0,
        cache: PixelCache | None = None,
        max_unreadable: float = MAX_UNREADABLE,
        progress: Progress | None = None,
    ) -> FeatureTable:
        """The features of images. Those that are not there are computed, in evaluation mode and float32, and kept.

        Args:
            embedder: its backbone and pooling; it stays on its device and in its mode.
            catalogue: N images.
            views: which views of each.
            workers: processes that decode; 0 decodes in this one.
            cache: of decoded pixels.
            max_unreadable: share of unreadable images above which to stop, in [0, 1].
            progress: called with the number of views that are there, and N x copies.

        Raises:
            DataError: too many images, or all, are unreadable.
            DivergenceError: a feature is NaN or infinite.
            SettingsError: the head's pooling is trained, or a setting is out of range.
        """
        device = next(embedder.parameters()).device.type  # another device rounds differently
        folder = self.folder / f"{embedder.feature_id[:32]}-{device}" / views.name
        tables = self._tables.setdefault(catalogue, {})
        if (folder, views.copies) not in tables:
            work = _Work(embedder, catalogue, views, folder)
            tables[folder, views.copies] = work.table(workers, cache, max_unreadable, progress)
        return tables[folder, views.copies]


class _Work:
    """The features of one catalogue: what is on disk, and the rest computed."""

    def __init__(self, embedder: Embedder, catalogue: Catalogue, views: Views, folder: Path) -> None:
        self.embedder, self.catalogue, self.views, self.folder = embedder, catalogue, views, folder
        self.seeds = views.seeds(catalogue)
        self.keys = [
            [_key(image, row, seed, f"{folder.parent.name}/{folder.name}") for seed in seeds]
            for row, (image, seeds) in enumerate(zip(image_keys(catalogue), self.seeds.tolist(), strict=True))
        ]
        self.kind = np.dtype([("key", f"V{KEY_BYTES}"), ("features", "<f4", (embedder.feature_width,))])
        self.parts: list[Float32s] = []
        self.places: dict[bytes, tuple[int, int]] = {}
        self._files: set[Path] = set()
        self._warned = False

    def table(
        self, workers: int, cache: PixelCache | None, max_unreadable: float, progress: Progress | None
    ) -> FeatureTable:
        self._read()
        skipped: tuple[Skipped, ...] = ()
        if self._missing().any():
            with self._locked():
                self._read()  # another process may have computed them meanwhile
                skipped = self._compute(workers, cache, max_unreadable, progress)
        places = np.array([[self.places.get(key, (-1, -1)) for key in keys] for keys in self.keys], dtype=np.int64)
        table = FeatureTable(self.parts, places, self.embedder.feature_width, skipped)
        if not table.readable.any():
            raise DataError(f"none of {counted(len(table), 'image')} can be read. Run `cosphere data check` on them.")
        return table

    def _missing(self) -> NDArray[np.bool_]:
        """Whether each view is not there yet. (N x copies,)."""
        return np.array([key not in self.places for keys in self.keys for key in keys])

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process compute. A folder that may not be written has no lock."""
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(exclusive(stack.enter_context((self.folder / "lock").open("a")).fileno()))
            except OSError as error:
                self._warn(error.strerror or str(error))
            yield

    def _read(self) -> None:
        """Map the files that were written since the last call."""
        for file in sorted(self.folder.glob("*.npy")):
            if file not in self._files:
                self._files.add(file)
                rows = _mapped(file, self.kind)
                if rows is not None:
                    self._add(rows)

    def _add(self, rows: NDArray[np.void]) -> None:
        part = len(self.parts)
        self.parts.append(rows["features"])
        keys = rows["key"].tobytes()
        for row in range(len(rows)):
            self.places.setdefault(keys[row * KEY_BYTES : (row + 1) * KEY_BYTES], (part, row))

    def _compute(
        self, workers: int, cache: PixelCache | None, max_unreadable: float, progress: Progress | None
    ) -> tuple[Skipped, ...]:
        """Compute and write what is missing; return the images that cannot be read."""
        unreadable = UnreadableLog(len(set(self.catalogue.paths)), max_unreadable)
        missing, copies = self._missing(), self.views.copies
        # Batches of fixed positions, so that what is computed after a kill is rounded as without it.
        starts = range(0, len(missing), _BATCH)
        groups = [start + np.flatnonzero(missing[start : start + _BATCH]) for start in starts]
        groups = [group for group in groups if len(group)]
        rows: list[tuple[bytes, Float32s]] = []
        began, done = time.monotonic(), len(missing) - int(missing.sum())
        with evaluation_mode(self.embedder):
            for group, (batch, present) in zip(groups, self._batches(groups, workers, cache), strict=True):
                unreadable.add(batch.skipped)
                if present.any():
                    features = self._forward(batch)
                    keys = [self.keys[at // copies][at % copies] for at in group[present].tolist()]
                    rows += zip(keys, features, strict=True)
                if len(rows) * self.kind.itemsize > _MOST_ROWS_BYTES or time.monotonic() - began > _MOST_SECONDS:
                    self._write(rows)
                    rows, began = [], time.monotonic()
                done += len(group)
                if progress is not None:
                    progress(done, len(missing))
        self._write(rows)
        return tuple(Skipped(*one) for one in unreadable.reasons.items())

    def _batches(self, groups: list[Integers], workers: int, cache: PixelCache | None) -> DataLoader[Item]:
        views, copies = self.views, self.views.copies
        images = ImageRows(self.catalogue, self.embedder.preprocessing, views.augmentation, cache, stand_ins=False)
        draws = [
            [Draw(at // copies, int(self.seeds[at // copies, at % copies])) for at in group.tolist()]
            for group in groups
        ]
        return DataLoader(
            images,
            batch_sampler=draws,
            num_workers=workers,
            collate_fn=_collate,
            generator=own_generator(),  # A loader draws a seed for its workers: not from the global generator.
        )

    def _forward(self, batch: Batch) -> Float32s:
        device = next(self.embedder.parameters()).device
        inputs = self.embedder.preprocessing.to_input(batch.pixels.to(device, non_blocking=True))
        rows: Float32s = infer_features(self.embedder, inputs).numpy()
        return rows

    def _write(self, rows: list[tuple[bytes, Float32s]]) -> None:
        """Write rows as one file and map it; keep them in memory where it cannot be written."""
        content = np.empty(len(rows), dtype=self.kind)
        for place, (key, features) in enumerate(rows):
            content[place] = (key, features)
        if not len(content):
            return
        file = self.folder / f"{_digest(content)}.npy"
        try:
            write_atomic(file, lambda part: _save(part, content))
            remove_left_parts(self.folder)  # their names are digests of their content, which are not written again
        except RunError as error:
            self._warn(str(error))
            self._add(content)
        else:
            self._files.discard(file)  # it may replace a damaged one
            self._read()

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "the features are kept in memory only, because %s cannot be written: %s. Free some space, or choose another "
                "features.folder.",
                self.folder,
                reason,
            )


def _collate(items: list[Item]) -> tuple[Batch, NDArray[np.bool_]]:
    """A batch, and which of the items are in it."""
    return collate(items), np.array([item.pixels is not None for item in items])


def _key(image: bytes, row: int, seed: int, kind: str) -> bytes:
    """Of one view of one image, and of the folder's name: a folder that was renamed holds what it held.

    A file that was not there a moment ago has no key of its own; its row stands in.
    """
    name = (image or f"row {row} {time.time_ns()}".encode()) + kind.encode()
    return hashlib.blake2b(name + seed.to_bytes(8, "little"), digest_size=KEY_BYTES).digest()


def _save(file: Path, content: NDArray[np.void]) -> None:
    with file.open("wb") as stream:  # by handle: numpy would append .npy to the temporary name
        np.save(stream, content, allow_pickle=False)


def _mapped(file: Path, kind: np.dtype[np.void]) -> NDArray[np.void] | None:
    """The rows of a file, memory-mapped; None if it is damaged or of another width."""
    try:
        rows = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return rows if rows.dtype == kind and rows.ndim == 1 and _digest(rows) == file.stem else None


def _digest(content: NDArray[np.void]) -> str:
    return hashlib.blake2b(content.view(np.uint8).data, digest_size=16).hexdigest()
