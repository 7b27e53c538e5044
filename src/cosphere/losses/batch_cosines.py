"""Mean cosines of the pairs of a batch, for logging."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cosphere.losses.engine.maths import as_int64
from cosphere.tensors import SHORTEST, check_labelled, full_precision, outside_autocast

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
        unit, alive = _unit_rows(embeddings)
        # Sum over all pairs of u_i . u_j = |sum of u|^2, so class sums suffice.
        of_class = _codes(as_int64(labels))
        sums = unit.new_zeros(len(labels), unit.shape[1]).index_add_(0, of_class, unit)
        sizes = unit.new_zeros(len(labels)).index_add_(0, of_class, alive.to(unit.dtype))
        itself, rows = unit.square().sum(), sizes.sum()
        within, everything = sums.square().sum(), sums.sum(dim=0).square().sum()
        pairs_within, pairs_all = sizes.square().sum(), rows.square()
    # 0 / 0 gives the documented NaN.
    positive = torch.where(pairs_within > rows, (within - itself) / (pairs_within - rows), torch.nan)
    negative = torch.where(pairs_all > pairs_within, (everything - within) / (pairs_all - pairs_within), torch.nan)
    return PairCosines(positive, negative)


# Both run at every training step, so they avoid the device synchronization of torch.unique and `directions`.


def _unit_rows(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D) unit rows, zero where there is no direction or the length overflows, and (B,) which rows have one."""
    rows = full_precision(embeddings)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    alive = (norms > SHORTEST) & norms.isfinite()
    unit = torch.where(alive, rows * torch.where(alive, norms, torch.inf).reciprocal(), 0.0)
    return unit, alive.squeeze(1)


def _codes(labels: Tensor) -> Tensor:
    """(B,) labels -> (B,) int64 in [0, classes), in ascending order of the labels."""
    ordered, order = labels.sort()
    starts = torch.zeros_like(ordered)
    starts[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(starts).scatter_(0, order, starts.cumsum(0))
