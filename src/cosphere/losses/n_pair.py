"""N-pair loss on raw embeddings with an L2 penalty on their norms."""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import Tensor

from cosphere.checks import check_choice, check_number
from cosphere.losses._n_pairs import compare_n_pairs
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.pairs import Compared
from cosphere.losses.engine.rows import each_positive_against_negatives, sum_over_rows
from cosphere.tensors import full_precision, lengths

__all__ = ["NPairLoss", "n_pair_loss"]


def n_pair_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    l2_weight: float,
    l2_form: Literal["squared_length", "length"] = "squared_length",
    **compared: Unpack[Compared],
) -> Tensor:
    """Cross-entropy over inner products of first images with second images, plus an L2 term on the images used.

    ``mean_i [LSE_j(a_i . p_j) - a_i . p_i] + l2_weight * mean |f|^2`` with anchors a, the first images of the classes in
    batch order, and positives p, the second ones. Classes with fewer than two images, and further images, are not used.

    The published L2 terms: Chainer's and pytorch-metric-learning's are the default form, the latter over all rows of
    the batch. TensorFlow's has a weight of 0.002 * 0.25; Sohn's 0.02 is said to be quartered in his code (0.005). Roth
    et al. take the mean length with 0.005. pytorch-metric-learning normalizes by default.

    Args:
        embeddings: (B, D) float, raw; not normalized.
        labels: (B,) integers.
        l2_weight: of the L2 term, >= 0, per squared unit of length (or per unit).
        l2_form: what is averaged over the images used, "squared_length" or "length".
        compared: see :func:`cosphere.losses.compare`. With references, the second image of a class is the first
            reference that is not the anchor itself. With a miner's tuple, the first anchor and positive of each class
            are used.

    Returns:
        () >= 0, mean over the N anchors; a differentiable 0, without L2 term, with fewer than two classes.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    chosen = compare_n_pairs(embeddings, labels, compared, unit=False)
    if len(chosen.anchors) < 2:
        return chosen.zero
    total = sum_over_rows(chosen.pairs, lambda block: each_positive_against_negatives(block, 1.0)).total
    sizes = torch.cat([_sizes(rows, l2_form) for rows in (chosen.anchors, chosen.candidates)])
    return total / len(chosen.anchors) + l2_weight * sizes.mean() + chosen.zero


def _sizes(rows: Tensor, form: str) -> Tensor:
    """(N, D) -> (N,) lengths, or their squares without the root in between."""
    return lengths(rows) if form == "length" else full_precision(rows).square().sum(dim=1)


@describe(
    name="n_pair",
    paper="Sohn: Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NeurIPS 2016",
    batch="exactly 2 images per class; further ones are not used",
    normalises="nothing: inner products of raw embeddings",
    defaults_source="the paper's weight 0.02 on the mean squared length, as in Chainer's code; others use a quarter of it",
    cost="O(B^2 D / 4) time, O(B D) memory and one block",
    choose_when="to compare with the published N-pair; for retrieval by cosine take normalized_n_pair",
    forms=[{"l2_form": "length"}],
    traits=Traits(uses_classes=True, order="in_class", uses_lengths=True),
)
class NPairLoss(PairLoss):
    """Module form of :func:`n_pair_loss`.

    >>> points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> NPairLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.3333)
    """

    function = staticmethod(n_pair_loss)

    def __init__(
        self, *, l2_weight: float = 0.02, l2_form: Literal["squared_length", "length"] = "squared_length"
    ) -> None:
        super().__init__()
        self.l2_weight = check_number("l2_weight", l2_weight, at_least=0)
        check_choice("l2_form", l2_form, ["squared_length", "length"])
        self.l2_form = l2_form
