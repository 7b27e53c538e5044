"""Searching a collection of images as one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosphere.data import Classes
from cosphere.embeddings import Embeddings
from cosphere.experiment.embedding import embed_images
from cosphere.experiment.images import ALL
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.models import load_model
from cosphere.search.answer import Answer, answer
from cosphere.search.index import check_kind
from cosphere.search.self_check import check_wanted_recall


@dataclass(frozen=True, eq=False)
class Searched:
    """A collection of images and what was found in it."""

    images: Embeddings
    answers: tuple[Answer, ...]
    """One for each query, in order."""


def search_images(
    model: str | Path,
    source: str | Path,
    queries: Sequence[Any],
    *,
    k: int = 8,
    kind: str = "exact",
    wanted_recall: float | None = None,
    split: str = ALL,
    layout: str = "auto",
    classes: Classes | None = None,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    listener: Listener = SILENT,
) -> Searched:
    """The images of a collection that are nearest to each query.

    Args:
        model: a run's folder or a model bundle.
        source: the images to search: folder, table or benchmark root.
        queries: image files or pictures. A file of the collection is left out of its own answer.
        k: number of images to return for each query; lowered with a note where there are fewer.
        kind: how the index stores an image, see :class:`cosphere.search.Index`.
        wanted_recall: refuse an index that finds less than this share of what exact search finds, in [0, 1].
        split: split to search in; ``all`` for every image.
        layout: how the source is laid out.
        classes: which of nested class folders is the class, "top" or "leaf"; None takes what the run was trained with.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images in one forward pass.
        workers: processes that decode.
        listener: receives notes of the data, and progress.

    Raises:
        RunError, WeightsError: there is no model, or it is damaged.
        DataError: an image cannot be read, or there is no such split.
        SettingsError, SizeError: an unknown kind, a k out of range, or an index that finds too little.
    """
    check_kind(kind)  # before minutes of embedding
    check_wanted_recall(wanted_recall)
    images = embed_images(
        model,
        source,
        split=split,
        layout=layout,
        classes=classes,
        device=device,
        batch_size=batch_size,
        workers=workers,
        listener=listener,
    )
    embedder = load_model(model, device)
    fitting = min(k, _reachable(queries, images))
    if fitting < k:
        listener.note(f"k lowered from {k} to {fitting}: no more images can be found")
    answers = answer(queries, embedder, images, fitting, kind=kind, wanted_recall=wanted_recall, batch_size=batch_size)
    return Searched(images, tuple(answers))


def _reachable(queries: Sequence[Any], images: Embeddings) -> int:
    """Number of images that every query can find: all but those of its own file; at least 1."""
    files = [os.path.realpath(path) for path in images.paths]
    own = [files.count(os.path.realpath(query)) for query in queries if isinstance(query, str | Path)]
    return max(1, len(images) - max(own, default=0))
