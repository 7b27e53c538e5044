"""Helpers shared by the losses: block sizes, distances, safe means and zeros, log-sum-exp, angles, hand-written gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cosphere.checks import check_number, check_switches, is_whole
from cosphere.errors import DerivativeError, SettingsError
from cosphere.tensors import directions, full_precision

SIMILARITIES_HELD = {"cpu": 2**20, "cuda": 2**26}
"""Similarities in one block. On a CPU a block should stay in the cache; on a GPU one should fill the device."""

# Global, because losses and miners read it far below the caller who sets it.
_held: int | None = None


@contextmanager
def similarities_held(count: int) -> Iterator[None]:
    """Context manager: pair losses hold at most ``count`` similarities at once, but at least one row.

    A loss keeps about ten such blocks at a time. Results change only by rounding.

    >>> with similarities_held(2**24):
    ...     pass
    """
    global _held
    if not is_whole(count) or count < 1:
        raise SettingsError(f"want a whole number of similarities >= 1, got {count!r}.")
    before, _held = _held, count
    try:
        yield
    finally:
        _held = before


def held_on(device: torch.device) -> int:
    """Number of similarities that one block may hold on a device."""
    return _held or SIMILARITIES_HELD.get(device.type, SIMILARITIES_HELD["cpu"])


def block_length(device: torch.device, width: int, count: int) -> int:
    """Lines per block for ``count`` lines of ``width`` similarities: at least 1, and blocks of about equal size."""
    # Equal blocks, because a short last one would use the cache or the GPU poorly.
    pieces = -(-count // max(1, held_on(device) // max(width, 1)))
    return max(1, -(-count // max(pieces, 1)))


SAME = 8
"""Cosines within this many rounding steps of 1 are those of identical images."""


def as_int64(labels: Tensor) -> Tensor:
    """Convert labels of any integer type to int64. uint64 values from 2^63 on wrap around, so different labels stay different."""
    return labels.to(torch.int64)


def connected_zero(embeddings: Tensor) -> Tensor:
    """() zero connected to the graph of ``embeddings``; NaN if any entry is not finite."""
    zero: Tensor = _Zero.apply(embeddings)
    return zero


class _Zero(torch.autograd.Function):
    """``(embeddings * 0).sum()`` without extra passes over the embeddings."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor) -> Tensor:
        ctx.save_for_backward(embeddings)
        # inf * 0 and NaN * 0 are NaN, which is how a bad value shows in the loss.
        return full_precision(embeddings.detach()).sum() * 0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        embeddings: Tensor = ctx.saved_tensors[0]
        # A view of one zero, so it allocates nothing.
        return embeddings.new_zeros(()).expand(embeddings.shape)


def chord(cosines: Tensor, *, squared: bool) -> Tensor:
    """Distance between unit vectors from their cosine: sqrt(2 - 2 cos), or its square. Gradient 0 at zero distance."""
    check_switches(squared=squared)
    square = apart_or_zero(2 - 2 * cosines)
    return square if squared else safe_sqrt(square)


def apart_or_zero(square: Tensor, *, inplace: bool = False) -> Tensor:
    """Squared distances of unit vectors, set to 0 for identical images, so that rounding does not separate them."""
    # For identical rows 2 - 2 cos is a few eps, and its square root would be about 1e-4.
    return functional.threshold(square, 2 * SAME * torch.finfo(square.dtype).eps, 0.0, inplace=inplace)


def safe_sqrt(square: Tensor) -> Tensor:
    """Square root with gradient 0 at 0. The true gradient is infinite, and one NaN would spread to the whole batch."""
    apart = square > 0
    # The inner where keeps the infinite derivative out of the graph: 0 * inf would be NaN.
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)


def mean_or_zero(total: Tensor, count: Tensor | int) -> Tensor:
    """``total / count``, or ``total`` (then a zero) where ``count`` is 0."""
    return total / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))


class OnlyOnce(torch.autograd.Function):
    """A gradient that raises when differentiated again, because the result would be silently wrong.

    It depends on the inputs it came from; otherwise autograd would skip it when it differentiates with respect to them.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        """Return the gradient unchanged."""
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        """Raise a DerivativeError."""
        raise DerivativeError(
            "Cosphere's losses have first derivatives only, and this would need a second one. For gradient penalties or "
            "meta-learning, write the loss with plain tensor operations."
        )


def log_sum_exp(*groups: Tensor) -> Tensor:
    """Row-wise log-sum-exp over several groups of columns. (b, P), (b, R), ... -> (b,).

    Entries of -inf are ignored. A row of only -inf gives -inf without a gradient, where torch's own may give NaN.
    """
    filled = [group for group in groups if group.shape[1]]
    if not filled:
        return groups[0].new_full((len(groups[0]),), -torch.inf)
    with torch.no_grad():
        # The shift cancels in the gradient, so it needs no graph.
        tops = [group.amax(dim=1) for group in filled]
        top = tops[0] if len(tops) == 1 else torch.stack(tops).amax(dim=0)
        top = torch.where(top == -torch.inf, 0.0, top)
    totals = [(group - top[:, None]).exp().sum(dim=1) for group in filled]
    total = totals[0] if len(totals) == 1 else torch.stack(totals).sum(dim=0)
    some = total > 0
    return torch.where(some, top + torch.where(some, total, 1.0).log(), -torch.inf)


def log_one_plus_exp(values: Tensor) -> Tensor:
    """log(1 + e^x), exact to rounding. Torch's default threshold of 20 is off by 2e-9, which float64 resolves."""
    return functional.softplus(values, threshold=50.0)


def with_gradients(value: Tensor, *known: tuple[Tensor, Tensor]) -> Tensor:
    """() ``value`` as a function of tensors whose derivatives are given.

    Args:
        value: () tensor without a graph.
        known: (tensor, gradient) pairs of equal shape; gradients have no graph.

    >>> x = torch.tensor([3.0], requires_grad=True)
    >>> with_gradients(torch.tensor(9.0), (x, torch.tensor([6.0]))).backward()
    >>> x.grad
    tensor([6.])
    """
    inputs, gradients = zip(*known, strict=True)
    given: Tensor = _WithGradients.apply(value, len(inputs), *inputs, *gradients)
    return given


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        # Autograd would treat an input that is returned unchanged as the output of another node.
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        needed = ctx.needs_input_grad[2 : 2 + len(gradients)]
        scaled = [gradient * grad if wants else None for gradient, wants in zip(gradients, needed, strict=True)]
        return None, None, *scaled, *(None for _ in gradients)


def add_angle(cosine: Tensor, angle: float | Tensor, fallback: bool = True) -> Tensor:
    """cos(theta + angle) from cos(theta).

    The true gradient is infinite at a cosine of 1 or -1, where one NaN would spread to the batch; here it is cos(angle).

    Args:
        cosine: (A,) in [-1, 1]; rounding beyond that range is harmless.
        angle: radians, in [0, pi]; a number, or (A,) for one angle per image.
        fallback: past theta = pi - angle, where cos(theta + angle) would increase again, use cos(theta) - angle sin(angle).

    Returns:
        (A,) differentiable in both.

    >>> add_angle(torch.tensor([1.0, 0.0]), math.pi / 3)
    tensor([ 0.5000, -0.8660])
    """
    # (1 - c)(1 + c) keeps the digits that 1 - c * c loses near 1.
    sine = safe_sqrt(((1 - cosine) * (1 + cosine)).clamp(min=0))
    turn = angle if isinstance(angle, Tensor) else torch.tensor(angle, dtype=cosine.dtype, device=cosine.device)
    further = cosine * turn.cos() - sine * turn.sin()
    if not fallback:
        return further
    return torch.where(cosine > -turn.cos(), further, cosine - turn * turn.sin())


@torch.no_grad()
def running_mean(before: Tensor, new: Tensor, momentum: float) -> Tensor:
    """() ``before`` moved towards ``new``. Ignores non-finite values, because one bad batch would corrupt it permanently."""
    return torch.where(new.isfinite(), torch.lerp(before, new.to(before), momentum), before)


def check_angle(name: str, value: object) -> float:
    """``value`` if it is in [0, pi], or a SettingsError."""
    angle = check_number(name, value, at_least=0)
    if angle > math.pi:
        raise SettingsError(f"{name} is in radians, at most pi; got {value!r}.")
    return angle


@torch.no_grad()
def start_as_directions(class_weight: Tensor) -> None:
    """Initialise (C, D) with unit vectors drawn uniformly from a cube, as AdaFace and MagFace do."""
    class_weight.uniform_(-1, 1)
    class_weight.copy_(directions(class_weight).unit)
