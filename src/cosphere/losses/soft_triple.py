"""SoftTriple: several centres per class with soft assignment and a regularizer that merges them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cosphere.checks import check_number, check_whole
from cosphere.losses.engine.base import describe
from cosphere.losses.engine.classes import ClassLoss, SampleRule, Workspace, classify
from cosphere.losses.engine.maths import OnlyOnce, block_length, log_one_plus_exp
from cosphere.losses.engine.softmax import against_classes
from cosphere.tensors import SHORTEST, directions, full_precision, outside_autocast, outside_compile

__all__ = ["SoftTripleLoss", "centre_distance", "soft_triple_loss"]

SLACK = 1e-5
"""Added to squared distances by the official code: centres are meant to meet, where a root alone has no finite gradient."""


def soft_triple_loss(
    embeddings: Tensor,
    labels: Tensor,
    class_weight: Tensor,
    *,
    centres: int = 10,
    scale: float = 20.0,
    gamma: float = 0.1,
    margin: float = 0.01,
    sampled: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over ``scale (S - margin [own class])``, S the mean of a class's cosines weighted by their softmax.

    Equations 7 and 8 of Qian et al. (ICCV 2019) and the official code, which takes embeddings of unit length. The
    regularizer that merges centres is :func:`centre_distance`; pytorch-metric-learning has it as a regulariser of its
    own.

    Args:
        embeddings: (B, D) float; L2-normalized internally.
        labels: (B,) integers in [0, C).
        class_weight: (C * centres, D) float, grouped by class; L2-normalized internally.
        centres: centres of each class.
        scale: the paper's lambda, > 0.
        gamma: temperature of the softmax over a class's centres, > 0. Smaller comes nearer to the largest cosine.
        margin: of the similarity to the own class, >= 0.
        sampled: (S,) int64 ascending class indices to compute logits for, including those of the batch. Default: all.

    Returns:
        (B,) loss per sample, in nats. Zero-norm rows give a differentiable 0.

    Raises:
        SizeError: incompatible shapes, dtypes or devices, or a label outside [0, C).

    >>> weights = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> soft_triple_loss(torch.eye(2), torch.tensor([0, 1]), weights, centres=2, scale=1.0, margin=0.0)
    tensor([0.3133, 0.3133])
    """
    batch = classify(embeddings, labels, class_weight, centres=centres)
    similarity = _SoftLargest(gamma) if centres > 1 else None
    with outside_autocast(embeddings):
        target, others, _ = against_classes(batch, scale=scale, centres=centres, similarity=similarity, sampled=sampled)
        return batch.scatter(log_one_plus_exp(others - scale * (target - margin)))


class _SoftLargest:
    """Mean of a class's cosines, weighted by their softmax: a stage of :func:`against_classes`. (A, c, K) -> (A, c)."""

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def values(self, inputs: Tensor, space: Workspace) -> Tensor:
        # Not softmax(): over so short a dimension it takes as long as the matrix product that made the cosines. A fixed top
        # does unless gamma is so small that e^(-2 / gamma) underflows.
        top = inputs.amax(dim=2, keepdim=True) if 2 / self.gamma > 80 else inputs.new_ones(())
        shares = torch.add(-top / self.gamma, inputs, alpha=1 / self.gamma, out=space.take("shares", inputs)).exp_()
        ones = shares.new_ones(shares.shape[2])
        self.mass = shares @ ones
        self.mean = (torch.mul(shares, inputs, out=space.take("weighted", inputs)) @ ones).div_(self.mass)
        return self.mean.clone()

    def pull_back(self, inputs: Tensor, gradient: Tensor, space: Workspace) -> Tensor:
        # share / mass * (1 + (cosine - mean) / gamma), as a line in the cosine
        gradient = gradient / self.mass
        rate, level = gradient / self.gamma, gradient * (1 - self.mean / self.gamma)
        weighted = space.take("weighted", inputs)
        return torch.addcmul(level[..., None], rate[..., None], inputs, out=weighted).mul_(space.take("shares", inputs))


def centre_distance(class_weight: Tensor, centres: int) -> Tensor:
    """Half the mean distance between two centres of one class, over all classes. (C * centres, D) -> ().

    ``sum sqrt(2 + 1e-5 - 2 cos) / (C K (K - 1))`` over the K (K - 1) / 2 pairs of each of C classes. 0 if K is 1.

    >>> centre_distance(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]), 2)
    tensor(1.0000)
    """
    return _with_centre_distance(class_weight, centres)[1]


@outside_compile
def _with_centre_distance(class_weight: Tensor, centres: int) -> tuple[Tensor, Tensor]:
    """The class weights themselves, and :func:`centre_distance`.

    Whoever goes on with the weights returned here hands their gradient back through the same function, which adds its own
    in place: otherwise two gradients of the size of the weights would exist at once, and their sum.
    """
    if centres == 1 or not len(class_weight):
        return class_weight, class_weight.new_zeros(())
    with outside_autocast(class_weight):
        return _WithCentreDistance.apply(class_weight, centres)  # type: ignore[no-any-return]


class _WithCentreDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, class_weight: Tensor, centres: int) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(class_weight)
        ctx.centres = centres
        total = torch.zeros((), dtype=torch.float64, device=class_weight.device)
        for _, raw, inverse in _classes(class_weight, centres):
            total += _distances(raw, inverse).triu(diagonal=1).sum()
        mean = total / (len(class_weight) * (centres - 1))
        return class_weight.detach(), mean.to(full_precision(class_weight).dtype)

    @staticmethod
    def backward(ctx: Any, through: Tensor | None, to_mean: Tensor | None) -> tuple[Tensor | None, None]:
        if to_mean is None:
            return through, None
        (class_weight,) = ctx.saved_tensors
        again = torch.is_grad_enabled()
        with torch.no_grad(), outside_autocast(class_weight):
            outcome = torch.zeros_like(class_weight) if through is None else through.clone() if again else through
            share = to_mean / (len(class_weight) * (ctx.centres - 1))
            other = 1 - torch.eye(ctx.centres, device=class_weight.device, dtype=share.dtype)
            for rows, raw, inverse in _classes(class_weight, ctx.centres):
                # d distance / d unit vector is minus the other one over the distance; what points along w is taken out.
                pull = (other / _distances(raw, inverse)).mul_(inverse[:, None, :]).mul_(-share)
                to_raw = pull @ raw
                along = torch.linalg.vecdot(to_raw, raw) * inverse.square()
                to_raw.addcmul_(raw, along[..., None], value=-1).mul_(inverse[..., None])
                outcome[rows] += to_raw.flatten(0, 1).to(outcome.dtype)
        return (OnlyOnce.apply(outcome, class_weight, to_mean) if again else outcome), None


def _classes(class_weight: Tensor, centres: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of classes: their rows, their centres (c, K, D), and 1 / length (c, K), 0 for one without a direction."""
    width = 4 * centres * (class_weight.shape[1] + centres)
    step = centres * block_length(class_weight.device, width, len(class_weight) // centres)
    for first in range(0, len(class_weight), step):
        rows = slice(first, min(first + step, len(class_weight)))
        raw = full_precision(class_weight.detach()[rows].contiguous()).view(-1, centres, class_weight.shape[1])
        length = torch.linalg.vector_norm(raw, dim=2)
        yield rows, raw, torch.where(length <= SHORTEST, 0.0, 1 / length)


def _distances(raw: Tensor, inverse: Tensor) -> Tensor:
    """(c, K, K) between the centres of each class."""
    cosines = (raw @ raw.mT).mul_(inverse[:, None, :]).mul_(inverse[:, :, None])
    # Rounding may take a cosine a little above 1; the slack is more than that, even in float32.
    return cosines.mul_(-2).add_(2 + SLACK).sqrt_()


@describe(
    name="soft_triple",
    paper="Qian et al.: SoftTriple Loss: Deep Metric Learning Without Triplet Sampling, ICCV 2019",
    batch="any; the official code takes 32",
    normalises="embeddings and centres",
    defaults_source="paper and official code: 10 centres, lambda 20, gamma 0.1, margin 0.01, tau 0.2; centres kaiming_uniform",
    cost="O(B C D K) time, O(B D + C D K) memory and one block; K centres",
    choose_when="classes hold several kinds of images and there are few classes",
)
class SoftTripleLoss(ClassLoss):
    """The centres of :func:`soft_triple_loss`: its mean over the rows of nonzero norm, plus tau times their distance.

    The distance is over all classes in every step, whatever ``sample_rate``; a batch without any direction is a 0 altogether.

    Args:
        num_classes: C, number of training classes.
        embedding_dim: D, embedding dimension.
        centres: centres of each class.
        scale: the paper's lambda, > 0.
        gamma: temperature of the softmax over a class's centres, > 0.
        margin: of the similarity to the own class, >= 0.
        tau: weight of :func:`centre_distance`, >= 0.
        sample_rate: fraction of classes sampled for the softmax of each training step; see
            :class:`cosphere.losses.ClassLoss`.
        sample_rule: "partial_fc" or "norm_softmax".

    Raises:
        SettingsError: a value is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        centres: int = 10,
        scale: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
        tau: float = 0.2,
        sample_rate: float = 1.0,
        sample_rule: SampleRule = "partial_fc",
    ) -> None:
        count = check_whole("centres", centres, least=1, most=1000)
        super().__init__(num_classes, embedding_dim, centres=count, sample_rate=sample_rate, sample_rule=sample_rule)
        self.centres = count
        self.scale = check_number("scale", scale, above=0)
        self.gamma = check_number("gamma", gamma, above=0)
        self.margin = check_number("margin", margin, at_least=0)
        self.tau = check_number("tau", tau, at_least=0)
        # kaiming_uniform(a=sqrt(5)) of the official (D, C K) matrix, whose fan in is C K.
        bound = 1 / math.sqrt(num_classes * centres)
        nn.init.uniform_(self.class_weight, -bound, bound)

    def per_sample(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B, D), (B,) in [0, C) -> (B,), in nats, without the distance of the centres."""
        return self._per_sample(embeddings, labels, self.class_weight)

    def of_batch(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B, D), (B,) in [0, C) -> ()."""
        if not self.tau:
            return super().of_batch(embeddings, labels)
        class_weight, distance = _with_centre_distance(self.class_weight, self.centres)
        losses = self._per_sample(embeddings, labels, class_weight)
        alive = directions(embeddings.detach()).alive.sum()
        return losses.sum() / alive.clamp(min=1) + self.tau * distance * (alive > 0)

    def _per_sample(self, embeddings: Tensor, labels: Tensor, class_weight: Tensor) -> Tensor:
        return soft_triple_loss(
            embeddings,
            labels,
            class_weight,
            centres=self.centres,
            scale=self.scale,
            gamma=self.gamma,
            margin=self.margin,
            sampled=self.sampled(labels),
        )
