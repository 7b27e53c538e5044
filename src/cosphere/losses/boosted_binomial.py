"""Boosted binomial deviance (A-BIER): learners on slices of one embedding, boosted one after another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from cosphere.checks import check_choice, check_number, check_whole
from cosphere.errors import SettingsError
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.pairs import Compared, Pairs, check_widths, compare_groups
from cosphere.losses.engine.rows import Block, sum_over_rows

__all__ = ["BoostedBinomialLoss", "boosted_binomial_loss"]

Boosting = Literal["simple", "eta"]


def boosted_binomial_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    sizes: Sequence[int] | None = None,
    boosting: Boosting = "simple",
    shrinkage: float | None = None,
    scale: float = 2.0,
    base: float = 0.5,
    negative_cost: float = 25.0,
    **compared: Unpack[Compared],
) -> Tensor:
    """Mean binomial deviance of the learners, each weighted towards pairs misjudged by the previous learners.

    A pair costs learner k ``log(1 + exp(-z))``, ``z = scale (cosine - base) m``, m = 1 for positives and -negative_cost
    for negatives. Positives and negatives have weight one half each. Within each, a pair is weighted by the error of
    the learners before k: the sigmoid of minus their summed z. No gradient passes through the weights.

    Opitz et al., Deep Metric Learning with BIER, PAMI 2018; the authors' code ``mop/bier``, whose positives are divided
    by their number with the diagonal and summed without it, as here. Their adversarial regressors between learners, which
    train the last layer only, are not part of it.

    Args:
        embeddings: (B, D) float; each each slice is L2-normalized. Rows with a zero-norm slice are ignored.
        labels: (B,) integers.
        sizes: width of each learner, D in all, the smallest first. None: the paper's 96, 160, 256 of 512 in proportion.
        boosting: "simple" is the released default: z summed from 0.5 on, negatives weighted twice as much after the
            first learner. "eta" averages: learner k enters with 2/(k+1).
        shrinkage: share of each z in the sum; None: 0.06 for "simple", 1 for "eta".
        scale: steepness, 1/cosine.
        base: the cosine that separates positives from negatives.
        negative_cost: how much steeper negatives are.
        compared: see :func:`cosphere.losses.compare`.

    Returns:
        () >= 0; a differentiable 0 when there is no pair. Memory is O(B D) and one block; the similarities of learner k
        are computed K - k + 1 times.

    Raises:
        SizeError: incompatible shapes, dtypes, devices, indices or sizes.
    """
    check_choice("boosting", boosting, ["simple", "eta"])
    step = shrinkage if shrinkage is not None else 0.06 if boosting == "simple" else 1.0
    learners = compare_groups(embeddings, labels, lambda dim: _widths(sizes, dim), compared, same_rows=True)
    first = learners[0]
    same = first.positives_per_anchor.sum()
    if first.listed is None and first.own_columns is not None:
        same = same + (first.own_columns >= 0).sum()  # the diagonal
    same, different = same.clamp(min=1), first.negatives_per_anchor.sum().clamp(min=1)

    def margins(similarities: Tensor, negative: Tensor) -> Tensor:
        above = scale * (similarities - base)
        return torch.where(negative, -negative_cost * above, above)

    def of_learner(number: int, block: Block) -> Tensor:
        with torch.no_grad():
            done = [margins(_similarities(earlier, block.rows), block.negative) for earlier in learners[:number]]
            kind = block.similarities.dtype
            sides = block.positive.to(kind) / same + block.negative.to(kind) / different  # 0 for the image itself
            weight = _boosting_weight(done, block.negative, boosting, step) * sides
        return -(F.logsigmoid(margins(block.similarities, block.negative)) * weight).sum()

    totals = [
        sum_over_rows(pairs, lambda block, number=number: of_learner(number, block)).total + pairs.zero
        for number, pairs in enumerate(learners)
    ]
    return torch.stack(totals).mean()


def _widths(sizes: Sequence[int] | None, dim: int) -> Sequence[int]:
    """Widths of the learners. With few columns a learner may get none; it is then dropped."""
    if sizes is None:
        ends = [0, *(round(dim * end / 512) for end in (96, 256, 512))]
        sizes = [end - start for start, end in pairwise(ends) if end > start]
    return check_widths(sizes, dim)


def _similarities(pairs: Pairs, rows: slice) -> Tensor:
    return pairs.anchors.detach()[rows] @ pairs.columns.detach().T


def _boosting_weight(done: list[Tensor], negative: Tensor, boosting: str, shrinkage: float) -> Tensor | float:
    """(b, R) weight of each pair for the learner that comes after those with the margins ``done``, each (b, R)."""
    if not done:
        return 1.0
    if boosting == "simple":
        sums = 0.5 + shrinkage * torch.stack(done).sum(dim=0)
        return torch.sigmoid(-sums) * torch.where(negative, 2.0, 1.0)
    sums = torch.zeros_like(done[0])
    for number, margin in enumerate(done, start=1):
        sums.lerp_(shrinkage * margin, 2 / (number + 1))
    return torch.sigmoid(-sums)


def _checked(sizes: object) -> tuple[int, ...]:
    if not isinstance(sizes, Sequence) or isinstance(sizes, str) or not sizes:
        raise SettingsError(f"sizes must be a list, one width for each learner; got {sizes!r}.")
    return tuple(check_whole("each of sizes", size, least=1) for size in sizes)


@describe(
    name="boosted_binomial",
    paper="Opitz et al.: Deep Metric Learning with BIER: Boosting Independent Embeddings Robustly, PAMI 2018 (A-BIER)",
    batch="at least 2 images per class, at least 2 classes",
    normalises="each learner's slice of the embeddings",
    defaults_source="the authors' code: scale 2, base 0.5, negatives 25 times as steep, shrinkage 0.06",
    cost="O(K B^2 D) time for K learners, O(B D) memory and one block",
    choose_when="a large embedding should hold several learners that differ; without the adversarial part of A-BIER",
    forms=[{"boosting": "eta"}],
    traits=Traits(terms="pairs", gradient_by_rule=True),
)
class BoostedBinomialLoss(PairLoss):
    """Module form of :func:`boosted_binomial_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> BoostedBinomialLoss(sizes=[2])(points, torch.tensor([0, 0, 1, 1]))
    tensor(4.2279)
    """

    function = staticmethod(boosted_binomial_loss)

    def __init__(
        self,
        *,
        sizes: Sequence[int] | None = None,
        boosting: Boosting = "simple",
        shrinkage: float | None = None,
        scale: float = 2.0,
        base: float = 0.5,
        negative_cost: float = 25.0,
    ) -> None:
        super().__init__()
        self.sizes = None if sizes is None else _checked(sizes)
        check_choice("boosting", boosting, ["simple", "eta"])
        self.boosting = boosting
        self.shrinkage = None if shrinkage is None else check_number("shrinkage", shrinkage, above=0)
        self.scale = check_number("scale", scale, above=0)
        self.base = check_number("base", base)
        self.negative_cost = check_number("negative_cost", negative_cost, above=0)

    def groups(self, dim: int) -> tuple[int, ...]:
        """Widths of the learners."""
        return tuple(_widths(self.sizes, dim))
