"""Training in bfloat16 on a CPU: depthwise convolutions computed in float32, because their bfloat16 gradients are slow.

    autocast on a CPU, with gradients:   bfloat16 -> float32 -> depthwise convolution -> bfloat16

Where a processor computes in bfloat16, oneDNN is faster in it than in float32, but for the gradients of depthwise convolutions, which
take up to a hundred times as long: a network of them would train at half the speed of float32. See docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def depthwise_in_float32(inputs: Tensor) -> AbstractContextManager[object]:
    """A block in which depthwise convolutions compute in float32 and give their result in the type of autocast.

    It changes nothing on a GPU, without autocast, or where no gradients are recorded, as in inference: bfloat16 is fast there.

    Args:
        inputs: of the network that is called in the block.
    """
    needed = inputs.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    return _DepthwiseInFloat32() if needed else nullcontext()


class _DepthwiseInFloat32(TorchFunctionMode):
    """Replaces calls rather than layers, so that modules, their names and their types stay as they are."""

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch; :func:`torch.conv2d` by way of :func:`_convolution`."""
        return (_convolution if function is torch.conv2d else function)(*args, **(kwargs or {}))


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """:func:`torch.conv2d`, whose arguments have these names."""
    if groups == 1 or groups != input.shape[-3] or weight.dtype != torch.float32:
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    with torch.autocast("cpu", enabled=False):
        result = torch.conv2d(input.float(), weight, bias, stride, padding, dilation, groups)
    return result.to(torch.get_autocast_dtype("cpu"))
