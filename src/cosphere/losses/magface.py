"""MagFace: a margin and a regularizer that make the embedding norm a measure of image quality."""

from __future__ import annotations

import torch
from torch import Tensor

from cosphere.checks import check_number, check_switch, check_switches
from cosphere.errors import SettingsError
from cosphere.losses.engine.base import Traits, describe
from cosphere.losses.engine.classes import ClassLoss, SampleRule, classify
from cosphere.losses.engine.maths import add_angle, check_angle, log_one_plus_exp, start_as_directions
from cosphere.losses.engine.softmax import against_classes
from cosphere.tensors import outside_autocast

__all__ = ["MagFaceLoss", "magface_loss"]


def magface_loss(
    embeddings: Tensor,
    labels: Tensor,
    class_weight: Tensor,
    *,
    shortest: float = 10.0,
    longest: float = 110.0,
    smallest_margin: float = 0.45,
    largest_margin: float = 0.8,
    scale: float = 64.0,
    length_weight: float = 35.0,
    easy_margin: bool = True,
    sampled: Tensor | None = None,
) -> Tensor:
    """ArcFace whose margin m(a) rises with the length a of the raw embedding, plus ``length_weight (a / u^2 + 1 / a)``.

    Meng et al. (CVPR 2021) and the official code: a is clipped to [shortest, longest = u], with zero gradient outside,
    and m(a) is the straight line between the two margins. Within them the length does get a gradient, from both terms.

    Args:
        embeddings: (B, D) float. The norm is used.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float; L2-normalized internally.
        shortest: the paper's l_a, > 0: the length above which margin and reward change.
        longest: the paper's u_a, > shortest: the length up to which they do.
        smallest_margin: radians at the shortest length, in [0, pi].
        largest_margin: radians at the longest length, in [smallest_margin, pi].
        scale: logit scale, > 0.
        length_weight: the paper's lambda_g, >= 0.
        easy_margin: no margin unless the cosine to the own class is above 0, as in the official code. Otherwise
            ``cos - m sin(m)`` past ``theta = pi - m``, where the margin would make the target rise again.
        sampled: (S,) int64 ascending class indices to compute logits for, including those of the batch. Default: all.

    Returns:
        (B,) loss per sample, in nats. Zero-norm rows give a differentiable 0.

    Raises:
        SizeError: incompatible shapes, dtypes or devices, or a label outside [0, C).

    >>> axes = torch.eye(2)
    >>> magface_loss(axes, torch.tensor([0, 1]), axes, largest_margin=0.0, smallest_margin=0.0, scale=1.0, length_weight=0.0)
    tensor([0.3133, 0.3133])
    """
    check_switches(easy_margin=easy_margin)
    batch = classify(embeddings, labels, class_weight)
    with outside_autocast(embeddings):
        length = batch.lengths().clamp(shortest, longest)
        margin = smallest_margin + (largest_margin - smallest_margin) / (longest - shortest) * (length - shortest)
        cosine, others, _ = against_classes(batch, scale=scale, sampled=sampled)
        target = add_angle(cosine, margin, fallback=not easy_margin)
        if easy_margin:
            target = torch.where(cosine > 0, target, cosine)
        reward = length / longest**2 + 1 / length
        return batch.scatter(log_one_plus_exp(others - scale * target) + length_weight * reward)


@describe(
    name="magface",
    paper="Meng et al.: MagFace: A Universal Representation for Face Recognition and Quality Assessment, CVPR 2021",
    batch="any; its lengths should be those of a network, 10 to 110",
    normalises="embeddings and class weights; the length sets margin and reward, and gets a gradient",
    defaults_source="paper and official scripts: lengths 10 to 110, margins 0.45 to 0.8, scale 64, lambda_g 35, easy margin",
    cost="O(B C D) time, O(B D + C D) memory and one block",
    choose_when="the length should tell image quality; not with a spherical constraint, which makes all lengths one",
    traits=Traits(uses_lengths=True),
)
class MagFaceLoss(ClassLoss):
    """Module form of :func:`magface_loss` with learned class weights; averages over the rows of nonzero norm.

    Args:
        num_classes: C, number of training classes.
        embedding_dim: D, embedding dimension.
        shortest: the paper's l_a, > 0: the length above which margin and reward change.
        longest: the paper's u_a, > shortest: the length up to which they do.
        smallest_margin: radians at the shortest length, in [0, pi].
        largest_margin: radians at the longest length, in [smallest_margin, pi].
        scale: logit scale, > 0.
        length_weight: the paper's lambda_g, >= 0. Lengths are sure to grow with quality from ``scale k u^2 l^2 / (u^2 -
            l^2)`` on, k the gradient of the margin; that is 22.6 with the other defaults.
        easy_margin: no margin unless the cosine to the own class is above 0; see :func:`magface_loss`.
        sample_rate: fraction of classes sampled for the softmax of each training step; see
            :class:`cosphere.losses.ClassLoss`.
        sample_rule: "partial_fc" or "norm_softmax".

    Raises:
        SettingsError: a value is out of range.
    """

    function = staticmethod(magface_loss)

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        shortest: float = 10.0,
        longest: float = 110.0,
        smallest_margin: float = 0.45,
        largest_margin: float = 0.8,
        scale: float = 64.0,
        length_weight: float = 35.0,
        easy_margin: bool = True,
        sample_rate: float = 1.0,
        sample_rule: SampleRule = "partial_fc",
    ) -> None:
        super().__init__(num_classes, embedding_dim, sample_rate=sample_rate, sample_rule=sample_rule)
        self.shortest = check_number("shortest", shortest, above=0)
        self.longest = check_number("longest", longest, above=self.shortest)
        self.smallest_margin = check_angle("smallest_margin", smallest_margin)
        self.largest_margin = check_angle("largest_margin", largest_margin)
        if self.largest_margin < self.smallest_margin:
            raise SettingsError(f"largest_margin {largest_margin!r} is below smallest_margin {smallest_margin!r}.")
        self.scale = check_number("scale", scale, above=0)
        self.length_weight = check_number("length_weight", length_weight, at_least=0)
        self.easy_margin = check_switch("easy_margin", easy_margin)
        start_as_directions(self.class_weight)
