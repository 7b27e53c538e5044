"""Intra-pair variance loss: keep the cosines of positive pairs, and of negative pairs, close to their mean."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from cosphere.checks import check_number
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import mean_or_zero, with_gradients
from cosphere.losses.engine.pairs import Compared, Pairs, compare
from cosphere.losses.engine.rows import Block, sum_over_rows

__all__ = ["IntraPairVarianceLoss", "intra_pair_variance_loss"]


def intra_pair_variance_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    positive_tolerance: float,
    negative_tolerance: float,
    **compared: Unpack[Compared],
) -> Tensor:
    """Mean of ``[(1 - tolerance) m_p - s_p]_+^2`` over positive plus that of ``[s_n - (1 + tolerance) m_n]_+^2`` over negative pairs.

    s are cosines, m_p and m_n their means over the ordered pairs of the batch. The gradient passes through the means.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers.
        positive_tolerance: share of the mean by which a positive may lie below it, >= 0.
        negative_tolerance: share of the mean by which a negative may lie above it, >= 0.
        compared: see :func:`cosphere.losses.compare`.

    Returns:
        () in [0, 8] up to rounding. A side without pairs counts 0.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    pairs = compare(embeddings, labels, **compared)
    positives, negatives = pairs.positives_per_anchor.sum(), pairs.negatives_per_anchor.sum()
    low, high = _sums(pairs)
    low = (1 - positive_tolerance) * mean_or_zero(low, positives)
    high = (1 + negative_tolerance) * mean_or_zero(high, negatives)

    def of_block(block: Block, low: Tensor, high: Tensor) -> Tensor:
        with torch.no_grad():
            below = torch.where(block.positive_real, low - block.positives(0.0), 0.0).clamp_(min=0)
            gradient = torch.where(block.negative, block.similarities - high, 0.0).clamp_(min=0)
            above = gradient.flatten()
            value = mean_or_zero(below.square().sum(), positives) + mean_or_zero(above.dot(above), negatives)
            to_positives, to_negatives = mean_or_zero(2 * below, positives), mean_or_zero(gradient.mul_(2), negatives)
            to_low, to_high = to_positives.sum(), -to_negatives.sum()
            gradient = to_negatives.scatter_add_(1, block.positive_columns, -to_positives)
        return with_gradients(value, (block.similarities, gradient), (low, to_low), (high, to_high))

    return sum_over_rows(pairs, of_block, low, high).total + pairs.zero


def _sums(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Sums of the cosines of all positive and all negative pairs, () each. Differentiable."""
    if pairs.listed is not None:
        return (
            sum_over_rows(pairs, lambda block: block.positives(0.0).sum()).total,
            sum_over_rows(pairs, lambda block: block.negatives(0.0).sum()).total,
        )
    return _closed_sums(pairs, pairs.anchors, pairs.columns)


def _closed_sums(pairs: Pairs, anchors: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """A sum of products is a product of sums, so class sums are all it takes: O(B D), and the gradients with it."""
    codes, column_codes = pairs.class_ids, pairs.reference_class_ids
    graph = anchors, columns
    anchors, columns = anchors.detach(), columns.detach()
    by_class = columns.new_zeros(pairs.classes, columns.shape[1]).index_add_(0, column_codes, columns)
    of_class = by_class[codes.long()]
    mates, strangers = of_class, columns.sum(dim=0) - of_class
    present = None
    if pairs.own_columns is not None:
        present = (pairs.own_columns >= 0).nonzero().squeeze(1)
        mates = of_class.index_add(0, present, columns[pairs.own_columns[present]], alpha=-1)
    same, other = (anchors * mates).sum(), (anchors * strangers).sum()
    if pairs.references is None:
        return with_gradients(same, (graph[0], 2 * mates)), with_gradients(other, (graph[0], 2 * strangers))
    back = anchors.new_zeros(pairs.classes, anchors.shape[1]).index_add_(0, codes, anchors)[column_codes.long()]
    strangers_back, mates_back = anchors.sum(dim=0) - back, back
    if present is not None and pairs.own_columns is not None:
        mates_back = back.index_add(0, pairs.own_columns[present], anchors[present], alpha=-1)
    return (
        with_gradients(same, (graph[0], mates), (graph[1], mates_back)),
        with_gradients(other, (graph[0], strangers), (graph[1], strangers_back)),
    )


@describe(
    name="intra_pair_variance",
    paper="Yu, Tao: Deep Metric Learning with Tuplet Margin Loss, ICCV 2019",
    batch="at least 2 images per class, at least 2 classes",
    normalises="embeddings",
    defaults_source="pytorch-metric-learning: tolerance 0.01 on both sides",
    cost="O(B^2 D) time, O(B D) memory and one block",
    choose_when="beside tuplet_margin, with weight 0.5; alone it separates nothing",
    traits=Traits(terms="pairs"),
)
class IntraPairVarianceLoss(PairLoss):
    """Module form of :func:`intra_pair_variance_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> IntraPairVarianceLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.3053)
    """

    function = staticmethod(intra_pair_variance_loss)

    def __init__(self, *, positive_tolerance: float = 0.01, negative_tolerance: float = 0.01) -> None:
        super().__init__()
        self.positive_tolerance = check_number("positive_tolerance", positive_tolerance, at_least=0)
        self.negative_tolerance = check_number("negative_tolerance", negative_tolerance, at_least=0)
