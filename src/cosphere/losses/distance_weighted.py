"""Distance-weighted sampling: draw negatives uniformly over their distance to the anchor.

On a sphere of many dimensions nearly all distances are close to sqrt(2), so random negatives are uninformative and the
hardest ones are noisy. Weighting by the inverse density of the distance makes every distance equally likely.
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
    """Sample one triplet per positive pair, with distance-weighted negatives drawn with replacement.

    The probability of a negative is proportional to ``exp(log_weights(d, D))``. Negatives at ``farthest`` or beyond and
    antipodes are never drawn. An anchor without a nearer negative draws uniformly from all its negatives. (In that case
    the authors draw from the whole batch, including positives, and pytorch-metric-learning drops the anchor. Both
    subtract the largest log weight of the whole batch, so at D >= 128 the weights of most rows underflow and this
    fallback applies; here the maximum is taken per row.)

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers.
        cutoff: lower clamp of the distance, which bounds the weights. In (0, farthest) and below 2.
        farthest: negatives at this distance or beyond are not drawn: beta + alpha of the margin loss, beyond which its
            terms are 0. 2 disables it.
        generator: random number generator; None uses torch's global generator. On a CPU the draws do not depend on the
            block size.
        references: see :func:`cosphere.losses.compare`.
        reference_labels: likewise.
        positions: likewise.

    Returns:
        Anchors, positives, negatives, each (T,) int64: rows of the batch and of the references (or the batch again),
        sorted by anchor. Anchors without a positive or a negative are skipped.

    Raises:
        SettingsError: cutoff or farthest out of range.
        SizeError: incompatible shapes, dtypes or devices.

    >>> points = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.8, 0.0]])
    >>> [part.tolist() for part in distance_weighted_triplets(points, torch.tensor([0, 0, 1]))]
    [[0, 1], [1, 0], [2, 2]]
    """
    check_cutoffs(cutoff, farthest)
    with torch.no_grad():
        pairs = compare(
            embeddings, labels, references=references, reference_labels=reference_labels, positions=positions
        )
    triplets = []
    for block in blocks(pairs):
        negatives = draw_negatives(block, cutoff=cutoff, farthest=farthest, generator=generator)
        mask = triplets_wanted(block)
        anchors = torch.arange(block.rows.start, block.rows.stop, device=mask.device)[:, None].expand_as(mask)
        triplets.append(torch.stack([anchors[mask], block.positive_columns[mask], negatives[mask]]))
    if not triplets:
        triplets = [torch.empty(3, 0, dtype=torch.int64, device=embeddings.device)]
    anchors, positives, chosen = torch.cat(triplets, dim=1)
    kept, kept_columns = pairs.kept, pairs.kept
    if references is not None:
        kept_columns = directions(references.detach()).alive.nonzero().squeeze(1)
    return (
        anchors if kept is None else kept[anchors],
        positives if kept_columns is None else kept_columns[positives],
        chosen if kept_columns is None else kept_columns[chosen],
    )


def triplets_wanted(block: Block) -> Tensor:
    """Mask of the (b, P) drawn negatives that form a triplet: the positive is not padding and a negative exists."""
    return block.positive_real & (block.pairs.negatives_per_anchor[block.rows, None] > 0)


_NEVER = 1e30
"""A log weight that no row reaches, and that float32 can hold."""


@torch.no_grad()
def draw_negatives(block: Block, *, cutoff: float, farthest: float, generator: torch.Generator | None = None) -> Tensor:
    """A column for each slot of ``rows.positive_columns``: a drawn negative, or an arbitrary column where there is none. (b, P) int64."""
    slots = block.positive_columns.shape[1]
    if not slots:
        return block.positive_columns
    # Treat NaN rows as farthest, so that they do not affect the others.
    square = (2 - 2 * block.similarities).clamp_(min=cutoff**2).nan_to_num_(nan=4.0)
    # Antipodes have density 0 (D > 3) or infinite density (D < 3): the mask keeps 0 * inf out. Multiplying by masks is
    # several times faster here than torch.where.
    allowed = (block.negative & (square < min(farthest**2, 4.0))).to(square.dtype)
    # exp(log_weights) with one logarithm: d^(2 - D) (1 - d^2/4)^((3 - D)/2) = (d^2 (1 - d^2/4))^((3 - D)/2) / d.
    logs = (square * (1 - square / 4)).clamp_(min=1e-30).log_().mul_((3 - block.pairs.anchors.shape[1]) / 2)
    logs.add_(allowed - 1, alpha=_NEVER)
    # Take the maximum per row: with a global maximum all weights of a row could underflow.
    largest = logs.amax(dim=1, keepdim=True)
    # exp() is six times slower where it underflows, and a probability of e^-80 is negligible.
    weights = logs.sub_(largest).clamp_(min=-80).exp_().mul_(allowed).mul_(square.rsqrt_())
    without_near = (largest < -_NEVER / 2).squeeze(1).nonzero().squeeze(1)
    weights[without_near] = block.negative[without_near].to(weights.dtype)
    return _draw(weights, slots, generator)


def _draw(weights: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """(b, count) columns drawn by (b, R) weights, with replacement; column R - 1 where a row has none."""
    reached = weights.cumsum(dim=1)
    # Slightly below the total, which no draw may round up to. The first column beyond a draw has a weight above zero.
    chance = torch.rand(len(weights), count, generator=generator, dtype=weights.dtype, device=weights.device)
    drawn = torch.searchsorted(reached, chance * (reached[:, -1:] * (1 - 1e-6)), right=True)
    return drawn.clamp_(max=weights.shape[1] - 1)


@torch.no_grad()
def log_weights(distances: Tensor, dim: int, *, cutoff: float = 0.5) -> Tensor:
    """Log of the inverse density of the distance between random points on a sphere, up to a constant. Any shape.

    ``(2 - D) log d - (D - 3) / 2 log(1 - d^2 / 4)``.

    Args:
        distances: of unit vectors, in [0, 2].
        dim: D >= 1, width of the embedding. The formula holds for every D; below 3 the density peaks at large
            distances.
        cutoff: lower clamp of the distance; above 0.

    Returns:
        Log weights; -inf at 2, where the density is 0 in high dimension and the weight would be infinite.

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
