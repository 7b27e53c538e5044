"""Semihard triplet loss: for each positive pair, a negative slightly farther than the positive."""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import Tensor

from cosphere.checks import check_choice, check_number, check_switch, check_switches
from cosphere.errors import SettingsError
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import chord, mean_or_zero
from cosphere.losses.engine.pairs import Compared, Pairs, compare
from cosphere.losses.engine.rows import Block, sum_over_rows
from cosphere.losses.engine.triplets import count_window

__all__ = ["SemihardTripletLoss", "semihard_triplet_loss"]

FEW = 16
"""Up to this many positives per anchor, one pass over the negatives for each is faster than sorting them."""


def semihard_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    squared: bool = True,
    variant: Literal["tensorflow", "facenet"] = "tensorflow",
    reduction: Literal["mean_all", "mean_nonzero"] = "mean_all",
    **compared: Unpack[Compared],
) -> Tensor:
    """``[margin + d_ap - d_an]_+`` over semihard triplets. Which negative is chosen is not differentiated.

    "tensorflow" (also the official SEC code): for each ordered positive pair the closest negative with d_an > d_ap, or,
    where none is, the farthest negative. TensorFlow Addons has margin 1 and distances that are not squared as defaults,
    and both codes give NaN without a positive pair and take the anchor itself for a negative where there is none; here
    such batches and anchors contribute nothing.

    "facenet": every negative with d_ap < d_an <= d_ap + margin, as pytorch-metric-learning's TripletMarginMiner
    ("semihard") lists them.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers.
        margin: minimum gap between the negative and the positive distance, in units of d.
        squared: d is the squared distance of unit vectors, in [0, 4]; otherwise the distance, in [0, 2].
        variant: see above.
        reduction: "mean_all" divides by the number of positive pairs that have a negative ("facenet": of triplets in
            the window), "mean_nonzero" by that of terms above zero.
        compared: see :func:`cosphere.losses.compare`. Mined tuples restrict the candidate pairs.

    Returns:
        () >= 0 up to rounding; a differentiable 0 when there is nothing to compare.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    check_switches(squared=squared)
    pairs = compare(embeddings, labels, **compared)
    if variant == "facenet":
        return _window_mean(pairs, margin, squared, reduction) + pairs.zero

    def of_block(block: Block) -> tuple[Tensor, Tensor]:
        chosen = semihard_negatives(block)
        distances = chord(
            block.similarities.gather(1, torch.cat([block.positive_columns, chosen], dim=1)), squared=squared
        )
        near, far = distances.tensor_split(2, dim=1)
        valid = block.positive_real & (pairs.negatives_per_anchor[block.rows, None] > 0)
        terms = torch.where(valid, (near - far + margin).relu(), 0.0)
        return terms.sum(), torch.stack([valid.sum(), (terms > 0).sum()])

    total, counts = sum_over_rows(pairs, of_block)
    return mean_or_zero(total, counts[0 if reduction == "mean_all" else 1]) + pairs.zero if len(counts) else pairs.zero


@torch.no_grad()
def semihard_negatives(block: Block) -> Tensor:
    """For each positive pair the column of the closest negative that is farther, else of the farthest. (b, P) int64.

    Entries of padding and of anchors without a negative are arbitrary.
    """
    # Farther is a smaller cosine. Rounding may lift one above 1, where all of them are distance 0.
    near = block.positives(1.0).clamp(max=1)
    if near.shape[1] > FEW:
        ascending, order = block.negatives(torch.inf).sort(dim=1)
        smaller = torch.searchsorted(ascending, near)
        return order.gather(1, (smaller - 1).clamp(min=0))  # none smaller: place 0, the farthest
    farthest = block.negatives(torch.inf).argmin(dim=1)
    negatives = block.negatives(-torch.inf)
    chosen = torch.empty_like(block.positive_columns)
    for slot in range(near.shape[1]):
        cosine, column = torch.where(negatives < near[:, slot : slot + 1], negatives, -torch.inf).max(dim=1)
        chosen[:, slot] = torch.where(cosine > -torch.inf, column, farthest)
    return chosen


def _window_mean(pairs: Pairs, margin: float, squared: bool, reduction: str) -> Tensor:
    def of_block(block: Block) -> tuple[Tensor, Tensor]:
        distances = chord(block.similarities, squared=squared)
        window = count_window(distances, block, margin)
        return window.counts.hinges(distances, margin), torch.stack([window.size, window.counts.active])

    total, counts = sum_over_rows(pairs, of_block)
    return mean_or_zero(total, counts[0 if reduction == "mean_all" else 1]) if len(counts) else total


@describe(
    name="semihard_triplet",
    paper="Schroff, Kalenichenko, Philbin: FaceNet, CVPR 2015",
    batch="at least 2 images per class (3), at least 2 classes",
    normalises="embeddings",
    defaults_source="official SEC code: TensorFlow's rule, margin 0.2, squared distances, mean over positive pairs",
    cost="O(B^2 (D + K)) time for K images per class, O(B^2 (D + log B)) for large K; O(B D) memory and one block",
    choose_when="all triplets learn too slowly and batches are large enough to hold hard negatives",
    forms=[{"squared": False}, {"variant": "facenet"}],
    traits=Traits(picks_one=True),
)
class SemihardTripletLoss(PairLoss):
    """Module form of :func:`semihard_triplet_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> SemihardTripletLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.0500)
    """

    function = staticmethod(semihard_triplet_loss)

    def __init__(
        self,
        *,
        margin: float = 0.2,
        squared: bool = True,
        variant: Literal["tensorflow", "facenet"] = "tensorflow",
        reduction: Literal["mean_all", "mean_nonzero"] = "mean_all",
    ) -> None:
        super().__init__()
        self.margin = check_number("margin", margin, at_least=0)
        self.squared = check_switch("squared", squared)
        check_choice("variant", variant, ["tensorflow", "facenet"])
        check_choice("reduction", reduction, ["mean_all", "mean_nonzero"])
        if variant == "facenet" and self.margin == 0:
            raise SettingsError(
                "the window of variant 'facenet' is as wide as the margin; got margin 0. Give one above 0."
            )
        self.variant, self.reduction = variant, reduction
