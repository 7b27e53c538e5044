"""Tuplet margin loss: a softmax over the negatives for every positive, with slack for the hard positives."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor

from cosphere.checks import check_number, check_switch, check_switches
from cosphere.errors import SettingsError
from cosphere.losses.engine.base import PairLoss, describe
from cosphere.losses.engine.maths import log_one_plus_exp, mean_or_zero, with_gradients
from cosphere.losses.engine.pairs import Compared, compare
from cosphere.losses.engine.rows import Block, sum_over_rows

__all__ = ["TupletMarginLoss", "tuplet_margin_loss"]

NEAREST = 1 - 1e-7
"""Cosines are clamped to this before their angle is taken: at 1 the gradient of the angle is infinite."""


def tuplet_margin_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    scale: float,
    slack: float,
    stop_at_zero: bool = False,
    **compared: Unpack[Compared],
) -> Tensor:
    """Mean over ordered positive pairs of ``log(1 + sum_n e^(scale (cos t_n - cos(t_p - slack))))``, t the angles.

    The slack makes a positive look nearer than it is, so that hard ones pull less: the opposite of ArcFace's margin.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers.
        scale: logit scale, > 0.
        slack: radians, in [0, pi]. pytorch-metric-learning's 5.73 degrees are 0.1000074 of them.
        stop_at_zero: take ``max(t_p - slack, 0)``. As published, and by default, positives nearer than the slack are
            pushed apart again, until their angle is the slack.
        compared: see :func:`cosphere.losses.compare`. The negatives are all of the batch; the paper samples one per
            other class.

    Returns:
        () >= 0; a differentiable 0 when no anchor has both a positive and a negative.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    check_switches(stop_at_zero=stop_at_zero)
    pairs = compare(embeddings, labels, **compared)

    def of_block(block: Block) -> Tensor:
        with torch.no_grad():
            logits = block.negatives(-torch.inf).mul_(scale)
            push = logits.logsumexp(dim=1, keepdim=True)
            eased, easing = _eased(block.positives(0.0), slack, stop_at_zero)
            excess = torch.where(block.positive_real, push - scale * eased, -torch.inf)
            value = log_one_plus_exp(excess).sum()
            weight = excess.sigmoid().mul_(scale)
            to_cosine = logits.sub_(push.clamp(min=torch.finfo(push.dtype).min)).exp_()
            to_cosine.mul_(weight.sum(dim=1, keepdim=True))
            to_cosine.scatter_add_(1, block.positive_columns, -weight * easing)
        return with_gradients(value, (block.similarities, to_cosine))

    total = sum_over_rows(pairs, of_block).total
    counted = torch.where(pairs.negatives_per_anchor > 0, pairs.positives_per_anchor, 0).sum()
    return mean_or_zero(total, counted) + pairs.zero


def _eased(cosines: Tensor, slack: float, stop_at_zero: bool) -> tuple[Tensor, Tensor]:
    """cos(t - slack) from cos t, and its gradient, which is 0 where the cosine was clamped."""
    inside = cosines.clamp(-NEAREST, NEAREST)
    sines = ((1 - inside) * (1 + inside)).sqrt()
    eased = inside * math.cos(slack) + sines * math.sin(slack)
    derivative = math.cos(slack) - inside / sines * math.sin(slack)
    derivative = torch.where(inside == cosines, derivative, 0.0)
    if stop_at_zero:
        near = inside > math.cos(slack)
        return torch.where(near, 1.0, eased), torch.where(near, 0.0, derivative)
    return eased, derivative


@describe(
    name="tuplet_margin",
    paper="Yu, Tao: Deep Metric Learning with Tuplet Margin Loss, ICCV 2019",
    batch="at least 2 images per class, at least 2 classes",
    normalises="embeddings",
    defaults_source="pytorch-metric-learning: scale 64, slack 0.1 radians (5.73 degrees), all negatives of the batch",
    cost="O(B^2 D) time, O(B D) memory and one block",
    choose_when="a softmax loss for batches with hard or wrongly labelled positives; often with half of intra_pair_variance",
)
class TupletMarginLoss(PairLoss):
    """Module form of :func:`tuplet_margin_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> TupletMarginLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(13.1729)
    """

    function = staticmethod(tuplet_margin_loss)

    def __init__(self, *, scale: float = 64.0, slack: float = 0.1, stop_at_zero: bool = False) -> None:
        super().__init__()
        self.scale = check_number("scale", scale, above=0)
        self.slack = check_number("slack", slack, at_least=0)
        if self.slack > math.pi:
            raise SettingsError(f"slack must be at most pi radians; got {slack!r}.")
        self.stop_at_zero = check_switch("stop_at_zero", stop_at_zero)
