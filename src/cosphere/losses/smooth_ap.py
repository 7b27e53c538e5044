"""Smooth-AP: average precision with sigmoids in place of rank comparisons."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from cosphere.checks import check_number, check_switch, check_switches
from cosphere.losses.engine.base import PairLoss, describe
from cosphere.losses.engine.maths import mean_or_zero, with_gradients
from cosphere.losses.engine.pairs import Compared, compare
from cosphere.losses.engine.rows import Block, sum_over_rows

__all__ = ["SmoothAPLoss", "smooth_ap_loss"]


def smooth_ap_loss(
    embeddings: Tensor, labels: Tensor, *, temperature: float, count_self: bool = True, **compared: Unpack[Compared]
) -> Tensor:
    """One minus the mean over anchors of a smooth average precision.

    ``AP = mean_j (1 + P_j) / (1 + P_j + N_j)`` over the positives j, where P_j and N_j add up
    ``sigmoid((s_k - s_j) / temperature)`` over the other positives and over the negatives k.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers. Classes may differ in size, and come in any order; the authors' code wants them equal, and
            sorted.
        temperature: in units of cosine, > 0. Smaller is nearer to the true average precision, with less gradient.
        count_self: the anchor is a positive of its own, as in the authors' code and in pytorch-metric-learning. It ranks
            first, so that the loss is smaller; False leaves it out.
        compared: see :func:`cosphere.losses.compare`.

    Returns:
        () in [0, 1), mean over the anchors that have a positive and a negative; a differentiable 0 when none has.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    check_switches(count_self=count_self)
    pairs = compare(embeddings, labels, **compared)
    valid = (pairs.positives_per_anchor > 0) & (pairs.negatives_per_anchor > 0)
    most = int(torch.where(valid, pairs.positives_per_anchor, 0).max()) if len(valid) else 0

    def of_block(block: Block) -> Tensor:
        with torch.no_grad():
            cosines, columns = _candidates(block, most, count_self)
            counts = (cosines > -torch.inf).sum(dim=1, keepdim=True)
            weight = torch.where(valid[block.rows, None], 1.0, 0.0).to(cosines) / counts.clamp(min=1)
            value, to_cosine, to_candidates = _precision_lost(
                block.negatives(-torch.inf).div_(temperature), cosines / temperature, weight
            )
            to_cosine.scatter_add_(1, columns, to_candidates).div_(temperature)
        return with_gradients(value, (block.similarities, to_cosine))

    total = sum_over_rows(pairs, of_block).total if most else pairs.zero
    return mean_or_zero(total, valid.sum()) + pairs.zero


def _candidates(block: Block, most: int, count_self: bool) -> tuple[Tensor, Tensor]:
    """Cosines of the positives, nearest first, -inf where there are fewer, and their columns. (b, most) or one more."""
    cosines, columns = block.positives(-torch.inf), block.positive_columns
    if count_self and block.pairs.own_columns is not None:
        own = block.pairs.own_columns[block.rows, None]
        itself = block.similarities.gather(1, own.clamp(min=0))
        cosines = torch.cat([cosines, torch.where(own >= 0, itself, -torch.inf)], dim=1)
        columns = torch.cat([columns, own.clamp(min=0)], dim=1)
        most += 1
    cosines, order = cosines.topk(min(most, cosines.shape[1]), dim=1)
    return cosines, columns.gather(1, order)


def _precision_lost(negatives: Tensor, candidates: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of ``weight * N_j / (1 + P_j + N_j)`` over all j, and its gradients, for one positive of each row at a time.

    Args:
        negatives: (b, R) exponents, -inf where there is none.
        candidates: (b, P) likewise.
        weight: (b, 1).
    """
    value = negatives.new_zeros(())
    to_cosine, to_candidates = torch.zeros_like(negatives), torch.zeros_like(candidates)
    above, bell = torch.empty_like(negatives), torch.empty_like(negatives)
    for slot in range(candidates.shape[1]):
        target = candidates[:, slot, None]
        target = torch.where(target > -torch.inf, target, torch.inf)  # nothing is above a positive that is not there
        torch.sub(negatives, target, out=above).sigmoid_()
        peers = (candidates - target).sigmoid_()
        peers[:, slot] = 0
        ahead, rank = above.sum(dim=1, keepdim=True), 1 + peers.sum(dim=1, keepdim=True)
        value += (weight * ahead / (rank + ahead)).sum()
        to_ahead = weight * rank / (rank + ahead).square()
        to_rank = -weight * ahead / (rank + ahead).square()
        torch.addcmul(above, above, above, value=-1, out=bell)
        to_cosine.addcmul_(bell, to_ahead)
        to_peers = (peers - peers.square()) * to_rank
        to_candidates += to_peers
        to_candidates[:, slot] -= to_peers.sum(dim=1) + bell.sum(dim=1) * to_ahead[:, 0]
    return value, to_cosine, to_candidates


@describe(
    name="smooth_ap",
    paper="Brown et al.: Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval, ECCV 2020",
    batch="at least 2 images per class (4), at least 2 classes",
    normalises="embeddings",
    defaults_source="the authors' code: temperature 0.01, the anchor among its own positives",
    cost="O(B^2 (D + K)) time for K images per class, O(B D) memory and one block",
    choose_when="to train for average precision itself, with large batches",
)
class SmoothAPLoss(PairLoss):
    """Module form of :func:`smooth_ap_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> SmoothAPLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.0952)
    """

    function = staticmethod(smooth_ap_loss)

    def __init__(self, *, temperature: float = 0.01, count_self: bool = True) -> None:
        super().__init__()
        self.temperature = check_number("temperature", temperature, above=0)
        self.count_self = check_switch("count_self", count_self)
