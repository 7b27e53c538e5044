"""What the rows of a set of embeddings are grouped by."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from cosphere.data import Catalogue
from cosphere.evaluate._relevance import Column, integer_column
from cosphere.evaluate.embeddings import Embeddings


class RowColumns(NamedTuple):
    """Groupings of N rows, where there are any."""

    groups: Column | None
    """(N,) such as the camera or sequence."""
    categories: Column | None
    """(N,) such as the super class."""

    @classmethod
    def of(cls, count: int, groups: Any | None, categories: Any | None) -> RowColumns:
        """Check both against the number of rows.

        Raises:
            SizeError: not one integer for each row.
        """
        return cls(
            None if groups is None else integer_column(groups, count, "groups"),
            None if categories is None else integer_column(categories, count, "categories"),
        )

    def at(self, rows: npt.NDArray[np.int64]) -> RowColumns:
        """Of some rows only."""
        return RowColumns(*(None if column is None else column[rows] for column in self))


def catalogue_columns(embeddings: Embeddings, catalogue: Catalogue) -> RowColumns:
    """``sequence`` and ``category`` of a catalogue, numbered from 0, for the images that could be read.

    An image whose sequence is not given is a sequence by itself; those whose category is not given are one category.
    """
    table = catalogue.table
    if not {"sequence", "category"} & set(table.columns):
        return RowColumns(None, None)
    kept = _readable(embeddings, catalogue)
    groups = categories = None
    if "sequence" in table.columns:
        groups = pd.factorize(table["sequence"])[0].astype(np.int64)  # -1 where it is missing
        groups = np.where(groups < 0, len(groups) + np.arange(len(groups)), groups)[kept]
    if "category" in table.columns:
        categories = pd.factorize(table["category"])[0].astype(np.int64)[kept]
    return RowColumns(groups, categories)


def _readable(embeddings: Embeddings, catalogue: Catalogue) -> npt.NDArray[np.bool_]:
    """(rows of the catalogue,) which were embedded: known by path and box, as one picture may hold several boxes."""
    if len(embeddings) == len(catalogue):
        return np.ones(len(catalogue), dtype=bool)

    def keys(paths: Any, boxes: Any) -> Any:
        return pd.Index(list(zip(paths, *(() if boxes is None else np.asarray(boxes).T.tolist()), strict=True)))

    every = keys((os.path.abspath(path) for path in catalogue.paths), catalogue.boxes)  # noqa: PTH100
    return np.asarray(every.isin(keys(embeddings.paths, embeddings.boxes)), dtype=bool)
