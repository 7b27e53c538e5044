"""Alignment and uniformity: pull positives together and spread all embeddings over the sphere."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from cosphere.checks import check_number
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import chord, log_sum_exp, mean_or_zero
from cosphere.losses.engine.pairs import Compared, Pairs, compare
from cosphere.losses.engine.rows import Block, blocks, sum_over_rows

__all__ = ["AlignmentUniformityLoss", "alignment_uniformity_loss"]


def alignment_uniformity_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    power: float,
    sharpness: float,
    alignment_weight: float = 1.0,
    uniformity_weight: float = 1.0,
    **compared: Unpack[Compared],
) -> Tensor:
    """``alignment_weight * mean_p d_p^power + uniformity_weight * log mean_all exp(-sharpness d^2)``.

    d is the distance of unit vectors; the first mean is over the positive pairs, the second over all pairs of different
    images. The authors' code averages the uniformity of the two views; here both views form one batch.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers; for two views, the index of the image.
        power: alpha of the paper, > 0.
        sharpness: t of the paper, > 0, per squared unit of distance.
        alignment_weight: >= 0.
        uniformity_weight: >= 0.
        compared: see :func:`cosphere.losses.compare`.

    Returns:
        (), at least ``-4 * sharpness * uniformity_weight``, usually negative; a term without pairs is a differentiable
        0.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    pairs = compare(embeddings, labels, **compared)
    near = pairs.positives_per_anchor.sum()
    log_sum = _log_sum(pairs, sharpness)

    def of_block(block: Block) -> tuple[Tensor, Tensor]:
        aligned = mean_or_zero(_power(chord(block.positives(1.0), squared=True), power).sum(), near)
        # The gradient of log(sum) is that of the sum divided by its value, known here. These weights sum to 1.
        of_near, of_far = _exponents(block, sharpness)
        shares = (of_near - log_sum).exp().sum() + (of_far - log_sum).exp().sum()
        return alignment_weight * aligned + uniformity_weight * shares, shares.detach()[None]

    total, shares = sum_over_rows(pairs, of_block)
    count = (near + pairs.negatives_per_anchor.sum()).to(total.dtype)
    # exp(-sharpness d^2) is exp(2 sharpness s) over exp(2 sharpness), which only the value needs.
    uniformity = torch.where(count > 0, log_sum - 2 * sharpness - count.clamp(min=1).log(), 0.0)
    return total + uniformity_weight * (uniformity - shares.sum()) + pairs.zero


def _exponents(block: Block, sharpness: float) -> tuple[Tensor, Tensor]:
    """``2 * sharpness * s`` of the positives (b, P) and the negatives (b, R), -inf elsewhere."""
    return 2 * sharpness * block.positives(-torch.inf), 2 * sharpness * block.negatives(-torch.inf)


def _log_sum(pairs: Pairs, sharpness: float) -> Tensor:
    """Log of the sum of ``exp(2 * sharpness * s)`` over all pairs; 0 when there is none. ()."""
    parts = [log_sum_exp(*_exponents(block, sharpness)) for block in blocks(pairs)]
    if not parts:
        return torch.zeros_like(pairs.zero)
    total = log_sum_exp(torch.cat(parts)[None])[0]
    return torch.where(total == -torch.inf, 0.0, total)


def _power(squares: Tensor, power: float) -> Tensor:
    """``sqrt(squares)^power`` with gradient 0 at 0, where that of a power below 2 is infinite."""
    apart = squares > 0
    return torch.where(apart, torch.where(apart, squares, 1.0) ** (power / 2), 0.0)


@describe(
    name="alignment_uniformity",
    paper="Wang, Isola: Understanding Contrastive Representation Learning through Alignment and Uniformity on the "
    "Hypersphere, ICML 2020",
    batch="2 views of each image, or at least 2 images per class",
    normalises="embeddings",
    defaults_source="the authors' code: power 2, sharpness 2, both weights 1",
    cost="O(B^2 D) time (the products twice beyond one block), O(B D) memory and one block",
    choose_when="to hold closeness and spread apart, or to watch them in another loss",
    forms=[{"power": 1.0}],
    traits=Traits(terms="pairs", may_be_negative=True),
)
class AlignmentUniformityLoss(PairLoss):
    """Module form of :func:`alignment_uniformity_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> AlignmentUniformityLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(-0.7630)
    """

    function = staticmethod(alignment_uniformity_loss)
    labels_from = "image"

    def __init__(
        self,
        *,
        power: float = 2.0,
        sharpness: float = 2.0,
        alignment_weight: float = 1.0,
        uniformity_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.power = check_number("power", power, above=0)
        self.sharpness = check_number("sharpness", sharpness, above=0)
        self.alignment_weight = check_number("alignment_weight", alignment_weight, at_least=0)
        self.uniformity_weight = check_number("uniformity_weight", uniformity_weight, at_least=0)
