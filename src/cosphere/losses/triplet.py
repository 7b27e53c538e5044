"""Triplet loss over all triplets of a batch."""

from __future__ import annotations

from typing import Literal, Unpack

from torch import Tensor

from cosphere.checks import check_choice, check_number, check_switch, check_switches
from cosphere.losses.engine.base import PairLoss, describe
from cosphere.losses.engine.maths import chord, mean_or_zero
from cosphere.losses.engine.pairs import Compared, compare
from cosphere.losses.engine.rows import Block, sum_over_rows
from cosphere.losses.engine.triplets import compare_listed, count_triplets, listed_triplets

__all__ = ["TripletLoss", "triplet_loss"]


def triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    squared: bool = True,
    reduction: Literal["mean_all", "mean_nonzero"] = "mean_all",
    **compared: Unpack[Compared],
) -> Tensor:
    """``[margin + d_ap - d_an]_+`` over every anchor, positive and negative, without ever listing them.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers.
        margin: minimum gap between the negative and the positive distance, in units of d.
        squared: d is the squared distance of unit vectors, in [0, 4]; otherwise the distance, in [0, 2].
        reduction: "mean_all" divides by the number of triplets, so the loss vanishes as they are satisfied;
            "mean_nonzero" by the number of those that still have a loss above 0.
        compared: see :func:`cosphere.losses.compare`. Mined triplets are used as given; mined pairs are combined into
            all triplets that share an anchor.

    Returns:
        () >= 0 up to rounding; a differentiable 0 when there is no triplet.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    check_switches(squared=squared)
    if listed_triplets(compared):
        return _over_list(embeddings, labels, margin, squared, reduction, compared)
    pairs = compare(embeddings, labels, **compared)

    def of_block(block: Block) -> tuple[Tensor, Tensor]:
        distances = chord(block.similarities, squared=squared)
        counts = count_triplets(distances, block, margin)
        return counts.hinges(distances, margin), counts.active[None]

    total, active = sum_over_rows(pairs, of_block)
    everything = (pairs.positives_per_anchor * pairs.negatives_per_anchor).sum()
    return mean_or_zero(total, everything if reduction == "mean_all" else active.sum()) + pairs.zero


def _over_list(
    embeddings: Tensor, labels: Tensor, margin: float, squared: bool, reduction: str, compared: Compared
) -> Tensor:
    pairs, listed = compare_listed(embeddings, labels, compared)

    def of_block(block: Block) -> tuple[Tensor, Tensor]:
        near, far = (chord(cosines, squared=squared) for cosines in listed.similarities(block))
        hinges = (near - far + margin).relu()
        return hinges.sum(), (hinges > 0).sum()[None]

    total, active = sum_over_rows(pairs, of_block)
    return mean_or_zero(total, len(listed.anchors) if reduction == "mean_all" else active.sum()) + pairs.zero


@describe(
    name="triplet",
    paper="Weinberger, Saul: Distance Metric Learning for Large Margin Nearest Neighbor Classification, JMLR 2009; "
    "this form: Zhang et al., Deep Metric Learning with Spherical Embedding, NeurIPS 2020",
    batch="at least 2 images per class (3), at least 2 classes",
    normalises="embeddings",
    defaults_source="official SEC code: margin 1, squared distances, mean over all triplets",
    cost="O(B^2 (D + K)) time for K images per class, O(B D) memory and one block",
    choose_when="a steady loss that uses every image; the one that gains most from SEC",
    forms=[{"squared": False, "reduction": "mean_nonzero"}],
)
class TripletLoss(PairLoss):
    """Module form of :func:`triplet_loss`.

    >>> import torch
    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> TripletLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.6250)
    """

    function = staticmethod(triplet_loss)

    def __init__(
        self,
        *,
        margin: float = 1.0,
        squared: bool = True,
        reduction: Literal["mean_all", "mean_nonzero"] = "mean_all",
    ) -> None:
        super().__init__()
        self.margin = check_number("margin", margin, at_least=0)
        self.squared = check_switch("squared", squared)
        check_choice("reduction", reduction, ["mean_all", "mean_nonzero"])
        self.reduction = reduction
