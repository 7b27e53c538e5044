"""Rows of numbers against what a gallery holds: model, width and kind must be its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cosphere.codes import is_codes, to_bits
from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.gallery import Space
from cosphere.gallery.values import check_directions, check_ids
from cosphere.models import Embedder
from cosphere.rows import UnitRows, unit_rows
from cosphere.search.hamming import BitRows, bit_rows


def as_held(
    rows: npt.NDArray[Any], space: Space, path: Path | str, ids: Sequence[Any]
) -> tuple[npt.NDArray[Any] | None, npt.NDArray[Any] | None]:
    """Floats and codes of rows, as a gallery holds them.

    Raises:
        SizeError: another width, another number of ids, or codes where floats are held.
        DataError: only codes are held, and a row has no direction; it is named. Of floats, the store says so.
    """
    if rows.ndim == 2 and is_codes(rows):
        if space.has_floats:
            raise SizeError(
                f"{path} holds float embeddings, got packed codes, from which they cannot be made. Give embeddings."
            )
        return None, rows
    if rows.ndim != 2 or rows.dtype.kind != "f" or rows.shape[1] != space.dim:
        raise SizeError(
            f"{path} holds embeddings of width {space.dim}; got {rows.shape} {rows.dtype}. Embed with its model."
        )
    if not space.has_floats:
        check_directions(rows, check_ids(ids, len(rows)))
    finite = bool(np.isfinite(rows).all())  # else the store names the row
    codes = to_bits(np.ascontiguousarray(rows if finite else np.nan_to_num(rows))) if space.has_codes else None
    return (rows if space.has_floats else None), codes


def as_queries(rows: npt.NDArray[Any], kind: str, space: Space, path: Path | str) -> UnitRows | BitRows:
    """Queries as a search wants them: unit rows, or codes.

    Raises:
        SizeError: another width, or codes where floats are compared.
        DataError: a query holds NaN, or is zero.
    """
    if rows.ndim == 2 and is_codes(rows):
        if kind == "floats":
            raise SizeError(f"{path} is searched by float embeddings, got a packed code. Give the embedding.")
        if rows.shape[1] != space.code_bytes:
            raise SizeError(
                f"{path} holds codes of {space.code_bytes} bytes; the query has {rows.shape[1]}. Use its model."
            )
        return bit_rows(rows, name="queries")
    if rows.ndim != 2 or rows.dtype.kind != "f" or rows.shape[1] != space.dim:
        raise SizeError(
            f"{path} holds embeddings of width {space.dim}; the query is {rows.shape[1:]} {rows.dtype}. Use its model."
        )
    units = unit_rows(rows, name="queries")
    if not bool(units.rows.any(dim=1).all()):
        raise DataError("a query is zero and has no direction. Leave it out.")
    return units if kind == "floats" else bit_rows(to_bits(np.ascontiguousarray(rows)), name="queries")


def new_space(
    embedder: Embedder | None, dim: int | None, holds: str, model: str | Path = "", model_id: str = ""
) -> Space:
    """What the rows of a new gallery are: those of a model, or of a given width.

    Raises:
        SettingsError: neither is given, or they disagree.
    """
    if embedder is None:
        if dim is None:
            raise SettingsError("how wide are the embeddings? Give dim, or the embedder that makes them.")
        return Space(dim=dim, holds=holds, model_id=model_id, model=str(model))
    if dim not in (None, embedder.output_dim):
        raise SettingsError(f"dim is {dim}, but the embedder makes {embedder.output_dim} numbers. Leave dim out.")
    return space_of(embedder, holds, model)


def space_of(embedder: Embedder, holds: str, model: str | Path = "") -> Space:
    """What the rows of a model are."""
    return Space(
        dim=embedder.output_dim,
        holds=holds,
        model_id=embedder.id,
        model=str(model),
        preprocessing=embedder.preprocessing.as_dict(),
    )


def check_model(space: Space, embedder: Embedder, path: Path | str) -> None:
    """Raise unless a gallery's rows are of this model.

    Raises:
        DataError: they are of another one, or of another width.
    """
    if space.model_id and space.model_id != embedder.id:
        raise other_model(path, space, embedder.id)
    if space.dim != embedder.output_dim:
        raise DataError(
            f"{path} holds embeddings of width {space.dim}; the model makes {embedder.output_dim}. Give the model that made them."
        )


def other_model(path: Path | str, space: Space, other: str) -> DataError:
    """The error for rows of another model."""
    return DataError(
        f"{path} holds embeddings of model {space.model_id[:12]}; these would be of model {other[:12]}. Give the model that made "
        "them, or move the gallery to the new one with `cosphere index migrate`."
    )
