"""ArcFace: a margin on the angle to the image's own class."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from cosphere.checks import check_choice, check_number, check_switch
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
    """Cross-entropy over ``scale * cos(angle)``, where the angle to the own class is first made wider by ``margin``.

    The own class's logit is ``scale * (cos(angle_factor * angle + margin) - cosine_margin)``: InsightFace's combined margins,
    of which ArcFace is (1, 0.5, 0) and CosFace (1, 0, 0.4).

    Args:
        embeddings: (B, D) float. Any length; only the direction counts.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float. Any length; only the direction counts.
        margin: in radians, [0, pi]. pytorch-metric-learning takes degrees: 0.5 is 28.6478897565 there.
        scale: of all logits, > 0.
        angle_factor: what the angle is multiplied with, >= 1.
        cosine_margin: what is taken off the cosine, >= 0.
        fallback: where the widened angle passes pi its cosine would rise again, and reward what is farthest off; take
            ``cos(angle) - margin * sin(margin)`` there, as ArcFace's first code and pytorch-metric-learning do.
            InsightFace's PyTorch code does not. It is defined, and used, for ``angle_factor`` 1 only.
        gradient: "exact", or "insightface": that code differentiates the own class's logit as if no margin were there. The
            value is the same; the exact gradient is sin(angle + margin) / sin(angle) times theirs, far larger near angle 0.
        sampled: (S,) int64 ascending classes to run over, those of the batch among them; all by default.

    Returns:
        (B,) loss per sample, in nats. Rows without a direction give a connected 0. Of an image exactly on its class's
        direction, or exactly opposite, no gradient goes through that class: the loss has a kink there.

    Raises:
        SizeError: shapes, types or devices that do not fit, or a label outside [0, C).

    >>> import math
    >>> axes = torch.eye(2)
    >>> arcface_loss(axes, torch.tensor([0, 1]), axes, margin=math.pi / 2, scale=5.0)
    tensor([0.6931, 0.6931])
    """
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
    """The class directions of :func:`arcface_loss`, and its mean over the rows that have a direction.

    Args:
        num_classes: C, training classes.
        embedding_dim: D, width of the embedding.
        margin: in radians, [0, pi].
        scale: of all logits, > 0.
        angle_factor: >= 1.
        cosine_margin: >= 0.
        fallback: keep the logit falling beyond pi; must be False for another ``angle_factor`` than 1.
        gradient: "exact" or "insightface".
        sample_rate: share of the classes in a training step's softmax; see :class:`cosphere.losses.ClassLoss`.
        sample_rule: Partial FC's by default.

    Raises:
        SettingsError: a value out of range.
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
        """How the loss behaves with the settings it has."""
        return replace(super().traits(), gradient_by_rule=self.gradient == "insightface")
