"""Which queries and classes a report shows, chosen from the scores of an evaluation."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from cosphere._types import Flags, Integers
from cosphere.evaluate import RetrievalScores


class Chosen(NamedTuple):
    """Positions in :class:`RetrievalScores` of the queries to show."""

    worst: Integers
    """Smallest margin first."""
    random: Integers
    best: Integers
    """Largest margin first."""


def choose(ranking: RetrievalScores, count: int, *, seed: int = 0) -> Chosen:
    """Choose the worst, random and the best queries, ``count`` of each, among those with a right and a wrong image to find."""
    able = np.flatnonzero(ranking.nearest_wrong >= 0)
    order = able[np.argsort(ranking.margins[able], kind="stable")]
    drawn = np.random.default_rng(seed).permutation(able)[:count]
    return Chosen(order[:count], np.sort(drawn), order[::-1][:count])


def failed(ranking: RetrievalScores) -> Flags:
    """(Q,) queries without a right image in the first place; with expected ties, also those that share it with a wrong one."""
    return ranking.hits[1] < 1


class ClassScore(NamedTuple):
    """Recall@1 of one class."""

    label: int
    recall: float
    """Mean over the queries of the class, in [0, 1]."""
    queries: int


def worst_classes(ranking: RetrievalScores, count: int) -> list[ClassScore]:
    """The classes with the lowest Recall@1, lowest first; ties by more queries, then by label."""
    table = ranking.per_class()
    columns = (table.labels.tolist(), table.values["recall@1"].tolist(), table.queries.tolist())
    rows = [ClassScore(*row) for row in zip(*columns, strict=True)]
    return sorted(rows, key=lambda row: (row.recall, -row.queries, row.label))[:count]


class Confusion(NamedTuple):
    """Two classes that are mistaken for each other."""

    first: int
    second: int
    first_as_second: int
    """Failed queries of the first class whose nearest wrong image is of the second."""
    second_as_first: int
    example: int
    """Position in :class:`RetrievalScores` of the failed query with the smallest margin."""


def confusions(ranking: RetrievalScores, labels: Integers, count: int = 12) -> list[Confusion]:
    """The pairs of classes behind most failed queries, most failures first; ties by label.

    Args:
        ranking: Q scored queries.
        labels: (N,) class of each row of the embeddings.
        count: pairs at most.
    """
    positions = np.flatnonzero(failed(ranking) & (ranking.nearest_wrong >= 0))
    positions = positions[np.argsort(ranking.margins[positions], kind="stable")]
    ways: Counter[tuple[int, int]] = Counter()
    totals: Counter[tuple[int, int]] = Counter()
    examples: dict[tuple[int, int], int] = {}
    for position in positions.tolist():
        own, other = int(labels[ranking.query_rows[position]]), int(labels[ranking.nearest_wrong[position]])
        pair = (min(own, other), max(own, other))
        ways[own, other] += 1
        totals[pair] += 1
        examples.setdefault(pair, position)  # The smallest margin comes first.
    leading = sorted(totals, key=lambda pair: (-totals[pair], pair))[:count]
    return [Confusion(a, b, ways[a, b], ways[b, a], examples[a, b]) for a, b in leading]
