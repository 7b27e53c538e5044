"""Scores of each class or category, from the scores of its queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cosphere._types import Floats, Integers


@dataclass(frozen=True, eq=False)
class GroupScores:
    """One row for each of the C groups that have a scored query, in the order of their labels."""

    labels: npt.NDArray[Any]
    """(C,) the label of each, in its original type."""
    queries: Integers
    """(C,) >= 1 scored queries."""
    values: Mapping[str, Floats]
    """For each metric, (C,): the mean over the group's queries, or their median for ``median_rank``."""

    def __len__(self) -> int:
        """C."""
        return len(self.labels)

    def macro(self) -> dict[str, float]:
        """Each metric's mean over the groups, every group counting the same."""
        return {name: float(values.mean()) for name, values in self.values.items()}

    def worst(self, name: str, count: int = 10) -> Integers:
        """(count,) rows of this table with the lowest values of a metric, the lowest first."""
        return np.argsort(self.values[name], kind="stable")[:count]

    def as_rows(self) -> list[dict[str, float | int]]:
        """The table as plain numbers: ``label``, ``queries`` and each metric."""
        columns = {"label": self.labels, "queries": self.queries, **self.values}
        lists = [column.tolist() for column in columns.values()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def group_scores(labels: npt.NDArray[Any], means: Mapping[str, Floats], medians: Mapping[str, Floats]) -> GroupScores:
    """Gather the values of queries by label.

    Args:
        labels: (Q,) integers.
        means: for each metric that is averaged, (Q,).
        medians: for each metric whose median is taken, (Q,).
    """
    names, number, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    values = {name: np.bincount(number, weights=column) / sizes for name, column in means.items()}
    return GroupScores(names, sizes, values | {n: _medians(number, sizes, column) for n, column in medians.items()})


def _medians(number: Integers, sizes: Integers, values: Floats) -> Floats:
    """(C,) the median of each group."""
    ordered = values[np.lexsort((values, number))]
    start = np.cumsum(sizes) - sizes
    return np.asarray((ordered[start + (sizes - 1) // 2] + ordered[start + sizes // 2]) / 2, dtype=np.float64)
