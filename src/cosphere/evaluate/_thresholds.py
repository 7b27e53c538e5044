"""Ranks from counts that add up: how many irrelevant images lie above the similarity of each relevant one.

The similarities of a query to its relevant images are its *thresholds*. Gallery images arrive in parts, of any
size and in any order, and each part adds its counts. Two facts keep that cheap:

* A metric reads ranks down to some depth. Once that many images lie above a threshold, its rank no longer matters and it
  is dropped; only the highest threshold always stays. The lowest one left is the query's *floor*, and after a few parts
  hardly any image lies above it.
* The largest similarity of a part, needed anyway for the nearest irrelevant image, shows whether the part reaches the
  floor. Most parts do not, and cost nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cosphere._types import Integers
from cosphere.evaluate._ranks import BlockRanks
from cosphere.evaluate._ties import First, Standing, Ties
from cosphere.rows import rows_within

Similarities = npt.NDArray[Any]
"""float32 cosines, or whole numbers for bits; larger is nearer."""


_LIST_BYTES = 240
"""Working memory of one relevant image while its rank is turned into scores."""


class Thresholds(NamedTuple):
    """Similarities of N queries to their relevant images, ascending within each query: T in all."""

    values: Similarities
    """(T,)"""
    keys: Integers
    """(T,) ascending: query and value in one number."""
    starts: Integers
    """(N + 1,) first threshold of each query; a query without relevant images has none."""
    queries: Integers
    """(T,) the query of each threshold."""
    relevant_above: Integers
    """(T,) thresholds of the query that are larger."""
    relevant_equal: Integers
    """(T,) >= 1: thresholds of the query that are equal, itself included."""
    nearest: Integers
    """(N,) row of the nearest relevant image, the lowest of equals; -1 where there is none."""


def sorted_thresholds(queries: Integers, rows: Integers, values: Similarities, count: int) -> Thresholds:
    """Sort the relevant pairs (P,) of ``count`` queries: query, gallery row and similarity of each."""
    keys = _keys(queries, values)
    order = np.lexsort((-rows, keys))  # The last pair of a query is its nearest; among equals, the lowest row.
    keys, queries, values = keys[order], queries[order], values[order]
    starts = np.searchsorted(queries, np.arange(count + 1))
    above, below = np.searchsorted(keys, keys, side="right"), np.searchsorted(keys, keys)
    nearest = np.full(count, -1)
    some = starts[1:] > starts[:-1]
    nearest[some] = rows[order][starts[1:][some] - 1]
    return Thresholds(values, keys, starts, queries, starts[queries + 1] - above, above - below, nearest)


def _keys(queries: Integers, values: Similarities) -> Integers:
    """(n,) int64 that sort by query, then by value."""
    if values.dtype.kind == "f":
        bits = (values + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0: they are equal, but their bits are not.
        # The bits of negative floats ascend as the values descend, so flip all but the sign.
        values = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)
    # Add, never OR: the sign bits of a negative value would overwrite the query.
    return (queries << 32) + values.astype(np.int64)


class Update(NamedTuple):
    """The counts that one part of the gallery adds."""

    bins: Integers
    """(n,) bins of images above their query's floor."""
    weights: Integers
    """(n,) number of images in each."""
    equal_bins: Integers
    """(m,) the same images by the thresholds that they reach, and those at the floor; empty under the optimistic rule."""
    equal_weights: Integers
    queries: Integers
    """(r,) queries whose nearest irrelevant image so far is in this part."""
    nearest: Similarities
    """(r,) their similarity to it."""
    rows: Integers
    """(r,) its gallery row."""


class Counter:
    """Counts of N queries. An image with p thresholds of its query below it goes into bin p of R + 1.

    Args:
        thresholds: of all queries.
        depth: ranks from the first that must be exact, for every query whatever its R.
        ties: the optimistic rule needs no counts of equals.
    """

    def __init__(self, thresholds: Thresholds, depth: int, ties: Ties) -> None:
        self._of = thresholds
        starts, kind = thresholds.starts, thresholds.values.dtype
        self._optimistic = ties == "optimistic"
        self._depth = np.maximum(depth, np.diff(starts))
        self._top_bin = starts[1:] + np.arange(len(starts) - 1)
        self._above = np.zeros(len(thresholds.values) + len(starts) - 1, dtype=np.int64)
        self._reached = np.zeros_like(self._above)
        scored = starts[1:] > starts[:-1]
        self._best = np.full(len(scored), _largest(kind), dtype=kind)  # Nothing exceeds this for an unscored query.
        self._best[scored] = thresholds.values[starts[1:][scored] - 1]
        self._floor, self._floor_bin = self._best.copy(), self._top_bin.copy()
        self._wrong = np.where(scored, _smallest(kind), _largest(kind)).astype(kind)
        self._wrong_row = np.full(len(scored), -1)
        self.raise_floors(0, len(scored))

    def compare(self, similarities: Similarities, first_query: int, first_row: int) -> Update | None:
        """Compare consecutive queries with consecutive gallery rows.

        Args:
            similarities: (n, w), of any layout; relevant and excluded images have the lowest value.
            first_query: first of the n queries.
            first_row: first of the w gallery rows.

        Returns:
            The counts to :meth:`add`, or None if there are none. Calls may run concurrently, but not with :meth:`add`.
        """
        here = slice(first_query, first_query + len(similarities))
        largest, floor, wrong = similarities.max(axis=1), self._floor[here], self._wrong[here]
        reach = largest > floor if self._optimistic else largest >= floor
        # Among equal similarities the lowest row wins, and parts arrive in any order.
        nearer = (largest > wrong) | ((largest == wrong) & (self._wrong_row[here] > first_row))
        some = np.flatnonzero(reach | nearer)
        if not len(some):
            return None
        values = np.ascontiguousarray(similarities if len(some) == len(similarities) else similarities[some])
        near = np.flatnonzero(nearer[some])
        rows = first_row + values[near].argmax(axis=1)
        counted = reach[some]
        bins = self._binned(values if counted.all() else values[counted], some[counted] + first_query)
        return Update(*bins, some[near] + first_query, largest[some[near]], rows)

    def _binned(self, values: Similarities, queries: Integers) -> tuple[Integers, Integers, Integers, Integers]:
        """Bins and weights of the images above the floor of each query, and of those that reach it. (n, w), (n,)."""
        floor = self._floor[queries][:, None]
        larger = values > floor
        several = self._floor[queries] < self._best[queries]
        # Where the floor is the highest threshold, everything above it belongs in one bin: a count is enough.
        single = queries[~several]
        weights = np.count_nonzero(larger[~several], axis=1)
        # Flat indices, because NumPy finds true values twenty times as fast in one dimension as in two.
        flat = np.flatnonzero(larger[several])
        apart = queries[several][flat // values.shape[1]]
        keys = _keys(apart, values[several].ravel()[flat])
        bins = np.concatenate([self._top_bin[single], np.searchsorted(self._of.keys, keys) + apart])
        ones = np.ones(len(keys), dtype=np.int64)
        weights = np.concatenate([weights, ones])
        if self._optimistic:
            return bins, weights, bins[:0], weights[:0]
        reached = np.searchsorted(self._of.keys, keys, side="right") + apart
        at_floor = np.count_nonzero(values == floor, axis=1)
        return (
            bins,
            weights,
            np.concatenate([self._top_bin[single], reached, self._floor_bin[queries]]),
            np.concatenate([weights, at_floor]),
        )

    def add(self, update: Update | None) -> None:
        """Add the counts of a part."""
        if update is None:
            return
        # Bins repeat within an update, and += on an index array would count each of them once.
        np.add.at(self._above, update.bins, update.weights)
        np.add.at(self._reached, update.equal_bins, update.equal_weights)
        wrong, row = self._wrong[update.queries], self._wrong_row[update.queries]
        # A part compared concurrently may have held a nearer one.
        nearer = (update.nearest > wrong) | ((update.nearest == wrong) & (update.rows < row))
        self._wrong[update.queries[nearer]] = update.nearest[nearer]
        self._wrong_row[update.queries[nearer]] = update.rows[nearer]

    def raise_floors(self, first: int, end: int) -> None:
        """Drop the thresholds of the queries ``first`` to ``end`` whose rank is beyond the depth."""
        of = self._of
        slots = slice(of.starts[first], of.starts[end])
        queries = of.queries[slots]
        above = self._summed(self._above, first, end) + of.relevant_above[slots]
        within = np.concatenate([[0], np.cumsum(above < self._depth[queries])])
        starts = of.starts[first : end + 1] - of.starts[first]
        scored = np.flatnonzero(starts[1:] > starts[:-1])
        # Always keep the highest threshold: the rank of the best relevant image is exact at any depth.
        counts = np.maximum(1, within[starts[1:]] - within[starts[:-1]])[scored]
        lowest = of.starts[first + 1 : end + 1][scored] - counts
        queries = first + scored
        self._floor[queries] = of.values[lowest]
        self._floor_bin[queries] = self._top_bin[queries] - of.relevant_above[lowest]

    def _summed(self, bins: Integers, first: int, end: int) -> Integers:
        """Images in the bins above each threshold of the queries ``first`` to ``end``."""
        starts = self._of.starts
        slots = np.arange(starts[first], starts[end])
        queries = self._of.queries[slots]
        base = starts[first] + first
        part = bins[base : starts[end] + end]
        # One running sum serves all queries: the difference below removes the bins of later ones.
        from_end = np.concatenate([np.cumsum(part[::-1])[::-1], [0]])
        summed: Integers = from_end[slots + queries + 1 - base] - from_end[self._top_bin[queries] + 1 - base]
        return summed

    def blocks(self, block_bytes: int) -> Iterator[tuple[Integers, BlockRanks]]:
        """The scored queries and their ranks in blocks, once the whole gallery has been added."""
        of = self._of
        relevant = np.diff(of.starts)
        above = self._summed(self._above, 0, len(relevant))
        equal = np.zeros_like(above) if self._optimistic else self._summed(self._reached, 0, len(relevant)) - above
        # Lists in one block then have similar lengths, so little is padding.
        order = np.argsort(relevant, kind="stable")
        order = order[relevant[order] > 0]
        end = len(order)
        while end > 0:
            step = rows_within(block_bytes, _LIST_BYTES * int(relevant[order[end - 1]]))
            queries = order[max(0, end - step) : end]
            yield queries, self._ranks(queries, above, equal)
            end -= len(queries)

    def _ranks(self, queries: Integers, wrong_above: Integers, wrong_equal: Integers) -> BlockRanks:
        """Ranks of b queries, from the counts of all thresholds (T,)."""
        of, ends = self._of, self._of.starts[queries + 1]
        relevant = ends - of.starts[queries]
        column = np.arange(relevant.max())
        real = column < relevant[:, None]
        slots = np.where(real, ends[:, None] - 1 - column, 0)
        above, size = of.relevant_above[slots], of.relevant_equal[slots]
        standing = Standing(
            torch.from_numpy(np.where(real, wrong_above[slots] + above, len(self._wrong))),
            torch.from_numpy(np.where(real, wrong_equal[slots] + size, 1)),
            torch.from_numpy(np.where(real, above, 0)),
            torch.from_numpy(np.where(real, size, 1)),
        )
        first = First(*(torch.from_numpy(count[ends - 1]) for count in (wrong_above, wrong_equal, of.relevant_equal)))
        wrong = self._wrong[queries].astype(np.float64)
        wrong[self._wrong_row[queries] < 0] = -np.inf
        right = of.values[ends - 1].astype(np.float64)
        rows = (of.nearest[queries], self._wrong_row[queries])
        return BlockRanks(standing, first, *(torch.from_numpy(array) for array in (*rows, right, wrong)))


def _largest(kind: np.dtype[Any]) -> float | int:
    return np.inf if kind.kind == "f" else int(np.iinfo(kind).max)


def _smallest(kind: np.dtype[Any]) -> float | int:
    return -np.inf if kind.kind == "f" else int(np.iinfo(kind).min)
