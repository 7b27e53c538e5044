"""Embedding the images of a catalogue."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from cosphere._types import Flags, Float32s, Integers, Precision, Progress
from cosphere.checks import MOST_IMAGES, MOST_WORKERS, check_choice, check_switches, check_whole
from cosphere.data import Batch, Catalogue, ImageRows, Skipped, UnreadableLog, collate
from cosphere.data.listing import file_keys
from cosphere.data.remarks import MAX_UNREADABLE
from cosphere.embeddings.features import FeatureCache, FeatureTable
from cosphere.embeddings.store import EmbeddingStore, Stored
from cosphere.embeddings.table import Embeddings
from cosphere.errors import DataError, counted
from cosphere.images import PixelCache
from cosphere.models import Embedder
from cosphere.models.inference import evaluation_mode, infer
from cosphere.models.quick import Forward
from cosphere.tensors import own_generator

AUTOCAST = {"float32": None, "bf16": torch.bfloat16}
"""Of each precision, the type to compute in, as ``autocast`` of :meth:`cosphere.models.Embedder.encode` takes it."""
_BLOCK = 4096
"""Rows of features in one pass through a head."""


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
    features: FeatureCache | None = None,
    mirrored: bool = False,
    fast: bool = False,
    progress: Progress | None = None,
) -> Embeddings:
    """Embed every image of a catalogue, in its order, with raw length.

    The embedder runs in evaluation mode; afterwards each of its modules is back in its own mode. No global random generator is
    used, so training is unaffected. Unreadable images are left out and listed in ``skipped``.

    Args:
        embedder: the model; its ``preprocessing`` is applied to the images.
        catalogue: N images.
        batch_size: images that are read together, see :meth:`cosphere.models.Embedder.encode`.
        workers: processes that decode; 0 decodes in a thread of this one. Either way the next batch is read meanwhile.
        device: where to compute; None leaves the embedder where it is.
        precision: ``bf16`` runs the forward pass in bfloat16; embeddings are float32 either way.
        cache: of decoded pixels.
        max_unreadable: share of unreadable images above which to stop, in [0, 1].
        store: rows that this model computed before; only the other images are embedded, and added to it. float32 only.
        features: of the model's backbone; only the head runs on images that are there, and the others are added.
        mirrored: embed the mirror image of each, flipped left to right after preprocessing; ``features`` are then not used.
        fast: embed in the quick form of the model, see :meth:`Embedder.encode`: rows differ by rounding, and ``store`` gives rows
            but keeps none of these.
        progress: called with the number of embedded images.

    Raises:
        DataError: too many images, or all, are unreadable.
        SettingsError: a setting is out of range.
    """
    check_switches(mirrored=mirrored, fast=fast)
    check_whole("batch_size", batch_size, least=1, most=MOST_IMAGES)
    check_whole("workers", workers, least=0, most=MOST_WORKERS)
    check_choice("precision", precision, get_args(Precision))
    if device is not None:
        embedder.to(device)
    store = store.of("mirrored") if store is not None and mirrored else store
    if store is None or precision != "float32":
        rows = np.zeros((len(catalogue), embedder.output_dim), dtype=np.float32)
        read = np.zeros(len(catalogue), dtype=bool)
    else:
        rows, read = store.find(embedder, catalogue)
    missing = np.flatnonzero(~read)
    unreadable = UnreadableLog(len(set(catalogue.paths)), max_unreadable)
    source: Iterator[_Computed]
    if features is None or mirrored or not len(missing):
        images = ImageRows(catalogue, embedder.preprocessing, cache=cache)
        source = _of_images(embedder, images, missing, batch_size, workers, precision, mirrored=mirrored, fast=fast)
    else:
        part = catalogue if len(missing) == len(catalogue) else catalogue.rows(missing)
        table = features.table(embedder, part, workers=workers, cache=cache, max_unreadable=max_unreadable)
        source = _of_features(embedder, table, missing, precision)
    done = len(catalogue) - len(missing)
    with evaluation_mode(embedder):
        for batch in source:
            unreadable.add(batch.skipped)
            rows[batch.rows], read[batch.rows] = batch.values, True
            done += batch.asked
            if progress is not None:
                progress(done, len(catalogue))
    if store is not None and precision == "float32" and not fast and len(missing):
        store.keep(embedder, catalogue, Stored(rows, read))
    if not read.any():
        raise DataError(f"none of {counted(len(catalogue), 'image')} can be read. Run `cosphere data check` on them.")
    lost = [catalogue.paths[row] for row in np.flatnonzero(~read)]  # each row, since several may be boxes of one file
    skipped = tuple(Skipped(path, unreadable.reasons.get(path, "it cannot be read")) for path in lost)
    embeddings = rows if read.all() else rows[read]
    return _table(catalogue, embeddings, read, model_id=embedder.id, skipped=skipped)


class _Computed(NamedTuple):
    """Embeddings of some images."""

    rows: Integers
    """(b,) of the catalogue."""
    values: Float32s
    """(b, D')"""
    asked: int
    """Number of images that were tried; larger than b where some cannot be read."""
    skipped: tuple[Skipped, ...]


def _of_images(
    embedder: Embedder,
    images: ImageRows,
    missing: Integers,
    batch_size: int,
    workers: int,
    precision: Precision,
    *,
    mirrored: bool,
    fast: bool,
) -> Iterator[_Computed]:
    """Through the whole network."""
    loader = DataLoader(
        images,
        batch_size=batch_size,
        sampler=missing.tolist(),
        num_workers=workers,
        collate_fn=collate,
        generator=own_generator(),  # A loader draws a seed for its workers: not from the global generator.
    )
    device = next(embedder.parameters()).device
    autocast = AUTOCAST[precision]
    forward = embedder.inference(fast=True, autocast=autocast) if fast else partial(infer, embedder, autocast=autocast)
    for number, batch in enumerate(_ahead(loader)):
        nothing = np.zeros((0, embedder.output_dim), dtype=np.float32)
        batch = batch._replace(pixels=batch.pixels.flip(-1)) if mirrored else batch
        values = _forward(embedder, batch, device, forward) if len(batch.rows) else nothing
        asked = min(batch_size, len(missing) - number * batch_size)
        yield _Computed(batch.rows.numpy(), values, asked, batch.skipped)


def _of_features(
    embedder: Embedder, table: FeatureTable, missing: Integers, precision: Precision
) -> Iterator[_Computed]:
    """Through the head alone, from features of the missing images."""
    device = next(embedder.parameters()).device
    readable = np.flatnonzero(table.readable)
    for start in range(0, len(readable), _BLOCK):
        some = readable[start : start + _BLOCK]
        values = infer(embedder, table.take(some).to(device), autocast=AUTOCAST[precision]).numpy()
        yield _Computed(missing[some], values, len(some), ())
    left_out = len(table) - len(readable)
    yield _Computed(missing[:0], np.zeros((0, embedder.output_dim), dtype=np.float32), left_out, table.skipped)


def _ahead(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches; a thread makes the next one while the present one is used."""
    source = iter(batches)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, source, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, source, None)
            yield batch


@torch.inference_mode()
def _forward(embedder: Embedder, batch: Batch, device: torch.device, forward: Forward) -> Float32s:
    rows: Float32s = forward(embedder.preprocessing.to_input(batch.pixels.to(device, non_blocking=True))).numpy()
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


def columns_of(catalogue: Catalogue) -> Embeddings:
    """The labels, paths, roles and groups that the embeddings of a catalogue will have, with one constant for each row."""
    rows = np.ones((len(catalogue), 1), dtype=np.float32)
    return _table(catalogue, rows, np.ones(len(catalogue), dtype=bool), model_id="", skipped=())


def number_classes(table: Embeddings, part: Catalogue, whole: Catalogue) -> Embeddings:
    """Number the classes and groups of a part as in the whole catalogue, so that one number is one of them in all its splits.

    Args:
        table: embeddings of ``part``.
        part: a selection of ``whole``.
        whole: the catalogue that counts.
    """
    number = {name: at for at, name in enumerate(whole.label_names)}
    numbers = np.array([number[name] for name in part.label_names], dtype=np.int64)
    table = replace(table, labels=numbers[table.labels], class_names=tuple(whole.class_names))
    return table if table.groups is None else _number_groups(table, table.groups, part, whole)


def _number_groups(table: Embeddings, groups: Integers, part: Catalogue, whole: Catalogue) -> Embeddings:
    """:func:`number_classes` for groups; images without one keep a group of their own, which no other split has."""
    _, every = _sequences(whole)
    names, own = every or (), table.group_names or ()
    number = {name: at for at, name in enumerate(names)}
    named = groups < len(own)
    # Splits before this one have rows of their own without a group.
    order = whole.split_names.index(part.split_names[0])
    before = int(np.isin(whole.splits, whole.split_names[:order]).sum())
    numbers = np.array([number[name] for name in own] or [0], dtype=np.int64)
    alone = len(whole) + before + groups - len(part)
    return replace(table, groups=np.where(named, numbers[np.where(named, groups, 0)], alone), group_names=every)


def _sequences(catalogue: Catalogue) -> tuple[Integers | None, tuple[str, ...] | None]:
    """``sequence`` of a catalogue, numbered from 0, and the names. An image without one is a sequence by itself."""
    if "sequence" not in catalogue.table.columns:
        return None, None
    numbers, names = pd.factorize(catalogue.table["sequence"])  # -1 where it is missing
    alone = len(numbers) + np.arange(len(numbers))
    return np.where(numbers < 0, alone, numbers).astype(np.int64), tuple(map(str, names)) or None
