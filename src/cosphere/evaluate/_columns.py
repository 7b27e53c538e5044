"""Groups and categories of the rows of a set of embeddings."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from cosphere._types import Integers
from cosphere.data import Catalogue
from cosphere.embeddings import Embeddings
from cosphere.evaluate._relevance import Column, integer_column


class RowColumns(NamedTuple):
    """Optional groupings of N rows."""

    groups: Column | None
    """(N,) such as the camera or sequence."""
    categories: Column | None
    """(N,) such as the super class."""

    @classmethod
    def of(cls, count: int, groups: Any | None, categories: Any | None) -> RowColumns:
        """Check both columns against the number of rows.

        Raises:
            SizeError: not one integer for each row.
        """
        return cls(
            None if groups is None else integer_column(groups, count, "groups"),
            None if categories is None else integer_column(categories, count, "categories"),
        )

    def at(self, rows: Integers) -> RowColumns:
        """The columns of some of the rows."""
        return RowColumns(*(None if column is None else column[rows] for column in self))


def catalogue_categories(embeddings: Embeddings, catalogue: Catalogue) -> Integers | None:
    """``category`` of the images that could be read, numbered from 0; None without such a column. A missing value is -1."""
    if "category" not in catalogue.table.columns:
        return None
    numbers: Integers = pd.factorize(catalogue.table["category"])[0].astype(np.int64)
    return numbers[_readable(embeddings, catalogue)]


def _readable(embeddings: Embeddings, catalogue: Catalogue) -> npt.NDArray[np.bool_]:
    """(rows of the catalogue,) which were embedded, by path and box, since several boxes may share one picture."""
    if len(embeddings) == len(catalogue):
        return np.ones(len(catalogue), dtype=bool)

    def keys(paths: Any, boxes: Any) -> Any:
        return pd.Index(list(zip(paths, *(() if boxes is None else np.asarray(boxes).T.tolist()), strict=True)))

    every = keys((os.path.abspath(path) for path in catalogue.paths), catalogue.boxes)  # noqa: PTH100
    return np.asarray(every.isin(keys(embeddings.paths, embeddings.boxes)), dtype=bool)
