"""Multi-similarity loss: soft maxima over the informative positives and negatives of each anchor."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Unpack

import torch
from torch import Tensor

from cosphere.checks import check_choice, check_number
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import log_one_plus_exp, log_sum_exp, mean_or_zero
from cosphere.losses.engine.pairs import Compared, compare
from cosphere.losses.engine.rows import Block, sum_over_rows

__all__ = ["MultiSimilarityLoss", "multi_similarity_loss"]


def multi_similarity_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    beta: float,
    base: float,
    mining: float | None,
    divisor: Literal["batch", "kept"] = "batch",
    anchors: Literal["both_sides", "all"] = "both_sides",
    **compared: Unpack[Compared],
) -> Tensor:
    """Soft maxima over the hard positives and negatives of each anchor.

    An anchor costs ``log(1 + sum_p exp(-alpha (s_p - base))) / alpha + log(1 + sum_n exp(beta (s_n - base))) / beta``
    with the cosines s_p of its positives and s_n of its negatives.
    Mining keeps the negatives with ``s_n + mining > min s_p`` and the positives with ``s_p - mining < max s_n``, both
    against the unmined sets. The authors' code skips anchors that are left without a positive or without a negative;
    equation 15 of the paper and pytorch-metric-learning count them. An anchor without positives keeps no negatives where
    pairs are mined, so the two differ only without mining or with a miner's tuples.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers.
        alpha: sharpness for positives, > 0.
        beta: sharpness for negatives, > 0.
        base: the cosine at which pairs begin to count.
        mining: tolerance in cosine, >= 0; None keeps all pairs.
        divisor: "batch" divides by B, "kept" by the number of anchors that were not skipped.
        anchors: "both_sides" skips anchors without a positive or without a negative; "all" counts those with either.
        compared: see :func:`cosphere.losses.compare`.

    Returns:
        () >= 0; a differentiable 0 when every anchor is skipped.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    pairs = compare(embeddings, labels, **compared)

    def of_block(block: Block) -> tuple[Tensor, Tensor]:
        near = block.similarities.gather(1, block.positive_columns)
        positive, negative = (block.positive_real, block.negative) if mining is None else _mined(block, near, mining)
        near_any, far_any = positive.any(dim=1), negative.any(dim=1)
        counted = near_any & far_any if anchors == "both_sides" else near_any | far_any
        pull = log_sum_exp(torch.where(positive, near, torch.inf) * -alpha) + alpha * base
        push = log_sum_exp(torch.where(negative, block.similarities, -torch.inf) * beta) - beta * base
        costs = log_one_plus_exp(pull) / alpha + log_one_plus_exp(push) / beta
        return torch.where(counted, costs, 0.0).sum(), counted.sum()[None]

    total, counted = sum_over_rows(pairs, of_block)
    return mean_or_zero(total, counted.sum() if divisor == "kept" else pairs.size) + pairs.zero


@torch.no_grad()
def _mined(block: Block, near: Tensor, mining: float) -> tuple[Tensor, Tensor]:
    """The informative positives (b, P) and negatives (b, R), bool.

    Args:
        block: the similarities.
        near: (b, P) those of the positives, padding included.
        mining: tolerance in cosine.
    """
    positives, negatives = torch.where(block.positive_real, near, torch.inf), block.negatives(-torch.inf)
    hardest_negative = negatives.amax(dim=1, keepdim=True)
    if not positives.shape[1]:
        return positives < 0, torch.zeros_like(block.negative)
    hardest_positive = positives.amin(dim=1, keepdim=True)
    # Padding passes neither test.
    return positives - mining < hardest_negative, negatives + mining > hardest_positive


@describe(
    name="multi_similarity",
    paper="Wang et al.: Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning, CVPR 2019",
    batch="at least 2 images per class (5), at least 2 classes",
    normalises="embeddings",
    defaults_source="the authors' released configuration and the official SEC code; PML has beta 50 and no mining",
    cost="O(B^2 D) time, O(B D) memory and one block",
    choose_when="the first choice for images of one kind: fast and strong",
    forms=[{"mining": None, "divisor": "kept"}, {"mining": None, "anchors": "all"}],
)
class MultiSimilarityLoss(PairLoss):
    """Module form of :func:`multi_similarity_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> MultiSimilarityLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.3889)
    """

    function = staticmethod(multi_similarity_loss)

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        beta: float = 40.0,
        base: float = 0.5,
        mining: float | None = 0.1,
        divisor: Literal["batch", "kept"] = "batch",
        anchors: Literal["both_sides", "all"] = "both_sides",
    ) -> None:
        super().__init__()
        self.alpha = check_number("alpha", alpha, above=0)
        self.beta = check_number("beta", beta, above=0)
        self.base = check_number("base", base)
        self.mining = None if mining is None else check_number("mining", mining, at_least=0)
        check_choice("divisor", divisor, ["batch", "kept"])
        self.divisor = divisor
        check_choice("anchors", anchors, ["both_sides", "all"])
        self.anchors = anchors

    def traits(self) -> Traits:
        """Traits of the loss under its current settings."""
        alone = self.anchors == "all" and self.mining is None
        return replace(
            super().traits(), divides_by_batch=self.divisor == "batch", terms="pairs" if alone else "triplets"
        )
