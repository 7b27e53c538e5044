"""From a catalogue of images to embeddings on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from cosphere._types import Flags, Integers, Progress
from cosphere.codes import is_codes
from cosphere.data import Batch, Catalogue, ImageRows, Skipped, UnreadableLog, collate
from cosphere.data.dataset import MAX_UNREADABLE
from cosphere.errors import DataError, RunError, SettingsError, SizeError, did_you_mean
from cosphere.files import read_arrays, write_arrays
from cosphere.images import PixelCache
from cosphere.models import Embedder

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Embeddings:
    """N embeddings and what each shows. Written to ``embeddings/<split>.npz`` of a run.

    Raises:
        SizeError: the parts do not have N rows.
    """

    embeddings: npt.NDArray[np.float32]
    """(N, D) raw, any length."""
    labels: Integers
    """(N,) int64 in [0, C)."""
    paths: tuple[str, ...]
    """N absolute paths of the images."""
    class_names: tuple[str, ...]
    """C names."""
    is_query: Flags | None = None
    """(N,) which rows are queries; None: all."""
    is_gallery: Flags | None = None
    """(N,) which rows can be found; None: all."""
    boxes: Integers | None = None
    """(N, 4) pixels (left, top, right, bottom), -1 for the whole image; None: all whole."""
    groups: Integers | None = None
    """(N,) such as the camera or sequence: a query does not meet images of its class and group. None: no groups."""
    skipped: tuple[Skipped, ...] = ()
    """The images that could not be read. Not written to the file."""

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2:
            raise SizeError(f"want embeddings (N, D), got {self.embeddings.shape}. Give one row for each image.")
        for name in ("labels", "paths", "is_query", "is_gallery", "boxes", "groups"):
            part = getattr(self, name)
            if part is not None and len(part) != len(self.embeddings):
                raise SizeError(
                    f"want one of {name} for each of {len(self.embeddings)} embeddings, got {len(part)}. "
                    "Take both from the same images."
                )

    def __len__(self) -> int:
        """N."""
        return len(self.embeddings)

    def save(self, path: str | Path) -> None:
        """Write one .npz, all or nothing, which numpy reads without pickle.

        Raises:
            RunError: it cannot be written.
        """
        arrays: dict[str, Any] = {
            "embeddings": self.embeddings,
            "labels": self.labels,
            "paths": np.array(self.paths, dtype=np.str_),
            "class_names": np.array(self.class_names, dtype=np.str_),
        }
        optional = {name: getattr(self, name) for name in ("is_query", "is_gallery", "boxes", "groups")}
        arrays |= {name: part for name, part in optional.items() if part is not None}
        write_arrays(Path(path), arrays)

    @classmethod
    def load(cls, path: str | Path) -> Embeddings:
        """Read what :meth:`save` wrote.

        Raises:
            RunError: there is no such file, or it holds no embeddings, or labels without a name.
        """
        arrays = read_arrays(Path(path), what="a file of embeddings; cosphere embed makes one")
        missing = [name for name in ("embeddings", "labels", "paths", "class_names") if name not in arrays]
        if missing:
            raise RunError(f"{path} is not a file of embeddings: it has no {', '.join(missing)}. Embed again.")
        rows, labels, names = arrays["embeddings"], arrays["labels"], arrays["class_names"]
        if not len(rows) or labels.dtype.kind not in "iu" or not np.isin(labels, np.arange(len(names))).all():
            raise RunError(f"{path} holds no image, or a label without a class name. Embed again.")
        return cls(
            embeddings=rows if is_codes(rows) else np.asarray(rows, dtype=np.float32),
            labels=labels.astype(np.int64),
            paths=tuple(arrays["paths"].tolist()),
            class_names=tuple(names.tolist()),
            is_query=arrays.get("is_query"),
            is_gallery=arrays.get("is_gallery"),
            boxes=arrays.get("boxes"),
            groups=arrays.get("groups"),
        )


def embed_catalogue(
    embedder: Embedder,
    catalogue: Catalogue,
    *,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device | None = None,
    precision: Precision = "float32",
    cache: PixelCache | None = None,
    max_unreadable: float = MAX_UNREADABLE,
    progress: Progress | None = None,
) -> Embeddings:
    """Embed every image of a catalogue, in its order, with raw length.

    The embedder is in evaluation mode meanwhile; each of its modules is left in the mode it was in. No global random
    generator is used, so training may go on as if nothing had happened. Unreadable images are left out and named.

    Args:
        embedder: its own ``preprocessing`` prepares the images.
        catalogue: N images.
        batch_size: images in one forward pass.
        workers: processes that decode; 0 decodes in this one.
        device: where to compute; None stays where the embedder is.
        precision: ``bf16`` runs the forward pass in bfloat16; embeddings are float32 either way.
        cache: of decoded pixels.
        max_unreadable: in [0, 1], the share of unreadable images above which to stop.
        progress: told how many images are done.

    Raises:
        DataError: too many images are unreadable, or all.
        SettingsError: a setting is out of range.
    """
    _check_settings(batch_size, workers, precision)
    if device is not None:
        embedder.to(device)
    where = next(embedder.parameters()).device
    loader = DataLoader(
        ImageRows(catalogue, embedder.preprocessing, cache=cache),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator(),  # Its own: a loader draws a seed for its workers.
    )
    found = np.zeros((len(catalogue), embedder.dim), dtype=np.float32)
    read = np.zeros(len(catalogue), dtype=bool)
    unreadable = UnreadableLog(len(catalogue), max_unreadable)
    done = 0
    with evaluation_mode(embedder):
        for batch in loader:
            unreadable.add(batch.skipped)
            if len(batch.rows):
                found[batch.rows.numpy()] = _forward(embedder, batch, where, precision)
                read[batch.rows.numpy()] = True
            done = min(done + batch_size, len(catalogue))
            if progress is not None:
                progress(done, len(catalogue))
    if not read.any():
        raise DataError(f"none of {len(catalogue)} images can be read. Run `cosphere data check` on them.")
    return _kept(found, read, catalogue, tuple(Skipped(*one) for one in unreadable.reasons.items()))


def _check_settings(batch_size: int, workers: int, precision: str) -> None:
    if batch_size < 1:
        raise SettingsError(f"batch_size must be at least 1 image, got {batch_size}.")
    if workers < 0:
        raise SettingsError(f"workers must be at least 0 processes, got {workers}.")
    if precision not in get_args(Precision):
        raise SettingsError(f"there is no precision {precision!r}. {did_you_mean(precision, get_args(Precision))}")


@torch.inference_mode()
def _forward(embedder: Embedder, batch: Batch, device: torch.device, precision: Precision) -> npt.NDArray[np.float32]:
    inputs = embedder.preprocessing.to_input(batch.pixels.to(device, non_blocking=True))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        embeddings = embedder(inputs)
    result: npt.NDArray[np.float32] = embeddings.float().cpu().numpy()
    return result


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while. Afterwards each module is as it was: frozen batch norms stay frozen."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _kept(
    found: npt.NDArray[np.float32], read: Flags, catalogue: Catalogue, skipped: tuple[Skipped, ...]
) -> Embeddings:
    """The rows that could be read."""
    columns = catalogue.table.columns
    flags = {
        name: catalogue.table[name].to_numpy(dtype=bool)[read] for name in ("is_query", "is_gallery") if name in columns
    }
    # Plain text: a CIFAR row's "batch.bin#7" is no path, and 60 000 Path objects are slow.
    paths = [os.path.abspath(path) for path, whole in zip(catalogue.paths, read, strict=True) if whole]  # noqa: PTH100
    groups = _sequences(catalogue)
    return Embeddings(
        embeddings=found if read.all() else found[read],
        labels=catalogue.labels[read],
        paths=tuple(paths),
        class_names=tuple(catalogue.class_names),
        is_query=flags.get("is_query"),
        is_gallery=flags.get("is_gallery"),
        boxes=None if catalogue.boxes is None else catalogue.boxes[read],
        groups=None if groups is None else groups[read],
        skipped=skipped,
    )


def _sequences(catalogue: Catalogue) -> Integers | None:
    """``sequence`` of a catalogue, numbered from 0. An image whose sequence is not given is a sequence by itself."""
    if "sequence" not in catalogue.table.columns:
        return None
    found = pd.factorize(catalogue.table["sequence"])[0].astype(np.int64)  # -1 where it is missing
    return np.where(found < 0, len(found) + np.arange(len(found)), found)
