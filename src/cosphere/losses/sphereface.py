"""SphereFace: a multiplicative angular margin on embeddings that keep their norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from cosphere.checks import check_choice, check_number, check_switch, check_switches, check_whole
from cosphere.losses.engine.base import Traits, describe
from cosphere.losses.engine.classes import ClassLoss, SampleRule, classify
from cosphere.losses.engine.maths import log_one_plus_exp
from cosphere.losses.engine.softmax import against_classes
from cosphere.tensors import outside_autocast

__all__ = ["SphereFaceLoss", "sphereface_loss"]

Annealing = Literal["caffe", "clcarwin", "face_pytorch"]

ANNEALING: dict[str, Callable[[int], float]] = {
    "caffe": lambda step: 1000 / (1 + 0.12 * step),
    "clcarwin": lambda step: 1500 / (1 + 0.1 * step),
    "face_pytorch": lambda step: 1000 / (1 + 1e-4 * step) ** 2,
}
"""The weight of the plain cosine at each training step, counted from 1, before its floor."""


def sphereface_loss(
    embeddings: Tensor,
    labels: Tensor,
    class_weight: Tensor,
    *,
    margin: int = 4,
    easing: float,
    scale: float = 1.0,
    normalize_features: bool = False,
    sampled: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over ``length * cosine``, with the angle to the target class multiplied by ``margin``.

    The own class's cosine becomes ``(easing * cos(a) + psi(a)) / (easing + 1)`` with ``psi(a) = (-1)^k cos(margin * a) - 2k``
    for a between ``k pi / margin`` and ``(k + 1) pi / margin``: it falls from 1 at angle 0 to ``1 - 2 * margin`` at pi.

    Args:
        embeddings: (B, D) float. Their length counts, unless ``normalize_features``.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float; L2-normalized internally.
        margin: m, a whole number >= 1; 1 is no margin.
        easing: lambda >= 0, how many parts of the plain cosine go with one part of psi. The bare psi, 0, hardly learns from
            a random start.
        scale: logit scale, > 0; beside the length, or instead of it.
        normalize_features: leave the lengths out, so that ``scale`` alone sets the logits: a form made later.
        sampled: (S,) int64 ascending class indices to compute logits for, including those of the batch. Default: all.

    Returns:
        (B,) loss per sample, in nats. Zero-norm rows give a differentiable 0.

    Raises:
        SizeError: incompatible shapes, dtypes or devices, or a label outside [0, C).

    >>> axes = torch.eye(2)
    >>> sphereface_loss(3 * axes, torch.tensor([0, 1]), axes, easing=0)  # angle 0: as without a margin
    tensor([0.0486, 0.0486])
    """
    check_switches(normalize_features=normalize_features)
    batch = classify(embeddings, labels, class_weight)
    with outside_autocast(embeddings):
        rows = batch.unit if normalize_features else batch.raw
        target, others, _ = against_classes(batch, rows=rows, scale=scale, sampled=sampled)
        lengths = 1.0 if normalize_features else batch.lengths()
        cosines = target / lengths
        eased = (easing * cosines + _psi(cosines, margin)) / (easing + 1)
        return batch.scatter(log_one_plus_exp(others - scale * lengths * eased))


def _psi(cosines: Tensor, margin: int) -> Tensor:
    """(-1)^k cos(margin * angle) - 2k, from the cosine of the angle. Smooth in it, and finite everywhere."""
    # Chebyshev's polynomial is cos(margin * angle), without the angle: acos has no gradient at |cos| = 1.
    before, multiple = torch.ones_like(cosines), cosines
    for _ in range(margin - 1):
        before, multiple = multiple, 2 * cosines * multiple - before
    turns = torch.zeros_like(cosines)
    for bound in range(1, margin):
        turns += cosines <= math.cos(bound * math.pi / margin)
    return (1 - 2 * (turns % 2)) * multiple - 2 * turns


@describe(
    name="sphereface",
    paper="Liu et al.: SphereFace, Deep Hypersphere Embedding for Face Recognition, CVPR 2017",
    batch="any; large (512) for faces",
    normalises="class weights; embeddings keep their length unless normalize_features",
    defaults_source="official Caffe code: m 4, lambda max(5, 1000 / (1 + 0.12 t)); unit weights from a uniform draw "
    "as clcarwin's",
    cost="O(B C D) time, O(B D + C D) memory and one block",
    choose_when="to compare with the first of the angular margins, or to see SEC on a loss that feels the length",
    forms=[{"normalize_features": True}],
)
class SphereFaceLoss(ClassLoss):
    """The class directions of :func:`sphereface_loss`, its mean over the rows of nonzero norm, and the annealing.

    The schedule counts calls in training mode, ``calls_per_step`` of which are one step. The count is a buffer, so resumed
    training continues the schedule; calls in evaluation mode do not change it.

    Args:
        num_classes: C, number of training classes.
        embedding_dim: D, embedding dimension.
        margin: m, a whole number >= 1.
        annealing: decay of lambda to ``easing``: "caffe" (official), 1000 / (1 + 0.12 t); "clcarwin", 1500 / (1 + 0.1
            t); "face_pytorch", 1000 / (1 + 0.0001 t)^2; None, it is ``easing`` from the start. They reach 5 at step 1659, 2990
            and 131422; a run that ends before has hardly any margin.
        easing: the least lambda, >= 0.
        scale: logit scale, > 0.
        normalize_features: L2-normalize the embeddings; set ``scale`` to about 30 in this case.
        sample_rate: fraction of classes sampled for the softmax of each training step; see
            :class:`cosphere.losses.ClassLoss`.
        sample_rule: default: Partial FC's rule.

    Raises:
        SettingsError: a value is out of range.
    """

    steps: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        margin: int = 4,
        annealing: Annealing | None = "caffe",
        easing: float = 5.0,
        scale: float = 1.0,
        normalize_features: bool = False,
        sample_rate: float = 1.0,
        sample_rule: SampleRule = "partial_fc",
    ) -> None:
        super().__init__(num_classes, embedding_dim, sample_rate=sample_rate, sample_rule=sample_rule)
        self.margin = check_whole("margin", margin, least=1)
        if annealing is not None:
            check_choice("annealing", annealing, ANNEALING)
        self.annealing = annealing
        self.easing = check_number("easing", easing, at_least=0)
        self.scale = check_number("scale", scale, above=0)
        self.normalize_features = check_switch("normalize_features", normalize_features)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        nn.init.uniform_(self.class_weight, -1, 1)
        with torch.no_grad():
            self.class_weight.div_(torch.linalg.vector_norm(self.class_weight, dim=1, keepdim=True))

    def easing_now(self) -> float:
        """Lambda at the current step."""
        if self.annealing is None:
            return self.easing
        step = math.ceil(int(self.steps) / self.calls_per_step)
        return max(self.easing, ANNEALING[self.annealing](step))

    def per_sample(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B, D), (B,) in [0, C) -> (B,), in nats. In training mode this is one call of the annealing."""
        if self.training:
            self.steps += 1
        return sphereface_loss(
            embeddings,
            labels,
            self.class_weight,
            margin=self.margin,
            easing=self.easing_now(),
            scale=self.scale,
            normalize_features=self.normalize_features,
            sampled=self.sampled(labels),
        )

    def traits(self) -> Traits:
        """Traits of the loss under its current settings."""
        return replace(super().traits(), uses_lengths=not self.normalize_features)
