"""Log-sum-exp by rows, sound where a row has nothing to sum, and the softmax of one positive against the negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cosphere.losses._pairs import Rows


def log_sum_exp(*groups: Tensor) -> Tensor:
    """Log of the sum of e^x over a row of all groups together. (b, P), (b, R), ... -> (b,).

    Entries of -inf are left out. A row of nothing else gives -inf and no gradient, where torch's own may give NaN.
    """
    filled = [group for group in groups if group.shape[1]]
    if not filled:
        return groups[0].new_full((len(groups[0]),), -torch.inf)
    with torch.no_grad():
        top = torch.stack([group.amax(dim=1) for group in filled]).amax(dim=0)
        top = torch.where(top == -torch.inf, 0.0, top)
    total = torch.stack([(group - top[:, None]).exp().sum(dim=1) for group in filled]).sum(dim=0)
    some = total > 0
    return torch.where(some, top + torch.where(some, total, 1.0).log(), -torch.inf)


def log_one_plus_exp(values: Tensor) -> Tensor:
    """log(1 + e^x), exact to rounding. Torch's threshold of 20 is off by 2e-9, which float64 can see."""
    return functional.softplus(values, threshold=50.0)


def each_positive_against_negatives(rows: Rows, scale: float) -> Tensor:
    """Cross-entropy of ``scale * similarity`` of each positive against all negatives of its anchor, summed. ().

    Other positives of the anchor are not in the denominator. Without negatives an anchor costs nothing.
    """
    others = log_sum_exp(scale * rows.negatives(-torch.inf))
    return log_one_plus_exp(others[:, None] - scale * rows.positives(torch.inf)).sum()
