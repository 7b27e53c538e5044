"""Histogram loss: estimate from two soft histograms the probability that a negative pair is more similar than a positive one."""

from __future__ import annotations

from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from cosphere.checks import check_whole
from cosphere.losses.engine.base import PairLoss, describe
from cosphere.losses.engine.maths import with_gradients
from cosphere.losses.engine.pairs import Compared, Pairs, as_pairs, compare
from cosphere.losses.engine.rows import Block, blocks, sum_over_rows

__all__ = ["HistogramLoss", "histogram_loss"]


def histogram_loss(embeddings: Tensor, labels: Tensor, *, bins: int, **compared: Unpack[Compared]) -> Tensor:
    """Sum over the histogram nodes of ``negatives * cumulative positives``, both normalized.

    The ``bins + 1`` nodes are evenly spaced over [-1, 1]; a cosine is assigned to its two adjacent nodes by linear
    interpolation. A negative pair counts if either image has a positive, as in pytorch-metric-learning.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers.
        bins: >= 1, one less than the number of nodes; more bins give a noisier estimate.
        compared: see :func:`cosphere.losses.compare`. Within a batch each pair counts once, also if it is mined in both
            orders. Mined anchors need a positive and a negative.

    Returns:
        () in [0, 1] up to rounding; a differentiable 0 without positive or without negative pairs.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    pairs = compare(embeddings, labels, **_each_once(embeddings, compared))
    counted = _Counted.of(pairs)
    near, far = (density / density.sum().clamp(min=1) for density in _densities(pairs, counted, bins))
    below, above = near.cumsum(0), far.flip(0).cumsum(0).flip(0)
    # Moving a cosine by one bin moves its whole weight from one node to the next. Ignored pairs: 0.
    of_far = torch.cat([below.diff(), below.new_zeros(1)]) * (bins / 2) / counted.negatives.clamp(min=1)
    of_near = above.diff() * (bins / 2) / counted.positives.clamp(min=1)
    of_far, of_near = of_far.to(pairs.anchors.dtype), of_near.to(pairs.anchors.dtype)

    def of_block(block: Block) -> Tensor:
        with torch.no_grad():
            places, _ = _places(block.similarities, bins)
            gradient = of_far[torch.where(counted.mask(block), places, bins)]
            places = places.gather(1, block.positive_columns)
            gradient.scatter_add_(1, block.positive_columns, torch.where(block.positive_real, of_near[places], 0.0))
        return with_gradients(gradient.new_zeros(()), (block.similarities, gradient))

    total = sum_over_rows(pairs, of_block).total
    return total + (far * below).sum().to(total.dtype) + pairs.zero


def _each_once(embeddings: Tensor, compared: Compared) -> Compared:
    """Drop mined pairs of anchors that have only positives or only negatives, and duplicates."""
    tuples, references = compared.get("tuples"), compared.get("references")
    if tuples is None:
        return compared
    anchors, positives, others, negatives = as_pairs(
        tuples, len(embeddings), len(embeddings if references is None else references)
    )
    kept, others_kept = torch.isin(anchors, others), torch.isin(others, anchors)
    near = torch.stack([anchors[kept], positives[kept]])
    far = torch.stack([others[others_kept], negatives[others_kept]])
    if references is None:
        near, far = near.sort(dim=0).values, far.sort(dim=0).values
    return {**compared, "tuples": (near[0], near[1], far[0], far[1])}


class _Counted(NamedTuple):
    """Which negative pairs count, and the number of pairs of each kind."""

    anchors: Tensor | None
    """(A,) bool: has a positive; None when all have, or where a miner chose the pairs."""
    columns: Tensor | None
    """(R,) likewise, positives among the anchors."""
    positives: Tensor
    negatives: Tensor

    @staticmethod
    def of(pairs: Pairs) -> _Counted:
        positives, negatives = pairs.positives_per_anchor.sum(), pairs.negatives_per_anchor.sum()
        anchors = pairs.positives_per_anchor > 0
        if pairs.listed is not None or bool(anchors.all()):
            return _Counted(None, None, positives, negatives)
        ordered = pairs.class_ids.sort().values
        same = torch.searchsorted(ordered, pairs.reference_class_ids, right=True)
        same -= torch.searchsorted(ordered, pairs.reference_class_ids)
        if pairs.own_columns is not None:
            itself = pairs.own_columns[pairs.own_columns >= 0]
            same.index_add_(0, itself, torch.full_like(itself, -1))
        columns = same > 0
        # Two ends of one class without a positive are the same image, which is not a negative pair.
        lonely = (~anchors).sum() * (~columns).sum()
        if pairs.own_columns is not None:
            own = pairs.own_columns.clamp(min=0)
            lonely = lonely - (~anchors & (pairs.own_columns >= 0) & ~columns[own]).sum()
        return _Counted(anchors, columns, positives, negatives - lonely)

    def mask(self, block: Block) -> Tensor:
        """(b, R) bool."""
        if self.anchors is None or self.columns is None:
            return block.negative
        return block.negative & (self.anchors[block.rows, None] | self.columns)


def _places(cosines: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Bin of each cosine, int32 in [0, bins), and its position within the bin, in [0, 1]."""
    scaled = cosines.detach().add(1).mul_(bins / 2).clamp_(0, bins)
    places = scaled.to(torch.int32).clamp_(0, bins - 1)  # rounds down; a cosine of 1 ends the last bin
    return places, scaled.sub_(places)


def _densities(pairs: Pairs, counted: _Counted, bins: int) -> tuple[Tensor, Tensor]:
    """(bins + 1,) float64 number of positives and of negatives at each node."""
    near, far = (torch.zeros(bins + 1, dtype=torch.float64, device=pairs.anchors.device) for _ in range(2))
    for block in blocks(pairs):
        places, rest = _places(block.similarities, bins)
        _count(
            near, places.gather(1, block.positive_columns), rest.gather(1, block.positive_columns), block.positive_real
        )
        _count(far, places, rest, counted.mask(block))
    return near, far


def _count(density: Tensor, places: Tensor, rest: Tensor, real: Tensor) -> None:
    bins = len(density) - 1
    bins_or_rest = torch.where(real, places, bins).flatten()  # the rest in a bin of their own
    counts = torch.bincount(bins_or_rest, minlength=bins + 1)[:bins]
    ahead = torch.bincount(bins_or_rest, weights=rest.flatten().double(), minlength=bins + 1)[:bins]
    density[:-1] += counts - ahead
    density[1:] += ahead


@describe(
    name="histogram",
    paper="Ustinova, Lempitsky: Learning Deep Embeddings with Histogram Loss, NeurIPS 2016",
    batch="at least 2 images per class, at least 2 classes; 128 images and more, or the histograms are noise",
    normalises="embeddings",
    defaults_source="pytorch-metric-learning: 100 bins, that is 101 nodes",
    cost="O(B^2 D) time, O(B D) memory and one block; rows are made twice",
    choose_when="no margin or scale to tune, and large batches",
)
class HistogramLoss(PairLoss):
    """Module form of :func:`histogram_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> HistogramLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.3750)
    """

    function = staticmethod(histogram_loss)

    def __init__(self, *, bins: int = 100) -> None:
        super().__init__()
        self.bins = check_whole("bins", bins, least=1, most=10**6)
