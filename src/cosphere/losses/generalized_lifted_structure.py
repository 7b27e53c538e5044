"""Generalised lifted structured loss: soft maxima over positives and negatives of each anchor."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor

from cosphere.checks import check_number, check_switch, check_switches
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import mean_or_zero, with_gradients
from cosphere.losses.engine.pairs import Compared, compare
from cosphere.losses.engine.rows import Block, sum_over_rows
from cosphere.losses.lifted_structure import distances_of, gradients_of, squared_lengths

__all__ = ["GeneralizedLiftedStructureLoss", "generalized_lifted_structure_loss"]


def generalized_lifted_structure_loss(
    embeddings: Tensor, labels: Tensor, *, margin: float, normalize: bool = True, **compared: Unpack[Compared]
) -> Tensor:
    """Mean over anchors of ``[log sum_p e^d_p + log sum_n e^(margin - d_n)]_+`` over its positives and negatives.

    Args:
        embeddings: (B, D) float.
        labels: (B,) integers.
        margin: in units of d, the distance, not squared. pytorch-metric-learning's positive margin is equivalent to a
            smaller margin.
        normalize: L2-normalize the embeddings; otherwise use them as given.
        compared: see :func:`cosphere.losses.compare`.

    Returns:
        () >= 0, mean over the anchors that have a positive and a negative; a differentiable 0 when none has.
        pytorch-metric-learning also counts the others, with 0 for the missing logarithm.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    check_switches(normalize=normalize)
    pairs = compare(embeddings, labels, unit=normalize, **compared)
    lengths = squared_lengths(pairs, unit=normalize)

    def of_block(block: Block, *lengths: Tensor) -> Tensor:
        with torch.no_grad():
            distances = distances_of(block, lengths)
            far = distances.gather(1, block.positive_columns).masked_fill_(~block.positive_real, -torch.inf)
            gaps = torch.where(block.negative, margin - distances, -torch.inf)
            pull, push = far.logsumexp(dim=1, keepdim=True), gaps.logsumexp(dim=1, keepdim=True)
            cost = pull + push
            # Skip anchors without a positive or a negative (log-sum -inf). Keep NaN visible: raw embeddings may
            # overflow.
            costs = ~(cost <= 0)
            # inf instead of -inf for empty sums, so that e^(x - inf) is 0 and not NaN.
            gradient = gaps.sub_(torch.where(costs, push, torch.inf)).exp_().neg_()
            gradient.scatter_add_(1, block.positive_columns, far.sub_(torch.where(costs, pull, torch.inf)).exp_())
            value = torch.where(costs, cost, 0.0).sum()
            gradients = gradients_of(block, lengths, distances, gradient)
        return with_gradients(value, *gradients)

    total = sum_over_rows(pairs, of_block, *lengths).total
    anchors = ((pairs.positives_per_anchor > 0) & (pairs.negatives_per_anchor > 0)).sum()
    return mean_or_zero(total, anchors) + pairs.zero


@describe(
    name="generalized_lifted_structure",
    paper="Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017",
    batch="at least 2 images per class, at least 2 classes",
    normalises="embeddings; nothing without normalize",
    defaults_source="pytorch-metric-learning: unit vectors, margin 1; the paper compares raw embeddings",
    cost="O(B^2 D) time, O(B D) memory and one block",
    choose_when="a smooth form of the batch-hard triplet loss",
    forms=[{"normalize": False}],
)
class GeneralizedLiftedStructureLoss(PairLoss):
    """Module form of :func:`generalized_lifted_structure_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> GeneralizedLiftedStructureLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(1.4588)
    """

    function = staticmethod(generalized_lifted_structure_loss)

    def __init__(self, *, margin: float = 1.0, normalize: bool = True) -> None:
        super().__init__()
        self.margin = check_number("margin", margin)
        self.normalize = check_switch("normalize", normalize)

    def traits(self) -> Traits:
        """Traits of the loss under its current settings."""
        return replace(super().traits(), uses_lengths=not self.normalize)
