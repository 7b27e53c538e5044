"""What all pair losses share: who meets whom, how far apart they are, and which triplets cost something."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cosphere.errors import SizeError
from cosphere.tensors import check_labelled, directions, full_precision, outside_autocast


class Pairs(NamedTuple):
    """Every anchor (a row of the embeddings) against every reference (R = B rows of the same, or rows given apart)."""

    cosines: Tensor
    """(B, R) float32 or float64, in [-1, 1] up to rounding."""
    positive: Tensor
    """(B, R) bool: same label, both with a direction, and not the row itself. A duplicate image is a real positive."""
    negative: Tensor
    """(B, R) bool: other label, both with a direction."""
    zero: Tensor
    """() the value of an empty loss, connected to all inputs; NaN if any input is not finite.

    Every loss adds it, so a row that is NaN shows in the loss even where masks would hide it.
    """


def compare(
    embeddings: Tensor, labels: Tensor, references: Tensor | None = None, reference_labels: Tensor | None = None
) -> Pairs:
    """Cosines and masks of a batch with itself, or with references.

    Self is excluded by index, and only when there are no references: references are taken to be other images.

    Raises:
        SizeError: shapes, types, widths or devices that do not fit.
    """
    own = references is None
    others, other_labels = check_inputs(embeddings, labels, references, reference_labels)
    with outside_autocast(embeddings):
        anchors, anchor_alive = directions(embeddings)
        columns, column_alive = (anchors, anchor_alive) if own else directions(others)
        wide = torch.promote_types(anchors.dtype, columns.dtype)
        cosines = anchors.to(wide) @ columns.to(wide).T
        zero = connected_zero(embeddings) if own else connected_zero(embeddings) + connected_zero(others)
    alive = anchor_alive[:, None] & column_alive[None, :]
    same = as_int64(labels)[:, None] == as_int64(other_labels)[None, :]
    positive, negative = same & alive, ~same & alive
    if own:
        positive.fill_diagonal_(False)
    return Pairs(cosines, positive, negative, zero.to(wide))


def check_inputs(
    embeddings: Tensor, labels: Tensor, references: Tensor | None, reference_labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The rows and labels to compare with: the references, or the batch itself. SizeError if anything does not fit."""
    check_labelled(embeddings, labels)
    if references is None and reference_labels is None:
        return embeddings, labels
    if references is None or reference_labels is None:
        missing = "references" if references is None else "reference_labels"
        raise SizeError(f"{missing} is missing. Give references= and reference_labels= together, or neither.")
    check_labelled(references, reference_labels, name="references")
    if references.shape[1] != embeddings.shape[1]:
        raise SizeError(
            f"references are {references.shape[1]} wide, embeddings {embeddings.shape[1]}. "
            "Both must come from the same network."
        )
    if references.device != embeddings.device:
        raise SizeError(
            f"references are on {references.device}, embeddings on {embeddings.device}. Move one with .to()."
        )
    return references, reference_labels


def as_int64(labels: Tensor) -> Tensor:
    """Labels of any integer type as int64. uint64 from 2^63 on wraps around, which keeps different labels different."""
    return labels.to(torch.int64)


def connected_zero(embeddings: Tensor) -> Tensor:
    """() zero that keeps the graph connected; NaN if any entry is not finite."""
    return (full_precision(embeddings) * 0).sum()


def chord(cosines: Tensor, *, squared: bool) -> Tensor:
    """Distance between unit vectors from their cosine: sqrt(2 - 2 cos), or its square. Gradient 0 at zero distance."""
    square = (2 - 2 * cosines).clamp(min=0)
    if squared:
        return square
    # The slope of a square root at 0 is infinite, and one NaN there would spread to the whole batch.
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)


def mean_or_zero(total: Tensor, count: Tensor) -> Tensor:
    """``total / count``; ``total``, which is then a zero, where ``count`` is 0."""
    return total / count.clamp(min=1)


class TripletCounts(NamedTuple):
    """Which of the triplets (anchor, positive, negative) cost something, counted and not listed."""

    weight: Tensor
    """(B, R): of a positive, the number of its active negatives; of a negative, minus that of its active positives."""
    active: Tensor
    """() number of triplets with d_ap + margin > d_an (inside the window, if there is one)."""


@torch.no_grad()
def count_triplets(distances: Tensor, pairs: Pairs, margin: float, *, window: bool = False) -> TripletCounts:
    """Count active triplets in O(B R log R) time and O(B R) memory, where a list would take B R^2.

    The hinge is piecewise linear, so with these counts the sum over all triplets is
    ``(weight * distances).sum() + margin * active``, and that expression has the right gradient.

    Args:
        distances: (B, R).
        pairs: which are positive and negative.
        margin: of the hinge.
        window: FaceNet's rule: only negatives that are farther than the positive.
    """
    # Both sides of one comparison are the very same floats, or rounding would count a triplet on one side only.
    limit = distances + margin
    negatives = torch.where(pairs.negative, distances, torch.inf).sort(dim=1).values
    limits = torch.where(pairs.positive, limit, -torch.inf).sort(dim=1).values
    width = distances.shape[1]
    of_positive = torch.searchsorted(negatives, limit)  # negatives with d_an < d_ap + margin
    of_negative = width - torch.searchsorted(limits, distances, right=True)  # positives with d_ap + margin > d_an
    if window:
        positives = torch.where(pairs.positive, distances, torch.inf).sort(dim=1).values
        of_positive = of_positive - torch.searchsorted(negatives, distances, right=True)  # less those with d_an <= d_ap
        nearer = torch.searchsorted(positives, distances)  # positives with d_ap < d_an
        of_negative = of_negative - (pairs.positive.sum(dim=1, keepdim=True) - nearer)
    counts = torch.where(pairs.positive, of_positive, 0)
    weight = counts - torch.where(pairs.negative, of_negative, 0)
    return TripletCounts(weight.to(distances.dtype), counts.sum())


def hinge_sum(distances: Tensor, counts: TripletCounts, margin: float) -> Tensor:
    """Sum of ``d_ap - d_an + margin`` over the active triplets. ()."""
    # A float times an integer tensor would be float32, whatever the distances are.
    return (counts.weight * distances).sum() + margin * counts.active.to(distances.dtype)


class PairCosines(NamedTuple):
    """Mean cosines of a batch; NaN where it has no such pair."""

    positive: Tensor
    """() in [-1, 1]: pairs of one class, without self."""
    negative: Tensor
    """() in [-1, 1]: pairs of two classes."""


@torch.no_grad()
def pair_cosines(embeddings: Tensor, labels: Tensor) -> PairCosines:
    """Mean cosine of the positive and of the negative pairs of a batch, for the log. O(B D): no matrix of pairs.

    Args:
        embeddings: (B, D) float, raw. Rows without a direction are left out.
        labels: (B,) integers.

    >>> pair_cosines(torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    PairCosines(positive=tensor(0.6000), negative=tensor(0.4000))
    """
    check_labelled(embeddings, labels)
    with outside_autocast(embeddings):
        unit, alive = directions(embeddings)
        # Sum over all pairs of u_i . u_j = |sum of u|^2, so class sums are all it takes.
        of_class = torch.unique(as_int64(labels), return_inverse=True)[1]
        sums = unit.new_zeros(len(labels), unit.shape[1]).index_add_(0, of_class, unit)
        sizes = unit.new_zeros(len(labels)).index_add_(0, of_class, alive.to(unit.dtype))
        itself, rows = unit.square().sum(), sizes.sum()
        within, everything = sums.square().sum(), sums.sum(dim=0).square().sum()
        pairs_within, pairs_all = sizes.square().sum(), rows.square()
    # 0 / 0 is NaN, as promised.
    positive = torch.where(pairs_within > rows, (within - itself) / (pairs_within - rows), torch.nan)
    negative = torch.where(pairs_all > pairs_within, (everything - within) / (pairs_all - pairs_within), torch.nan)
    return PairCosines(positive, negative)
