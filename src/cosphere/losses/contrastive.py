"""Contrastive loss: pull positive pairs together, push negative pairs beyond a margin."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cosphere.losses._about import Loss, check_choice, check_number, describe
from cosphere.losses._pairs import chord, compare, mean_or_zero
from cosphere.tensors import outside_autocast


def contrastive_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    positive_margin: float = 0.0,
    form: Literal["hadsell", "pml"] = "hadsell",
    reduction: Literal["mean_all", "mean_nonzero"] | None = None,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
) -> Tensor:
    """Contrastive loss over all ordered pairs, on the distance d of unit vectors.

    "hadsell" (Hadsell, Chopra and LeCun 2006): half the mean of ``[d - positive_margin]_+^2`` of positive and
    ``[margin - d]_+^2`` of negative pairs. "pml" (pytorch-metric-learning): the same hinges not squared, averaged over
    positive and over negative pairs apart, and added.

    Args:
        embeddings: (B, D) float. Any length; only the direction counts.
        labels: (B,) integers.
        margin: distance in [0, 2] beyond which a negative pair costs nothing.
        positive_margin: distance up to which a positive pair costs nothing.
        form: see above.
        reduction: "mean_all" divides by the number of pairs, "mean_nonzero" by that of pairs that cost something (for
            "pml" on each side). None: "mean_all" for "hadsell", "mean_nonzero" for "pml".
        references: (R, D) float, other images to compare with instead of the batch. No row of them is taken for self.
        reference_labels: (R,) integers.

    Returns:
        () >= 0; a connected 0 when there is no pair.

    Raises:
        SizeError: shapes, types or devices that do not fit.
    """
    pairs = compare(embeddings, labels, references, reference_labels)
    squares = form == "hadsell"
    with outside_autocast(embeddings):
        distances = chord(pairs.cosines, squared=False)
        near = torch.where(pairs.positive, (distances - positive_margin).relu(), 0.0)
        far = torch.where(pairs.negative, (margin - distances).relu(), 0.0)
        everything = (reduction or ("mean_all" if squares else "mean_nonzero")) == "mean_all"
        near_count = pairs.positive.sum() if everything else (near > 0).sum()
        far_count = pairs.negative.sum() if everything else (far > 0).sum()
        if squares:
            total = near.square().sum() + far.square().sum()
            return mean_or_zero(total, near_count + far_count) / 2 + pairs.zero
        return mean_or_zero(near.sum(), near_count) + mean_or_zero(far.sum(), far_count) + pairs.zero


@describe(
    name="contrastive",
    paper="Hadsell, Chopra, LeCun: Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006",
    batch="at least 2 images per class",
    normalises="embeddings",
    defaults_source="the paper's formula on unit vectors, margin 1; form='pml' is pytorch-metric-learning's",
    cost="O(B^2 D) time, O(B^2) memory",
    choose_when="a plain baseline, or labels that come as pairs",
)
class ContrastiveLoss(Loss):
    """The settings of :func:`contrastive_loss`.

    >>> loss = ContrastiveLoss()
    >>> round(float(loss(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))), 4)
    1.0
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        positive_margin: float = 0.0,
        form: Literal["hadsell", "pml"] = "hadsell",
        reduction: Literal["mean_all", "mean_nonzero"] | None = None,
    ) -> None:
        super().__init__()
        self.margin = check_number("margin", margin, at_least=0)
        self.positive_margin = check_number("positive_margin", positive_margin, at_least=0)
        check_choice("form", form, ["hadsell", "pml"])
        if reduction is not None:
            check_choice("reduction", reduction, ["mean_all", "mean_nonzero"])
        self.form, self.reduction = form, reduction

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Tensor:
        """(B, D), (B,) -> (); see :func:`contrastive_loss`."""
        return contrastive_loss(
            embeddings,
            labels,
            margin=self.margin,
            positive_margin=self.positive_margin,
            form=self.form,
            reduction=self.reduction,
            references=references,
            reference_labels=reference_labels,
        )
