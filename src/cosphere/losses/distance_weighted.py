"""Distance-weighted sampling: negatives drawn as if their distances to the anchor were spread evenly.

On a sphere of many dimensions nearly all distances are close to sqrt(2), so a negative drawn at random teaches nothing and
the hardest one is noise. Weighting by the inverse density of the distance gives every distance the same chance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cosphere.checks import check_number
from cosphere.errors import SettingsError
from cosphere.losses.engine.pairs import compare
from cosphere.losses.engine.rows import Block, blocks
from cosphere.tensors import directions

__all__ = ["distance_weighted_triplets"]


def distance_weighted_triplets(
    embeddings: Tensor,
    labels: Tensor,
    *,
    cutoff: float = 0.5,
    farthest: float = 1.4,
    generator: torch.Generator | None = None,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One triplet for each anchor and positive, its negative drawn by distance, with replacement.

    The chance of a negative is proportional to ``exp(log_weights(d, D))``; none at ``farthest`` or beyond is drawn, nor an
    antipode. An anchor without a negative nearer than that draws from all its negatives equally. (The authors then draw from
    the whole batch, positives included, and pytorch-metric-learning drops the anchor. Both subtract the largest log weight
    of the whole batch, so at D >= 128 most rows vanish and come to that; here each row has its own.)

    Args:
        embeddings: (B, D) float. Any length; only the direction counts.
        labels: (B,) integers.
        cutoff: distances below count as this one, which bounds the weights. In (0, farthest) and below 2.
        farthest: distances from here on are not drawn: beta + alpha of the margin loss, where its terms end. 2 switches
            it off.
        generator: source of the draws; torch's global one if None. On a CPU the draws do not depend on how rows are
            walked.
        references: see :func:`cosphere.losses.compare`.
        reference_labels: likewise.
        positions: likewise.

    Returns:
        Anchors, positives, negatives, each (T,) int64: rows of the batch and of the references (or the batch again), sorted by
        anchor. Anchors without a positive or a negative are not in it.

    Raises:
        SettingsError: cutoff or farthest out of range.
        SizeError: shapes, types or devices that do not fit.

    >>> points = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.8, 0.0]])
    >>> [part.tolist() for part in distance_weighted_triplets(points, torch.tensor([0, 0, 1]))]
    [[0, 1], [1, 0], [2, 2]]
    """
    check_cutoffs(cutoff, farthest)
    with torch.no_grad():
        pairs = compare(
            embeddings, labels, references=references, reference_labels=reference_labels, positions=positions
        )
    found = []
    for block in blocks(pairs):
        negatives = draw_negatives(block, cutoff=cutoff, farthest=farthest, generator=generator)
        wanted = triplets_wanted(block)
        anchors = torch.arange(block.rows.start, block.rows.stop, device=wanted.device)[:, None].expand_as(wanted)
        found.append(torch.stack([anchors[wanted], block.positive_columns[wanted], negatives[wanted]]))
    if not found:
        found = [torch.empty(3, 0, dtype=torch.int64, device=embeddings.device)]
    anchors, positives, chosen = torch.cat(found, dim=1)
    kept, kept_columns = pairs.kept, pairs.kept
    if references is not None:
        kept_columns = directions(references.detach()).alive.nonzero().squeeze(1)
    return (
        anchors if kept is None else kept[anchors],
        positives if kept_columns is None else kept_columns[positives],
        chosen if kept_columns is None else kept_columns[chosen],
    )


def triplets_wanted(block: Block) -> Tensor:
    """Which of the (b, P) drawn negatives belong to a triplet: where the positive is real and there is a negative."""
    return block.positive_real & (block.pairs.negatives_per_anchor[block.rows, None] > 0)


_NEVER = 1e30
"""A log weight that no row reaches, and that float32 can hold."""


@torch.no_grad()
def draw_negatives(block: Block, *, cutoff: float, farthest: float, generator: torch.Generator | None = None) -> Tensor:
    """A column for each slot of ``rows.positive_columns``: a drawn negative, or anything where there is none. (b, P) int64."""
    slots = block.positive_columns.shape[1]
    if not slots:
        return block.positive_columns
    # A row that is NaN is as far as can be: it must not stop the others.
    square = (2 - 2 * block.similarities).clamp_(min=cutoff**2).nan_to_num_(nan=4.0)
    # Antipodes have density 0 (D > 3) or infinite density (D < 3): the mask keeps 0 * inf out. Masks multiply, which is
    # several times faster here than choosing.
    allowed = (block.negative & (square < min(farthest**2, 4.0))).to(square.dtype)
    # exp(log_weights) with one logarithm: d^(2 - D) (1 - d^2/4)^((3 - D)/2) = (d^2 (1 - d^2/4))^((3 - D)/2) / d.
    logs = (square * (1 - square / 4)).clamp_(min=1e-30).log_().mul_((3 - block.pairs.anchors.shape[1]) / 2)
    logs.add_(allowed - 1, alpha=_NEVER)
    # The largest of each row, and of nothing else: a row whose weights all underflow would be lost.
    largest = logs.amax(dim=1, keepdim=True)
    # exp() is six times slower where it underflows, and a chance of e^-80 is none.
    weights = logs.sub_(largest).clamp_(min=-80).exp_().mul_(allowed).mul_(square.rsqrt_())
    alike = (largest < -_NEVER / 2).squeeze(1).nonzero().squeeze(1)
    weights[alike] = block.negative[alike].to(weights.dtype)
    return _draw(weights, slots, generator)


def _draw(weights: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """(b, count) columns drawn by (b, R) weights, with replacement; column R - 1 where a row has none."""
    reached = weights.cumsum(dim=1)
    # A little below the end, which no draw may round up to. The first column beyond a draw has a weight above zero.
    chance = torch.rand(len(weights), count, generator=generator, dtype=weights.dtype, device=weights.device)
    drawn = torch.searchsorted(reached, chance * (reached[:, -1:] * (1 - 1e-6)), right=True)
    return drawn.clamp_(max=weights.shape[1] - 1)


@torch.no_grad()
def log_weights(distances: Tensor, dim: int, *, cutoff: float = 0.5) -> Tensor:
    """Log of the inverse density of the distance between random points of a sphere: up to a constant, any shape.

    ``(2 - D) log d - (D - 3) / 2 log(1 - d^2 / 4)``.

    Args:
        distances: of unit vectors, in [0, 2].
        dim: D >= 1, width of the embedding. The formula holds for every D; below 3 far distances are the dense ones.
        cutoff: distances below count as this one; above 0.

    Returns:
        Log weights; -inf at 2, where the density of a wide sphere is 0 and the weight would be infinite.

    >>> log_weights(torch.tensor([0.3, 0.8, 2.0]), 128)
    tensor([91.3702, 39.0132,    -inf])
    """
    square = distances.square().clamp(min=cutoff**2)
    return torch.where(square < 4, _of_squares(square, dim), -torch.inf)


def _of_squares(square: Tensor, dim: int) -> Tensor:
    return (2 - dim) / 2 * square.log() - (dim - 3) / 2 * (1 - square / 4).log_()


def check_cutoffs(cutoff: float, farthest: float) -> None:
    """Raise unless 0 < cutoff < min(farthest, 2)."""
    check_number("cutoff", cutoff, above=0)
    check_number("farthest", farthest, above=0)
    if cutoff >= min(farthest, 2):
        raise SettingsError(
            f"cutoff must lie below farthest and below 2, the greatest distance; got cutoff {cutoff:g}, farthest {farthest:g}."
        )
