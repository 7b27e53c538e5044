"""Multi-similarity loss: soft maxima over the informative positives and negatives of each anchor."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cosphere.losses._about import Loss, check_choice, check_number, describe
from cosphere.losses._pairs import Pairs, compare, mean_or_zero
from cosphere.tensors import outside_autocast


def multi_similarity_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    beta: float,
    base: float,
    mining: float | None,
    divisor: Literal["batch", "kept"] = "batch",
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
) -> Tensor:
    """Pull the positives and push the negatives of each anchor, the worst of them most.

    An anchor costs ``log(1 + sum_p exp(-alpha (s_p - base))) / alpha + log(1 + sum_n exp(beta (s_n - base))) / beta``
    with the cosines s_p of its positives and s_n of its negatives.
    Mining keeps the negatives with ``s_n + mining > min s_p`` and the positives with ``s_p - mining < max s_n``, both
    against the unmined sets. Anchors that are left without a positive or without a negative are skipped.

    Args:
        embeddings: (B, D) float. Any length; only the direction counts.
        labels: (B,) integers.
        alpha: sharpness for positives, > 0.
        beta: sharpness for negatives, > 0.
        base: the cosine at which pairs begin to count.
        mining: tolerance in cosine, >= 0; None keeps all pairs.
        divisor: "batch" divides by B, "kept" by the number of anchors that were not skipped.
        references: (R, D) float, other images to compare with instead of the batch. No row of them is taken for self.
        reference_labels: (R,) integers.

    Returns:
        () >= 0; a connected 0 when every anchor is skipped.

    Raises:
        SizeError: shapes, types or devices that do not fit.
    """
    pairs = compare(embeddings, labels, references, reference_labels)
    with outside_autocast(embeddings):
        positive, negative = (pairs.positive, pairs.negative) if mining is None else _mined(pairs, mining)
        kept = positive.any(dim=1) & negative.any(dim=1)
        pull = _log_one_plus_sum(-alpha * (pairs.cosines - base), positive) / alpha
        push = _log_one_plus_sum(beta * (pairs.cosines - base), negative) / beta
        total = torch.where(kept, pull + push, 0.0).sum()
        anchors = kept.sum() if divisor == "kept" else torch.tensor(len(kept), device=kept.device)
        return mean_or_zero(total, anchors) + pairs.zero


@torch.no_grad()
def _mined(pairs: Pairs, mining: float) -> tuple[Tensor, Tensor]:
    """The informative positives and negatives. (B, R) bool each."""
    if not pairs.cosines.numel():
        return pairs.positive, pairs.negative
    hardest_positive = torch.where(pairs.positive, pairs.cosines, torch.inf).amin(dim=1, keepdim=True)
    hardest_negative = torch.where(pairs.negative, pairs.cosines, -torch.inf).amax(dim=1, keepdim=True)
    positive = pairs.positive & (pairs.cosines - mining < hardest_negative)
    negative = pairs.negative & (pairs.cosines + mining > hardest_positive)
    return positive, negative


def _log_one_plus_sum(exponents: Tensor, mask: Tensor) -> Tensor:
    """log(1 + sum of e^x over the mask), row by row. (B, R) -> (B,)."""
    masked = torch.where(mask, exponents, -torch.inf)
    return torch.cat([masked.new_zeros(len(masked), 1), masked], dim=1).logsumexp(dim=1)


@describe(
    name="multi_similarity",
    paper="Wang et al.: Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning, CVPR 2019",
    batch="at least 2 images per class (5), at least 2 classes",
    normalises="embeddings",
    defaults_source="the authors' released configuration and the official SEC code; PML has beta 50 and no mining",
    cost="O(B^2 D) time, O(B^2) memory",
    choose_when="the first choice for images of one kind: fast, and strong with or without SEC",
)
class MultiSimilarityLoss(Loss):
    """The settings of :func:`multi_similarity_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> MultiSimilarityLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.3889)
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        beta: float = 40.0,
        base: float = 0.5,
        mining: float | None = 0.1,
        divisor: Literal["batch", "kept"] = "batch",
    ) -> None:
        super().__init__()
        self.alpha = check_number("alpha", alpha, above=0)
        self.beta = check_number("beta", beta, above=0)
        self.base = check_number("base", base)
        self.mining = None if mining is None else check_number("mining", mining, at_least=0)
        check_choice("divisor", divisor, ["batch", "kept"])
        self.divisor = divisor

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Tensor:
        """(B, D), (B,) -> (); see :func:`multi_similarity_loss`."""
        return multi_similarity_loss(
            embeddings,
            labels,
            alpha=self.alpha,
            beta=self.beta,
            base=self.base,
            mining=self.mining,
            divisor=self.divisor,
            references=references,
            reference_labels=reference_labels,
        )
