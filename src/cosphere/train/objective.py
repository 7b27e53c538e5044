"""What training minimises: the metric loss of the batch plus the weighted spherical constraint."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cosphere.errors import SettingsError
from cosphere.spherical import ramped_weight, scale_gradients
from cosphere.tensors import gather_rows
from cosphere.train.settings import SecSettings

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(B, D) raw embeddings and (B,) labels -> scalar loss. A loss of ours, or any callable of a user's."""


class Terms(NamedTuple):
    """The objective of one batch."""

    total: Tensor
    """() what is minimised: ``metric + weight * constraint``."""
    metric: Tensor
    """() the metric loss."""
    constraint: Tensor
    """() the spherical constraint before its weight; 0 when its weight is 0."""


def bare(loss: LossFunction) -> LossFunction:
    """The loss itself where DistributedDataParallel wraps it."""
    return loss.module if isinstance(loss, DistributedDataParallel) else loss


def check_own_loss(loss: object) -> None:
    """Raise SettingsError unless a loss of the user's can be called with embeddings and labels."""
    if isinstance(loss, str):
        raise SettingsError(
            f"the loss is {loss!r}; wanted a function or a module. A loss of the library is chosen by loss.name in the settings."
        )
    if isinstance(loss, type):
        raise SettingsError(f"the loss is the class {loss.__name__}; wanted one of it: {loss.__name__}().")
    if not callable(loss):
        raise SettingsError(f"the loss is {loss!r}; wanted a function or a module, called with embeddings and labels.")
    try:
        signature = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
    except (TypeError, ValueError):  # some built-in functions have none
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise SettingsError(
            f"the loss {name_of(loss)}{signature} is called with embeddings (B, D) and labels (B,), and takes other "
            f"arguments ({error})."
        ) from error


def name_of(loss: object) -> str:
    """Of a function, or of the class of a module."""
    return str(getattr(loss, "__name__", type(loss).__name__))


def _checked(value: object, loss: LossFunction, embeddings: Tensor) -> Tensor:
    """What a loss returned, if training can minimise it; a user's function may return anything.

    Raises:
        SettingsError: it is no scalar tensor, or has no gradient where the embeddings have one.
    """
    if not isinstance(value, Tensor):
        given, remedy = repr(value)[:80], "Compute it with torch from the embeddings, without .item()"
    elif value.ndim or not value.is_floating_point():
        given = f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
        remedy = "Add .mean() or .sum()" if value.ndim else "A count has no gradient"
    elif torch.is_grad_enabled() and embeddings.requires_grad and not value.requires_grad:
        given, remedy = "a number without a gradient", "Leave out .detach() and torch.no_grad()"
    else:
        return value
    name = name_of(getattr(bare(loss), "function", bare(loss)))
    raise SettingsError(
        f"the loss {name} returned {given}; wanted a floating-point tensor with one number and its gradient. {remedy}."
    )


def across_processes(loss: LossFunction, embeddings: Tensor, labels: Tensor) -> Tensor:
    """The loss of the global batch when several processes train together; ``loss(embeddings, labels)`` in one process.

    A loss that gathers sees the rows of every process. A loss with ``gathers = False`` is a mean over single images and sees the
    rows of this process only; its gradients are averaged afterwards.

    Args:
        loss: a loss, bare or wrapped by DistributedDataParallel. One that does not say whether it gathers does.
        embeddings: (B, D) raw, the same shape in every process.
        labels: (B,) integers.

    Returns:
        () the loss. With a gathering loss, the same in every process.

    Raises:
        SizeError: the processes hold batches of different shapes.
    """
    if getattr(bare(loss), "gathers", True):
        return loss(gather_rows(embeddings), gather_rows(labels))
    return loss(embeddings, labels)


class Objective:
    """The terms of a batch, with SEC weighted as its settings say.

    Args:
        loss: called with raw embeddings and labels.
        constraint: called with raw embeddings; not called when ``sec.weight`` is 0.
        sec: weight and ramp.
        steps: optimiser steps of the whole run, which a ramp spans.
        gradient_power: see :func:`cosphere.spherical.scale_gradients`; of the metric loss alone.
    """

    def __init__(
        self, loss: LossFunction, constraint: nn.Module, sec: SecSettings, *, steps: int, gradient_power: float = 0.0
    ) -> None:
        self.loss, self.constraint, self.sec, self.steps = loss, constraint, sec, steps
        self.gradient_power = gradient_power

    def weight(self, step: int) -> float:
        """The weight of SEC at one step, counted from 0."""
        return ramped_weight(self.sec.weight, step, self.steps, self.sec.ramp)

    def __call__(self, embeddings: Tensor, labels: Tensor, *, step: int, shared: bool = False) -> Terms:
        """(B, D) raw embeddings, (B,) labels -> the terms at one step.

        Args:
            embeddings: (B, D) raw.
            labels: (B,) integers.
            step: counted from 0.
            shared: every process holds these same rows, which are one batch together, not each a part of one.

        Raises:
            SettingsError: a loss of the user's returned something that cannot be minimised.
        """
        rows = scale_gradients(embeddings, self.gradient_power) if self.gradient_power else embeddings
        metric = bare(self.loss)(rows, labels) if shared else across_processes(self.loss, rows, labels)
        metric = _checked(metric, self.loss, embeddings)
        constraint = self.constraint(embeddings) if self.sec.weight else metric.new_zeros(())
        return Terms(metric + self.weight(step) * constraint, metric, constraint)
