"""The one pass of a ranking: over blocks of queries, from similarities to what each query scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from cosphere._types import Integers, Progress
from cosphere.evaluate._ranks import BlockRanks, block_ranks
from cosphere.evaluate._relevance import Meetings
from cosphere.evaluate._sides import Sides
from cosphere.evaluate._ties import First, Tables, Ties, discounted_gain, found_within, summed_precisions, tables
from cosphere.rows import rows_within

NEAREST = ("nearest_right", "nearest_wrong", "right_similarity", "wrong_similarity")
"""The best relevant and the best irrelevant image of each query, as :class:`BlockRanks` has them."""


class Wanted(NamedTuple):
    """What a pass is to find."""

    ks: list[int]
    metrics: frozenset[str]
    ties: Ties

    def deep(self, gallery: int) -> int:
        """Places from the first that must be ranked for every query, whatever its R."""
        if "map@all" in self.metrics:
            return gallery
        return max(self.ks) if self.metrics & {"precision", "map", "ndcg"} else 1


class Found(NamedTuple):
    """What the pass gave for the Q scored queries, in their own order."""

    rows: Integers
    """(Q,) their rows."""
    first: First
    columns: dict[str, npt.NDArray[Any]]
    """(Q,) each: the metrics that depend on all relevant images, and the names in :data:`NEAREST`."""


def walk(sides: Sides, met: Meetings, wanted: Wanted, block_bytes: int, progress: Progress | None) -> Found:
    """Walk over the queries in blocks, those of the smallest classes last."""
    sizes = met.classes.sizes[met.classes.asked]
    order = sizes.argsort(stable=True)  # Queries of one block then want about the same number of places.
    order = order[met.relevant[order] > 0]
    banned = 0 if met.banned is None else int(met.banned.sizes.max())
    deep = wanted.deep(sides.gallery)

    def step(query: Tensor) -> int:
        # A gallery row costs its similarity, each of up to M places of the lists about 240 bytes.
        row = sides.value_bytes * sides.gallery + 240 * int(sizes[query]) + 32 * banned + 16 * deep
        return min(rows_within(block_bytes, row), len(order))

    blocks, sums = sides.blocks(step(order[0])), tables(sides.gallery, sides.device)
    parts: list[dict[str, Tensor]] = []
    end = len(order)
    while end > 0:  # From the back: the last query of a block has the longest lists and so decides how many fit.
        here = order[max(0, end - step(order[end - 1])) : end]
        similarities = sides.similarities(blocks, here)
        met.hide(similarities, here)
        relevant = met.relevant[here]
        depth = max(deep, int(relevant.max()))
        ranks = block_ranks(similarities, met.classes.lists(here), relevant, depth, wanted.ties)
        parts.append({"rows": here, **_columns(ranks, relevant, wanted, sums)})
        end -= len(here)
        if progress is not None:
            progress(len(order) - end, len(order))
    columns = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    back = columns["rows"].argsort(stable=True)
    arrays = {name: column[back].numpy() for name, column in columns.items()}
    first = First(*(arrays.pop(name) for name in First._fields))
    return Found(arrays.pop("rows"), first, arrays)


def _columns(ranks: BlockRanks, relevant: Tensor, wanted: Wanted, sums: Tables) -> dict[str, Tensor]:
    """(b,) each, from the ranks of a block."""
    standing, ties, most = ranks.standing, wanted.ties, relevant[:, None]
    found = {name: getattr(ranks, name) for name in (*First._fields, *NEAREST)}
    found["map@r"] = summed_precisions(standing, most, ties, sums) / relevant
    found["r_precision"] = found_within(standing, most, ties) / relevant
    if "map@all" in wanted.metrics:
        found["map@all"] = summed_precisions(standing, torch.full_like(most, sums.gallery), ties, sums) / relevant
    for k in wanted.ks:
        depth = torch.full_like(most, k)
        reachable = relevant.clamp_max(k)
        if "precision" in wanted.metrics:
            found[f"precision@{k}"] = found_within(standing, depth, ties) / k
        if "map" in wanted.metrics:
            found[f"map@{k}"] = summed_precisions(standing, depth, ties, sums) / reachable
        if "ndcg" in wanted.metrics:
            found[f"ndcg@{k}"] = discounted_gain(standing, depth, ties, sums) / sums.discount[reachable]
    return found
