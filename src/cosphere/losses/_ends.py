"""What nearly every loss begins or ends with: integer labels, distances, means and zeros whose gradients are sound."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cosphere.errors import DerivativeError
from cosphere.tensors import full_precision

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
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise DerivativeError(
            "Cosphere's losses have first derivatives only, and this would need a second one. For gradient penalties or "
            "meta-learning, write the loss with plain tensor operations."
        )
