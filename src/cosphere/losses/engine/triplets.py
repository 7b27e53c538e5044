"""Count triplets instead of listing them, and read the triplets that a miner listed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cosphere.losses.engine.pairs import Compared, Pairs, as_pairs, compare
from cosphere.losses.engine.rows import Block
from cosphere.tensors import SHORTEST, lengths

FEW = 48
"""Up to this many positives per anchor, one pass over the negatives for each is faster than a search."""


class TripletCounts(NamedTuple):
    """Active triplets (anchor, positive, negative) of a block: those with a loss above 0."""

    weight: Tensor
    """(b, R): of a positive, the number of its active negatives; of a negative, minus that of its active positives."""
    active: Tensor
    """() number of triplets with d_ap + margin > d_an (inside the window, if there is one)."""

    def hinges(self, distances: Tensor, margin: float) -> Tensor:
        """Sum of ``margin + d_ap - d_an`` over the active triplets. ()."""
        return (self.weight * distances).sum() + margin * self.active


class Window(NamedTuple):
    """The triplets of a block with d_ap < d_an <= d_ap + margin."""

    counts: TripletCounts
    size: Tensor
    """() number of triplets in the window, including those at its upper end, whose loss is 0."""


@torch.no_grad()
def count_triplets(distances: Tensor, block: Block, margin: float) -> TripletCounts:
    """Count active triplets in O(b R) memory, where a list would take b R^2.

    The hinge is piecewise linear, so with these counts the sum over all triplets is
    ``(weight * distances).sum() + margin * active``, and that expression has the right gradient.

    Args:
        distances: (b, R).
        block: supplies the masks of positives and negatives.
        margin: margin of the hinge.
    """
    near, negatives = _sides(distances, block)
    of_positive, of_negative = count_active(negatives, near + margin)
    return _weighed(of_positive, of_negative, block)


@torch.no_grad()
def count_window(distances: Tensor, block: Block, margin: float) -> Window:
    """Count triplets whose negative is farther than the positive, but by no more than the margin (FaceNet's rule).

    Args:
        distances: (b, R).
        block: supplies the masks of positives and negatives.
        margin: margin of the hinge, and the width of the window.
    """
    near, negatives = _sides(distances, block)
    # d <= limit is d < nextafter(limit), so one comparison serves both ends of the window.
    start, end = _after(near), near + margin
    no_farther = count_active(negatives, start)
    # A margin lost in rounding must leave an empty window, not one of negative width.
    active = count_active(negatives, torch.maximum(start, end))
    inside = count_active(negatives, torch.maximum(start, _after(end)))[0] - no_farther[0]
    counts = _weighed(active[0] - no_farther[0], active[1] - no_farther[1], block)
    return Window(counts, inside.sum())


def _sides(distances: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """Distances of the positives (b, P), -inf where there is none, and of the negatives (b, R), inf elsewhere."""
    # Both counts must compare identical floats, or rounding would count a triplet on one side only.
    near = torch.where(block.positive_real, distances.gather(1, block.positive_columns), -torch.inf)
    return near, torch.where(block.negative, distances, torch.inf)


def _after(values: Tensor) -> Tensor:
    """The next float above each; -inf stays."""
    return torch.where(values == -torch.inf, values, torch.nextafter(values, torch.full_like(values, torch.inf)))


def _weighed(of_positive: Tensor, of_negative: Tensor, block: Block) -> TripletCounts:
    weight = of_negative.neg_().scatter_add_(1, block.positive_columns, of_positive)
    return TripletCounts(weight, of_positive.sum())


def count_active(negatives: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """Count the pairs with ``negative < limit`` in each row, from both sides.

    Args:
        negatives: (b, R), inf where there is none.
        limits: (b, P), -inf where there is none.

    Returns:
        (b, P) number of negatives below each limit, (b, R) number of limits above each negative; both float.
    """
    return (_by_passes if limits.shape[1] <= FEW else _by_search)(negatives, limits)


def _by_passes(negatives: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    of_positive = torch.empty_like(limits)
    of_negative, active = torch.zeros_like(negatives), torch.empty_like(negatives)
    for slot in range(limits.shape[1]):
        # Write 0.0 and 1.0 directly: going through bool takes five times as long.
        torch.lt(negatives, limits[:, slot : slot + 1], out=active)
        of_negative += active
        of_positive[:, slot] = active.sum(dim=1)
    return of_positive, of_negative


def _by_search(negatives: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    ordered, order = limits.sort(dim=1)
    below = torch.searchsorted(ordered, negatives, right=True)  # limits <= d, padding included
    width = limits.shape[1]
    bucket = negatives.new_zeros(len(limits), width + 1).scatter_add_(1, below, torch.ones_like(negatives))
    # The limit at sorted index k exceeds every negative with at most k limits less than or equal to it. A padded limit
    # (-inf) exceeds none, and a missing negative (inf) falls into the last bucket, which is never read.
    of_positive = torch.empty_like(limits).scatter_(1, order, bucket.cumsum(dim=1)[:, :width])
    return of_positive, (width - below).to(negatives.dtype)


def listed_triplets(compared: Compared) -> bool:
    """Whether a miner chose triplets rather than pairs."""
    tuples = compared.get("tuples")
    return tuples is not None and len(tuples) == 3


@dataclass(eq=False)
class ListedTriplets:
    """Triplets chosen by a miner, with repetitions, sorted by anchor."""

    anchors: Tensor
    """(T,) int64 rows of ``anchors`` in the prepared batch; the two fields below hold rows of its references."""
    positives: Tensor
    negatives: Tensor

    def of(self, block: Block) -> slice:
        """The triplets whose anchor is in this block."""
        edges = torch.tensor([block.rows.start, block.rows.stop], device=self.anchors.device)
        return slice(*torch.searchsorted(self.anchors, edges).tolist())

    def similarities(self, block: Block) -> tuple[Tensor, Tensor]:
        """Of the T_b triplets whose anchor is in this block: (T_b,) anchor with positive, (T_b,) anchor with negative."""
        here = self.of(block)
        starts = (self.anchors[here] - block.rows.start) * block.similarities.shape[1]
        flat = block.similarities.flatten()
        return flat.gather(0, starts + self.positives[here]), flat.gather(0, starts + self.negatives[here])


def compare_listed(embeddings: Tensor, labels: Tensor, compared: Compared) -> tuple[Pairs, ListedTriplets]:
    """Prepare the batch with all its pairs, and the listed triplets without those that contain a row without a direction.

    Reading the listed cosines from the blocks costs one matrix product, however long the list is.

    Raises:
        SizeError: as :func:`cosphere.losses.compare`.
    """
    # With the tuples, compare would restrict the blocks to the listed pairs; the cosines are read from full rows.
    everything: Compared = {**compared, "tuples": None}
    pairs = compare(embeddings, labels, **everything)
    references = compared.get("references")
    others = embeddings if references is None else references
    tuples = compared.get("tuples")
    assert tuples is not None
    anchors, positives, _, negatives = as_pairs(tuples, len(embeddings), len(others))
    new_rows = _places(embeddings)
    new_columns = new_rows if references is None else _places(references)
    anchors, positives, negatives = new_rows[anchors], new_columns[positives], new_columns[negatives]
    alive = ((anchors >= 0) & (positives >= 0) & (negatives >= 0)).nonzero().squeeze(1)
    order = alive[anchors[alive].argsort(stable=True)]
    return pairs, ListedTriplets(anchors[order], positives[order], negatives[order])


def _places(embeddings: Tensor) -> Tensor:
    """Index of each row after :func:`compare` has removed those without a direction; -1 for removed rows."""
    alive = lengths(embeddings.detach()) > SHORTEST
    return torch.where(alive, alive.cumsum(0) - 1, -1)
