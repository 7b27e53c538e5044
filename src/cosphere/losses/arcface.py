"""ArcFace: a margin on the angle to the image's own class."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from cosphere.checks import check_choice, check_number, check_switch, check_switches
from cosphere.errors import SettingsError
from cosphere.losses.engine.base import Traits, describe
from cosphere.losses.engine.classes import ClassLoss, SampleRule, classify
from cosphere.losses.engine.maths import add_angle, check_angle, log_one_plus_exp, safe_sqrt
from cosphere.losses.engine.softmax import against_classes
from cosphere.tensors import outside_autocast

__all__ = ["ArcFaceLoss", "arcface_loss"]


def arcface_loss(
    embeddings: Tensor,
    labels: Tensor,
    class_weight: Tensor,
    *,
    margin: float,
    scale: float = 64.0,
    angle_factor: float = 1.0,
    cosine_margin: float = 0.0,
    fallback: bool = True,
    gradient: Literal["exact", "insightface"] = "exact",
    sampled: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over ``scale * cos(angle)``, with ``margin`` added to the angle of the target class.

    The target logit is ``scale * (cos(angle_factor * angle + margin) - cosine_margin)``: InsightFace's combined
    margins, of which ArcFace is (1, 0.5, 0) and CosFace (1, 0, 0.4).

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float; L2-normalized internally.
        margin: in radians, [0, pi]. pytorch-metric-learning takes degrees: 0.5 is 28.6478897565 there.
        scale: logit scale, > 0.
        angle_factor: multiplier of the angle, >= 1.
        cosine_margin: subtracted from the cosine, >= 0.
        fallback: use ``cos(angle) - margin * sin(margin)`` where angle + margin exceeds pi, so that the target logit
            stays monotonic, as the original ArcFace code and pytorch-metric-learning do; InsightFace's PyTorch code
            does not. Defined for ``angle_factor`` 1 only.
        gradient: "exact", or "insightface": differentiates the target logit as if there were no margin. The value is
            the same; the exact gradient is larger by a factor sin(angle + margin) / sin(angle), which grows near angle
            0.
        sampled: (S,) int64 ascending class indices to compute logits for, including those of the batch. Default: all.

    Returns:
        (B,) loss per sample, in nats. Zero-norm rows give a differentiable 0. At an angle of exactly 0 or pi to the
        target class the loss is not differentiable; the gradient through that class is 0.

    Raises:
        SizeError: incompatible shapes, dtypes or devices, or a label outside [0, C).

    >>> import math
    >>> axes = torch.eye(2)
    >>> arcface_loss(axes, torch.tensor([0, 1]), axes, margin=math.pi / 2, scale=5.0)
    tensor([0.6931, 0.6931])
    """
    check_switches(fallback=fallback)
    batch = classify(embeddings, labels, class_weight)
    with outside_autocast(embeddings):
        target, others, _ = against_classes(batch, scale=scale, sampled=sampled)
        if angle_factor == 1:
            wide = add_angle(target, margin, fallback) - cosine_margin
        else:
            wide = (angle_factor * _angles(target) + margin).cos() - cosine_margin
        if gradient == "insightface":
            wide = target + (wide - target).detach()
        return batch.scatter(log_one_plus_exp(others - scale * wide))


def _angles(cosines: Tensor) -> Tensor:
    """Radians in [0, pi]. The gradient at 0 and pi, which is infinite for acos, is 0."""
    inside = cosines.clamp(-1, 1)
    return torch.atan2(safe_sqrt((1 - inside) * (1 + inside)), inside)


@describe(
    name="arcface",
    paper="Deng et al.: ArcFace, Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019",
    batch="any; large (512) for faces",
    normalises="embeddings and class weights",
    defaults_source="paper: margin 0.5 rad, scale 64, fallback beyond pi; weights N(0, 0.01) as InsightFace's",
    cost="O(B C D) time, O(B D + C D) memory and one block",
    choose_when="faces and other fine classes in great number; wants a good start or a warm-up, as its margin is large",
    forms=[{"fallback": False}, {"gradient": "insightface"}],
)
class ArcFaceLoss(ClassLoss):
    """Module form of :func:`arcface_loss` with learned class weights; averages over the rows of nonzero norm.

    Args:
        num_classes: C, number of training classes.
        embedding_dim: D, embedding dimension.
        margin: in radians, [0, pi].
        scale: logit scale, > 0.
        angle_factor: >= 1.
        cosine_margin: >= 0.
        fallback: keep the target logit monotonic beyond pi; must be False unless ``angle_factor`` is 1.
        gradient: "exact" or "insightface".
        sample_rate: fraction of classes sampled for the softmax of each training step; see
            :class:`cosphere.losses.ClassLoss`.
        sample_rule: default: Partial FC's rule.

    Raises:
        SettingsError: a value is out of range.
    """

    function = staticmethod(arcface_loss)

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        margin: float = 0.5,
        scale: float = 64.0,
        angle_factor: float = 1.0,
        cosine_margin: float = 0.0,
        fallback: bool = True,
        gradient: Literal["exact", "insightface"] = "exact",
        sample_rate: float = 1.0,
        sample_rule: SampleRule = "partial_fc",
    ) -> None:
        super().__init__(num_classes, embedding_dim, sample_rate=sample_rate, sample_rule=sample_rule)
        self.margin = check_angle("margin", margin)
        self.scale = check_number("scale", scale, above=0)
        self.angle_factor = check_number("angle_factor", angle_factor, at_least=1)
        self.cosine_margin = check_number("cosine_margin", cosine_margin, at_least=0)
        self.fallback = check_switch("fallback", fallback)
        if self.fallback and self.angle_factor != 1:
            raise SettingsError(f"the fallback is for angle_factor 1, got {angle_factor!r}. Set fallback=False.")
        check_choice("gradient", gradient, ["exact", "insightface"])
        self.gradient = gradient
        nn.init.normal_(self.class_weight, std=0.01)

    def traits(self) -> Traits:
        """Traits of the loss under its current settings."""
        return replace(super().traits(), gradient_by_rule=self.gradient == "insightface")
