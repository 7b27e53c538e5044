"""What callers of a gallery give: images, ids and metadata in several forms, as lists of equal length."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from cosphere.data.boxes import BOX, MOST_EDGE, NO_BOX, edges, faults
from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, SizeError, counted
from cosphere.files import path_of
from cosphere.gallery.values import check_ids, in_order
from cosphere.models.reading import taken
from cosphere.search.pictures import Box


class Pictures(NamedTuple):
    """N images to add."""

    pictures: list[Any]
    ids: list[str]
    metadata: list[dict[str, Any]]


def is_numbers(value: Any, *, one: bool = False) -> bool:
    """Whether a value is rows of numbers rather than images: two dimensions, or one for a single row."""
    return isinstance(value, np.ndarray | Tensor) and value.ndim == (1 if one else 2) and _is_plain(value)


def odd_numbers(value: Any) -> str:
    """What numbers came in a form that is no rows, such as a list of lists; empty for images."""
    if isinstance(value, np.ndarray | Tensor) and value.ndim < 3 and _is_plain(value):
        return f"{tuple(value.shape)} {value.dtype}"
    first = value[0] if isinstance(value, list | tuple) and value else None
    row = isinstance(first, list | tuple | int | float | np.number) or is_numbers(first, one=True)
    odd = row or hasattr(value, "columns") or isinstance(value, Iterator)
    return "" if not odd else "an iterator" if isinstance(value, Iterator) else f"a {type(value).__name__}"


def _is_plain(value: Any) -> bool:
    return not isinstance(value, np.ndarray) or value.dtype.kind not in "OSU"


def per_item(metadata: Any, count: int) -> list[Mapping[str, Any] | None]:
    """Metadata as one mapping for each item.

    Args:
        metadata: N mappings; or a mapping or DataFrame of columns, each with N values, one value standing for all; or None.
        count: N.

    Raises:
        SizeError: another number of values.
    """
    if metadata is None:
        return [None] * count
    if hasattr(metadata, "to_dict") and hasattr(metadata, "columns"):
        metadata = {str(name): metadata[name].tolist() for name in metadata.columns}
    if isinstance(metadata, Mapping):
        columns = {name: _column(name, values, count) for name, values in metadata.items()}
        return [{name: values[place] for name, values in columns.items()} for place in range(count)]
    if isinstance(metadata, Iterator):
        metadata = list(metadata)
    if isinstance(metadata, str) or not isinstance(metadata, Sequence) or len(metadata) != count:
        size = (
            len(metadata) if hasattr(metadata, "__len__") and not isinstance(metadata, str) else type(metadata).__name__
        )
        raise SizeError(
            f"want metadata of {counted(count, 'item')}, got {size}. Give one mapping for each, or columns."
        )
    return list(metadata)


def _column(name: Any, values: Any, count: int) -> Sequence[Any]:
    if isinstance(values, set | frozenset | Iterator):
        values = in_order(values, f"values of column {name!r}")
    if isinstance(values, str | bytes) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) == 0:
        return [values] * count
    if len(values) != count:
        raise SizeError(f"column {name!r} has {len(values)} values for {counted(count, 'item')}. Give one for each.")
    return list(values)


def as_table(pictures: Any, ids: Sequence[Any] | None, metadata: Any) -> Pictures:
    """Images with their ids and metadata; a path is its own id, and becomes the column ``path``.

    Raises:
        DataError: images that are not files need ids.
        SizeError: counts differ, or what belongs together has no order.
    """
    if isinstance(pictures, set | frozenset) and not (ids is None and metadata is None):
        in_order(pictures, "images with ids or metadata of their own")
    listed = taken(pictures)
    paths = [os.path.abspath(path_of(one)) if isinstance(one, str | Path) else None for one in listed]  # noqa: PTH100
    if ids is None:
        if None in paths:
            raise DataError("images that are not files need ids. Give ids, a list of texts.")
        ids = paths
    texts = check_ids(ids, len(listed))
    given = per_item(metadata, len(listed))
    columns = [
        ({} if path is None else {"path": path}) | dict(one or {}) for path, one in zip(paths, given, strict=True)
    ]
    return Pictures(listed, texts, columns)


def box_of(metadata: Mapping[str, Any]) -> Box | None:
    """The box of an image in its metadata, pixels (left, top, right, bottom); None for the whole image.

    Columns of these names that hold something else than four numbers of pixels are no box. Edges are rounded as in :func:`boxes_of`.
    """
    values = [_number(metadata.get(name)) for name in BOX]
    whole = [None if value is None or not abs(value) <= MOST_EDGE else round(value) for value in values]
    left, top, right, bottom = (-1 if edge is None else edge + (edge == -1) for edge in whole)
    return None if None in whole else (left, top, right, bottom)


def boxes_of(metadata: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Box | None]:
    """The boxes of N images to add, pixels (left, top, right, bottom); None for a whole image, which has none of the columns.

    Args:
        metadata: of each.
        names: of the images, for errors.

    Raises:
        DataError: a box lacks an edge, or cannot be used.
    """
    cells = [[one.get(edge) for edge in BOX] for one in metadata]
    boxed = [place for place, values in enumerate(cells) if any(value is not None for value in values)]
    values = np.array([_numbers(cells[place], names[place]) for place in boxed]).reshape(-1, len(BOX))
    for at, reason in faults(values).items():
        raise DataError(f"{names[boxed[at]]}: {reason}. {_BOXES}")
    boxes: list[Box | None] = [None] * len(cells)
    for place, (left, top, right, bottom) in zip(boxed, edges(values).tolist(), strict=True):
        boxes[place] = None if left == NO_BOX else (left, top, right, bottom)
    return boxes


_BOXES = "Boxes are x_1, y_1, x_2, y_2 in pixels, right and bottom exclusive; a whole image has none of them."


def _numbers(cells: Sequence[Any], name: str) -> list[float]:
    for value in cells:
        if value is not None and _number(value) is None:
            raise DataError(f"{name}: an edge of the box is {value!r}; wanted a number. {_BOXES}")
    return [np.nan if value is None else float(_number(value) or 0) for value in cells]


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?\d{1,9}", value, re.ASCII) else None
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return float(value) if number else None


def columns_of_table(table: Embeddings) -> list[dict[str, Any]]:
    """Metadata of embeddings: path, label where there is one, and box."""
    columns: list[dict[str, Any]] = []
    for row, (path, label) in enumerate(zip(table.paths, table.labels.tolist(), strict=True)):
        one: dict[str, Any] = {"path": path}
        if table.class_names[label]:
            one["label"] = table.class_names[label]
        if table.boxes is not None and table.boxes[row, 0] >= 0:
            one |= dict(zip(BOX, table.boxes[row].tolist(), strict=True))
        columns.append(one)
    return columns


class Described(NamedTuple):
    """Rows of a table, each to become an item."""

    rows: list[int]
    """Of rows that show one picture, the first; all of a table with ids."""
    ids: list[str]
    """Those of the table, or the path of each image, with ``@left,top,right,bottom`` where it has a box."""
    metadata: list[dict[str, Any]]


def described(table: Embeddings) -> Described:
    """Which rows of a table become items, with their ids and metadata."""
    columns = columns_of_table(table)
    if table.ids is not None:
        return Described(list(range(len(table))), list(table.ids), columns)
    rows = np.sort(np.unique(table.identities(), return_index=True)[1]).tolist()
    boxes = [box_of(columns[row]) for row in rows]
    ids = [
        columns[row]["path"] if box is None else f"{columns[row]['path']}@{','.join(map(str, box))}"
        for row, box in zip(rows, boxes, strict=True)
    ]
    return Described(rows, ids, [columns[row] for row in rows])
