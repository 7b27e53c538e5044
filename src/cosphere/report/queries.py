"""Which queries went wrong, and how: plain numbers from embeddings, for figures and pages to show."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cosphere._types import Flags, Integers
from cosphere.errors import SizeError
from cosphere.report.data import Floats, ReportData
from cosphere.rows import CosineBlocks, rows_within, unit_rows
from cosphere.search import search

BLOCK_BYTES = 64 * 2**20
"""Memory of one block of cosines."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The best right and the best wrong answer of Q queries. All arrays are (Q,)."""

    rows: Integers
    """Which images were asked for."""
    right: Integers
    """Row of the nearest image of the same class, -1 where there is none."""
    wrong: Integers
    """Row of the nearest image of another class, -1 where there is none."""
    right_cosine: Floats
    """In [-1, 1]; -inf where there is none."""
    wrong_cosine: Floats
    """In [-1, 1]; -inf where there is none."""
    rank: Integers
    """1 + the number of wrong images strictly nearer than the nearest right one; 0 where there is no right one."""

    @property
    def answerable(self) -> Flags:
        """(Q,) which queries have a right image to be found."""
        return self.right >= 0

    @property
    def gap(self) -> Floats:
        """(Q,) best wrong minus best right cosine: above 0 the query fails, the larger the worse; NaN without both."""
        gap = np.full(len(self.rows), np.nan, np.float32)
        return np.subtract(self.wrong_cosine, self.right_cosine, out=gap, where=(self.right >= 0) & (self.wrong >= 0))


def outcomes(
    embeddings: Floats,
    labels: Integers,
    *,
    is_query: Flags | None = None,
    is_gallery: Flags | None = None,
    max_queries: int = 20_000,
    seed: int = 0,
) -> Outcomes:
    """Find the best right and the best wrong answer of each query, itself excluded by its row.

    Args:
        embeddings: (N, D) raw.
        labels: (N,) integers.
        is_query: (N,) which rows ask; None: all.
        is_gallery: (N,) which rows may answer; None: all.
        max_queries: a seeded random sample of at most this many queries is looked at.
        seed: of that sample.

    Raises:
        SizeError: labels do not fit the embeddings.
        DataError: an embedding holds NaN or infinity.
    """
    if labels.shape != embeddings.shape[:1]:
        raise SizeError(
            f"want embeddings (N, D) and labels (N,), got {embeddings.shape} and {labels.shape}. "
            "Give one label for each row."
        )
    asking = np.arange(len(embeddings)) if is_query is None else np.flatnonzero(is_query)
    if len(asking) > max_queries:
        asking = np.sort(np.random.default_rng(seed).choice(asking, max_queries, replace=False))
    answering = np.arange(len(embeddings)) if is_gallery is None else np.flatnonzero(is_gallery)
    if not len(asking) or not len(answering):
        return _unanswered(asking)
    # The search's own cosines: equal images then tie here exactly as they do there.
    gallery = unit_rows(embeddings[answering], name="gallery")
    questions = unit_rows(embeddings[asking], name="queries")
    step = rows_within(BLOCK_BYTES, 4 * len(answering))
    cosines = CosineBlocks(gallery, min(step, len(asking)))
    blocks = [
        _block(cosines.of(questions.rows[at : at + step]).numpy(), labels, asking[at : at + step], answering)
        for at in range(0, len(asking), step)
    ]
    return Outcomes(asking.astype(np.int64), *(np.concatenate(part) for part in zip(*blocks, strict=True)))


def _unanswered(asking: Integers) -> Outcomes:
    """Queries with nothing to be found."""
    none, never = np.full(len(asking), -1, np.int64), np.full(len(asking), -np.inf, np.float32)
    return Outcomes(asking.astype(np.int64), none, none, never, never, np.zeros(len(asking), np.int64))


def _block(
    cosines: Floats, labels: Integers, asking: Integers, answering: Integers
) -> tuple[Integers, Integers, Floats, Floats, Integers]:
    """:func:`outcomes` of a few queries from their cosines (q, G): right, wrong, right cosine, wrong cosine, rank."""
    same = labels[asking][:, None] == labels[answering][None]
    itself = asking[:, None] == answering[None]
    right_cosines = np.where(same & ~itself, cosines, -np.inf)
    wrong_cosines = np.where(same, -np.inf, cosines)
    right, right_cosine = _best(right_cosines, answering)
    wrong, wrong_cosine = _best(wrong_cosines, answering)
    rank = 1 + (wrong_cosines > right_cosine[:, None]).sum(axis=1)
    return right, wrong, right_cosine, wrong_cosine, np.where(right >= 0, rank, 0)


def _best(cosines: Floats, answering: Integers) -> tuple[Integers, Floats]:
    at = cosines.argmax(axis=1)
    best = np.take_along_axis(cosines, at[:, None], axis=1)[:, 0]
    return np.where(np.isneginf(best), -1, answering[at]), best


class Chosen(NamedTuple):
    """Positions into :class:`Outcomes` of the queries to show."""

    worst: Integers
    """Largest gap first."""
    random: Integers
    best: Integers
    """Smallest gap first."""


def choose(found: Outcomes, count: int, *, seed: int = 0) -> Chosen:
    """Pick ``count`` of the worst, random and best queries among those that have a right answer."""
    able = np.flatnonzero(found.answerable & (found.wrong >= 0))
    order = able[np.argsort(-found.gap[able], kind="stable")]
    drawn = np.random.default_rng(seed).permutation(able)[:count]
    return Chosen(order[:count], np.sort(drawn), order[::-1][:count])


class ClassScore(NamedTuple):
    """Recall@1 of one class."""

    label: int
    recall: float
    """Share of the class's queries in [0, 1]."""
    queries: int


def class_scores(found: Outcomes, labels: Integers) -> list[ClassScore]:
    """Recall@1 of each class that has an answerable query, worst first; ties by more queries, then by label."""
    able = found.answerable
    asked = labels[found.rows][able]
    hits = found.rank[able] == 1
    present, place = np.unique(asked, return_inverse=True)
    queries = np.bincount(place, minlength=len(present))
    recall = np.bincount(place, weights=hits, minlength=len(present)) / np.maximum(queries, 1)
    scores = map(ClassScore, present.tolist(), recall.tolist(), queries.tolist())
    return sorted(scores, key=lambda one: (one.recall, -one.queries, one.label))


class Confusion(NamedTuple):
    """Two classes taken for each other."""

    first: int
    second: int
    first_as_second: int
    """Failed queries of the first class whose nearest image is of the second."""
    second_as_first: int
    example: int
    """Position into :class:`Outcomes` of the failed query with the largest gap."""


def confusions(found: Outcomes, labels: Integers, count: int = 12) -> list[Confusion]:
    """The class pairs behind most failed queries, most failures first; ties by label."""
    failed = np.flatnonzero(found.answerable & (found.rank > 1))
    failed = failed[np.argsort(-found.gap[failed], kind="stable")]
    ways: Counter[tuple[int, int]] = Counter()
    examples: dict[tuple[int, int], int] = {}
    totals: defaultdict[tuple[int, int], int] = defaultdict(int)
    for position in failed.tolist():
        asked, got = int(labels[found.rows[position]]), int(labels[found.wrong[position]])
        pair = (min(asked, got), max(asked, got))
        ways[asked, got] += 1
        totals[pair] += 1
        examples.setdefault(pair, position)  # worst first, so the first one seen
    leading = sorted(totals, key=lambda pair: (-totals[pair], pair))[:count]
    return [Confusion(a, b, ways[a, b], ways[b, a], examples[a, b]) for a, b in leading]


class Hit(NamedTuple):
    """One neighbour of a query."""

    row: int
    cosine: float


def neighbours(data: ReportData, rows: Integers, k: int) -> list[list[Hit]]:
    """The nearest images of some rows, nearest first, without the row itself.

    Args:
        data: its stored neighbours are used when they reach ``k``; else the gallery is searched.
        rows: (Q,) which images ask.
        k: neighbours of each; fewer when the gallery is smaller.
    """
    if data.embeddings is None or not len(rows):
        return [[] for _ in rows]
    if data.neighbour_ids is not None and data.neighbour_scores is not None and data.neighbour_ids.shape[1] >= k:
        return [
            [Hit(int(row), float(score)) for row, score in zip(ids, scores, strict=True)]
            for ids, scores in zip(data.neighbour_ids[rows, :k], data.neighbour_scores[rows, :k], strict=True)
        ]
    return _searched(data.embeddings, data.is_gallery, rows, k)


def _searched(embeddings: Floats, is_gallery: Flags | None, rows: Integers, k: int) -> list[list[Hit]]:
    """Neighbours by the search that evaluation and service use."""
    gallery = np.arange(len(embeddings)) if is_gallery is None else np.flatnonzero(is_gallery)
    place = np.full(len(embeddings), -1)
    place[gallery] = np.arange(len(gallery))
    itself = place[rows]  # -1: this query is not in the gallery
    wanted = min(k, len(gallery) - bool((itself >= 0).any()))
    if wanted < 1:
        return [[] for _ in rows]
    found = search(embeddings[rows], embeddings[gallery], k=wanted, exclude=itself)
    return [
        [Hit(int(gallery[at]), score) for at, score in zip(ids, scores, strict=True)]
        for ids, scores in zip(found.ids.tolist(), found.scores.tolist(), strict=True)
    ]
