"""The spherical embedding constraint (SEC).

A loss on directions leaves the length n of an embedding free, and a gradient step turns a short embedding more than a
long one: by about 1/n^2 with SGD, 1/n with Adam, when every embedding is free to move on its own. SEC adds
``weight * mean((n - mu)^2)`` to any loss and so pulls all lengths to one radius mu. It composes in one visible line::

    loss = criterion(embeddings, labels) + weight * sec(embeddings)

Source: Zhang, Li and Zhang, "Deep Metric Learning with Spherical Embedding", NeurIPS 2020, and its official code.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from cosphere.checks import check_switches, is_number
from cosphere.errors import SettingsError, SizeError, did_you_mean
from cosphere.tensors import (
    SHORTEST,
    check_embeddings,
    exact_lengths,
    lengths,
    mean_everywhere,
    outside_autocast,
    several_processes,
    total_everywhere,
)

RADII = ("batch", "ema", "learned")
RAMPS = ("constant", "linear")


def spherical_penalty(embeddings: Tensor, radius: Tensor | float, *, scale_free: bool = False) -> Tensor:
    """Mean squared gap between the lengths of the embeddings and one radius.

    Args:
        embeddings: (B, D) float, raw: not normalised.
        radius: a number or a () tensor, >= 0, in units of length. A tensor that requires a gradient gets one, unless
            ``scale_free``.
        scale_free: measure the gaps in radii, ``mean((n / radius - 1)^2)`` with no gradient into the radius, so that
            one weight suits embeddings of any length. Ours; the paper's form is in squared units of length.

    Returns:
        () in at least float32. An empty batch gives 0, still connected to ``embeddings``. A row that is not finite
        gives a penalty that is not finite. With ``scale_free``, a tensor radius of zero gives 0: there is no unit to
        measure in.

    Raises:
        SizeError: ``embeddings`` is not (B, D) of a floating type, or the radius a tensor that is not ().
        SettingsError: a radius that is not a finite number >= 0, or ``scale_free`` with a radius of 0.

    >>> spherical_penalty(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), radius=3.0)
    tensor(4.)
    """
    check_switches(scale_free=scale_free)
    check_embeddings(embeddings)
    radius = _checked_radius(radius)
    with outside_autocast(embeddings):
        norms = lengths(embeddings)
        gaps = _relative_gaps(norms, radius) if scale_free else norms - radius
        return gaps.square().sum() / max(len(gaps), 1)


def _checked_radius(radius: object) -> Tensor | float:
    if isinstance(radius, Tensor):
        if radius.ndim:
            raise SizeError(f"want one radius for all, a number or a () tensor; got a tensor {tuple(radius.shape)}.")
        return radius
    if not is_number(radius) or not 0 <= radius < math.inf:
        raise SettingsError(f"the radius is a finite number >= 0 or a () tensor; got {radius!r}.")
    return float(radius)


def _relative_gaps(norms: Tensor, radius: Tensor | float) -> Tensor:
    if not isinstance(radius, Tensor):
        _check_scale(radius)
        return norms / radius - 1
    unit = radius.detach()
    # NaN must stay NaN, so the test is for a small radius, not against a large one.
    missing = unit <= SHORTEST
    return torch.where(missing, 0.0, norms / torch.where(missing, 1.0, unit) - 1)


def _check_scale(radius: float) -> None:
    if radius <= SHORTEST:
        raise SettingsError(
            f"scale_free measures lengths in radii, so the radius must be above {SHORTEST:g}, got {radius}. "
            "Give a positive radius, or scale_free=False for the penalty on the lengths themselves."
        )


class SphericalConstraint(nn.Module):
    """:func:`spherical_penalty` around a radius that this module finds, follows, learns or is given.

    ``sec(embeddings) -> scalar``, unweighted. It also serves unchanged as ``embedding_regularizer=`` of any
    pytorch-metric-learning loss, with ``embedding_reg_weight=`` as the weight, because that library calls
    ``regularizer(embeddings) * weight``.

    Args:
        radius: "batch": the mean length of the current batch (the official default). "ema": a running mean,
            ``(1 - momentum) * radius + momentum * batch mean``, updated before it is used and started at the first
            batch's mean. "learned": a parameter that starts at the first batch's mean; give it no weight decay. A
            number >= 0: constant; 0 is the paper's L2 regulariser.
        momentum: in (0, 1]: the share of the *new* batch in the running mean. Only for "ema"; 1 is the same as "batch".
        scale_free: see :func:`spherical_penalty`. Not with "learned", whose radius would get no gradient, nor with 0.

    The batch mean carries no gradient. Across processes it is the mean over all of them (in training mode only, so that
    one process may evaluate alone). In evaluation mode nothing is updated. The running and the learned radius are in
    ``state_dict`` together with the mark that they have been started. Batches that are empty or not finite leave the
    running radius as it was.

    Raises:
        SettingsError: an unknown radius, or one out of range.

    >>> sec = SphericalConstraint(radius="batch")
    >>> sec(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor(4.)
    """

    radius: Tensor
    steps: Tensor
    initialised: Tensor

    def __init__(
        self,
        radius: Literal["batch", "ema", "learned"] | float = "batch",
        *,
        momentum: float = 0.1,
        scale_free: bool = False,
    ) -> None:
        check_switches(scale_free=scale_free)
        super().__init__()
        self.kind = _checked_kind(radius, scale_free=scale_free)
        if not is_number(momentum) or not 0 < momentum <= 1:
            raise SettingsError(f"momentum is the share of the new batch, above 0 and at most 1; got {momentum!r}.")
        self.momentum = float(momentum)
        self.scale_free = scale_free
        if self.kind == "learned":
            self.radius = nn.Parameter(torch.zeros(()))
            self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        elif self.kind == "ema":
            self.register_buffer("radius", torch.zeros(()))
            self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        elif self.kind == "number":
            self.constant = float(radius)

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        radius = self.constant if self.kind == "number" else repr(self.kind)
        momentum = f", momentum={self.momentum}" if self.kind == "ema" else ""
        return f"radius={radius}{momentum}, scale_free={self.scale_free}"

    def forward(self, embeddings: Tensor) -> Tensor:
        """The penalty of one batch. (B, D) -> ()."""
        check_embeddings(embeddings)
        with outside_autocast(embeddings):
            radius = self._radius_for(lengths(embeddings.detach()))
        return spherical_penalty(embeddings, radius, scale_free=self.scale_free)

    def _radius_for(self, norms: Tensor) -> Tensor | float:
        if self.kind == "number":
            return self.constant
        if self.kind == "learned" and bool(self.initialised):
            return self.radius
        if self.kind == "ema" and not self.training and bool(self.steps > 0):
            return self.radius
        mean, count = _mean_length(norms, everywhere=self.training)
        if self.kind == "batch" or not self.training:
            return mean
        return self._follow(mean, count) if self.kind == "ema" else self._start(mean, count)

    @torch.no_grad()
    def _follow(self, mean: Tensor, count: Tensor | int) -> Tensor:
        """Move the running radius towards the batch's mean length, and return it."""
        fit = mean.isfinite() & (count > 0)
        new = torch.where(self.steps == 0, mean, (1 - self.momentum) * self.radius + self.momentum * mean)
        # Put in place, not copied into the old buffer: in a module cast to bfloat16 that could not follow a slow mean.
        self.radius = torch.where(fit, new, self.radius)
        self.steps += fit
        return self.radius

    @torch.no_grad()
    def _start(self, mean: Tensor, count: Tensor | int) -> Tensor:
        """Put the first batch's mean length into the parameter. In place: an optimiser may already hold it."""
        if bool(mean.isfinite() & (count > 0)):
            self.radius.copy_(mean)
            self.initialised.fill_(True)
            return self.radius
        return mean


def _checked_kind(radius: str | float, *, scale_free: bool) -> str:
    if not isinstance(scale_free, bool):
        raise SettingsError(f"scale_free must be true or false; got {scale_free!r}.")
    if isinstance(radius, str):
        if radius not in RADII:
            raise SettingsError(f"no radius is called {radius!r}. {did_you_mean(radius, RADII)} Or give a number >= 0.")
        if radius == "learned" and scale_free:
            raise SettingsError(
                "scale_free stops the gradient into the radius, so a learned one would never move. "
                "Use radius='ema', or scale_free=False."
            )
        return radius
    if not is_number(radius) or not 0 <= radius < math.inf:
        raise SettingsError(f"the radius is {', '.join(map(repr, RADII))} or a finite number >= 0; got {radius!r}.")
    if scale_free:
        _check_scale(radius)
    return "number"


def _mean_length(norms: Tensor, *, everywhere: bool) -> tuple[Tensor, Tensor | int]:
    """Mean of (B,) lengths, over all processes if asked, and the number of rows behind it."""
    if everywhere and several_processes():
        total, count = total_everywhere(norms)
        return total / count.clamp(min=1), count
    return norms.sum() / max(len(norms), 1), len(norms)


def scale_gradients(embeddings: Tensor, power: float) -> Tensor:
    """The same embeddings, whose gradient is multiplied row by row by ``(length / mean length) ** power``.

    Under SGD a free embedding turns by its gradient over its length, and the gradient of a loss on directions carries another
    1 / length: with power 2 all turn equally far, whatever their lengths. It is the control for SEC, which makes lengths equal instead,
    and GradScale of Draganov et al. 2025 up to a constant.

    Where a gradient will flow, the mean is that of all processes, and all of them must call this.

    Args:
        embeddings: (B, D) float.
        power: 0 changes nothing.

    Returns:
        (B, D) of equal values.

    Raises:
        SizeError: ``embeddings`` is not (B, D) of a floating type.
    """
    check_embeddings(embeddings)
    if not power:
        return embeddings
    norms = lengths(embeddings.detach())
    mean = mean_everywhere(norms) if embeddings.requires_grad and torch.is_grad_enabled() else norms.mean()
    factor = (norms / mean.clamp(min=SHORTEST)).pow(power)[:, None].to(embeddings.dtype)
    scaled: Tensor = _ScaledGradient.apply(embeddings, factor)
    return scaled


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return embeddings.view_as(embeddings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradient * factor, None


def ramped_weight(
    weight: float, step: int, total_steps: int, ramp: Literal["constant", "linear"] = "constant"
) -> float:
    """The weight of the penalty at one step.

    Args:
        weight: the final weight, >= 0.
        step: steps done so far, from 0.
        total_steps: steps of the whole run, > 0.
        ramp: "constant", or "linear": ``weight * step / total_steps``, as the authors' self-supervised runs have it.

    Returns:
        The weight, never above ``weight``.

    Raises:
        SettingsError: a value out of range, or an unknown ramp.

    >>> ramped_weight(2.0, 25, 100, "linear")
    0.5
    """
    if ramp not in RAMPS:
        raise SettingsError(f"no ramp is called {ramp!r}. {did_you_mean(ramp, RAMPS)}")
    if not 0 <= weight < math.inf or step < 0 or total_steps <= 0:
        raise SettingsError(f"want weight >= 0, step >= 0 and total_steps > 0; got {weight}, {step} and {total_steps}.")
    return weight if ramp == "constant" else weight * min(step / total_steps, 1.0)


class LengthStatistics(NamedTuple):
    """How the lengths of a batch spread. All NaN for an empty batch."""

    mean: float
    """In units of length."""
    variance: float
    """Biased (divided by B), in squared units of length. It equals the SEC penalty with radius "batch"."""
    cv: float
    """Coefficient of variation: standard deviation over mean, unitless; 0 when all rows are zero."""


@torch.no_grad()
def length_statistics(embeddings: Tensor) -> LengthStatistics:
    """Mean, biased variance and coefficient of variation of the lengths, computed in float64. (B, D) -> three floats.

    Raises:
        SizeError: ``embeddings`` is not (B, D) of a floating type.

    >>> length_statistics(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    LengthStatistics(mean=3.0, variance=4.0, cv=0.6666666666666666)
    """
    check_embeddings(embeddings)
    with outside_autocast(embeddings):
        norms = exact_lengths(embeddings)
    mean, variance = (float(norms.mean()), float(norms.var(correction=0))) if len(norms) else (math.nan,) * 2
    return LengthStatistics(mean, variance, 0.0 if mean == 0 else math.sqrt(variance) / mean)
