"""Searching a collection of images as one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosphere.checks import check_whole
from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, SettingsError
from cosphere.experiment.embedding import check_embedding, embed_source
from cosphere.experiment.images import ALL
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.models import load_model
from cosphere.files import path_of
from cosphere.models import Embedder
from cosphere.search.answer import PLAIN, Answer, answer
from cosphere.search.gallery_file import load_gallery
from cosphere.search.index import Index
from cosphere.search.kinds import AUTO, check_kind
from cosphere.search.own import own_rows
from cosphere.search.refining import Refinement
from cosphere.search.self_check import check_wanted_recall

if TYPE_CHECKING:
    from cosphere.data import Classes


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
    refine: Refinement = PLAIN,
    split: str = ALL,
    layout: str = "auto",
    classes: Classes | None = None,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    max_unreadable: float | None = None,
    listener: Listener = SILENT,
) -> Searched:
    """The images of a collection that are nearest to each query.

    Args:
        model: a run's folder or a model bundle.
        source: the images to search: folder, table or benchmark root. Or an .npz file of :func:`embed_images` or of a saved
            index, made with the same model: then no image is read, and ``split``, ``layout`` and ``classes`` do not apply.
        queries: image files or pictures. A file of the collection is left out of its own answer.
        k: number of images to return for each query; lowered with a note where there are fewer.
        kind: how the index stores an image, see :class:`cosphere.search.Index`, or "auto"; a saved index keeps its own.
        wanted_recall: refuse an index that finds less than this share of what exact search finds, in [0, 1].
        refine: expansion of queries, re-ranking, and what is shown of the images found.
        split: split to search in; ``all`` for every image.
        layout: how the source is laid out.
        classes: which of nested class folders is the class, "top" or "leaf"; None takes what the run was trained with.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images that are read together, see :meth:`cosphere.models.Embedder.encode`.
        workers: processes that decode.
        max_unreadable: tolerated share of unreadable images, in [0, 1]; None takes what the run was trained with, for a bundle
            0.01.
        listener: receives notes of the data, and progress.

    Raises:
        RunError, WeightsError: there is no model, or it is damaged; or the .npz file is.
        DataError: too many images cannot be read, there is no such split, or the .npz file was made by another model.
        SettingsError, SizeError: an unknown kind, a k out of range, or an index that finds too little.
    """
    check_kind(kind, auto=True)  # before minutes of embedding
    check_wanted_recall(wanted_recall)
    check_whole("k", k, least=1)
    check_embedding(batch_size, workers, max_unreadable)
    embedder = load_model(model, device)
    if is_gallery_file(source):
        images, index = _read_gallery(path_of(source), embedder, split, kind, wanted_recall, listener)
    else:
        index = None
        images = embed_source(
            embedder,
            model,
            source,
            split=split,
            layout=layout,
            classes=classes,
            batch_size=batch_size,
            workers=workers,
            max_unreadable=max_unreadable,
            listener=listener,
        )
    reach = len(images) - max((len(own_rows(query, images)) for query in queries), default=0)
    if 0 < reach < k:
        listener.note(f"k lowered from {k} to {reach}: no more images can be found")
    answers = answer(
        queries,
        embedder,
        images,
        min(k, max(reach, 1)),  # with nothing to find, it says so
        kind=kind,
        wanted_recall=wanted_recall,
        index=index,
        refine=refine,
        batch_size=batch_size,
    )
    return Searched(images, tuple(answers))


def is_gallery_file(source: str | Path) -> bool:
    """Whether the source is a file of embeddings or an index, rather than images."""
    return path_of(source).suffix.lower() == ".npz" and not path_of(source).is_dir()


def _read_gallery(
    path: Path, embedder: Embedder, split: str, kind: str, wanted_recall: float | None, listener: Listener
) -> tuple[Embeddings, Index | None]:
    """Saved embeddings or a saved index, checked against the model that encodes the queries."""
    if split != ALL:
        raise SettingsError(f"{path} holds no splits, so --split {split} does not apply. Leave --split out.")
    gallery = load_gallery(path, next(embedder.parameters()).device)
    images, index = gallery.images, gallery.index
    width = images.embeddings.shape[1]
    again = "Embed the images again with this model, or give the model that made the file."
    if width != embedder.output_dim:
        raise DataError(f"{path} holds embeddings of width {width}; the model makes {embedder.output_dim}. {again}")
    if images.model_id and images.model_id != embedder.id:
        raise DataError(
            f"{path} was made by model {images.model_id[:12]}; the queries would be encoded by {embedder.id[:12]}. {again}"
        )
    if not images.model_id:
        listener.note(f"{path} does not say which model made it, so only the width of its embeddings was checked")
    if not gallery.named:
        listener.note(
            f"{path} holds no paths, so its rows are shown by number; save_gallery stores paths with an index"
        )
    if index is not None and kind not in ("exact", AUTO, index.kind):
        raise SettingsError(
            f"{path} is an index of kind {index.kind!r}, so --kind {kind} does not apply. Leave it out."
        )
    if index is not None and wanted_recall is not None:
        if index.check is None:
            raise SettingsError(f"{path} was saved without a check of its recall. Leave --wanted_recall out.")
        index.check.require(wanted_recall, f"the index {path}")
    return images, index
