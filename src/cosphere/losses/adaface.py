"""AdaFace: a margin adapted to image quality, estimated from the embedding norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cosphere.checks import check_number, check_share
from cosphere.losses.engine.base import Traits, describe
from cosphere.losses.engine.classes import Classified, ClassLoss, SampleRule, Workspace, classify
from cosphere.losses.engine.maths import check_angle, log_one_plus_exp, running_mean, start_as_directions
from cosphere.losses.engine.softmax import against_classes
from cosphere.tensors import outside_autocast

__all__ = ["AdaFaceLoss", "adaface_loss"]

EDGE = 1e-3
"""The official code keeps cosines this far from 1 and -1, angles from 0 and pi, and adds it to the deviation."""


def adaface_loss(
    embeddings: Tensor,
    labels: Tensor,
    class_weight: Tensor,
    *,
    margin: float = 0.4,
    concentration: float = 0.333,
    scale: float = 64.0,
    mean_length: Tensor | float = 20.0,
    length_deviation: Tensor | float = 100.0,
    sampled: Tensor | None = None,
) -> Tensor:
    """Cross-entropy whose target is ``cos(theta - margin q) - (margin + margin q)``, with image quality q in [-1, 1].

    Equations 13 to 15 of Kim, Jain, Liu (CVPR 2022), and the official code. Quality is ``concentration (length - mean)
    / deviation``, clipped; length is the norm of the raw embedding, clipped to [0.001, 100] and detached. All cosines
    are clipped to +-0.999 and the angle to [0.001, pi - 0.001], with zero gradient outside these ranges.

    Args:
        embeddings: (B, D) float. The norm is used.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float; L2-normalized internally.
        margin: used both in radians and in cosine, in [0, pi].
        concentration: h, >= 0. 0 gives every image quality 0, which is CosFace.
        scale: logit scale, > 0.
        mean_length: running mean of the norms.
        length_deviation: running standard deviation of the norms.
        sampled: (S,) int64 ascending class indices to compute logits for, including those of the batch. Default: all.

    Returns:
        (B,) loss per sample, in nats. Zero-norm rows give a differentiable 0.

    Raises:
        SizeError: incompatible shapes, dtypes or devices, or a label outside [0, C).

    >>> adaface_loss(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), margin=0.0, scale=1.0)
    tensor([0.3135, 0.3135])
    """
    batch = classify(embeddings, labels, class_weight)
    with outside_autocast(embeddings):
        quality = concentration * (_clipped_lengths(batch) - mean_length) / (length_deviation + EDGE)
        quality = quality.clamp(-1, 1)
        target, others, _ = against_classes(batch, scale=scale, logits=_Clipped(), sampled=sampled)
        angle = target.clamp(EDGE - 1, 1 - EDGE).acos() - margin * quality
        reduced = angle.clamp(EDGE, math.pi - EDGE).cos() - margin * (1 + quality)
        return batch.scatter(log_one_plus_exp(others - scale * reduced))


class _Clipped:
    """Cosines, clipped to +-0.999: a stage of :func:`against_classes`."""

    def values(self, inputs: Tensor, space: Workspace) -> Tensor:
        return torch.clamp(inputs, EDGE - 1, 1 - EDGE, out=space.take("clipped", inputs))

    def pull_back(self, inputs: Tensor, gradient: Tensor, space: Workspace) -> Tensor:
        inside = torch.abs(inputs, out=space.take("inside", inputs))
        return gradient.mul_(torch.le(inside, 1 - EDGE, out=inside))


@torch.no_grad()
def _clipped_lengths(batch: Classified) -> Tensor:
    return batch.lengths().clamp(1e-3, 100)


@describe(
    name="adaface",
    paper="Kim, Jain, Liu: AdaFace: Quality Adaptive Margin for Face Recognition, CVPR 2022",
    batch="any; its lengths should be those of a network, around 20",
    normalises="embeddings and class weights; the length sets the margin, without gradient",
    defaults_source="paper and official code and scripts: margin 0.4, h 0.333, scale 64, momentum 0.01; mean 20, deviation 100",
    cost="O(B C D) time, O(B D + C D) memory and one block",
    choose_when="image quality varies: unclear images should not be forced apart; not with a spherical constraint",
    traits=Traits(uses_lengths=True, gradient_by_rule=True),
)
class AdaFaceLoss(ClassLoss):
    """Module form of :func:`adaface_loss` with learned class weights and running norm statistics.

    Averages over rows of nonzero norm. In training mode each call first updates ``mean_length`` and
    ``length_deviation`` with the batch's mean and unbiased standard deviation; a batch of one image leaves the
    deviation unchanged. In evaluation mode both are fixed.

    Args:
        num_classes: C, number of training classes.
        embedding_dim: D, embedding dimension.
        margin: radians and cosine both, in [0, pi].
        concentration: the paper's h, >= 0. 0 is CosFace.
        scale: logit scale, > 0.
        momentum: weight of the batch in the running statistics, in (0, 1].
        sample_rate: fraction of classes sampled for the softmax of each training step; see
            :class:`cosphere.losses.ClassLoss`.
        sample_rule: "partial_fc" or "norm_softmax".

    Raises:
        SettingsError: a value is out of range.
    """

    mean_length: Tensor
    """()"""
    length_deviation: Tensor
    """()"""

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        margin: float = 0.4,
        concentration: float = 0.333,
        scale: float = 64.0,
        momentum: float = 0.01,
        sample_rate: float = 1.0,
        sample_rule: SampleRule = "partial_fc",
    ) -> None:
        super().__init__(num_classes, embedding_dim, sample_rate=sample_rate, sample_rule=sample_rule)
        self.margin = check_angle("margin", margin)
        self.concentration = check_number("concentration", concentration, at_least=0)
        self.scale = check_number("scale", scale, above=0)
        self.momentum = check_share("momentum", momentum)
        self.register_buffer("mean_length", torch.tensor(20.0))
        self.register_buffer("length_deviation", torch.tensor(100.0))
        start_as_directions(self.class_weight)

    def per_sample(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B, D), (B,) in [0, C) -> (B,), in nats."""
        if self.training:
            self._advance(_clipped_lengths(classify(embeddings.detach(), labels, self.class_weight)))
        return adaface_loss(
            embeddings,
            labels,
            self.class_weight,
            margin=self.margin,
            concentration=self.concentration,
            scale=self.scale,
            mean_length=self.mean_length,
            length_deviation=self.length_deviation,
            sampled=self.sampled(labels),
        )

    @torch.no_grad()
    def _advance(self, lengths: Tensor) -> None:
        self.mean_length.copy_(running_mean(self.mean_length, lengths.mean(), self.momentum))
        if len(lengths) > 1:
            self.length_deviation.copy_(running_mean(self.length_deviation, lengths.std(), self.momentum))
