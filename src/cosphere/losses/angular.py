"""Angular loss: bound the angle at the negative in the triangle of anchor, positive and negative."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, Unpack

import torch
from torch import Tensor

from cosphere.checks import check_choice, check_number
from cosphere.errors import SettingsError
from cosphere.losses._n_pairs import compare_n_pairs
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import log_one_plus_exp, log_sum_exp, mean_or_zero, with_gradients
from cosphere.losses.engine.pairs import Compared, Pairs, compare
from cosphere.losses.engine.rows import Block, sum_over_rows
from cosphere.losses.n_pair import n_pair_loss

__all__ = ["AngularLoss", "angular_loss"]

WIDEST = 80.0
"""Degrees. The exponents are 8 tan^2 of the angle: 257 at 80 degrees, and float64 holds the products up to 81.6."""
TILE = 64
"""Rows of whole classes whose products with each other are taken at once."""


def angular_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    angle: float,
    form: Literal["all_pairs", "n_pair"] = "all_pairs",
    angular_weight: float | None = None,
    **compared: Unpack[Compared],
) -> Tensor:
    """Mean over positive pairs (a, p) of ``log(1 + sum_n e^f)``, ``f = 4 t (a + p) . n - 2 (1 + t) a . p``, t = tan^2(angle).

    a, p and n are unit vectors: the paper drops the constants that follow from this. pytorch-metric-learning does not
    normalize n; it gives this value for inputs that are already normalized.

    Args:
        embeddings: (B, D) float.
        labels: (B,) integers.
        angle: in degrees, in (0, 80]. The paper's alpha; it tries 36 to 55.
        form: "all_pairs" takes all ordered positive pairs and all images of other classes, as pytorch-metric-learning;
            "n_pair" the first and second image of each class and the second ones of the other classes, as the paper.
        angular_weight: None for this loss alone; a number gives ``n_pair + angular_weight * angular``. N-pair uses raw
            embeddings, so their norms need a penalty. The paper uses 2.
        compared: see :func:`cosphere.losses.compare`. With mined pairs, the negatives of a pair are those mined for its
            anchor.

    Returns:
        () >= 0; a differentiable 0 when no anchor has both a positive and a negative.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    square = math.tan(math.radians(angle)) ** 2
    if form == "n_pair":
        chosen = compare_n_pairs(embeddings, labels, compared, unit=True)
        pairs, zero = chosen.pairs, chosen.zero
    else:
        pairs = compare(embeddings, labels, **compared)
        zero = pairs.zero
    plain = pairs.references is None and pairs.listed is None
    total = _over_classes(pairs, square) if plain else _over_slots(pairs, square)
    counted = torch.where(pairs.negatives_per_anchor > 0, pairs.positives_per_anchor, 0).sum()
    loss = mean_or_zero(total, counted) + zero
    if angular_weight is None:
        return loss
    return n_pair_loss(embeddings, labels, l2_weight=0.0, **compared) + angular_weight * loss


def _over_slots(pairs: Pairs, square: float) -> Tensor:
    """Sum over all positive pairs, one positive of each anchor at a time, since the negatives are compared with a + p."""
    total = pairs.anchors.new_zeros(())
    columns, real = pairs.positives_of(slice(0, len(pairs.anchors)))
    for slot in range(pairs.most_positives if len(pairs.columns) else 0):
        positives = pairs.columns.index_select(0, columns[:, slot])
        centres = replace(pairs, anchors=pairs.anchors + positives, references=pairs.columns, own_columns=None)
        near = (pairs.anchors * positives).sum(dim=1)

        def of_block(block: Block, near: Tensor, present: Tensor = real[:, slot]) -> Tensor:
            others = log_sum_exp(4 * square * block.negatives(-torch.inf))
            counts = present[block.rows] & (others.detach() > -torch.inf)
            costs = torch.where(counts, others, 0.0) - 2 * (1 + square) * near[block.rows]
            return torch.where(counts, log_one_plus_exp(costs), 0.0).sum()

        total = total + sum_over_rows(centres, of_block, near).total
    return total


def _over_classes(pairs: Pairs, square: float) -> Tensor:
    """The same for a batch with itself, from one matrix of similarities.

    ``e^(4 t (a + p) . n)`` is a product of an entry of row a and one of row p, so its sums over n, for all pairs of a
    class, are a small matrix product of rows. Both rows have the same negatives and the loss is symmetric in a and p,
    so row a accumulates the gradient of (a, p) and (p, a) and no other row is written.
    """
    order = pairs.class_ids.argsort(stable=True)
    codes = pairs.class_ids[order]
    ordered = replace(pairs, anchors=pairs.anchors.index_select(0, order), class_ids=codes, reference_class_ids=codes)
    edges = [0, *torch.unique_consecutive(codes, return_counts=True)[1].cumsum(0).tolist()]
    sharpness = 4 * square
    # e^(sharpness (s - 1)) is at least e^(-2 sharpness), and products of two at least the square of that.
    wide = torch.float32 if 4 * sharpness < 80 else torch.float64

    def of_block(block: Block) -> Tensor:
        with torch.no_grad():
            powers = _powers(block.similarities, block.negative, sharpness, wide)
            to_cosine = torch.zeros_like(powers)
            value = powers.new_zeros(())
            for tile in _tiles(edges, block.rows):
                value += _tile(ordered, block, powers, to_cosine, tile, square)
        return with_gradients(value, (block.similarities, to_cosine.to(block.similarities.dtype)))

    return sum_over_rows(ordered, of_block).total


def _tiles(edges: list[int], block: slice) -> Iterator[tuple[int, int]]:
    """Ranges of sorted rows that overlap a block: whole classes, together up to TILE rows.

    A class that is larger, or extends beyond the block, gets a range of its own.
    """
    tile: tuple[int, int] | None = None
    for place in range(bisect_right(edges, block.start) - 1, bisect_left(edges, block.stop)):
        start, end = edges[place : place + 2]
        if tile is not None and block.start <= tile[0] and end <= min(block.stop, tile[0] + TILE):
            tile = tile[0], end
            continue
        if tile is not None:
            yield tile
        tile = start, end
    if tile is not None:
        yield tile


def _powers(similarities: Tensor, negative: Tensor, sharpness: float, wide: torch.dtype) -> Tensor:
    """e^(sharpness (s - 1)) of the negatives, 0 elsewhere. (b, R)."""
    exponents = similarities.detach().to(torch.promote_types(similarities.dtype, wide), copy=True)
    return exponents.sub_(1).mul_(sharpness).exp_().mul_(negative)


def _tile(
    pairs: Pairs, block: Block, powers: Tensor, to_cosine: Tensor, tile: tuple[int, int], square: float
) -> Tensor:
    """Sum over the pairs of one tile whose anchors are in this block; fills in their rows of the gradient."""
    first, end = max(tile[0], block.rows.start), min(tile[1], block.rows.stop)
    local = slice(first - block.rows.start, end - block.rows.start)
    mine, to_mine, names = powers[local], to_cosine[local], pairs.class_ids[first:end, None]
    itself = torch.arange(first, end, device=names.device)[:, None]
    value, to_near = powers.new_zeros(()), []
    for columns, others in _partners(pairs, block, powers, tile, 4 * square):
        sums = mine @ others.T
        real = (names == pairs.class_ids[None, columns]) & (sums > 0)
        real &= itself != torch.arange(columns.start, columns.stop, device=names.device)
        near = block.similarities[local, columns]
        costs = torch.where(real, sums, 1.0).log_().add_(8 * square).sub_(2 * (1 + square) * near)
        costs = torch.where(real, costs, -torch.inf)
        value += log_one_plus_exp(costs).sum()
        weight = costs.sigmoid()
        to_mine.addmm_(torch.where(real, weight / sums, 0.0), others, alpha=8 * square)
        to_near.append((columns, weight.mul_(-2 * (1 + square))))
    to_mine.mul_(mine)
    for columns, weight in to_near:
        to_mine[:, columns] += weight
    return value


def _partners(
    pairs: Pairs, block: Block, powers: Tensor, tile: tuple[int, int], sharpness: float
) -> Iterator[tuple[slice, Tensor]]:
    """Rows of a tile: those of this block are reused, those outside are recomputed one block at a time."""
    low, high = block.rows.start, block.rows.stop
    first, end = max(tile[0], low), min(tile[1], high)
    yield slice(first, end), powers[first - low : end - low]
    anchors = pairs.anchors.detach()
    for start, stop in ((tile[0], first), (end, tile[1])):
        for begin in range(start, stop, high - low):
            part = slice(begin, min(begin + high - low, stop))
            negative = pairs.class_ids[part, None] != pairs.class_ids[None, :]
            yield part, _powers(anchors[part] @ anchors.T, negative, sharpness, powers.dtype)


@describe(
    name="angular",
    paper="Wang et al.: Deep Metric Learning with Angular Loss, ICCV 2017",
    batch="at least 2 images per class, at least 2 classes; n_pair uses exactly 2 of each",
    normalises="embeddings, but not those of the N-pair part",
    defaults_source="pytorch-metric-learning: all pairs, 40 degrees; the paper: n_pair, 45 degrees, alone or with N-pair",
    cost="O(B^2 (D + K)) time for K images per class, O(B D) memory and one block; with references K times O(B^2 D)",
    choose_when="when the scale of distances differs much between classes: an angle has none",
    forms=[{"form": "n_pair", "angle": 45.0}, {"form": "n_pair", "angular_weight": 2.0}],
)
class AngularLoss(PairLoss):
    """Module form of :func:`angular_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> AngularLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.9193)
    """

    function = staticmethod(angular_loss)

    def __init__(
        self,
        *,
        angle: float = 40.0,
        form: Literal["all_pairs", "n_pair"] = "all_pairs",
        angular_weight: float | None = None,
    ) -> None:
        super().__init__()
        self.angle = check_number("angle", angle, above=0)
        if self.angle > WIDEST:
            raise SettingsError(f"angle must be at most {WIDEST:g} degrees; got {angle!r}. The paper tries 36 to 55.")
        check_choice("form", form, ["all_pairs", "n_pair"])
        self.form = form
        self.angular_weight = (
            None if angular_weight is None else check_number("angular_weight", angular_weight, above=0)
        )

    def traits(self) -> Traits:
        """Traits of the loss under its current settings."""
        return replace(
            super().traits(),
            order="in_class" if self.form == "n_pair" else "free",
            uses_classes=self.form == "n_pair",
            uses_lengths=self.form == "n_pair" and self.angular_weight is not None,
        )
