"""The pass over all similarities: from blocks of queries to the scores of each query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from cosphere._types import Floats, Integers, Progress
from cosphere.evaluate._ranking import Ranking, at_chance
from cosphere.evaluate._ranks import NEAREST, BlockRanks, block_ranks
from cosphere.evaluate._relevance import Candidates, lowest
from cosphere.evaluate._sides import Sides
from cosphere.evaluate._symmetric import by_triangle, is_symmetric
from cosphere.evaluate._ties import Ties, tables
from cosphere.evaluate.metrics import Metric
from cosphere.rows import STEP, rows_within

_FIRST_RANKS = " first ranks"
"""Cannot clash with the name of a score: those contain no space."""


class Request(NamedTuple):
    """The scores that a pass computes, and its rules."""

    metrics: tuple[Metric, ...]
    ks: list[int]
    ties: Ties
    chance: bool
    """Whether a query that ties with everything it ranks gets the expected scores, whatever the rule."""

    def depth(self, gallery: int) -> int:
        """Ranks from the first that must be exact for every query, whatever its R."""
        needs = {metric.depth for metric in self.metrics}
        return gallery if "all" in needs else max(self.ks) if "k" in needs else 1


class PassResult(NamedTuple):
    """Results of a pass for the Q scored queries, in the order of their rows."""

    rows: Integers
    """(Q,) their rows."""
    first_ranks: Floats
    """(Q,) rank of the best relevant image."""
    nearest: Mapping[str, npt.NDArray[Any]]
    """(Q,) for each name of :data:`NEAREST`."""
    scores: Mapping[str, npt.NDArray[Any]]
    """(Q,) float64 for each score of each metric."""


def rank_all(
    sides: Sides, candidates: Candidates, request: Request, block_bytes: int, progress: Progress | None
) -> PassResult:
    """Rank the gallery for every query that has a relevant image, by the cheaper of two passes that give the same numbers."""
    sums, depth = tables(sides.gallery, sides.device), request.depth(sides.gallery)
    ranked = by_triangle if is_symmetric(sides, candidates, depth, block_bytes) else by_rows
    parts = []
    for queries, ranks in ranked(sides, candidates, depth, request.ties, block_bytes, progress):
        nearest = {name: getattr(ranks, name) for name in NEAREST}
        relevant = candidates.relevant[queries]
        ranking = Ranking(ranks.standing, ranks.first, relevant, request.ties, sums)
        scores = _scores(ranking, request)
        # The optimistic rule would give a collapsed embedding perfect scores.
        if request.chance:
            tied = _tied_with_all(sides, candidates, queries, ranks)
            if len(tied):
                visible = sides.gallery - candidates.hidden[queries[tied]]
                for name, values in _scores(at_chance(relevant[tied], visible, sums), request).items():
                    scores[name][tied] = values
        parts.append({"rows": queries, **nearest, **scores})
    columns = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    # Both passes yield the largest classes first: restore the order of the rows.
    order = columns["rows"].argsort(stable=True)
    arrays = {name: column[order].numpy() for name, column in columns.items()}
    return PassResult(
        arrays.pop("rows"),
        arrays.pop(_FIRST_RANKS),
        {name: arrays.pop(name) for name in NEAREST},
        arrays,
    )


def by_rows(
    sides: Sides, candidates: Candidates, depth: int, ties: Ties, block_bytes: int, progress: Progress | None
) -> Iterator[tuple[Tensor, BlockRanks]]:
    """Compare blocks of queries with the whole gallery, the queries of the largest classes first.

    Args:
        sides: queries and gallery.
        candidates: which gallery rows each query ranks.
        depth: ranks from the first that must be exact for every query, whatever its R.
        ties: rule for equal similarities.
        block_bytes: bound of the working memory.
        progress: called with the number of completed queries.

    Yields:
        Queries (b,) and their ranks.
    """
    sizes = candidates.classes.sizes[candidates.classes.query_keys]
    order = sizes.argsort(stable=True)  # Lists in one block then have similar lengths, so little is padding.
    order = order[candidates.relevant[order] > 0]
    excluded = sum(int(keys.sizes.max()) for keys in candidates.excluded)

    def step(query: Tensor) -> int:
        # The similarities of a query, and about 240 bytes for each image of its class while that is ranked.
        row = sides.value_bytes * sides.gallery + 240 * int(sizes[query]) + 32 * excluded + 16 * depth
        return min(rows_within(block_bytes, row), len(order))

    blocks = sides.blocks(step(order[0]))
    end = len(order)
    while end > 0:  # From the back: the last query of a block has the longest list, which decides how many queries fit.
        queries = order[max(0, end - step(order[end - 1])) : end]
        similarities = sides.similarities(blocks, queries)
        candidates.hide(similarities, queries)
        relevant = candidates.relevant[queries]
        deepest = max(depth, int(relevant.max()))
        yield queries, block_ranks(similarities, candidates.classes.lists(queries), relevant, deepest, ties)
        end -= len(queries)
        if progress is not None:
            progress(len(order) - end, len(order))


def _scores(ranking: Ranking, request: Request) -> dict[str, Tensor]:
    """Every score of b queries, (b,) each, and the rank of the best relevant image."""
    columns = {_FIRST_RANKS: torch.as_tensor(ranking.first_ranks())}
    for metric in request.metrics:
        for name, values in metric.columns(request.ks).items():
            columns[name] = torch.as_tensor(values(ranking))
    return columns


def _tied_with_all(sides: Sides, candidates: Candidates, queries: Tensor, ranks: BlockRanks) -> Tensor:
    """Positions in ``queries`` (b,) of the queries with the same similarity to everything they rank."""
    # Nearly always empty: most queries have different similarities to the nearest right and the nearest wrong image.
    equal = (ranks.first.above == 0) & (ranks.right_similarity == ranks.wrong_similarity)
    suspects = equal.nonzero().flatten()
    if not len(suspects):
        return suspects
    # Compute these rows again: ranking overwrote the block, and the triangular pass never holds whole rows.
    blocks, tied = sides.blocks(STEP), []
    for some in torch.split(suspects, STEP):
        similarities = sides.similarities(blocks, queries[some])
        candidates.hide(similarities, queries[some])
        hidden = similarities == lowest(similarities)
        tied.append((hidden | (similarities == ranks.right_similarity[some, None])).all(dim=1))
    return suspects[torch.cat(tied)]
