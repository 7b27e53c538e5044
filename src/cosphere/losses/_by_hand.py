"""Slopes worked out by hand, handed to autograd.

Where a loss knows its own derivative, computing it beside the value takes half the passes that autograd would, and the
formula may use sums that autograd would have to keep.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
