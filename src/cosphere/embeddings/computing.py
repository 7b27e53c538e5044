"""Embedding the images of a catalogue."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from cosphere._types import Flags, Float32s, Integers, Progress
from cosphere.checks import MOST_IMAGES, MOST_WORKERS, check_choice, check_whole
from cosphere.data import Batch, Catalogue, ImageRows, Skipped, UnreadableLog, collate
from cosphere.data.dataset import MAX_UNREADABLE
from cosphere.data.listing import file_keys
from cosphere.embeddings.store import EmbeddingStore, Stored
from cosphere.embeddings.table import Embeddings
from cosphere.errors import DataError
from cosphere.images import PixelCache
from cosphere.models import Embedder
from cosphere.models.inference import evaluation_mode, infer

Precision = Literal["float32", "bf16"]


def embed(
    embedder: Embedder,
    catalogue: Catalogue,
    *,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device | None = None,
    precision: Precision = "float32",
    cache: PixelCache | None = None,
    max_unreadable: float = MAX_UNREADABLE,
    store: EmbeddingStore | None = None,
    progress: Progress | None = None,
) -> Embeddings:
    """Embed every image of a catalogue, in its order, with raw length.

    The embedder runs in evaluation mode; afterwards each of its modules is back in its own mode. No global random generator is
    used, so training is unaffected. Unreadable images are left out and listed in ``skipped``.

    Args:
        embedder: the model; its ``preprocessing`` is applied to the images.
        catalogue: N images.
        batch_size: images in one forward pass.
        workers: processes that decode; 0 decodes in this one.
        device: where to compute; None leaves the embedder where it is.
        precision: ``bf16`` runs the forward pass in bfloat16; embeddings are float32 either way.
        cache: of decoded pixels.
        max_unreadable: share of unreadable images above which to stop, in [0, 1].
        store: rows that this model computed before; only the other images are embedded, and added to it. float32 only.
        progress: called with the number of embedded images.

    Raises:
        DataError: too many images, or all, are unreadable.
        SettingsError: a setting is out of range.
    """
    check_whole("batch_size", batch_size, least=1, most=MOST_IMAGES)
    check_whole("workers", workers, least=0, most=MOST_WORKERS)
    check_choice("precision", precision, get_args(Precision))
    if device is not None:
        embedder.to(device)
    where = next(embedder.parameters()).device
    if store is None or precision != "float32":
        rows = np.zeros((len(catalogue), embedder.output_dim), dtype=np.float32)
        read = np.zeros(len(catalogue), dtype=bool)
    else:
        rows, read = store.find(embedder, catalogue)
    missing = np.flatnonzero(~read)
    loader = DataLoader(
        ImageRows(catalogue, embedder.preprocessing, cache=cache),
        batch_size=batch_size,
        sampler=missing.tolist(),
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator(),  # A loader draws a seed for its workers: not from the global generator.
    )
    unreadable = UnreadableLog(len(catalogue), max_unreadable)
    done = len(catalogue) - len(missing)
    with evaluation_mode(embedder):
        for batch in loader:
            unreadable.add(batch.skipped)
            if len(batch.rows):
                rows[batch.rows.numpy()] = _forward(embedder, batch, where, precision)
                read[batch.rows.numpy()] = True
            done = min(done + batch_size, len(catalogue))
            if progress is not None:
                progress(done, len(catalogue))
    if store is not None and precision == "float32" and len(missing):
        store.keep(embedder, catalogue, Stored(rows, read))
    if not read.any():
        raise DataError(f"none of {len(catalogue)} images can be read. Run `cosphere data check` on them.")
    skipped = tuple(Skipped(*one) for one in unreadable.reasons.items())
    embeddings = rows if read.all() else rows[read]
    return _table(catalogue, embeddings, read, model_id=embedder.id, skipped=skipped)


@torch.inference_mode()
def _forward(embedder: Embedder, batch: Batch, device: torch.device, precision: Precision) -> Float32s:
    inputs = embedder.preprocessing.to_input(batch.pixels.to(device, non_blocking=True))
    rows: Float32s = infer(embedder, inputs, autocast=torch.bfloat16 if precision == "bf16" else None).numpy()
    return rows


def _table(
    catalogue: Catalogue, embeddings: Float32s, read: Flags, *, model_id: str, skipped: tuple[Skipped, ...]
) -> Embeddings:
    """Embeddings (n, D) of the n images that could be read, with the columns of their catalogue."""
    columns = catalogue.table.columns
    flags = {
        name: catalogue.table[name].to_numpy(dtype=bool)[read] for name in ("is_query", "is_gallery") if name in columns
    }
    # Plain text: "batch.bin#7" is not a path, and 60 000 Path objects are slow.
    paths = [os.path.abspath(path) for path, whole in zip(catalogue.paths, read, strict=True) if whole]  # noqa: PTH100
    groups, group_names = _sequences(catalogue)
    return Embeddings(
        embeddings=embeddings,
        labels=catalogue.labels[read],
        paths=tuple(paths),
        class_names=tuple(catalogue.class_names),
        is_query=flags.get("is_query"),
        is_gallery=flags.get("is_gallery"),
        boxes=None if catalogue.boxes is None else catalogue.boxes[read],
        groups=None if groups is None else groups[read],
        group_names=group_names,
        files=tuple(file_keys(paths)),
        model_id=model_id,
        fingerprint=catalogue.fingerprint(),
        skipped=skipped,
    )


def number_classes(table: Embeddings, part: Catalogue, whole: Catalogue) -> Embeddings:
    """Number the classes of a part as in the whole catalogue, so that one number is one class in all its splits.

    Args:
        table: embeddings of ``part``.
        part: a selection of ``whole``.
        whole: the catalogue that counts.
    """
    number = {name: at for at, name in enumerate(whole.label_names)}
    numbers = np.array([number[name] for name in part.label_names], dtype=np.int64)
    return replace(table, labels=numbers[table.labels], class_names=tuple(whole.class_names))


def _sequences(catalogue: Catalogue) -> tuple[Integers | None, tuple[str, ...] | None]:
    """``sequence`` of a catalogue, numbered from 0, and the names. An image without one is a sequence by itself."""
    if "sequence" not in catalogue.table.columns:
        return None, None
    numbers, names = pd.factorize(catalogue.table["sequence"])  # -1 where it is missing
    alone = len(numbers) + np.arange(len(numbers))
    return np.where(numbers < 0, alone, numbers).astype(np.int64), tuple(map(str, names)) or None
