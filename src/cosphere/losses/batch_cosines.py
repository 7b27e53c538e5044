"""Mean cosines of a batch, for the log."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cosphere.losses.engine.maths import as_int64
from cosphere.tensors import check_labelled, directions, outside_autocast

__all__ = ["PairCosines", "pair_cosines"]


class PairCosines(NamedTuple):
    """Mean cosines of a batch; NaN where it has no such pair."""

    positive: Tensor
    """() in [-1, 1]: pairs of one class, without self."""
    negative: Tensor
    """() in [-1, 1]: pairs of two classes."""


@torch.no_grad()
def pair_cosines(embeddings: Tensor, labels: Tensor) -> PairCosines:
    """Mean cosine of the positive and of the negative pairs of a batch, for the log. O(B D): no matrix of pairs.

    Args:
        embeddings: (B, D) float, raw. Rows without a direction are left out.
        labels: (B,) integers.

    >>> pair_cosines(torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    PairCosines(positive=tensor(0.6000), negative=tensor(0.4000))
    """
    check_labelled(embeddings, labels)
    with outside_autocast(embeddings):
        unit, alive = directions(embeddings)
        # Sum over all pairs of u_i . u_j = |sum of u|^2, so class sums are all it takes.
        of_class = torch.unique(as_int64(labels), return_inverse=True)[1]
        sums = unit.new_zeros(len(labels), unit.shape[1]).index_add_(0, of_class, unit)
        sizes = unit.new_zeros(len(labels)).index_add_(0, of_class, alive.to(unit.dtype))
        itself, rows = unit.square().sum(), sizes.sum()
        within, everything = sums.square().sum(), sums.sum(dim=0).square().sum()
        pairs_within, pairs_all = sizes.square().sum(), rows.square()
    # 0 / 0 is NaN, as promised.
    positive = torch.where(pairs_within > rows, (within - itself) / (pairs_within - rows), torch.nan)
    negative = torch.where(pairs_all > pairs_within, (everything - within) / (pairs_all - pairs_within), torch.nan)
    return PairCosines(positive, negative)
