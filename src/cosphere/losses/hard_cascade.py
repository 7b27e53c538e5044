"""Hard-aware deeply cascaded embedding: each head learns from the hardest fraction of all pairs of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from cosphere.checks import check_choice, check_number, check_whole
from cosphere.errors import SettingsError, SizeError
from cosphere.losses._ranking import Cut, Ranking
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import SAME, connected_zero, mean_or_zero
from cosphere.losses.engine.pairs import Compared, Pairs, check_widths, compare_groups
from cosphere.losses.engine.rows import Block, blocks, sum_over_rows

__all__ = ["HardCascadeLoss", "hard_cascade_loss"]


def hard_cascade_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    hard_ratios: Sequence[float] = (1.0,),
    head_dims: Sequence[int] | None = None,
    cascade: Literal["independent", "nested"] = "independent",
    margin: float = 1.0,
    **compared: Unpack[Compared],
) -> Tensor:
    """Contrastive loss of squared distances over the hardest fraction of all pairs, for each head of a cascade.

    With d the squared distance of unit vectors, a positive pair costs d and a negative one ``[margin - d]_+``. Each
    head ranks all P positive and all N negative pairs of the batch, keeps the ``int(P h)`` and ``int(N h)`` hardest,
    and divides their sum by the number of pairs with a nonzero loss. The losses of the heads are summed.

    Yuan, Yang, Zhang: Hard-Aware Deeply Cascaded Embedding, ICCV 2017, after the authors' Caffe layer: negative pairs
    count twice (both orders), positive pairs once, and positives at distance 0 (identical images) are skipped; every
    head ranks all pairs. The paper's text has head k rank only the pairs that head k - 1 kept ("nested"), so the ratios
    multiply and a head of ratio 1 keeps all pairs. Ties are broken by batch order. pytorch-metric-learning's
    ``HDCMiner`` rounds up and mixes both kinds.

    Args:
        embeddings: (B, D) float, the concatenated heads. Any length; only the direction of each head counts.
        labels: (B,) integers.
        hard_ratios: the fraction h of each head, in (0, 1]. The paper has three: (1, 0.5, 0.2).
        head_dims: width of each head, D in all; None: equal widths.
        cascade: "independent" or "nested". With "nested", a row with a zero-norm head is dropped from all heads.
        margin: squared distance, in (0, 4], beyond which negatives contribute nothing.
        compared: see :func:`cosphere.losses.compare`. Against references every pair counts once.

    Returns:
        () >= 0 up to rounding; a differentiable 0 when no pair is kept.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    nested = cascade == "nested"
    count = len(hard_ratios)
    heads = compare_groups(embeddings, labels, lambda dim: _widths(dim, head_dims, count), compared, same_rows=nested)
    sieves: list[_Head] = []  # filters that the next head's pairs must pass
    total = connected_zero(embeddings)
    for number, (pairs, ratio) in enumerate(zip(heads, hard_ratios, strict=True), start=1):
        # Negatives of zero loss need no rank unless another head follows.
        low = -torch.inf if nested and number < len(heads) else 1 - margin / 2
        head = _cut(pairs, ratio, sieves, low)
        total = total + _loss_of(head, sieves, margin)
        if nested and ratio < 1:
            sieves.append(head)
    return total


def _widths(dim: int, dims: Sequence[int] | None, count: int) -> Sequence[int]:
    """Width of each head."""
    if dims is None and dim % count:
        raise SizeError(f"{count} heads do not divide {dim} columns evenly; give head_dims=.")
    return check_widths(dims or [dim // count] * count, dim)


@dataclass(eq=False)
class _Head:
    """The batch of one head and the cuts that select its hardest pairs."""

    pairs: Pairs
    positives: Cut
    negatives: Cut
    negatives_kept: int
    """Pairs that passed, those included that contribute nothing."""


def _candidates(block: Block, sieves: Sequence[_Head]) -> tuple[Tensor, Tensor]:
    """Candidates that a head ranks in a block: (b, P) hardness of positives, -inf where there is none; (b, R) bool, its negatives."""
    positives, negative = _positives(block), block.negative
    for head in sieves:
        # Recomputed per block: stored masks of all heads would take B x B.
        pairs, first = head.pairs, block.rows.start
        before = Block(pairs, block.rows, pairs.anchors.detach()[block.rows] @ pairs.columns.detach().T)
        positives = torch.where(head.positives.kept(_positives(before), first), positives, -torch.inf)
        negative = negative & head.negatives.kept(before.similarities, first)
    return positives, negative


def _positives(block: Block) -> Tensor:
    """(b, P) hardness of the positives, before any filter."""
    near = block.similarities.detach().gather(1, block.positive_columns)
    counted = block.positive_real & (near < 1 - SAME * torch.finfo(near.dtype).eps)
    if block.pairs.references is None:
        counted &= _first_of_two(block)
    # 0 - x, because -x would give a negative zero, which has other bits.
    return torch.where(counted, 0 - near, -torch.inf)


def _first_of_two(block: Block) -> Tensor:
    """(b, P) bool: of the positives (i, j) and (j, i) the one to count."""
    columns = block.positive_columns
    own = torch.arange(block.rows.start, block.rows.stop, device=columns.device)[:, None]
    first = columns > own
    if (listed := block.pairs.listed) is not None and len(listed.positive_anchors):
        width = len(block.pairs.anchors)
        all_listed = listed.positive_anchors * width + listed.positive_columns
        mirrored = columns * width + own
        place = torch.searchsorted(all_listed, mirrored).clamp(max=len(all_listed) - 1)
        first |= all_listed[place] != mirrored  # a miner may list only one order
    return first


def _loss_of(head: _Head, sieves: Sequence[_Head], margin: float) -> Tensor:
    easiest = Cut(1 - margin / 2)
    costly = head.negatives if head.negatives.value > easiest.value else easiest

    def of_block(block: Block) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            positives, negative = _candidates(block, sieves)
            near = head.positives.kept(positives, block.rows.start)
            far = costly.kept(block.similarities, block.rows.start) & negative
            gradient = far.to(positives.dtype).mul_(2)
            gradient.scatter_add_(1, block.positive_columns, near.to(gradient.dtype).mul_(-2))
            counts = torch.stack([near.sum(), far.sum()]).double()
            constant = 2 * counts[0] + (margin - 2) * counts[1]
        return (gradient * block.similarities).sum() + constant, counts.sum()[None]

    total, counts = sum_over_rows(head.pairs, of_block)
    return mean_or_zero(total, counts.sum().to(total.dtype)) + head.pairs.zero


def _cut(pairs: Pairs, ratio: float, sieves: Sequence[_Head], low: float) -> _Head:
    """Find the cuts of one head; usually takes two passes over the blocks, none at ratio 1."""
    count = sieves[-1].negatives_kept if sieves else int(pairs.negatives_per_anchor.sum())
    dtype = pairs.anchors.dtype
    most = len(pairs.anchors) * pairs.most_positives
    positives = Ranking(ratio, dtype, most=most)
    negatives = Ranking(ratio, dtype, most=count, count=count, low=low)
    if not bool(pairs.zero.isfinite()):  # NaN has no rank, and the loss is NaN anyway
        positives.cut = negatives.cut = Cut(torch.inf)
    while positives.cut is None or negatives.cut is None:
        for block in blocks(pairs):
            hard, negative = _candidates(block, sieves)
            positives.look(hard, block.rows.start)
            negatives.look(torch.where(negative, block.similarities, -torch.inf), block.rows.start)
        positives.conclude()
        negatives.conclude()
    return _Head(pairs, positives.cut, negatives.cut, negatives.kept)


@describe(
    name="hard_cascade",
    paper="Yuan, Yang, Zhang: Hard-Aware Deeply Cascaded Embedding, ICCV 2017 (HDC)",
    batch="at least 2 images per class, at least 2 classes; large enough that a share of its pairs is many",
    normalises="each head of the embeddings",
    defaults_source="the authors' Caffe layer: squared distances, margin 1; one head that keeps all pairs, where the "
    "paper has three with hard_ratios (1, 0.5, 0.2)",
    cost="O(B^2 D) time, twice the similarities again for each head with a ratio below 1; O(B D) memory and one block",
    choose_when="a network with heads at several depths, or most pairs of a batch are easy",
    forms=[{"hard_ratios": (0.6,)}, {"hard_ratios": (0.9, 0.5)}, {"hard_ratios": (1, 0.6), "cascade": "nested"}],
    traits=Traits(terms="pairs", picks_one=True),
)
class HardCascadeLoss(PairLoss):
    """Module form of :func:`hard_cascade_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> HardCascadeLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(1.)
    """

    function = staticmethod(hard_cascade_loss)

    def __init__(
        self,
        *,
        hard_ratios: Sequence[float] = (1.0,),
        head_dims: Sequence[int] | None = None,
        cascade: Literal["independent", "nested"] = "independent",
        margin: float = 1.0,
    ) -> None:
        super().__init__()
        self.hard_ratios = tuple(_check_ratio(ratio) for ratio in _one_a_head("hard_ratios", hard_ratios))
        self.head_dims = (
            None
            if head_dims is None
            else tuple(check_whole("head_dims", width, least=1) for width in _one_a_head("head_dims", head_dims))
        )
        if not self.hard_ratios or (self.head_dims is not None and len(self.head_dims) != len(self.hard_ratios)):
            raise SettingsError(
                f"want one of hard_ratios for each head, got {self.hard_ratios} and head_dims {self.head_dims}."
            )
        check_choice("cascade", cascade, ["independent", "nested"])
        self.cascade = cascade
        self.margin = check_number("margin", margin, above=0)

    def groups(self, dim: int) -> tuple[int, ...]:
        """Widths of the heads."""
        return tuple(_widths(dim, self.head_dims, len(self.hard_ratios)))


def _one_a_head(name: str, values: object) -> Sequence[Any]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise SettingsError(f"{name} must be a list, one number for each head; got {values!r}.")
    return values


def _check_ratio(ratio: float) -> float:
    if check_number("each of hard_ratios", ratio, above=0) > 1:
        raise SettingsError(f"each of hard_ratios must be a number in (0, 1]; got {ratio!r}.")
    return float(ratio)
