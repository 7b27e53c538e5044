"""Contrastive loss: pull positive pairs together, push negative pairs beyond a margin."""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import Tensor

from cosphere.losses._about import PairLoss, check_choice, check_number, describe
from cosphere.losses._rows import Compared, Pairs, Rows, chord, compare, mean_or_zero, sum_over_rows


def contrastive_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    positive_margin: float = 0.0,
    form: Literal["hadsell", "pml"] = "hadsell",
    reduction: Literal["mean_all", "mean_nonzero"] | None = None,
    **compared: Unpack[Compared],
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
        compared: see :func:`cosphere.losses.compare`.

    Returns:
        () >= 0; a connected 0 when there is no pair.

    Raises:
        SizeError: shapes, types, devices or indices that do not fit.
    """
    pairs = compare(embeddings, labels, **compared)
    everything = (reduction or ("mean_all" if form == "hadsell" else "mean_nonzero")) == "mean_all"
    if form == "pml":
        near_count, far_count = _pair_counts(pairs) if everything else _costly(pairs, margin, positive_margin)

        def of_rows(rows: Rows) -> Tensor:
            near, far = _hinges(rows, margin, positive_margin)
            return mean_or_zero(near.sum(), near_count) + mean_or_zero(far.sum(), far_count)

        return sum_over_rows(pairs, of_rows).total + pairs.zero

    def squares_of_rows(rows: Rows) -> tuple[Tensor, Tensor]:
        near, far = _hinges(rows, margin, positive_margin)
        count = pairs.zero.new_zeros(1) if everything else ((near > 0).sum() + (far > 0).sum())[None]
        return near.square().sum() + far.square().sum(), count

    total, costly = sum_over_rows(pairs, squares_of_rows)
    count = sum(_pair_counts(pairs)) if everything else costly.sum()
    return mean_or_zero(total, count) / 2 + pairs.zero


def _hinges(rows: Rows, margin: float, positive_margin: float) -> tuple[Tensor, Tensor]:
    """``[d - positive_margin]_+`` of the positives (b, P) and ``[margin - d]_+`` of the negatives (b, R), else 0."""
    near = _near(rows, positive_margin)
    # As chord(), in fewer passes over the block: below the floor the distance is 0 to rounding, and has no gradient.
    distances = torch.rsub(rows.similarities, 2, alpha=2).clamp(min=1e-36).sqrt()
    return near, torch.where(rows.negative, (margin - distances).relu(), 0.0)


def _near(rows: Rows, positive_margin: float) -> Tensor:
    return (chord(rows.positives(1.0), squared=False) - positive_margin).relu()


def _pair_counts(pairs: Pairs) -> tuple[Tensor, Tensor]:
    return pairs.positives_per_anchor.sum(), pairs.negatives_per_anchor.sum()


def _costly(pairs: Pairs, margin: float, positive_margin: float) -> tuple[Tensor, Tensor]:
    """How many positive and how many negative pairs cost something: each side's mean needs its own before the walk."""
    counts = torch.zeros(2, dtype=torch.int64, device=pairs.anchors.device)
    limit = 1 - margin**2 / 2  # the cosine at that distance: one comparison instead of the whole hinge
    for rows in pairs.blocks():
        far = rows.negative & (rows.similarities > limit)
        counts += torch.stack([(_near(rows, positive_margin) > 0).sum(), far.sum()])
    return counts[0], counts[1]


@describe(
    name="contrastive",
    paper="Hadsell, Chopra, LeCun: Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006",
    batch="at least 2 images per class",
    normalises="embeddings",
    defaults_source="the paper's formula on unit vectors, margin 1; form='pml' is pytorch-metric-learning's",
    cost="O(B^2 D) time, O(B D) memory and one block",
    choose_when="a plain baseline, or labels that come as pairs",
)
class ContrastiveLoss(PairLoss):
    """The settings of :func:`contrastive_loss`.

    >>> loss = ContrastiveLoss()
    >>> round(float(loss(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))), 4)
    1.0
    """

    function = staticmethod(contrastive_loss)

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
