"""Batch-hard triplet loss: each anchor's farthest positive against its nearest negative."""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import Tensor
from torch.nn import functional

from cosphere.checks import check_choice, check_number, check_switch, check_switches
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import chord, mean_or_zero
from cosphere.losses.engine.pairs import Compared, compare
from cosphere.losses.engine.rows import Block, sum_over_rows

__all__ = ["BatchHardTripletLoss", "batch_hard_triplet_loss"]


def batch_hard_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    soft: bool = False,
    squared: bool = False,
    reduction: Literal["mean_valid", "mean_batch"] = "mean_valid",
    **compared: Unpack[Compared],
) -> Tensor:
    """``[margin + max_p d_ap - min_n d_an]_+`` of each anchor that has a positive and a negative.

    Hermans, Beyer and Leibe use raw embeddings and recommend the soft form; here embeddings are normalized, as in
    pytorch-metric-learning (BatchHardMiner with TripletMarginLoss). In TensorFlow Addons' triplet_hard_loss an anchor
    without a positive costs ``[margin - min_n d_an]_+``; here it contributes nothing.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers.
        margin: minimum gap between the nearest negative and the farthest positive, in units of d. Ignored by the soft
            form.
        soft: ``log(1 + exp(d_ap - d_an))`` instead of the hinge; it never reaches zero.
        squared: d is the squared distance of unit vectors, in [0, 4]; otherwise the distance, in [0, 2].
        reduction: "mean_valid" divides by the number of anchors that have a positive and a negative, "mean_batch" by B
            (TensorFlow Addons).
        compared: see :func:`cosphere.losses.compare`. Mined tuples restrict the candidate pairs.

    Returns:
        () >= 0; a differentiable 0 when no anchor has both.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    check_switches(soft=soft, squared=squared)
    pairs = compare(embeddings, labels, **compared)
    valid = (pairs.positives_per_anchor > 0) & (pairs.negatives_per_anchor > 0)

    def of_block(block: Block) -> Tensor:
        here = valid[block.rows]
        cosines = torch.where(here[:, None], block.similarities.gather(1, hardest_columns(block)), 0.0)
        near, far = chord(cosines, squared=squared).unbind(dim=1)
        costs = functional.softplus(near - far) if soft else (near - far + margin).relu()
        return torch.where(here, costs, 0.0).sum()

    total = sum_over_rows(pairs, of_block).total if pairs.most_positives else pairs.zero
    return mean_or_zero(total, valid.sum() if reduction == "mean_valid" else pairs.size) + pairs.zero


@torch.no_grad()
def hardest_columns(block: Block) -> Tensor:
    """Columns of each anchor's farthest positive and nearest negative, where present. (b, 2) int64."""
    farthest = block.positives(torch.inf).argmin(dim=1, keepdim=True)
    nearest = block.negatives(-torch.inf).argmax(dim=1, keepdim=True)
    return torch.cat([block.positive_columns.gather(1, farthest), nearest], dim=1)


@describe(
    name="batch_hard_triplet",
    paper="Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, arXiv 2017",
    batch="at least 2 images per class (4), at least 2 classes",
    normalises="embeddings",
    defaults_source="the paper's rule on unit vectors; margin 0.2 as in pytorch-metric-learning's miners",
    cost="O(B^2 D) time, O(B D) memory and one block",
    choose_when="clean labels and a network that already learns something: one wrong label is every anchor's hardest",
    forms=[{"soft": True}, {"squared": True}],
    traits=Traits(picks_one=True),
)
class BatchHardTripletLoss(PairLoss):
    """Module form of :func:`batch_hard_triplet_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> BatchHardTripletLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.3609)
    """

    function = staticmethod(batch_hard_triplet_loss)

    def __init__(
        self,
        *,
        margin: float = 0.2,
        soft: bool = False,
        squared: bool = False,
        reduction: Literal["mean_valid", "mean_batch"] = "mean_valid",
    ) -> None:
        super().__init__()
        self.margin = check_number("margin", margin, at_least=0)
        self.soft = check_switch("soft", soft)
        self.squared = check_switch("squared", squared)
        check_choice("reduction", reduction, ["mean_valid", "mean_batch"])
        self.reduction = reduction
