"""Contrastive loss: pull positive pairs together, push negative pairs beyond a margin."""

from __future__ import annotations

from typing import Literal, NamedTuple, Unpack

import torch
from torch import Tensor

from cosphere.checks import check_choice, check_number
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import apart_or_zero, mean_or_zero, with_gradients
from cosphere.losses.engine.pairs import Compared, Pairs, compare
from cosphere.losses.engine.rows import Block, blocks, sum_over_rows

__all__ = ["ContrastiveLoss", "contrastive_loss"]


def contrastive_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    positive_margin: float = 0.0,
    form: Literal["hadsell", "pml"] = "hadsell",
    reduction: Literal["mean_all", "mean_nonzero"] | None = None,
    **compared: Unpack[Compared],
) -> Tensor:
    """Contrastive loss over all ordered pairs, on the distance d of unit vectors.

    "hadsell" (Hadsell, Chopra and LeCun 2006): half the mean of ``[d - positive_margin]_+^2`` of positive and ``[margin
    - d]_+^2`` of negative pairs. "pml" (pytorch-metric-learning): the same hinges not squared, averaged separately over
    positive and negative pairs and summed.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers.
        margin: distance in [0, 2] beyond which a negative pair contributes nothing.
        positive_margin: distance up to which a positive pair contributes nothing.
        form: see above.
        reduction: "mean_all" divides by the number of pairs, "mean_nonzero" by the number of pairs with a nonzero loss
            (for "pml" per side). None: "mean_all" for "hadsell", "mean_nonzero" for "pml".
        compared: see :func:`cosphere.losses.compare`.

    Returns:
        () >= 0; a differentiable 0 when there is no pair.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices.
    """
    pairs = compare(embeddings, labels, **compared)
    everything = (reduction or ("mean_all" if form == "hadsell" else "mean_nonzero")) == "mean_all"
    if form == "pml":
        counts = _pair_counts(pairs) if everything else _costly(pairs, margin, positive_margin)
        shares = [1 / count.clamp(min=1).to(pairs.anchors.dtype) for count in counts]

        def of_block(block: Block) -> Tensor:
            near, far = _sides(block, margin, positive_margin)
            value = near.hinges.sum() * shares[0] + far.hinges.sum() * shares[1]
            return _with_side_gradients(
                block, value, near.costly * near.inverse * shares[0], far.costly * far.inverse * shares[1]
            )

        return sum_over_rows(pairs, of_block).total + pairs.zero

    def squares_of_block(block: Block) -> tuple[Tensor, Tensor]:
        near, far = _sides(block, margin, positive_margin)
        count = pairs.zero.new_zeros(1) if everything else (near.costly.sum() + far.costly.sum())[None]
        value = near.hinges.square().sum() + torch.linalg.vecdot(far.hinges, far.hinges).sum()
        total = _with_side_gradients(block, value, 2 * near.hinges * near.inverse, far.hinges.mul_(far.inverse).mul_(2))
        return total, count

    total, costly = sum_over_rows(pairs, squares_of_block)
    count = sum(_pair_counts(pairs)) if everything else costly.sum()
    return mean_or_zero(total, count) / 2 + pairs.zero


class _Side(NamedTuple):
    """The positives (b, P) or the negatives (b, R) of a block."""

    hinges: Tensor
    """How far the distance is on the wrong side; 0 where it is not, and where there is no pair."""
    inverse: Tensor
    """1 / distance, the gradient of the distance on the cosine up to its sign; 0 at distance 0."""

    @property
    def costly(self) -> Tensor:
        """1 where a pair has a loss above 0, else 0."""
        return (self.hinges > 0).to(self.hinges.dtype)


@torch.no_grad()
def _sides(block: Block, margin: float, positive_margin: float) -> tuple[_Side, _Side]:
    near, near_inverse = _distances(block.positives(1.0))
    far, far_inverse = _distances(block.similarities)
    # Multiplying by a mask is several times faster than torch.where.
    mask = block.negative.to(far.dtype)
    return (
        _Side((near - positive_margin).clamp_(min=0).mul_(block.positive_real), near_inverse),
        _Side((margin - far).clamp_(min=0).mul_(mask), far_inverse),
    )


def _distances(cosines: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of unit vectors and its inverse, both 0 for identical images."""
    square = apart_or_zero(torch.rsub(cosines, 2, alpha=2), inplace=True)
    inverse = square.clamp(min=1e-36).rsqrt_()
    distances = square.mul_(inverse)
    return distances, inverse.mul_(distances > 0)


def _with_side_gradients(block: Block, value: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """() ``value`` whose gradients are minus ``near`` (b, P) on the positives and ``far`` (b, R) on the negatives."""
    with torch.no_grad():
        to_cosines = far.scatter_add_(1, block.positive_columns, -near)
    return with_gradients(value, (block.similarities, to_cosines))


def _pair_counts(pairs: Pairs) -> tuple[Tensor, Tensor]:
    return pairs.positives_per_anchor.sum(), pairs.negatives_per_anchor.sum()


def _costly(pairs: Pairs, margin: float, positive_margin: float) -> tuple[Tensor, Tensor]:
    """Number of positive and of negative pairs with a nonzero loss; both means need it before the main pass."""
    counts = torch.zeros(2, dtype=torch.int64, device=pairs.anchors.device)
    limit = 1 - margin**2 / 2  # the cosine at that distance: one comparison instead of the whole hinge
    for block in blocks(pairs):
        far = block.negative & (block.similarities > limit)
        near = _distances(block.positives(1.0))[0]
        counts += torch.stack([((near > positive_margin) & block.positive_real).sum(), far.sum()])
    return counts[0], counts[1]


@describe(
    name="contrastive",
    paper="Hadsell, Chopra, LeCun: Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006",
    batch="at least 2 images per class",
    normalises="embeddings",
    defaults_source="the paper's formula on unit vectors, margin 1; form='pml' is pytorch-metric-learning's",
    cost="O(B^2 D) time, O(B D) memory and one block",
    choose_when="a plain baseline, or labels that come as pairs",
    forms=[{"form": "pml"}, {"reduction": "mean_nonzero"}],
    traits=Traits(terms="pairs"),
)
class ContrastiveLoss(PairLoss):
    """Module form of :func:`contrastive_loss`.

    >>> loss = ContrastiveLoss()
    >>> round(float(loss(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))), 4)
    1.0
    """

    function = staticmethod(contrastive_loss)

    def __init__(
        self,
        *,
        margin: float = 1.0,
        positive_margin: float = 0.0,
        form: Literal["hadsell", "pml"] = "hadsell",
        reduction: Literal["mean_all", "mean_nonzero"] | None = None,
    ) -> None:
        super().__init__()
        self.margin = check_number("margin", margin, at_least=0)
        self.positive_margin = check_number("positive_margin", positive_margin, at_least=0)
        check_choice("form", form, ["hadsell", "pml"])
        if reduction is not None:
            check_choice("reduction", reduction, ["mean_all", "mean_nonzero"])
        self.form, self.reduction = form, reduction
