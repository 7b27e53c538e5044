"""Triplet loss over all triplets of the batch."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from cosphere.losses._about import Loss, check_choice, check_number, check_switch, describe
from cosphere.losses._pairs import chord, compare, count_triplets, hinge_sum, mean_or_zero
from cosphere.tensors import outside_autocast


def triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    squared: bool = True,
    reduction: Literal["mean_all", "mean_nonzero"] = "mean_all",
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
) -> Tensor:
    """``[margin + d_ap - d_an]_+`` over every anchor, positive and negative, without ever listing them.

    Args:
        embeddings: (B, D) float. Any length; only the direction counts.
        labels: (B,) integers.
        margin: by how much farther a negative must be than a positive, in units of d.
        squared: d is the squared distance of unit vectors, in [0, 4]; otherwise the distance, in [0, 2].
        reduction: "mean_all" divides by the number of triplets, so the loss fades as they are solved; "mean_nonzero" by
            the number of those that still cost something.
        references: (R, D) float, other images to take positives and negatives from instead of the batch. No row of them
            is taken for self.
        reference_labels: (R,) integers.

    Returns:
        () >= 0 up to rounding; a connected 0 when there is no triplet.

    Raises:
        SizeError: shapes, types or devices that do not fit.
    """
    pairs = compare(embeddings, labels, references, reference_labels)
    with outside_autocast(embeddings):
        distances = chord(pairs.cosines, squared=squared)
        counts = count_triplets(distances, pairs, margin)
        triplets = (pairs.positive.sum(dim=1) * pairs.negative.sum(dim=1)).sum()
        divisor = triplets if reduction == "mean_all" else counts.active
        return mean_or_zero(hinge_sum(distances, counts, margin), divisor) + pairs.zero


@describe(
    name="triplet",
    paper="Weinberger, Saul: Distance Metric Learning for Large Margin Nearest Neighbor Classification, JMLR 2009; "
    "this form: Zhang et al., Deep Metric Learning with Spherical Embedding, NeurIPS 2020",
    batch="at least 2 images per class (3), at least 2 classes",
    normalises="embeddings",
    defaults_source="official SEC code: margin 1, squared distances, mean over all triplets",
    cost="O(B^2 D + B^2 log B) time, O(B^2) memory",
    choose_when="a steady loss that uses every image; the one that gains most from SEC",
)
class TripletLoss(Loss):
    """The settings of :func:`triplet_loss`.

    >>> import torch
    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> TripletLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.6250)
    """

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

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Tensor:
        """(B, D), (B,) -> (); see :func:`triplet_loss`."""
        return triplet_loss(
            embeddings,
            labels,
            margin=self.margin,
            squared=self.squared,
            reduction=self.reduction,
            references=references,
            reference_labels=reference_labels,
        )
