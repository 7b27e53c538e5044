"""Heated-up softmax: a cosine softmax whose temperature rises during training."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from cosphere.checks import check_choice, check_number, check_switch, check_switches, check_whole
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

    The gradient with respect to the unit vector is about ``scale * (1 - p)``, p the probability of the target class. A
    large scale (low temperature) updates only images near the class boundary, a small scale (high temperature) updates
    all.

    Args:
        embeddings: (B, D) float; L2-normalized internally, if ``normalize_features``.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float; L2-normalized internally.
        scale: alpha > 0, a number or a differentiable () tensor.
        bias: (C,) added to the logits. Default: no bias.
        normalize_features: False if a batch norm scales the embeddings instead (``--bn`` in the official code): their
            norm is then about sqrt(D), by which alpha is divided (8 for its 64 dimensions).
        sampled: (S,) int64 ascending class indices to compute logits for, including those of the batch. Default: all.

    Returns:
        (B,) loss per sample, in nats. Zero-norm rows give a differentiable 0.

    Raises:
        SizeError: incompatible shapes, dtypes or devices, or a label outside [0, C).

    >>> axes = torch.eye(2)
    >>> heated_up_softmax_loss(axes, torch.tensor([0, 1]), axes, scale=1.0, bias=torch.tensor([1.0, 0.0]))
    tensor([0.1269, 0.6931])
    """
    check_switches(normalize_features=normalize_features)
    batch = classify(embeddings, labels, class_weight)
    with outside_autocast(embeddings):
        # Multiplying the rows by the scale lets autograd compute its gradient.
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
    """Module form of :func:`heated_up_softmax_loss` with learned class weights, biases and the heating schedule.

    The schedule counts calls in training mode, ``calls_per_step`` of which are one step. The count is a buffer, so resumed
    training continues the schedule; calls in evaluation mode do not change it.

    Args:
        num_classes: C, number of training classes.
        embedding_dim: D, embedding dimension.
        scale: alpha at the start, > 0.
        heat: final multiplier of alpha, > 0.
        schedule: "step", all at once at ``heat_from``; "geometric", by a constant factor per step from there to the
            end; "learned", alpha is a parameter (stored as its logarithm, so it stays positive) and ``heat`` is
            ignored; "constant".
        heat_from: start of heating as a fraction of ``total_steps``, in [0, 1].
        total_steps: total number of optimiser steps. Set this: the default is that of the official Cars196 run.
        bias: if True, learn a bias per class, as in the official code.
        normalize_features: False for a head that ends in a batch norm; see :func:`heated_up_softmax_loss`.
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
        """Alpha for the next step, from the parameter if it is learned."""
        if self.log_scale is not None:
            return self.log_scale.exp()
        begin = self.heat_from * self.total_steps
        done = int(self.steps) // self.calls_per_step
        if self.schedule == "constant" or done < begin:
            return self.scale
        if self.schedule == "step":
            return self.scale * self.heat
        share = 1.0 if done >= self.total_steps else (done - begin) / (self.total_steps - begin)
        return self.scale * math.pow(self.heat, share)

    def per_sample(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B, D), (B,) in [0, C) -> (B,), in nats. In training mode this is one call of the schedule."""
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
        """Traits of the loss under its current settings."""
        return replace(super().traits(), uses_lengths=not self.normalize_features)
