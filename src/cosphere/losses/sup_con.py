"""Supervised contrastive loss: all positives of an anchor against everything else in the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Unpack

import torch
from torch import Tensor

from cosphere.checks import check_choice, check_number
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import log_sum_exp, mean_or_zero
from cosphere.losses.engine.pairs import Compared, compare
from cosphere.losses.engine.rows import Block, sum_over_rows

__all__ = ["SupConLoss", "sup_con_loss"]


def sup_con_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    base_temperature: float | None = None,
    reduction: Literal["valid_anchors", "batch"] = "valid_anchors",
    **compared: Unpack[Compared],
) -> Tensor:
    """``LSE_k(s_k / t) - mean_p s_p / t`` of each anchor: L_out of the paper, k over all others, positives included.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers. For two views of each image, give both the label of the image.
        temperature: t, > 0, in units of cosine.
        base_temperature: multiplies the loss by ``temperature / base_temperature``; the authors' code has 0.07. None: 1.
        reduction: "valid_anchors" divides by the number of anchors that have a positive and a negative, as
            pytorch-metric-learning does for whole batches; "batch" by B, as the authors' code does. Other anchors cost 0.
        compared: see :func:`cosphere.losses.compare`.

    Returns:
        () >= 0, in nats; a differentiable 0 when there is no such anchor.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    pairs = compare(embeddings, labels, **compared)
    positives = pairs.positives_per_anchor
    valid = (positives > 0) & (pairs.negatives_per_anchor > 0)

    def of_block(block: Block) -> Tensor:
        everything = log_sum_exp(block.negatives(-torch.inf) / temperature, block.positives(-torch.inf) / temperature)
        pulled = block.positives(0.0).sum(dim=1) / positives[block.rows].clamp(min=1) / temperature
        return torch.where(valid[block.rows], everything - pulled, 0.0).sum()

    total = sum_over_rows(pairs, of_block).total
    factor = 1.0 if base_temperature is None else temperature / base_temperature
    return factor * mean_or_zero(total, valid.sum() if reduction == "valid_anchors" else pairs.size) + pairs.zero


@describe(
    name="sup_con",
    paper="Khosla et al.: Supervised Contrastive Learning, NeurIPS 2020",
    batch="at least 2 images per class, or 2 views of each image; at least 2 classes",
    normalises="embeddings",
    defaults_source="the paper's temperature 0.1; the authors' code multiplies by temperature / 0.07",
    cost="O(B^2 D) time, O(B D) memory and one block",
    choose_when="large batches with labels, many positives per anchor",
    forms=[{"reduction": "batch"}],
)
class SupConLoss(PairLoss):
    """Module form of :func:`sup_con_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> SupConLoss(temperature=0.5)(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.8861)
    """

    function = staticmethod(sup_con_loss)

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        base_temperature: float | None = None,
        reduction: Literal["valid_anchors", "batch"] = "valid_anchors",
    ) -> None:
        super().__init__()
        self.temperature = check_number("temperature", temperature, above=0)
        self.base_temperature = (
            None if base_temperature is None else check_number("base_temperature", base_temperature, above=0)
        )
        check_choice("reduction", reduction, ["valid_anchors", "batch"])
        self.reduction = reduction

    def traits(self) -> Traits:
        """Traits of the loss under its current settings."""
        return replace(super().traits(), divides_by_batch=self.reduction == "batch")
