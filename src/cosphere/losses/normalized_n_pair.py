"""Normalised N-pair loss: softmax over one positive per class."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from cosphere.checks import check_number
from cosphere.losses._n_pairs import compare_n_pairs
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import mean_or_zero
from cosphere.losses.engine.pairs import Compared
from cosphere.losses.engine.rows import each_positive_against_negatives, sum_over_rows

__all__ = ["NormalizedNPairLoss", "normalized_n_pair_loss"]


def normalized_n_pair_loss(embeddings: Tensor, labels: Tensor, *, scale: float, **compared: Unpack[Compared]) -> Tensor:
    """Cross-entropy over ``scale * cosine`` between the first image of a class and the second images of all classes.

    One direction only, as in the official SEC code: anchors are first images in batch order, candidates second images.
    Classes with fewer than two images, and images beyond the second, are not used. It is a softmax over the positives of
    the batch with temperature 1 / scale. pytorch-metric-learning's ``NPairsLoss()`` is this with a scale of 1.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers.
        scale: logit scale, > 0. The official code multiplies each unit vector by 5, which is 25 here.
        compared: see :func:`cosphere.losses.compare`. With references, the second image of a class is the first
            reference that is not the anchor itself. With a miner's tuple, the first anchor and positive of each class
            are used.

    Returns:
        () >= 0, mean over the N anchors; a differentiable 0 with fewer than two classes.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    chosen = compare_n_pairs(embeddings, labels, compared, unit=True)
    total = sum_over_rows(chosen.pairs, lambda block: each_positive_against_negatives(block, scale)).total
    return mean_or_zero(total, len(chosen.anchors)) + chosen.zero


@describe(
    name="normalized_n_pair",
    paper="Sohn: Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NeurIPS 2016; "
    "normalised form: Zhang et al., Deep Metric Learning with Spherical Embedding, NeurIPS 2020",
    batch="exactly 2 images per class; further ones are not used",
    normalises="embeddings",
    defaults_source="official SEC code: unit vectors times 5 on either side",
    cost="O(B^2 D / 4) time, O(B D) memory and one block",
    choose_when="many classes with few images each: every batch holds B/2 classes",
    traits=Traits(uses_classes=True, order="in_class"),
)
class NormalizedNPairLoss(PairLoss):
    """Module form of :func:`normalized_n_pair_loss`.

    >>> import torch
    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> NormalizedNPairLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(10.)
    """

    function = staticmethod(normalized_n_pair_loss)

    def __init__(self, *, scale: float = 25.0) -> None:
        super().__init__()
        self.scale = check_number("scale", scale, above=0)
