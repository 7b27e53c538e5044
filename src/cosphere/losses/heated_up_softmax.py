"""Heated-up softmax: a cosine softmax that is sharp first and soft at the end of training."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from cosphere.checks import check_choice, check_number, check_switch, check_whole
from cosphere.errors import SettingsError
from cosphere.losses.engine.base import Traits, describe
from cosphere.losses.engine.classes import ClassLoss, SampleRule, classify
from cosphere.losses.engine.maths import log_one_plus_exp
from cosphere.losses.engine.softmax import against_classes
from cosphere.tensors import outside_autocast

__all__ = ["HeatedUpSoftmaxLoss", "heated_up_softmax_loss"]

Schedule = Literal["step", "geometric", "learned", "constant"]


def heated_up_softmax_loss(
    embeddings: Tensor,
    labels: Tensor,
    class_weight: Tensor,
    *,
    scale: float | Tensor,
    bias: Tensor | None = None,
    normalize_features: bool = True,
    sampled: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over ``scale * cosine + bias``, or over ``scale / sqrt(D) * length * cosine + bias``.

    The gradient on a direction is about ``scale * (1 - p)`` for the probability p of the own class: a large scale moves only
    images at the border of their class, a small one (a hot softmax: the scale is one over the temperature) moves all.

    Args:
        embeddings: (B, D) float. Any length; only the direction counts, if ``normalize_features``.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float. Any length; only the direction counts.
        scale: alpha > 0, a number or a () tensor, which then gets its gradient.
        bias: (C,) added to the logits; none by default.
        normalize_features: False for rows that a batch norm has scaled instead, the official code's ``--bn``: their length is
            about sqrt(D), by which alpha is divided (8 for its 64 dimensions).
        sampled: (S,) int64 ascending classes to run over, those of the batch among them; all by default.

    Returns:
        (B,) loss per sample, in nats. Rows without a direction give a connected 0.

    Raises:
        SizeError: shapes, types or devices that do not fit, or a label outside [0, C).

    >>> axes = torch.eye(2)
    >>> heated_up_softmax_loss(axes, torch.tensor([0, 1]), axes, scale=1.0, bias=torch.tensor([1.0, 0.0]))
    tensor([0.1269, 0.6931])
    """
    batch = classify(embeddings, labels, class_weight)
    with outside_autocast(embeddings):
        # The scale rides on the rows, and so gets its gradient like they do.
        rows = batch.unit if normalize_features else batch.raw / math.sqrt(batch.raw.shape[1])
        own, others, _ = against_classes(batch, rows=rows * scale, bias=bias, sampled=sampled)
        if bias is not None:
            own = own + bias[batch.targets]
        return batch.scatter(log_one_plus_exp(others - own))


@describe(
    name="heated_up_softmax",
    paper="Zhang et al.: Heated-Up Softmax Embedding, 2018",
    batch="any",
    normalises="class weights; embeddings unless normalize_features=False",
    defaults_source="official code: alpha 16, times 0.25 for the last 20 of 80 epochs, a bias from 0, weights N(0, 1/D); "
    "total_steps is its Cars196 run, 80 epochs of 252 batches of 32",
    cost="O(B C D) time, O(B D + C D) memory and one block",
    choose_when="NormSoftmax with compact classes at the end; lower the learning rate tenfold when the softmax is heated",
    forms=[{"normalize_features": False}],
)
class HeatedUpSoftmaxLoss(ClassLoss):
    """The class directions and biases of :func:`heated_up_softmax_loss`, its mean, and the heating.

    The steps that the heating counts are calls in training mode. Their number is a buffer, so a saved run goes on where it
    was; in evaluation mode it does not change.

    Args:
        num_classes: C, training classes.
        embedding_dim: D, width of the embedding.
        scale: alpha at the start, > 0.
        heat: what alpha is multiplied with in the end, > 0.
        schedule: "step", at once at ``heat_from``; "geometric", by the same factor each step from there to the end;
            "learned", alpha is a parameter (its logarithm, so that it stays above 0) and ``heat`` does nothing; "constant".
        heat_from: when heating begins, as a share of ``total_steps``, in [0, 1].
        total_steps: training steps in all. Give your own: the default is the official run on Cars196.
        bias: whether each class has a learned bias, as in the official code.
        normalize_features: False for a head that ends in a batch norm; see :func:`heated_up_softmax_loss`.
        sample_rate: share of the classes in a training step's softmax; see :class:`cosphere.losses.ClassLoss`.
        sample_rule: Partial FC's by default.

    Raises:
        SettingsError: a value out of range.
    """

    steps: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        scale: float = 16.0,
        heat: float = 0.25,
        schedule: Schedule = "step",
        heat_from: float = 0.75,
        total_steps: int = 20160,
        bias: bool = True,
        normalize_features: bool = True,
        sample_rate: float = 1.0,
        sample_rule: SampleRule = "partial_fc",
    ) -> None:
        super().__init__(num_classes, embedding_dim, sample_rate=sample_rate, sample_rule=sample_rule)
        self.scale = check_number("scale", scale, above=0)
        self.heat = check_number("heat", heat, above=0)
        check_choice("schedule", schedule, ["step", "geometric", "learned", "constant"])
        self.schedule = schedule
        self.heat_from = check_number("heat_from", heat_from, at_least=0)
        if self.heat_from > 1:
            raise SettingsError(f"heat_from is a share of total_steps, at most 1; got {heat_from!r}.")
        self.total_steps = check_whole("total_steps", total_steps, least=1)
        self.bias = check_switch("bias", bias)
        self.normalize_features = check_switch("normalize_features", normalize_features)
        nn.init.normal_(self.class_weight, std=1 / math.sqrt(embedding_dim))
        self.class_bias = nn.Parameter(torch.zeros(num_classes)) if self.bias else None
        learned = self.schedule == "learned"
        self.log_scale = nn.Parameter(torch.tensor(math.log(self.scale))) if learned else None
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def scale_now(self) -> float | Tensor:
        """Alpha for the next step; the parameter's where it is learned."""
        if self.log_scale is not None:
            return self.log_scale.exp()
        begin = self.heat_from * self.total_steps
        done = int(self.steps)
        if self.schedule == "constant" or done < begin:
            return self.scale
        if self.schedule == "step":
            return self.scale * self.heat
        share = 1.0 if done >= self.total_steps else (done - begin) / (self.total_steps - begin)
        return self.scale * math.pow(self.heat, share)

    def per_sample(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B, D), (B,) in [0, C) -> (B,), in nats. In training mode this is one step of the schedule."""
        scale = self.scale_now()
        if self.training:
            self.steps += 1
        return heated_up_softmax_loss(
            embeddings,
            labels,
            self.class_weight,
            scale=scale,
            bias=self.class_bias,
            normalize_features=self.normalize_features,
            sampled=self.sampled(labels),
        )

    def traits(self) -> Traits:
        """How the loss behaves with the settings it has."""
        return replace(super().traits(), uses_lengths=not self.normalize_features)
