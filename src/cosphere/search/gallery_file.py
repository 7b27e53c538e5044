"""A file of embeddings, or of an index with the images that its rows show. :mod:`cosphere.search.gallery` is a gallery that changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cosphere.codes import is_codes, to_bits
from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, RunError, SizeError, counted
from cosphere.files import path_of, read_arrays
from cosphere.search.engines import COSINE, ENGINES
from cosphere.search.index import Index

_NUMBERS = ("labels", "boxes")
_TEXTS = ("paths", "files", "ids", "class_names")


@dataclass(frozen=True, eq=False)
class GalleryFile:
    """Images to search, and their index where there is one."""

    images: Embeddings
    """G rows; of an index, what it stores of them, as unit vectors."""
    index: Index | None
    named: bool
    """Whether the paths are those of image files; an index saved by itself knows only its row numbers."""


def save_gallery(path: str | Path, index: Index, images: Embeddings) -> None:
    """Write an index with the paths, classes and boxes of its rows, so that ``cosphere search`` can name what it finds.

    Args:
        path: the .npz file; :meth:`Index.load` reads it too.
        index: of the images.
        images: the G embeddings that it was built from. Their ``model_id`` is stored as the index's.

    Raises:
        SizeError: another number of rows or another width than the index has.
        RunError: it cannot be written.
    """
    if images.embeddings.shape != (len(index), index.dim):
        raise SizeError(
            f"the index has {counted(len(index), 'row')} of {counted(index.dim, 'dimension')}, got {len(images)} of "
            f"{images.embeddings.shape[1]}. Give the images that it was built from."
        )
    index.model_id = images.model_id or index.model_id
    arrays: dict[str, npt.NDArray[Any]] = {name: getattr(images, name) for name in _NUMBERS}
    arrays |= {name: np.array(getattr(images, name), dtype=np.str_) for name in _TEXTS if getattr(images, name)}
    index.save(path, images={name: values for name, values in arrays.items() if values is not None})


def load_gallery(path: str | Path, device: str | torch.device = "cpu") -> GalleryFile:
    """Read embeddings, of ``cosphere embed`` or :meth:`Embeddings.save`, or an index of :func:`save_gallery` or :meth:`Index.save`.

    Args:
        path: the .npz file.
        device: where an index is searched.

    Raises:
        RunError: the file is missing, damaged, or neither.
    """
    path = path_of(path)
    arrays = read_arrays(path, what="a file of embeddings or an index")
    if "kind" not in arrays:
        images = Embeddings.load(path)
        if is_codes(images.embeddings):
            raise RunError(f"{path} holds packed bits; wanted embeddings in floating point. Embed the images again.")
        return GalleryFile(images, None, named=True)
    index = Index.from_arrays(arrays, path, device)
    named = all(name in arrays and len(arrays[name]) == len(index) for name in ("paths", "labels"))
    texts: dict[str, Any] = {name: tuple(arrays[name].tolist()) for name in _TEXTS if named and name in arrays}
    numbers: dict[str, Any] = {name: arrays[name] for name in _NUMBERS if named and name in arrays}
    unnamed: dict[str, Any] = {
        "paths": tuple(f"row {row}" for row in range(len(index))),
        "labels": np.zeros(len(index), dtype=np.int64),
        "class_names": ("",),
    }
    columns = {**unnamed, **texts, **numbers, "model_id": index.model_id}
    labels, names = columns["labels"], columns["class_names"]
    if labels.dtype.kind not in "iu" or not np.isin(labels, np.arange(len(names))).all():
        raise RunError(f"{path} has a label without a class name. Build the index again.")
    return GalleryFile(Embeddings(embeddings=index.rows().cpu().numpy(), **columns), index, named)


def rows_to_keep(file: GalleryFile, path: str | Path) -> Embeddings:
    """The rows of a file that a gallery can hold: those that are not deleted, as floats, or as packed codes of an index of signs.

    Raises:
        DataError: the index keeps rounded rows, which are not the model's embeddings.
    """
    if file.index is None:
        return file.images
    kind, live = ENGINES[file.index.kind], file.images.rows(~file.index.dead)
    if kind.measure == COSINE:
        return live
    if kind.takes_codes:
        return replace(live, embeddings=to_bits(live.embeddings))
    raise DataError(
        f"{path} is an index of kind {file.index.kind!r} ({kind.summary}), which does not keep the model's embeddings. Add the images, "
        "or the file of `cosphere embed`."
    )
