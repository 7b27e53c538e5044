"""Networks for use alone: batch norm folded into the convolution before it, and the activation applied in the same pass.

    y = g (w * x + c - m) / s + b   =   (g w / s) * x + (g (c - m) / s + b)         s = sqrt(variance + eps)

Which convolutions that concerns is observed on one image, not read from the code, so it holds for any network. Two networks are
the same up to rounding if nothing else uses what lies between a convolution and its batch norm, so compare their embeddings.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

Network = TypeVar("Network", bound=nn.Module)

_FUSED: dict[type[nn.Module], Callable[[Any], tuple[str, list[float], str]]] = {
    nn.ReLU: lambda act: ("relu", [], ""),
    nn.ReLU6: lambda act: ("hardtanh", [0.0, 6.0], ""),
    nn.Hardtanh: lambda act: ("hardtanh", [act.min_val, act.max_val], ""),
    nn.SiLU: lambda act: ("swish", [], ""),
    nn.Hardswish: lambda act: ("hardswish", [], ""),
    nn.LeakyReLU: lambda act: ("leaky_relu", [act.negative_slope], ""),
    nn.GELU: lambda act: ("gelu", [], act.approximate),
}
"""Activations that oneDNN applies to a convolution's result before it is written, as its operator names them."""


@dataclass
class Chain:
    """A convolution, the batch norm that is applied to its result, and the activation after that; names of modules."""

    convolution: str
    shape: list[int]
    """Of the convolution's input."""
    norm: str | None = None
    activation: str | None = None


@dataclass(frozen=True)
class Observed:
    """What one forward pass showed.

    Attributes:
        chains: that can be folded.
        largest: bytes of the largest result of a layer.
    """

    chains: list[Chain]
    largest: int


class FoldedConvolution(nn.Module):
    """A convolution with its batch norm in the weights; with ``packed`` it applies the activation too.

    Args:
        convolution: the original.
        weight: (O, I / groups, h, w), folded.
        bias: (O,), folded.
        shape: of the input, (B, I, H, W). H and W are fixed where the original pads by them ("same").
        activation: what to apply; None for nothing.
        packed: keep the weights in oneDNN's order, and run its operator.
        dtype: with ``packed``, the type of the weights, in which the inputs are multiplied; sums and ``bias`` are float32.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        weight: Tensor,
        bias: Tensor,
        shape: list[int],
        activation: nn.Module | None,
        *,
        packed: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.stride, self.dilation = list(convolution.stride), list(convolution.dilation)
        self.groups, self.packed = convolution.groups, packed
        self.padding = list(cast("tuple[int, int]", convolution.padding))
        if _pads_same(convolution):
            weight, self.padding = _with_even_padding(weight, shape, convolution)
        none: tuple[str, list[float], str] = ("none", [], "")
        self.attribute, self.scalars, self.algorithm = (
            none if activation is None else _FUSED[type(activation)](activation)
        )
        if packed:
            weight = torch.ops.mkldnn._reorder_convolution_weight(
                weight.to(dtype).contiguous(), self.padding, self.stride, self.dilation, self.groups, shape
            )
        else:
            weight = weight.contiguous(memory_format=torch.channels_last)
        self.weight = weight  # no parameter: packed tensors cannot be saved or moved
        self.bias = nn.Parameter(bias, requires_grad=False)  # a network tells its type by its first parameter

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        if not self.packed:
            return functional.conv2d(
                inputs, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
            )
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            *(
                inputs.to(self.weight.dtype),
                self.weight,
                self.bias,
                self.padding,
                self.stride,
                self.dilation,
                self.groups,
            ),
            *(self.attribute, self.scalars, self.algorithm),
        )
        return result


def can_pack(dtype: torch.dtype = torch.float32) -> bool:
    """Whether :class:`FoldedConvolution` can be packed in a type here.

    This build of torch needs the operators of oneDNN, whose names are private, and they must take the type on this processor.
    """
    names = ["_reorder_convolution_weight", "_convolution_pointwise"]
    if dtype == torch.bfloat16:
        names.append("_is_mkldnn_bf16_supported")
    there = dtype in (torch.float32, torch.bfloat16) and all(hasattr(torch.ops.mkldnn, name) for name in names)
    return there and (dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def observe(network: nn.Module, run: Callable[[], object]) -> Observed:
    """Find what can be folded, by looking at which tensors pass from module to module.

    Args:
        network: in evaluation mode.
        run: a forward pass of it.
    """
    watcher = _Watcher(network)
    leaves = [module for module in network.modules() if _is_norm(module) or not any(module.children())]
    hooks = [module.register_forward_pre_hook(watcher.before) for module in leaves]
    hooks += [module.register_forward_hook(watcher.after) for module in leaves]
    try:
        with torch.inference_mode(mode=False), torch.no_grad():  # tensors of inference mode do not count their changes
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return Observed([chain for chain in watcher.found if watcher.may_be_folded(chain)], watcher.largest)


class _Watcher:
    """Hooks that follow tensors from convolutions through batch norms to activations."""

    def __init__(self, network: nn.Module) -> None:
        self.found: list[Chain] = []
        self.largest = 0
        self._network = network
        self._names = {module: name for name, module in network.named_modules()}
        self._calls: Counter[str] = Counter()
        self._ends: dict[int, tuple[Chain, Tensor, int]] = {}  # by id; holds the tensors, so that no id is given twice
        self._entering: dict[nn.Module, Chain | None] = {}

    def before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Note the chain whose result the module takes, unless that was changed in place since, as by ``x += shortcut``."""
        chain, end, version = self._ends.get(id(inputs[0]) if inputs else 0, (None, None, 0))
        self._entering[module] = chain if end is not None and end._version == version else None

    def after(self, module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        """Begin or continue a chain."""
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not isinstance(output, Tensor):
            return
        name, chain = self._names[module], self._entering[module]
        self._calls[name] += 1
        self.largest = max(self.largest, output.numel() * output.element_size())
        if _is_convolution(module):
            self._ends[id(output)] = Chain(name, list(inputs[0].shape)), output, output._version
        elif chain is not None and chain.norm is None and _is_norm(module):
            chain.norm = name
            self.found.append(chain)
            self._ends[id(output)] = chain, output, output._version
        elif chain is not None and chain.activation is None and type(module) in _FUSED and self._may_act(chain):
            chain.activation = name

    def _may_act(self, chain: Chain) -> bool:
        """Whether an activation may follow: there is a norm, and it holds none itself, as some of timm's do."""
        own = (
            nn.Identity()
            if chain.norm is None
            else getattr(self._network.get_submodule(chain.norm), "act", nn.Identity())
        )
        return chain.norm is not None and isinstance(own, nn.Identity)

    def may_be_folded(self, chain: Chain) -> bool:
        """Whether each of its modules ran once, and nobody's hook looks at it."""
        names = [name for name in (chain.convolution, chain.norm, chain.activation) if name]
        parts = [self._network.get_submodule(name) for name in names]
        hooked = any(part._forward_hooks or part._forward_pre_hooks for part in parts)
        return not hooked and all(self._calls[name] == 1 for name in names)


def folded(network: Network, chains: list[Chain], *, packed: bool, dtype: torch.dtype = torch.float32) -> Network:
    """A copy with these chains folded, in evaluation mode. It shares all other tensors with the original.

    Args:
        network: float32, on the CPU.
        chains: see :func:`observe`.
        packed: see :class:`FoldedConvolution`; activations stay modules without it.
        dtype: of packed weights. With torch.bfloat16 call the copy under autocast, for its other layers.
    """
    shared = [*network.parameters(), *network.buffers()]
    copied = copy.deepcopy(network, {id(tensor): tensor for tensor in shared})
    for chain in chains:
        convolution = cast("nn.Conv2d", network.get_submodule(chain.convolution))
        norm = cast("nn.BatchNorm2d", network.get_submodule(cast("str", chain.norm)))
        own = getattr(norm, "act", None)  # of timm's norms with an activation
        after = network.get_submodule(chain.activation) if chain.activation else own
        fused = after if packed and type(after) in _FUSED else None
        weight, bias = _folded(convolution, norm)
        layer = FoldedConvolution(convolution, weight, bias, chain.shape, fused, packed=packed, dtype=dtype)
        _put(copied, chain.convolution, layer)
        _put(copied, cast("str", chain.norm), nn.Identity() if own is None or fused is own else copy.deepcopy(own))
        if chain.activation and fused is not None:
            _put(copied, chain.activation, nn.Identity())
    return copied.eval()


def scale_and_shift(norm: nn.BatchNorm2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What a batch norm does with its running statistics, ``x * scale + shift`` of each channel; (O,) each, computed in ``dtype``."""
    mean, variance = (cast("Tensor", part).to(dtype) for part in (norm.running_mean, norm.running_var))
    scale = torch.rsqrt(variance + norm.eps)
    if not norm.affine:
        return scale, -mean * scale
    scale = scale * norm.weight.to(dtype)
    return scale, norm.bias.to(dtype) - mean * scale


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of both, computed in float64."""
    scale, bias = (part.detach() for part in scale_and_shift(norm, torch.float64))
    if convolution.bias is not None:
        bias = bias + convolution.bias.detach().double() * scale
    weight = convolution.weight.detach().double() * scale[:, None, None, None]
    return weight.to(convolution.weight.dtype), bias.to(convolution.weight.dtype)


def _with_even_padding(weight: Tensor, shape: list[int], convolution: nn.Conv2d) -> tuple[Tensor, list[int]]:
    """Weight and padding that do what "same" padding does, which may be one larger behind than in front.

    Zero taps in front of the kernel make both sides equal, so that no padded copy of the image is made.
    """
    front, padding = [], []
    for size, kernel, stride, dilation in zip(
        shape[2:], convolution.kernel_size, convolution.stride, convolution.dilation, strict=True
    ):
        total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        behind = total - total // 2
        front.append(behind - total // 2)
        padding.append(behind)
    return functional.pad(weight, (front[1], 0, front[0], 0)), padding


def _is_convolution(module: nn.Module) -> bool:
    plain = type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return plain or (_pads_same(module) and set(cast("nn.Conv2d", module).dilation) == {1})


def _pads_same(module: nn.Module) -> bool:
    """Whether it is timm's convolution with TensorFlow's padding, which depends on the size of its input."""
    return type(module).__name__ == "Conv2dSame" and type(module).__module__.startswith("timm.")


def _is_norm(module: nn.Module) -> bool:
    """Whether it is batch norm with running statistics, of torch or of timm, which may hold an activation."""
    own = type(module) is nn.BatchNorm2d
    with_activation = type(module).__name__ == "BatchNormAct2d" and type(module).__module__.startswith("timm.")
    return (own or with_activation) and cast("nn.BatchNorm2d", module).running_mean is not None


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, module)
