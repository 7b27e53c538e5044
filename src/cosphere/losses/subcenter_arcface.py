"""Sub-center ArcFace: several centres per class, of which the nearest is used, for robustness to label noise."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn

from cosphere.checks import check_number, check_switch, check_switches, check_whole
from cosphere.losses.engine.base import describe
from cosphere.losses.engine.classes import ClassLoss, SampleRule, Workspace, check_class_labels, classify
from cosphere.losses.engine.maths import add_angle, as_int64, check_angle, log_one_plus_exp
from cosphere.losses.engine.softmax import against_classes
from cosphere.tensors import check_labelled, directions, outside_autocast

__all__ = ["SubCenterArcFaceLoss", "subcenter_arcface_loss"]


def subcenter_arcface_loss(
    embeddings: Tensor,
    labels: Tensor,
    class_weight: Tensor,
    *,
    centres: int = 3,
    margin: float = 0.5,
    scale: float = 64.0,
    fallback: bool = True,
    sampled: Tensor | None = None,
) -> Tensor:
    """ArcFace over the largest of each class's cosines.

    Equations 2 and 3 of Deng et al. (ECCV 2020). The official MXNet code has no fallback; pytorch-metric-learning has, and
    takes the margin in degrees.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers in [0, C).
        class_weight: (C * centres, D) float, grouped by class; L2-normalized internally.
        centres: centres of each class. 1 is ArcFace.
        margin: radians, in [0, pi].
        scale: logit scale, > 0.
        fallback: past ``theta = pi - margin``, where the target would rise again, take ``cos - margin sin(margin)``.
        sampled: (S,) int64 ascending class indices to compute logits for, including those of the batch. Default: all.

    Returns:
        (B,) loss per sample, in nats. Zero-norm rows give a differentiable 0.

    Raises:
        SizeError: incompatible shapes, dtypes or devices, or a label outside [0, C).

    >>> weights = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> subcenter_arcface_loss(-torch.eye(2), torch.tensor([0, 1]), weights, centres=2, margin=0.0, scale=1.0)
    tensor([0.3133, 0.3133])
    """
    check_switches(fallback=fallback)
    batch = classify(embeddings, labels, class_weight, centres=centres)
    with outside_autocast(embeddings):
        target, others, _ = against_classes(
            batch, scale=scale, centres=centres, similarity=_Largest() if centres > 1 else None, sampled=sampled
        )
        return batch.scatter(log_one_plus_exp(others - scale * add_angle(target, margin, fallback)))


class _Largest:
    """Largest cosine of each class; of equal ones the first has the gradient: a stage of :func:`against_classes`.

    (A, c, K) -> (A, c). Not torch's own maximum: over so short a dimension it takes eight times as long.
    """

    def values(self, inputs: Tensor, space: Workspace) -> Tensor:
        self.largest = reduce(torch.maximum, inputs.unbind(dim=2))
        return self.largest.clone()

    def pull_back(self, inputs: Tensor, gradient: Tensor, space: Workspace) -> Tensor:
        gradients = space.take("gradients", inputs)
        left = torch.ones_like(self.largest, dtype=torch.bool)
        for centre, of_centre in zip(inputs.unbind(dim=2), gradients.unbind(dim=2), strict=True):
            first = (centre == self.largest).logical_and_(left)
            torch.mul(gradient, first, out=of_centre)
            left.logical_xor_(first)
        return gradients


@describe(
    name="subcenter_arcface",
    paper="Deng et al.: Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy Web Faces, ECCV 2020",
    batch="any",
    normalises="embeddings and class weights",
    defaults_source="paper and official code: 3 centres, margin 0.5, scale 64, weights normal with deviation 0.01; our fallback",
    cost="O(B C D K) time, O(B D + C D K) memory and one block; K centres",
    choose_when="labels are noisy: train with it, drop what is far from its class's main centre, train ArcFace on the rest",
)
class SubCenterArcFaceLoss(ClassLoss):
    """The class centres of :func:`subcenter_arcface_loss`, and its mean over the rows of nonzero norm.

    Args:
        num_classes: C, number of training classes.
        embedding_dim: D, embedding dimension.
        centres: centres of each class.
        margin: radians, in [0, pi].
        scale: logit scale, > 0.
        fallback: see :func:`subcenter_arcface_loss`.
        sample_rate: fraction of classes sampled for the softmax of each training step; see
            :class:`cosphere.losses.ClassLoss`.
        sample_rule: "partial_fc" or "norm_softmax".

    Raises:
        SettingsError: a value is out of range.
    """

    function = staticmethod(subcenter_arcface_loss)

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        centres: int = 3,
        margin: float = 0.5,
        scale: float = 64.0,
        fallback: bool = True,
        sample_rate: float = 1.0,
        sample_rule: SampleRule = "partial_fc",
    ) -> None:
        count = check_whole("centres", centres, least=1, most=1000)
        super().__init__(num_classes, embedding_dim, centres=count, sample_rate=sample_rate, sample_rule=sample_rule)
        self.centres = count
        self.margin = check_angle("margin", margin)
        self.scale = check_number("scale", scale, above=0)
        self.fallback = check_switch("fallback", fallback)
        nn.init.normal_(self.class_weight, std=0.01)

    @torch.no_grad()
    def centre_angles(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Angles, in radians, between each image and the centres of its own class. (B, D), (B,) in [0, C) -> (B, centres).

        The paper cleans a data set with them: the nearest centre of most images of a class is its dominant one, and images
        more than 75 degrees from that are dropped. Rows without a direction are at pi / 2 from everything.

        Raises:
            SizeError: incompatible shapes, dtypes or devices, or a label outside [0, C).
        """
        check_labelled(embeddings, labels)
        targets = check_class_labels(embeddings, as_int64(labels), self.class_weight, centres=self.centres)
        with outside_autocast(embeddings):
            own = directions(self.class_weight.view(-1, self.centres, self.embedding_dim)[targets]).unit
            cosines: Tensor = torch.linalg.vecdot(directions(embeddings).unit[:, None].to(own.dtype), own)
            return cosines.clamp(-1, 1).acos()
