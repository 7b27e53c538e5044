"""Losses of ensembles: several learners share one embedding, each a slice of it.

DREML (Xuan et al., ECCV 2018) needs none of its own: each of its networks is trained with ``F.cross_entropy(logits,
meta_labels)`` on raw logits, one meta-class for each output.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cosphere.checks import check_choice
from cosphere.errors import SizeError
from cosphere.losses.engine.maths import connected_zero, mean_or_zero
from cosphere.losses.engine.pairs import Pairs, compare
from cosphere.losses.engine.rows import Block, sum_over_rows
from cosphere.tensors import check_embeddings, check_labelled, check_tensor, directions, outside_autocast

__all__ = ["abe_divergence_loss", "boosted_binomial_loss"]


def split_heads(embeddings: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """(B, D) -> the slices of the learners, (B, sizes[0]), (B, sizes[1]), ...

    Raises:
        SizeError: the sizes do not add up to D.
    """
    check_embeddings(embeddings)
    check_widths(sizes, embeddings.shape[1])
    ends = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
    return [embeddings[:, start:end] for start, end in pairwise(ends)]


def check_widths(sizes: Sequence[int], dim: int) -> Sequence[int]:
    """``sizes`` if they are the widths of learners that share ``dim`` columns, or a SizeError."""
    if sum(sizes) != dim or any(size < 1 for size in sizes):
        raise SizeError(f"want sizes >= 1 that add up to the {dim} of the embeddings, got {tuple(sizes)}.")
    return sizes


def with_same_rows(heads: list[Tensor]) -> list[Tensor]:
    """The same slices; a row without a direction in one of them gets none in any, so that all heads see the same pairs."""
    alive = torch.stack([directions(head).alive for head in heads]).all(dim=0)
    return heads if bool(alive.all()) else [torch.where(alive[:, None], head, 0.0) for head in heads]


def boosted_binomial_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    sizes: Sequence[int],
    boosting: Literal["simple", "eta"] = "simple",
    shrinkage: float | None = None,
    scale: float = 2.0,
    base: float = 0.5,
    negative_cost: float = 25.0,
) -> Tensor:
    """A-BIER's loss: learners on slices of one embedding, each weighted towards the pairs that those before get wrong.

    A pair costs learner k ``log(1 + exp(-z))``, ``z = scale (cosine - base) m``, m = 1 for positives and -negative_cost
    for negatives. Positives and negatives weigh one half each, and within them a pair weighs what the learners before k
    left to do: the sigmoid of minus their summed z. No gradient passes through the weights. The mean over the learners.

    Opitz et al., Deep Metric Learning with BIER, PAMI 2018; the authors' code ``mop/bier``, whose positives are divided
    by their number with the diagonal and summed without it, as here.

    Args:
        embeddings: (B, D) float. Any length; only the direction of each slice counts. A row with a slice that has no
            direction takes no part.
        labels: (B,) integers.
        sizes: width of each learner, D in all, the smallest first; (96, 160, 256) in the paper.
        boosting: "simple" is the released default: z summed from 0.5 on, negatives weighted twice as much after the
            first learner. "eta" averages: learner k enters with 2/(k+1).
        shrinkage: share of each z in the sum; None: 0.06 for "simple", 1 for "eta".
        scale: steepness, 1/cosine.
        base: the cosine that divides positives from negatives.
        negative_cost: how much steeper negatives are.

    Returns:
        () >= 0. Memory is O(B D) and one block; the similarities of learner k are made K - k + 1 times.

    Raises:
        SizeError: shapes, types or sizes that do not fit.
    """
    check_choice("boosting", boosting, ["simple", "eta"])
    check_labelled(embeddings, labels)
    step = shrinkage if shrinkage is not None else 0.06 if boosting == "simple" else 1.0
    learners = [compare(head, labels) for head in with_same_rows(split_heads(embeddings, sizes))]
    same = int(learners[0].positives_per_anchor.sum()) + len(learners[0].anchors)  # with the diagonal
    different = int(learners[0].negatives_per_anchor.sum())

    def margins(similarities: Tensor, negative: Tensor) -> Tensor:
        above = scale * (similarities - base)
        return torch.where(negative, -negative_cost * above, above)

    def of_learner(number: int, block: Block) -> Tensor:
        with torch.no_grad():
            done = (margins(_similarities(earlier, block.rows), block.negative) for earlier in learners[:number])
            weight = _boosting_weight(list(done), block.negative, boosting, step)
            side = block.positive.to(block.similarities.dtype) / max(same, 1)  # 0 for the image itself
            weight = weight * torch.where(block.negative, 1 / max(different, 1), side)
        return -(F.logsigmoid(margins(block.similarities, block.negative)) * weight).sum()

    totals = [
        sum_over_rows(pairs, lambda block, number=number: of_learner(number, block)).total
        for number, pairs in enumerate(learners)
    ]
    return torch.stack(totals).mean() + connected_zero(embeddings)


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


def abe_divergence_loss(learners: Tensor, *, margin: float) -> Tensor:
    """What keeps the learners of an attention ensemble apart: ``[margin - d]_+``, d between two learners of one image.

    Kim et al., Attention-based Ensemble for Deep Metric Learning, ECCV 2018 (ABE-M). No official code is public, and ports
    differ: this is the mean over images and pairs of learners with d the squared distance of their unit vectors.

    Args:
        learners: (M, B, D) float, the embeddings of one batch by M learners. Only directions count.
        margin: the squared distance, in [0, 4], from which two learners are apart enough.

    Returns:
        () >= 0 up to rounding; a connected 0 without two learners. A vector without a direction takes no part.

    Raises:
        SizeError: a shape or type that does not fit.

    >>> abe_divergence_loss(torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [1.0, 0.0]]]), margin=1.0)
    tensor(0.5000)
    """
    check_tensor("learners", learners)
    if learners.ndim != 3 or not learners.is_floating_point():
        raise SizeError(f"want learners (M, B, D) of a floating type, got {tuple(learners.shape)} {learners.dtype}.")
    with outside_autocast(learners):
        unit, alive = directions(learners.transpose(0, 1))  # (B, M, D), (B, M)
        cosines = unit @ unit.transpose(1, 2)
        counted = (alive[:, :, None] & alive[:, None, :]).triu(diagonal=1)
        hinges = torch.where(counted, margin - 2 + 2 * cosines, 0.0).clamp(min=0)
        return mean_or_zero(hinges.sum(), counted.sum()) + connected_zero(learners)
