"""The pass over all similarities: from blocks of queries to the scores of each query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from cosphere._types import Integers, Progress
from cosphere.evaluate._ranking import Ranking
from cosphere.evaluate._ranks import NEAREST, BlockRanks, block_ranks
from cosphere.evaluate._relevance import Meetings
from cosphere.evaluate._sides import Sides
from cosphere.evaluate._symmetric import by_triangle, is_symmetric
from cosphere.evaluate._ties import FirstArrays, Tables, Ties, tables
from cosphere.evaluate.metrics import Metric
from cosphere.rows import rows_within


class Request(NamedTuple):
    """What a pass is to compute."""

    metrics: tuple[Metric, ...]
    ks: list[int]
    ties: Ties

    def depth(self, gallery: int) -> int:
        """Ranks from the first that must be exact for every query, whatever its R."""
        needs = {metric.depth for metric in self.metrics}
        return gallery if "all" in needs else max(self.ks) if "k" in needs else 1


class PassResult(NamedTuple):
    """What a pass computed for the Q scored queries, in the order of their rows."""

    rows: Integers
    """(Q,) their rows."""
    first: FirstArrays
    nearest: Mapping[str, npt.NDArray[Any]]
    """(Q,) for each name of :data:`NEAREST`."""
    scores: Mapping[str, npt.NDArray[Any]]
    """(Q,) float64 for each score of each metric."""


def rank_all(sides: Sides, met: Meetings, request: Request, block_bytes: int, progress: Progress | None) -> PassResult:
    """Rank the gallery for every query that has a relevant image, by the cheaper of two passes that give the same numbers."""
    sums, depth = tables(sides.gallery, sides.device), request.depth(sides.gallery)
    ranked = by_triangle if is_symmetric(sides, met, depth, block_bytes) else by_rows
    parts = [
        _columns(queries, ranks, met.relevant[queries], request, sums)
        for queries, ranks in ranked(sides, met, depth, request.ties, block_bytes, progress)
    ]
    columns = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    order = columns["rows"].argsort(stable=True)
    arrays = {name: column[order].numpy() for name, column in columns.items()}
    return PassResult(
        arrays.pop("rows"),
        FirstArrays(*(arrays.pop(name) for name in FirstArrays._fields)),
        {name: arrays.pop(name) for name in NEAREST},
        arrays,
    )


def by_rows(
    sides: Sides, met: Meetings, depth: int, ties: Ties, block_bytes: int, progress: Progress | None
) -> Iterator[tuple[Tensor, BlockRanks]]:
    """Compare blocks of queries with the whole gallery, the queries of the largest classes first.

    Args:
        sides: queries and gallery.
        met: which gallery rows each query ranks.
        depth: ranks from the first that must be exact for every query, whatever its R.
        ties: rule for equal similarities.
        block_bytes: bound of the working memory.
        progress: called with the number of queries that are done.

    Yields:
        Queries (b,) and their ranks.
    """
    sizes = met.classes.sizes[met.classes.query_keys]
    order = sizes.argsort(stable=True)  # The lists of a block then have about one length.
    order = order[met.relevant[order] > 0]
    banned = 0 if met.banned is None else int(met.banned.sizes.max())

    def step(query: Tensor) -> int:
        # The similarities of a query, and about 240 bytes for each image of its class while that is ranked.
        row = sides.value_bytes * sides.gallery + 240 * int(sizes[query]) + 32 * banned + 16 * depth
        return min(rows_within(block_bytes, row), len(order))

    blocks = sides.blocks(step(order[0]))
    end = len(order)
    while end > 0:  # From the back: the last query of a block has the longest list, which decides how many queries fit.
        queries = order[max(0, end - step(order[end - 1])) : end]
        similarities = sides.similarities(blocks, queries)
        met.hide(similarities, queries)
        relevant = met.relevant[queries]
        deepest = max(depth, int(relevant.max()))
        yield queries, block_ranks(similarities, met.classes.lists(queries), relevant, deepest, ties)
        end -= len(queries)
        if progress is not None:
            progress(len(order) - end, len(order))


def _columns(queries: Tensor, ranks: BlockRanks, relevant: Tensor, request: Request, sums: Tables) -> dict[str, Tensor]:
    """Everything to keep of a block, by name: (b,) each."""
    ranking = Ranking(ranks.standing, ranks.first, relevant, request.ties, sums)
    columns = {"rows": queries, **ranks.first._asdict(), **{name: getattr(ranks, name) for name in NEAREST}}
    for metric in request.metrics:
        for name, values in metric.columns(request.ks).items():
            columns[name] = torch.as_tensor(values(ranking))
    return columns
