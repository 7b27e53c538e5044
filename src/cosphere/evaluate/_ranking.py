"""What a retrieval metric reads: the ranks of a block of queries, with ties settled by rule."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cosphere._types import Floats
from cosphere.evaluate._ties import (
    First,
    Standing,
    Tables,
    Ties,
    discounted_gain,
    first_ranks,
    hits,
    reciprocal_ranks,
    relevant_within,
    summed_precisions,
)


class Ranking(NamedTuple):
    """The ranked galleries of b queries. Every method returns one float64 per query, the mean over ties if so ruled.

    A depth counts ranks from the first. Ranks are exact as far down as the metric's ``depth`` says; the best relevant
    image's rank is exact always.
    """

    standing: Standing
    """Ranks of all relevant images, (b, M)."""
    first: First
    """Similarity group of the best relevant image, (b,) each."""
    relevant: Tensor
    """(b,) int64 >= 1: R."""
    ties: Ties
    """The rule for equal similarities."""
    tables: Tables
    """Running sums over the ranks 1 to G."""

    @property
    def gallery(self) -> int:
        """G, the deepest rank."""
        return self.tables.gallery

    def relevant_within(self, depth: int | Tensor) -> Tensor:
        """(b,) relevant images within a depth, one for all or (b,)."""
        return relevant_within(self.standing, self._column(depth), self.ties)

    def summed_precisions(self, depth: int | Tensor) -> Tensor:
        """(b,) precision at the rank of each relevant image within a depth, summed."""
        return summed_precisions(self.standing, self._column(depth), self.ties, self.tables)

    def gain(self, depth: int | Tensor) -> Tensor:
        """(b,) sum of 1/log2(1 + rank) over the relevant images within a depth."""
        return discounted_gain(self.standing, self._column(depth), self.ties, self.tables)

    def best_gain(self, count: Tensor) -> Tensor:
        """(b,) gain of a ranking that begins with this many relevant images, (b,)."""
        return self.tables.discount[count]

    def hits(self, depth: int) -> Floats:
        """(b,) probability in [0, 1] that a relevant image is within a depth."""
        return hits(depth, self.first.as_arrays(), self.ties)

    def first_ranks(self) -> Floats:
        """(b,) >= 1: rank of the best relevant image."""
        return first_ranks(self.first.as_arrays(), self.ties)

    def reciprocal_ranks(self) -> Floats:
        """(b,) in (0, 1]: 1 / rank of the best relevant image."""
        return reciprocal_ranks(self.first.as_arrays(), self.ties, self.gallery)

    def _column(self, depth: int | Tensor) -> Tensor:
        return torch.full_like(self.relevant, depth)[:, None] if isinstance(depth, int) else depth[:, None]


def at_chance(relevant: Tensor, visible: Tensor, sums: Tables) -> Ranking:
    """The ranking of b queries that have one similarity to everything they rank.

    Args:
        relevant: (b,) R.
        visible: (b,) gallery images that each query ranks.
        sums: running sums over the ranks.
    """
    real = torch.arange(int(relevant.max()), device=relevant.device) < relevant[:, None]
    zeros = torch.zeros_like(real, dtype=torch.int64)
    standing = Standing(
        zeros.masked_fill(~real, sums.gallery),
        torch.where(real, visible[:, None], 1),
        zeros,
        torch.where(real, relevant[:, None], 1),
    )
    first = First(torch.zeros_like(relevant), visible - relevant, relevant)
    return Ranking(standing, first, relevant, "expected", sums)
