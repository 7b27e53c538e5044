"""Lifted structured loss: each positive pair against all negatives of both images."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional

from cosphere.checks import check_number, check_switch, check_switches
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import apart_or_zero, mean_or_zero, with_gradients
from cosphere.losses.engine.pairs import Compared, Pairs, compare
from cosphere.losses.engine.rows import Block, blocks, sum_over_rows

__all__ = ["LiftedStructureLoss", "lifted_structure_loss"]


def lifted_structure_loss(
    embeddings: Tensor, labels: Tensor, *, margin: float, normalize: bool = False, **compared: Unpack[Compared]
) -> Tensor:
    """Half the mean of ``[J_ij]_+^2`` over the positive pairs, ``J_ij = log(sum_k e^(margin - d_ik) + sum_l e^(margin - d_jl)) + d_ij``.

    k runs over the negatives of i, l over those of j; d is the distance, not squared.

    Args:
        embeddings: (B, D) float.
        labels: (B,) integers.
        margin: in units of d. pytorch-metric-learning's positive margin is equivalent to a smaller margin.
        normalize: L2-normalize the embeddings; the paper uses raw embeddings, whose norms then need a penalty.
        compared: see :func:`cosphere.losses.compare`. The negatives of a reference j are the images of the batch of
            another class. Where a miner chose pairs, those of j are the ones it chose with j as their anchor; for a
            reference that is not an anchor, the images of the batch that it chose with j as their negative. Which references
            are anchors, ``positions`` says; references that equal the batch row by row are the batch.

    Returns:
        () >= 0; a differentiable 0 when no positive pair has a negative. It grows with the square of the distances.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    check_switches(normalize=normalize)
    pairs = compare(embeddings, labels, unit=normalize, **compared)
    lengths = squared_lengths(pairs, unit=normalize)
    near, column_near = _nearness(pairs, lengths, margin)
    symmetric = pairs.references is None and pairs.listed is None
    anchor_of = None if symmetric else _anchors_of_columns(pairs)
    to_columns = extra = None
    if anchor_of is not None:
        column_near = torch.where(anchor_of >= 0, near[anchor_of.clamp(min=0)], column_near)
    if not symmetric:
        to_columns = _slopes_of_columns(pairs, lengths, near, column_near)
    if anchor_of is not None and to_columns is not None:
        # The negatives of such a column are an anchor's, so the gradient to their sum goes through that anchor's row.
        known = anchor_of >= 0
        extra = torch.zeros_like(near).index_add_(0, anchor_of[known], to_columns[known])
        to_columns = torch.where(known, 0.0, to_columns)

    def of_block(block: Block, *lengths: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            distances = distances_of(block, lengths)
            hinges, to_near, real = _hinges(block, distances, near, column_near)
            own = near[block.rows, None]
            to_own = to_near.sum(dim=1, keepdim=True)
            if symmetric:  # each image is also the second image of the same pairs
                to_own = 2 * to_own
            elif extra is not None:
                to_own = to_own + extra[block.rows, None]
            gaps = torch.where(block.negative, margin - distances, -torch.inf)
            gradient = _exponentials(gaps, own).mul_(-to_own)
            if pairs.references is not None and to_columns is not None:
                gradient.addcmul_(_exponentials(gaps, column_near), to_columns, value=-1)
            gradient.scatter_add_(1, block.positive_columns, hinges)
            value = hinges.square().sum() / 2
            gradients = gradients_of(block, lengths, distances, gradient)
        return with_gradients(value, *gradients), real.sum()[None]

    total, counts = sum_over_rows(pairs, of_block, *lengths)
    return mean_or_zero(total, counts.sum()) + pairs.zero


def squared_lengths(pairs: Pairs, *, unit: bool) -> tuple[Tensor, ...]:
    """Of raw embeddings: (A,) of the anchors, and (R,) of the references if there are any. Nothing of unit vectors."""
    if unit:
        return ()
    sides = [pairs.anchors] if pairs.references is None else [pairs.anchors, pairs.references]
    return tuple(side.square().sum(dim=1) for side in sides)


def distances_of(block: Block, lengths: tuple[Tensor, ...]) -> Tensor:
    """(b, R) distances of unit vectors, or of raw embeddings if their squared lengths are given. Without a graph."""
    products = block.similarities.detach()
    if not lengths:
        return apart_or_zero(products.mul(-2).add_(2), inplace=True).sqrt_()
    own = lengths[0].detach()[block.rows, None]
    return torch.sub(own, products, alpha=2).add_(lengths[-1].detach()).clamp_(min=0).sqrt_()


def gradients_of(
    block: Block, lengths: tuple[Tensor, ...], distances: Tensor, to_distances: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Gradients with respect to similarities and squared norms from those with respect to the distances, in place.

    At zero distance the gradient is taken as 0: the true one is infinite.
    """
    to_products = to_distances.div_(functional.threshold(distances, 0.0, -torch.inf, inplace=True)).neg_()
    gradients = [(block.similarities, to_products)]
    if lengths:
        to_lengths = [torch.zeros_like(one) for one in lengths]
        to_lengths[0][block.rows] = to_products.sum(dim=1)
        to_lengths[-1] += to_products.sum(dim=0)
        gradients += [(one, gradient.mul_(-0.5)) for one, gradient in zip(lengths, to_lengths, strict=True)]
    return gradients


def _nearness(pairs: Pairs, lengths: tuple[Tensor, ...], margin: float) -> tuple[Tensor, Tensor]:
    """Log of the sum of e^(margin - d) over the negatives of each anchor (A,) and of each column (R,)."""
    near = pairs.anchors.new_full((len(pairs.anchors),), -torch.inf)
    column_near = near if pairs.references is None else pairs.columns.new_full((len(pairs.columns),), -torch.inf)
    for block in blocks(pairs):
        gaps = torch.where(block.negative, margin - distances_of(block, lengths), -torch.inf)
        near[block.rows] = gaps.logsumexp(dim=1)
        if pairs.references is not None:
            column_near = torch.logaddexp(column_near, gaps.logsumexp(dim=0))
    return near, column_near


def _anchors_of_columns(pairs: Pairs) -> Tensor | None:
    """(R,) the anchor that each column is, -1 for none, for mined pairs; None otherwise."""
    if pairs.listed is None:
        return None
    anchors = torch.arange(len(pairs.anchors), device=pairs.anchors.device)
    if pairs.references is None:
        return anchors
    anchor_of = torch.full((len(pairs.references),), -1, device=anchors.device)
    if pairs.own_columns is not None:
        present = pairs.own_columns >= 0
        anchor_of[pairs.own_columns[present]] = anchors[present]
    elif torch.equal(pairs.anchors, pairs.references):  # pytorch-metric-learning passes the batch without positions
        return anchors
    return anchor_of


def _hinges(block: Block, distances: Tensor, near: Tensor, column_near: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(b, P) each: [J]_+; the gradient of half its square to the anchor's ``near``; which pairs there are."""
    own, other = near[block.rows, None], column_near[block.positive_columns]
    both = torch.logaddexp(own, other)
    real = block.positive_real & (both != -torch.inf)  # true of NaN, which is to show: raw lengths may overflow
    hinges = torch.where(real, both + distances.gather(1, block.positive_columns), 0.0).clamp_(min=0)
    return hinges, hinges * torch.where(real, (own - both).exp(), 0.0), real


def _slopes_of_columns(pairs: Pairs, lengths: tuple[Tensor, ...], near: Tensor, column_near: Tensor) -> Tensor:
    """(R,) gradient of the sum of half the squared hinges to ``column_near``: a second pass, as pairs have two ends."""
    to_cosines = torch.zeros_like(column_near)
    for block in blocks(pairs):
        hinges, to_own, _ = _hinges(block, distances_of(block, lengths), near, column_near)
        to_cosines.index_add_(0, block.positive_columns.flatten(), (hinges - to_own).flatten())
    return to_cosines


def _exponentials(gaps: Tensor, near: Tensor) -> Tensor:
    """e^(gap - near): the share of each negative in its sum; 0 where there is no sum."""
    return (gaps - near.clamp(min=torch.finfo(near.dtype).min)).exp_()


@describe(
    name="lifted_structure",
    paper="Song et al.: Deep Metric Learning via Lifted Structured Feature Embedding, CVPR 2016",
    batch="at least 2 images per class, at least 2 classes",
    normalises="nothing: lengths count and need a penalty; with normalize, the embeddings",
    defaults_source="the paper: raw embeddings, margin 1",
    cost="O(B^2 D) time, O(B D) memory and one block; rows are made twice",
    choose_when="to compare with the paper; generalized_lifted_structure is the steadier form",
    forms=[{"normalize": True}],
)
class LiftedStructureLoss(PairLoss):
    """Module form of :func:`lifted_structure_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> LiftedStructureLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(3.4215)
    """

    function = staticmethod(lifted_structure_loss)

    def __init__(self, *, margin: float = 1.0, normalize: bool = False) -> None:
        super().__init__()
        self.margin = check_number("margin", margin)
        self.normalize = check_switch("normalize", normalize)

    def traits(self) -> Traits:
        """Traits of the loss under its current settings."""
        return replace(super().traits(), uses_lengths=not self.normalize)
