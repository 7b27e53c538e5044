"""Attention-based ensemble (ABE-M): a contrastive loss per learner plus a divergence loss between learners."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from cosphere.checks import check_number, check_whole
from cosphere.errors import SizeError
from cosphere.losses.contrastive import contrastive_loss
from cosphere.losses.engine.base import PairLoss, Traits, describe
from cosphere.losses.engine.maths import connected_zero, mean_or_zero
from cosphere.losses.engine.pairs import Compared, check_inputs
from cosphere.tensors import check_tensor, directions, outside_autocast

__all__ = ["AttentionEnsembleLoss", "abe_divergence_loss", "attention_ensemble_loss"]


def attention_ensemble_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    learners: int,
    margin: float,
    divergence_margin: float,
    divergence_weight: float,
    **compared: Unpack[Compared],
) -> Tensor:
    """``sum_m contrastive(m) + divergence_weight * divergence``, over M learners concatenated in one embedding.

    Kim et al., Attention-based Ensemble for Deep Metric Learning, ECCV 2018 (ABE-M). No official code is public: the
    contrastive loss is :func:`contrastive_loss`, the divergence :func:`abe_divergence_loss`.

    Args:
        embeddings: (B, D) float, M slices of equal width. Any length; only the direction of each slice counts.
        labels: (B,) integers.
        learners: M, divides D. The paper has 8.
        margin: distance in [0, 2] beyond which a negative pair contributes nothing.
        divergence_margin: squared distance in [0, 4] beyond which two learners are far enough apart.
        divergence_weight: of the mean over pairs of learners, >= 0. The paper sums over the M (M - 1) / 2 pairs, so its
            lambda_div is this weight divided by M (M - 1) / 2: its 1 for ABE-8 is 28 here.
        compared: see :func:`cosphere.losses.compare`. The divergence uses the batch only.

    Returns:
        () >= 0; a differentiable 0 for an empty batch.

    Raises:
        SizeError: incompatible shapes, dtypes, devices or indices, or a width that M does not divide.
    """
    references = compared.get("references")
    check_inputs(embeddings, labels, references, compared.get("reference_labels"))
    width = _width(embeddings.shape[1], learners)
    parts = torch.split(embeddings, width, dim=1)
    total = divergence_weight * abe_divergence_loss(torch.stack(parts), margin=divergence_margin)
    others = [None] * learners if references is None else torch.split(references, width, dim=1)
    for part, other in zip(parts, others, strict=True):
        of_learner: Compared = {**compared, "references": other}
        total = total + contrastive_loss(part, labels, margin=margin, **of_learner)
    return total


def _width(dim: int, learners: int) -> int:
    if dim % learners:
        raise SizeError(f"{learners} learners do not divide {dim} columns evenly; choose another number of learners.")
    return dim // learners


def abe_divergence_loss(learners: Tensor, *, margin: float) -> Tensor:
    """Divergence loss: ``[margin - d]_+`` with d the squared distance of two learners of one image.

    Kim et al., Attention-based Ensemble for Deep Metric Learning, ECCV 2018 (ABE-M). No official code is public, and ports
    differ: this is the mean over images and pairs of learners with d the squared distance of their unit vectors.

    Args:
        learners: (M, B, D) float, the embeddings of one batch by M learners. Only directions count.
        margin: squared distance in [0, 4] beyond which two learners are far enough apart.

    Returns:
        () >= 0 up to rounding; a differentiable 0 without two learners. A vector without a direction takes no part.

    Raises:
        SizeError: a shape or type that does not fit.

    >>> import torch
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


@describe(
    name="attention_ensemble",
    paper="Kim et al.: Attention-based Ensemble for Deep Metric Learning, ECCV 2018 (ABE-M)",
    batch="at least 2 images per class",
    normalises="each learner's slice of the embeddings",
    defaults_source="ours, as no official code is public: margins 1, weight 1; ABE-8 is learners 8, and the "
    "paper's lambda_div 1 is divergence_weight 28, as it sums over the 28 pairs of learners where this takes the mean",
    cost="O(B^2 D) time, O(B D) memory, one block, and B M^2 for M learners",
    choose_when="a head with several learners, which without the divergence would all learn the same",
    traits=Traits(terms="images"),
)
class AttentionEnsembleLoss(PairLoss):
    """Module form of :func:`attention_ensemble_loss`.

    >>> import torch
    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> AttentionEnsembleLoss(learners=1)(points, torch.tensor([0, 0, 1, 1]))
    tensor(0.2446)
    """

    function = staticmethod(attention_ensemble_loss)

    def __init__(
        self,
        *,
        learners: int = 2,
        margin: float = 1.0,
        divergence_margin: float = 1.0,
        divergence_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.learners = check_whole("learners", learners, least=1)
        self.margin = check_number("margin", margin, at_least=0)
        self.divergence_margin = check_number("divergence_margin", divergence_margin, at_least=0)
        self.divergence_weight = check_number("divergence_weight", divergence_weight, at_least=0)

    def groups(self, dim: int) -> tuple[int, ...]:
        """Widths of the learners."""
        return (_width(dim, self.learners),) * self.learners
