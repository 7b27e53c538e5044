"""Margin loss: positives inside a learned boundary, negatives outside, each by a margin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple, Unpack

import torch
from torch import Tensor, nn

from cosphere.checks import check_choice, check_number, check_switch, check_whole
from cosphere.errors import SizeError
from cosphere.losses.distance_weighted import check_cutoffs, draw_negatives, triplets_wanted
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import as_int64, chord, mean_or_zero
from cosphere.losses.engine.pairs import Compared, Pairs, compare
from cosphere.losses.engine.rows import Block, sum_over_rows
from cosphere.losses.engine.triplets import ListedTriplets, compare_listed, listed_triplets

__all__ = ["MarginLoss", "margin_loss"]

Sampling = Literal["distance_weighted", "all"]


def margin_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    boundary: Tensor,
    margin: float,
    boundary_weight: float = 0.0,
    sampling: Sampling = "distance_weighted",
    cutoff: float = 0.5,
    farthest: float = 1.4,
    generator: torch.Generator | None = None,
    **compared: Unpack[Compared],
) -> Tensor:
    """``[d_ap - b_a + margin]_+ + [b_a - d_an + margin]_+`` over triplets; d is the distance of unit vectors.

    The mean is over the terms above zero, of which a triplet has up to two. Where the authors divide 0 by 0 it is 0.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers. With a boundary for each class in [0, C).
        boundary: (C,) the distance b (the paper's beta) between positives and negatives, per class of the anchor, or ()
            shared by all classes. Differentiable.
        margin: on either side of the boundary (the paper's alpha), in units of d.
        boundary_weight: the paper's nu: this times the sum of the triplets' boundaries is added before the division.
            (pytorch-metric-learning adds ``nu b`` after it where one boundary is shared.)
        sampling: "distance_weighted" (the authors): for each positive one negative that
            :func:`cosphere.losses.distance_weighted_triplets` would draw, afresh at each call. "all": all triplets, exactly.
        cutoff: of the sampling.
        farthest: of the sampling; margin + boundary, from where a negative contributes nothing.
        generator: random number generator; None uses torch's global generator.
        compared: see :func:`cosphere.losses.compare`. A miner's triplets are taken one by one, and nothing is drawn; of its
            pairs, the negatives are drawn among them or make all triplets.

    Returns:
        () >= 0; a differentiable 0 when no term is above zero.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices, or a label without a boundary.
        SettingsError: cutoff or farthest out of range.
    """
    check_cutoffs(cutoff, farthest)
    if listed_triplets(compared):
        pairs, listed = compare_listed(embeddings, labels, compared)
    else:
        pairs, listed = compare(embeddings, labels, **compared), None

    def of_block(block: Block, boundaries: Tensor) -> tuple[Tensor, Tensor]:
        if listed is not None:
            terms = _listed_terms(block, boundaries, listed)
        elif sampling == "all":
            terms = _all_terms(block, boundaries)
        else:
            drawn = draw_negatives(block, cutoff=cutoff, farthest=farthest, generator=generator)
            terms = _drawn_terms(block, boundaries, drawn)
        return _hinges(terms, margin, boundary_weight)

    total, active = sum_over_rows(pairs, of_block, _of_anchors(boundary, labels, pairs))
    # Without an active term there is no divisor, so the boundary penalty alone gives no loss.
    return mean_or_zero(torch.where(active.sum() > 0, total, 0.0), active.sum()) + pairs.zero


class _Terms(NamedTuple):
    """What n anchors are to be compared with. The two hinges of a triplet are apart, so no triplet is ever listed."""

    near: Tensor
    """(n, P) distances to positives, -inf where there is none."""
    far: Tensor
    """(n, Q) distances to negatives, inf where there is none."""
    boundary: Tensor
    """(n,)"""
    near_times: Tensor
    """(n,) triplets that each positive is in."""
    far_times: Tensor
    """(n,) triplets that each negative is in."""
    triplets: Tensor
    """(n,)"""


def _all_terms(block: Block, boundaries: Tensor) -> _Terms:
    near = chord(block.positives(1.0), squared=False)
    far = chord(block.negatives(-torch.inf), squared=False)
    positives, negatives = (
        count[block.rows].to(near.dtype)
        for count in (block.pairs.positives_per_anchor, block.pairs.negatives_per_anchor)
    )
    near = torch.where(block.positive_real, near, -torch.inf)
    return _Terms(near, far, boundaries[block.rows], negatives, positives, positives * negatives)


def _drawn_terms(block: Block, boundaries: Tensor, drawn: Tensor) -> _Terms:
    mask = triplets_wanted(block)
    # One gather, as each costs a pass over the block in the gradient. What fills the slots is replaced after.
    both = block.similarities.gather(1, torch.cat([block.positive_columns, drawn], dim=1))
    near, far = chord(both, squared=False).tensor_split([drawn.shape[1]], dim=1)  # at 0 slots too
    near, far = torch.where(mask, near, -torch.inf), torch.where(mask, far, torch.inf)
    once = near.new_ones(len(near))
    return _Terms(near, far, boundaries[block.rows], once, once, mask.sum(dim=1))


def _listed_terms(block: Block, boundaries: Tensor, listed: ListedTriplets) -> _Terms:
    near, far = (chord(cosines, squared=False)[:, None] for cosines in listed.similarities(block))
    anchors = listed.anchors[listed.of(block)]
    once = near.new_ones(len(near))
    return _Terms(near, far, boundaries[anchors], once, once, once)


def _hinges(terms: _Terms, margin: float, boundary_weight: float) -> tuple[Tensor, Tensor]:
    """Sum () of the terms and of the weighted boundaries, and how many terms are above zero (1,)."""
    edge = terms.boundary[:, None]
    pull, push = (terms.near - (edge - margin)).relu(), ((edge + margin) - terms.far).relu()
    total = (terms.near_times * pull.sum(dim=1) + terms.far_times * push.sum(dim=1)).sum()
    active = terms.near_times * (pull > 0).sum(dim=1) + terms.far_times * (push > 0).sum(dim=1)
    if boundary_weight:
        total = total + boundary_weight * (terms.triplets * terms.boundary).sum()
    return total, active.sum()[None]


def _of_anchors(boundary: Tensor, labels: Tensor, pairs: Pairs) -> Tensor:
    """(A,) the boundary of each anchor, or a SizeError: an index out of range would end a CUDA process."""
    if boundary.device != labels.device:
        raise SizeError(f"boundaries are on {boundary.device}, embeddings on {labels.device}. Call loss.to(device).")
    boundary = boundary.to(pairs.anchors.dtype)
    if boundary.ndim == 0:
        return boundary.expand(len(pairs.anchors))
    if boundary.ndim != 1:
        raise SizeError(f"want boundaries (C,), or () for one that all share; got {tuple(boundary.shape)}.")
    classes = as_int64(labels)
    if len(classes):
        low, high = (int(value) for value in classes.aminmax())
        if low < 0 or high >= len(boundary):
            raise SizeError(
                f"labels run from {low} to {high}, but the loss has a boundary for each of {len(boundary)} classes: want 0 to "
                f"{len(boundary) - 1}. Number the training classes from 0, give more num_classes, or take per_class=False."
            )
    return boundary[classes if pairs.kept is None else classes[pairs.kept]]


@describe(
    name="margin",
    paper="Wu, Manmatha, Smola, Krähenbühl: Sampling Matters in Deep Embedding Learning, ICCV 2017",
    batch="at least 2 images per class (5), at least 2 classes",
    normalises="embeddings",
    defaults_source="official code: margin 0.2, boundary 1.2 learned per class, negatives drawn by distance in [0.5, 1.4)",
    cost="O(B^2 D) time, O(B D) memory and one block",
    choose_when="classes differ in spread, so that each should learn its own radius; robust to odd negatives",
    forms=[{"sampling": "all"}, {"sampling": "all", "per_class": False}],
)
class MarginLoss(PairLoss):
    """The settings and the learned boundaries of :func:`margin_loss`.

    Give the boundaries a learning rate of their own, 0.1 in the authors' code, and no weight decay, which would pull them
    to 0. They are in the state dict.

    Args:
        num_classes: C, number of training classes, labelled 0 to C - 1. Not used, and may be None, with one boundary
            for all.
        margin: on either side of the boundary, in units of distance.
        boundary_start: initial value of the boundaries; useful values are in (0, 2).
        per_class: learn one boundary for each class; otherwise one for all, and any labels will do. For a fixed boundary,
            ``loss.boundary.requires_grad_(False)``.
        boundary_weight: weight of the penalty on large boundaries.
        sampling: see :func:`margin_loss`.
        cutoff: likewise.
        farthest: likewise.

    Raises:
        SettingsError: a value is out of range.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> MarginLoss(2, sampling="all")(points, torch.tensor([0, 0, 1, 1])).detach()
    tensor(0.5320)
    """

    function = staticmethod(margin_loss)

    def __init__(
        self,
        num_classes: int | None,
        *,
        margin: float = 0.2,
        boundary_start: float = 1.2,
        per_class: bool = True,
        boundary_weight: float = 0.0,
        sampling: Sampling = "distance_weighted",
        cutoff: float = 0.5,
        farthest: float = 1.4,
    ) -> None:
        super().__init__()
        self.margin = check_number("margin", margin, at_least=0)
        self.boundary_start = check_number("boundary_start", boundary_start, at_least=0)
        self.per_class = check_switch("per_class", per_class)
        self.boundary_weight = check_number("boundary_weight", boundary_weight, at_least=0)
        check_choice("sampling", sampling, ["distance_weighted", "all"])
        self.sampling = sampling
        check_cutoffs(cutoff, farthest)
        self.cutoff, self.farthest = float(cutoff), float(farthest)
        shape = (check_whole("num_classes", num_classes, least=1, most=10**8),) if per_class else ()
        self.boundary = nn.Parameter(torch.full(shape, self.boundary_start))

    def settings(self) -> dict[str, Any]:
        """Extra keyword arguments for the functional form."""
        kept = {
            name: value for name, value in super().settings().items() if name not in ("boundary_start", "per_class")
        }
        return {**kept, "boundary": self.boundary}

    def traits(self) -> Traits:
        """Traits of the loss under its current settings."""
        return replace(
            super().traits(),
            draws=self.sampling == "distance_weighted",
            uses_classes=self.per_class,
            classes_from_zero=self.per_class,
        )
