"""Helpers shared by the losses: block sizes, labels, distances, safe means and zeros, log-sum-exps, angles, gradients by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cosphere.checks import check_number
from cosphere.errors import DerivativeError, SettingsError
from cosphere.tensors import directions, full_precision

SIMILARITIES_HELD = {"cpu": 2**20, "cuda": 2**26}
"""Similarities in one block. On a CPU a block should stay in the cache; on a GPU one should fill the device."""

_held: int | None = None


@contextmanager
def similarities_held(count: int) -> Iterator[None]:
    """A block in which pair losses hold at most ``count`` similarities at once, but never less than one row.

    A loss keeps about ten such blocks while it works. Results do not depend on it beyond rounding.

    >>> with similarities_held(2**24):
    ...     pass
    """
    global _held
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise SettingsError(f"want a whole number of similarities >= 1, got {count!r}.")
    before, _held = _held, count
    try:
        yield
    finally:
        _held = before


def held_on(device: torch.device) -> int:
    """Similarities that one block may hold there."""
    return _held or SIMILARITIES_HELD.get(device.type, SIMILARITIES_HELD["cpu"])


def block_length(device: torch.device, width: int, count: int) -> int:
    """How many of ``count`` lines of ``width`` similarities make one block; at least 1, and blocks are about equal."""
    pieces = -(-count // max(1, held_on(device) // max(width, 1)))
    return max(1, -(-count // max(pieces, 1)))


SAME = 8
"""Cosines so many rounding steps below 1 are those of identical images."""


def as_int64(labels: Tensor) -> Tensor:
    """Labels of any integer type as int64. uint64 from 2^63 on wraps around, which keeps different labels different."""
    return labels.to(torch.int64)


def connected_zero(embeddings: Tensor) -> Tensor:
    """() zero that keeps the graph connected; NaN if any entry is not finite."""
    zero: Tensor = _Zero.apply(embeddings)
    return zero


class _Zero(torch.autograd.Function):
    """``(embeddings * 0).sum()`` without its passes over the embeddings."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor) -> Tensor:
        ctx.save_for_backward(embeddings)
        return full_precision(embeddings.detach()).sum() * 0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        embeddings: Tensor = ctx.saved_tensors[0]
        return embeddings.new_zeros(()).expand(embeddings.shape)


def chord(cosines: Tensor, *, squared: bool) -> Tensor:
    """Distance between unit vectors from their cosine: sqrt(2 - 2 cos), or its square. Gradient 0 at zero distance."""
    square = apart_or_zero(2 - 2 * cosines)
    return square if squared else safe_sqrt(square)


def apart_or_zero(square: Tensor, *, inplace: bool = False) -> Tensor:
    """Squared distances of unit vectors, 0 for identical images: whether those are apart is not left to rounding."""
    return functional.threshold(square, 2 * SAME * torch.finfo(square.dtype).eps, 0.0, inplace=inplace)


def safe_sqrt(square: Tensor) -> Tensor:
    """Square root of numbers >= 0 whose gradient at 0 is 0: the true one is infinite, and one NaN spreads to the batch."""
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)


def mean_or_zero(total: Tensor, count: Tensor | int) -> Tensor:
    """``total / count``; ``total``, which is then a zero, where ``count`` is 0."""
    return total / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))


class OnlyOnce(torch.autograd.Function):
    """A gradient that cannot be differentiated again: it would come out silently wrong, so it raises.

    It is tied to the inputs it came from, or a walk from them back to themselves would pass it by.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        """The gradient as it is."""
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        """Raise a DerivativeError."""
        raise DerivativeError(
            "Cosphere's losses have first derivatives only, and this would need a second one. For gradient penalties or "
            "meta-learning, write the loss with plain tensor operations."
        )


def log_sum_exp(*groups: Tensor) -> Tensor:
    """Log of the sum of e^x over a row of all groups together. (b, P), (b, R), ... -> (b,).

    Entries of -inf are left out. A row of nothing else gives -inf and no gradient, where torch's own may give NaN.
    """
    filled = [group for group in groups if group.shape[1]]
    if not filled:
        return groups[0].new_full((len(groups[0]),), -torch.inf)
    with torch.no_grad():
        top = torch.stack([group.amax(dim=1) for group in filled]).amax(dim=0)
        top = torch.where(top == -torch.inf, 0.0, top)
    total = torch.stack([(group - top[:, None]).exp().sum(dim=1) for group in filled]).sum(dim=0)
    some = total > 0
    return torch.where(some, top + torch.where(some, total, 1.0).log(), -torch.inf)


def log_one_plus_exp(values: Tensor) -> Tensor:
    """log(1 + e^x), exact to rounding. Torch's threshold of 20 is off by 2e-9, which float64 can see."""
    return functional.softplus(values, threshold=50.0)


def with_slopes(value: Tensor, *known: tuple[Tensor, Tensor]) -> Tensor:
    """() ``value``, as a function of tensors whose derivatives are the ones given beside them.

    Args:
        value: () without a graph.
        known: (tensor, slope) pairs of equal shape; a slope has no graph.

    >>> x = torch.tensor([3.0], requires_grad=True)
    >>> with_slopes(torch.tensor(9.0), (x, torch.tensor([6.0]))).backward()
    >>> x.grad
    tensor([6.])
    """
    inputs, slopes = zip(*known, strict=True)
    given: Tensor = _WithSlopes.apply(value, len(inputs), *inputs, *slopes)
    return given


class _WithSlopes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slopes = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2 : 2 + len(slopes)]
        scaled = [slope * grad if wants else None for slope, wants in zip(slopes, wanted, strict=True)]
        return None, None, *scaled, *(None for _ in slopes)


def add_angle(cosine: Tensor, angle: float | Tensor, fallback: bool = True) -> Tensor:
    """cos(theta + angle) from cos(theta).

    The true slope is infinite at a cosine of 1 or -1, where one NaN would spread to the batch; here it is cos(angle).

    Args:
        cosine: (A,) in [-1, 1]; rounding beyond it does no harm.
        angle: radians, in [0, pi]; a number, or (A,) for an angle of its own for each.
        fallback: past theta = pi - angle, where cos(theta + angle) would rise again, take cos(theta) - angle sin(angle).

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
    """() ``before`` moved towards ``new``; left alone by a value that is not finite, or one bad batch would never leave."""
    return torch.where(new.isfinite(), torch.lerp(before, new.to(before), momentum), before)


def check_angle(name: str, value: object) -> float:
    """``value`` if it is in [0, pi], or a SettingsError."""
    angle = check_number(name, value, at_least=0)
    if angle > math.pi:
        raise SettingsError(f"{name} is in radians, at most pi; got {value!r}.")
    return angle


@torch.no_grad()
def start_as_directions(class_weight: Tensor) -> None:
    """Fill (C, D) with vectors uniform in a cube, brought to unit length: the start that AdaFace and MagFace share."""
    class_weight.uniform_(-1, 1)
    class_weight.copy_(directions(class_weight).unit)
