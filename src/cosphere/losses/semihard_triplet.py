"""Semihard triplet loss: for each positive pair one negative that is farther than the positive, but not much."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cosphere.errors import SettingsError
from cosphere.losses._about import Loss, check_choice, check_number, check_switch, describe
from cosphere.losses._pairs import Pairs, chord, compare, count_triplets, hinge_sum, mean_or_zero
from cosphere.tensors import outside_autocast


def semihard_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    squared: bool = True,
    variant: Literal["tensorflow", "facenet"] = "tensorflow",
    reduction: Literal["mean_all", "mean_nonzero"] = "mean_all",
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
) -> Tensor:
    """``[margin + d_ap - d_an]_+`` over semihard triplets. Which negative is chosen is not differentiated.

    "tensorflow" (also the official SEC code): for each ordered positive pair the closest negative with d_an > d_ap, or,
    where none is, the farthest negative. "facenet": every negative with d_ap < d_an <= d_ap + margin.

    Args:
        embeddings: (B, D) float. Any length; only the direction counts.
        labels: (B,) integers.
        margin: by how much farther a negative must be than a positive, in units of d.
        squared: d is the squared distance of unit vectors, in [0, 4]; otherwise the distance, in [0, 2].
        variant: see above.
        reduction: "mean_all" divides by the number of positive pairs that have a negative ("facenet": of triplets in
            the window), "mean_nonzero" by that of terms above zero.
        references: (R, D) float, other images to take positives and negatives from instead of the batch. No row of them
            is taken for self.
        reference_labels: (R,) integers.

    Returns:
        () >= 0 up to rounding; a connected 0 when there is nothing to compare.

    Raises:
        SizeError: shapes, types or devices that do not fit.
    """
    pairs = compare(embeddings, labels, references, reference_labels)
    with outside_autocast(embeddings):
        distances = chord(pairs.cosines, squared=squared)
        if variant == "facenet":
            return _window_mean(distances, pairs, margin, reduction) + pairs.zero
        wanted = pairs.positive & pairs.negative.any(dim=1, keepdim=True)
        hinges = (distances - _semihard_negatives(distances, pairs) + margin).relu()
        terms = torch.where(wanted, hinges, 0.0)
        divisor = wanted.sum() if reduction == "mean_all" else (terms > 0).sum()
        return mean_or_zero(terms.sum(), divisor) + pairs.zero


def _semihard_negatives(distances: Tensor, pairs: Pairs) -> Tensor:
    """For each pair the distance to the closest negative that is farther, else to the farthest. (B, R) -> (B, R)."""
    if not distances.numel():
        return distances
    fixed = torch.where(pairs.negative, distances.detach(), torch.inf)
    ascending, order = fixed.sort(dim=1)
    farther = torch.searchsorted(ascending, distances.detach(), right=True)
    farthest = (pairs.negative.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    return distances.gather(1, order.gather(1, torch.minimum(farther, farthest)))


def _window_mean(distances: Tensor, pairs: Pairs, margin: float, reduction: str) -> Tensor:
    counts = count_triplets(distances, pairs, margin, window=True)
    total = hinge_sum(distances, counts, margin)
    if reduction == "mean_nonzero":
        return mean_or_zero(total, counts.active)
    return mean_or_zero(total, _window_size(distances.detach(), pairs, margin))


def _window_size(distances: Tensor, pairs: Pairs, margin: float) -> Tensor:
    """Number of triplets with d_ap < d_an <= d_ap + margin: those at the very end cost nothing, but count. ()."""
    negatives = torch.where(pairs.negative, distances, torch.inf).sort(dim=1).values
    inside = torch.searchsorted(negatives, distances + margin, right=True)
    inside = inside - torch.searchsorted(negatives, distances, right=True)
    return torch.where(pairs.positive, inside, 0).sum()


@describe(
    name="semihard_triplet",
    paper="Schroff, Kalenichenko, Philbin: FaceNet, CVPR 2015",
    batch="at least 2 images per class (3), at least 2 classes",
    normalises="embeddings",
    defaults_source="official SEC code: TensorFlow's rule, margin 0.2, squared distances, mean over positive pairs",
    cost="O(B^2 D + B^2 log B) time, O(B^2) memory",
    choose_when="all triplets learn too slowly and batches are large enough to hold hard negatives",
)
class SemihardTripletLoss(Loss):
    """The settings of :func:`semihard_triplet_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> SemihardTripletLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.0500)
    """

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

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Tensor:
        """(B, D), (B,) -> (); see :func:`semihard_triplet_loss`."""
        return semihard_triplet_loss(
            embeddings,
            labels,
            margin=self.margin,
            squared=self.squared,
            variant=self.variant,
            reduction=self.reduction,
            references=references,
            reference_labels=reference_labels,
        )
