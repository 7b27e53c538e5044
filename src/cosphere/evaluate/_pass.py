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
from cosphere.evaluate._ties import Tables, Ties, tables
from cosphere.evaluate.metrics import Metric
from cosphere.rows import STEP, rows_within

_FIRST_RANKS = " first ranks"
"""Cannot clash with the name of a score: those contain no space."""


FEW, SHARE = 10, 1 / 3
"""A tie for a query's first ranks of at most this many images, or of at most this share of those that it ranks, is settled by the rule,
as duplicates are. A tie of more than both, or of all, is a collapse, in which cosines tie that differ by their rounding only."""


class Request(NamedTuple):
    """The scores that a pass computes, and its rules."""

    metrics: tuple[Metric, ...]
    ks: list[int]
    ties: Ties
    chance: bool
    """Whether a query whose first ranks are one large tie gets the expected scores, whatever the rule: see :data:`FEW`."""

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
        for tied in _tied_first(sides, candidates, queries, ranks, request, sums) if request.chance else ():
            for name, values in _scores(tied.ranking, request).items():
                column = scores[name]  # on the host for some scores
                column[tied.at.to(column.device)] = values.to(column.device)
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


class _Tied(NamedTuple):
    """Queries whose scores are a mean over orders."""

    at: Tensor
    """(t,) positions in their block."""
    ranking: Ranking


def _tied_first(
    sides: Sides, candidates: Candidates, queries: Tensor, ranks: BlockRanks, request: Request, sums: Tables
) -> Iterator[_Tied]:
    """The queries (b,) whose nearest right and nearest wrong image tie among more images than duplicates do, see :data:`FEW`.

    Similarities that differ by no more than their rounding tie here: those of a collapsed network are rarely equal to the last bit.
    """
    margin = _rounding(sides)
    top = torch.maximum(ranks.right_similarity, ranks.wrong_similarity).to(sides.kind)
    # Nearly always empty: most queries have different similarities to the nearest right and the nearest wrong image.
    suspects = ((ranks.right_similarity - ranks.wrong_similarity).abs() <= margin).nonzero().flatten()
    if not len(suspects):
        return
    # Compute these rows again: ranking overwrote the block, and the triangular pass never holds whole rows.
    blocks, with_all = sides.blocks(STEP), []
    for some in torch.split(suspects, STEP):
        similarities = sides.similarities(blocks, queries[some])
        candidates.hide(similarities, queries[some])
        tied = similarities >= top[some, None] - margin
        every = (tied | (similarities == lowest(similarities))).all(dim=1)
        with_all.append(some[every])
        size, visible = tied.sum(dim=1), sides.gallery - candidates.hidden[queries[some]]
        crowd = ~every & (size > FEW) & (size > SHARE * visible)
        if request.ties == "optimistic" and bool(crowd.any()):
            at = some[crowd]
            relevant, lists = candidates.relevant[queries[at]], candidates.classes.lists(queries[at])
            deepest = max(request.depth(sides.gallery), int(relevant.max()))
            level = torch.where(tied[crowd], top[at, None], similarities[crowd])
            found = block_ranks(level, lists, relevant, deepest, "expected")
            yield _Tied(at, Ranking(found.standing, found.first, relevant, "expected", sums))
    at = torch.cat(with_all)
    if len(at):
        visible = sides.gallery - candidates.hidden[queries[at]]
        yield _Tied(at, at_chance(candidates.relevant[queries[at]], visible, sums))


def _rounding(sides: Sides) -> float:
    """By how much two equal cosines may differ: the error of a sum of D rounded products grows with sqrt(D). Distances are exact."""
    if not sides.kind.is_floating_point:
        return 0
    return float(torch.finfo(sides.kind).eps * (8 + sides.rows.shape[1] ** 0.5))
