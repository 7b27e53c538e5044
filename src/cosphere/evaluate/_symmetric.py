"""The pass over a set that is ranked with itself: each pair of images is compared once.

The similarity matrix of a set with itself is symmetric, so only tiles of its upper triangle are computed. A tile serves the
queries of its rows and those of its columns. No query then sees its whole gallery at once: ranks come from counts that
add up over tiles (:mod:`cosphere.evaluate._thresholds`).

The numbers are those of the pass by blocks of queries. A product of two rows has the same bits in every tile and on both
sides of the diagonal (tests/test_rows.py), and only values are compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from cosphere._types import Progress
from cosphere.evaluate._ranks import BlockRanks
from cosphere.evaluate._relevance import Candidates, lowest
from cosphere.evaluate._sides import Sides
from cosphere.evaluate._thresholds import Counter, Similarities, Thresholds, sorted_thresholds
from cosphere.evaluate._ties import Ties
from cosphere.rows import STEP, rounded_up

_EDGE = 2048
"""Rows and columns of a tile. Larger tiles multiply no faster and waste more on the diagonal."""
_CHUNK_ROWS = 128
"""Rows of a tile that a thread works on, so that their similarities stay in its cache."""
_FIRST_COLUMNS = 64
"""Columns of a diagonal tile compared before floors first rise; each later part ends four times as far."""
_CLASS_ROWS = 512
"""Rows per product of whole classes, which holds the similarities of relevant pairs."""
_PAIR_BYTES = 128
"""Working memory of a pair of one class or group: its rows, threshold, counts and place in a tile."""
_SHALLOW = 32
"""Ranks are counted up to this fraction (1 / 32) of the gallery. Beyond that, partitioning whole rows is cheaper."""


def is_symmetric(sides: Sides, candidates: Candidates, depth: int, block_bytes: int) -> bool:
    """Whether this pass applies and is cheaper: one set on a CPU, shallow ranks, and pairs of one class that fit in memory."""
    if not sides.same or sides.device.type != "cpu" or sides.kind == torch.float64:  # thresholds are keys of 32 bits
        return False
    deepest = max(depth, int(candidates.relevant.max()))
    memory = 2 * _PAIR_BYTES * candidates.special_pair_count()
    return _SHALLOW * deepest <= sides.gallery and memory <= block_bytes


def by_triangle(
    sides: Sides, candidates: Candidates, depth: int, ties: Ties, block_bytes: int, progress: Progress | None
) -> Iterator[tuple[Tensor, BlockRanks]]:
    """Yield blocks of queries and their ranks, the queries of the largest classes first.

    Args:
        sides: one set on both sides.
        candidates: which gallery rows each query ranks.
        depth: ranks from the first that must be exact for every query, whatever its R.
        ties: the rule for equal similarities.
        block_bytes: bound of the working memory.
        progress: called after each tile, with its share of the queries.
    """
    # Half of the memory is for the tile. is_symmetric reserves the other half for pairs of one class.
    edge = min(_EDGE, max(STEP, int((block_bytes // (2 * sides.value_bytes)) ** 0.5) // STEP * STEP))
    tiles = _Tiles(sides, candidates, edge)
    counter = Counter(_thresholds(sides, candidates), depth, ties)
    scored = int((candidates.relevant > 0).sum())
    diagonal = [(block, block) for block in range(tiles.count)]
    # The diagonal first: it raises the floors of all queries, so few similarities in the other tiles exceed them.
    order = [*diagonal, *itertools.combinations(range(tiles.count), 2)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for done, (first, second) in enumerate(order, start=1):
            for parts in tiles.parts(first, second):
                # Threads only read the counter, and NumPy releases the GIL; adding stays on this thread.
                for updates in pool.map(lambda pieces: [counter.compare(*piece) for piece in pieces], parts):
                    for update in updates:
                        counter.add(update)
                for block in {first, second}:
                    counter.raise_floors(*tiles.span(block))
            if progress is not None:
                progress(scored * done // len(order), scored)
    for queries, ranks in counter.blocks(block_bytes):
        yield torch.from_numpy(queries), ranks


class _Tiles:
    """Tiles of the similarity matrix. Relevant and excluded images get the lowest value, so they are never counted.

    Args:
        sides: N rows on both sides.
        candidates: which gallery rows each query ranks.
        edge: rows and columns of a tile.
    """

    def __init__(self, sides: Sides, candidates: Candidates, edge: int) -> None:
        self._sides, self._edge = sides, edge
        self.count = -(-sides.queries // edge)
        """Blocks of rows."""
        self._buffer = torch.empty(min(edge, rounded_up(sides.queries)) ** 2, dtype=sides.kind)
        queries, rows = candidates.special_pairs()
        tile = (queries // edge) * self.count + rows // edge
        # Tiles below the diagonal are never computed. Sorted by tile, the pairs of one tile are a slice.
        upper = np.flatnonzero(queries // edge <= rows // edge)
        upper = upper[np.argsort(tile[upper], kind="stable")]
        self._queries, self._rows = queries[upper], rows[upper]
        self._starts = np.searchsorted(tile[upper], np.arange(self.count**2 + 1))

    def span(self, block: int) -> tuple[int, int]:
        """First and end row of a block."""
        return block * self._edge, min((block + 1) * self._edge, self._sides.queries)

    def parts(self, first: int, second: int) -> Iterator[list[list[_Piece]]]:
        """The pieces of a tile. Those of one list may be compared concurrently; floors may rise after each list."""
        tile = self._tile(first, second)
        (top, _), (left, _) = self.span(first), self.span(second)
        chunks = range(0, len(tile), _CHUNK_ROWS)
        if first != second:
            pieces = [(tile[at : at + _CHUNK_ROWS], top + at) for at in chunks]
            # The transposed view serves the queries of the columns without a second product.
            yield [[(rows, start, left), (rows.T, left, start)] for rows, start in pieces]
            return
        # A narrow first part raises the floors before most of the tile is compared.
        start, end = 0, _FIRST_COLUMNS
        while start < tile.shape[1]:
            yield [[(tile[at : at + _CHUNK_ROWS, start:end], top + at, left + start)] for at in chunks]
            start, end = end, 4 * end

    def _tile(self, first: int, second: int) -> Similarities:
        (top, bottom), (left, right) = self.span(first), self.span(second)
        rows = self._sides.rows
        similarities = self._sides.product(rows[top:bottom], rows[left:right], self._buffer).numpy()
        tile = first * self.count + second
        pairs = slice(self._starts[tile], self._starts[tile + 1])
        similarities[self._queries[pairs] - top, self._rows[pairs] - left] = lowest(self._buffer)
        return similarities


_Piece = tuple[Similarities, int, int]
"""Similarities (n, w) of n queries to w gallery rows, the first query and the first row."""


def _thresholds(sides: Sides, candidates: Candidates) -> Thresholds:
    """The similarities of all relevant pairs, from products of whole classes."""
    classes, order = candidates.classes, candidates.classes.rows
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    ends = np.unique((classes.first + classes.sizes).numpy())
    columns: list[tuple[Tensor, ...]] = []
    start = 0
    while start < len(order):
        # As many whole classes as fit a small product, or one large class.
        end = int(max(ends[ends <= start + _CLASS_ROWS].max(initial=0), ends[ends > start][0]))
        here = order[start:end]
        members = sides.rows[here]
        buffer = torch.empty(rounded_up(len(here)) ** 2, dtype=sides.kind)
        at, others = classes.pairs(here)
        keep = candidates.ranked(here[at], others)
        at, others = at[keep], others[keep]
        similarities = sides.product(members, members, buffer)
        columns.append((here[at], others, similarities[at, place[others] - start]))
        start = end
    queries, rows, values = [torch.cat(column).numpy() for column in zip(*columns, strict=True)]
    return sorted_thresholds(queries, rows, values, sides.queries)
