"""Circle loss: weight each similarity by its distance from the optimum."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from cosphere.checks import check_number
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import log_one_plus_exp, log_sum_exp, mean_or_zero
from cosphere.losses.engine.pairs import Compared, compare
from cosphere.losses.engine.rows import Block, sum_over_rows

__all__ = ["CircleLoss", "circle_loss"]


def circle_loss(
    embeddings: Tensor, labels: Tensor, *, scale: float, margin: float, **compared: Unpack[Compared]
) -> Tensor:
    """``log(1 + sum_n exp(scale a_n (s_n - margin)) * sum_p exp(-scale a_p (s_p - 1 + margin)))``, mean over the anchors.

    The weights ``a_n = [s_n + margin]_+`` and ``a_p = [1 + margin - s_p]_+`` are detached, as in the paper, so the
    gradient is not the derivative of the value. Anchors without a positive or without a negative are skipped.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers.
        scale: gamma of the paper, > 0.
        margin: m of the paper, in units of cosine: the radius of the decision circle is ``margin * sqrt(2)``.
        compared: see :func:`cosphere.losses.compare`.

    Returns:
        () >= 0, mean over the anchors that have both; a differentiable 0 when there is none.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    pairs = compare(embeddings, labels, **compared)
    valid = (pairs.positives_per_anchor > 0) & (pairs.negatives_per_anchor > 0)

    def of_block(block: Block) -> Tensor:
        near, all_ = block.positives(1.0), block.similarities
        pull_weights = (1 + margin - near.detach()).relu_().mul_(-scale)
        push_weights = (all_.detach() + margin).relu_().mul_(scale)
        pull = torch.where(block.positive_real, pull_weights * (near - (1 - margin)), -torch.inf)
        push = torch.where(block.negative, push_weights * (all_ - margin), -torch.inf)
        costs = log_one_plus_exp(log_sum_exp(push) + log_sum_exp(pull))
        return torch.where(valid[block.rows], costs, 0.0).sum()

    return mean_or_zero(sum_over_rows(pairs, of_block).total, valid.sum()) + pairs.zero


@describe(
    name="circle",
    paper="Sun et al.: Circle Loss: A Unified Perspective of Pair Similarity Optimization, CVPR 2020",
    batch="at least 2 images per class (5), at least 2 classes",
    normalises="embeddings",
    defaults_source="the paper's for fine-grained retrieval; it has 256 and 0.25 for faces, 128 and 0.25 for persons",
    cost="O(B^2 D) time, O(B D) memory and one block",
    choose_when="when some positives are already close: they are left alone while far ones are pulled",
    traits=Traits(gradient_by_rule=True),
)
class CircleLoss(PairLoss):
    """Module form of :func:`circle_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> CircleLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(53.1466)
    """

    function = staticmethod(circle_loss)

    def __init__(self, *, scale: float = 80.0, margin: float = 0.4) -> None:
        super().__init__()
        self.scale = check_number("scale", scale, above=0)
        self.margin = check_number("margin", margin)
