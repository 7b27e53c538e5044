"""Training beside frozen batch norms on a CPU: they are applied through the weights of the convolutions before them.

    y = g (w * x + c - m) / s + b   =   (g w / s) * x + (g (c - m) / s + b)         s = sqrt(variance + eps)

A frozen norm is a constant scale and shift of each channel, yet it reads and writes every map, forwards and backwards, and keeps its
input for the gradients. Scaled weights save that: the embeddings and, by the chain rule, all gradients are those of the plain network up
to rounding. Modules, their names and their weights stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from cosphere.models.folding import observe, scale_and_shift
from cosphere.models.heads import Features
from cosphere.models.inference import evaluation_mode

TOLERANCE = 1e-4
"""Largest distance between the features of both forms of the network, in units of their length. Rounding gives about 1e-6."""

log = logging.getLogger(__name__)

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


class FrozenNorms:
    """The frozen norms of one network that can be applied through weights. A copy of it starts anew."""

    def __init__(self) -> None:
        self._names: list[tuple[str, str]] | None = None

    def __reduce__(self) -> tuple[type[FrozenNorms], tuple[()]]:
        return FrozenNorms, ()

    def in_weights(
        self, backbone: nn.Module, levels: Sequence[int], images: Tensor, *, frozen: bool
    ) -> AbstractContextManager[object]:
        """A block in which forward passes of a backbone apply its frozen norms through weights.

        It changes nothing on a GPU, where no gradients are recorded, with gradient checkpointing, or where the backbone gives
        something else then. That is found out once, on the first image, in evaluation mode: it draws no random numbers.

        Args:
            backbone: its ``features`` are those of :class:`cosphere.models.backbones.Backbone`.
            levels: of its features that are used.
            images: (B, 3, H, W) that it is called with in the block.
            frozen: whether its norms are; nothing is changed otherwise.
        """
        pictures = images.device.type == "cpu" and images.ndim == 4 and len(images) > 0
        if not frozen or not pictures or not torch.is_grad_enabled() or _computes_twice(backbone):
            return nullcontext()
        if self._names is None:
            self._names = _proved(backbone, levels, images[:1].detach())
        pairs = _pairs(backbone, self._names)
        return _NormsInWeights(pairs) if pairs else nullcontext()


@torch.no_grad()
def _proved(backbone: nn.Module, levels: Sequence[int], image: Tensor) -> list[tuple[str, str]]:
    """The names of convolutions and their norms, if the features of an image stay the same without these norms; otherwise none."""

    def features() -> Tensor:
        given: list[Features] = backbone.features(image.clone(), levels)  # type: ignore[operator]
        return torch.cat([cast("Tensor", one.values).flatten() for one in given])

    with evaluation_mode(backbone), torch.autocast("cpu", enabled=False):
        try:
            seen = observe(backbone, features)
            names = [(chain.convolution, chain.norm) for chain in seen.chains if chain.norm is not None]
            plain = features()
            with _NormsInWeights(_pairs(backbone, names)):
                distance = (features() - plain).norm() / plain.norm()
        except Exception:  # a network of the user's may do anything when it is called a second time
            log.info("batch norms stay layers", exc_info=True)
            return []
    return names if float(distance) <= TOLERANCE else []


def _pairs(network: nn.Module, names: list[tuple[str, str]]) -> list[Pair]:
    """Those modules, without the ones that changed: a norm that is trained, or a layer at whose result somebody looks."""
    pairs = [
        (cast("nn.Conv2d", network.get_submodule(convolution)), cast("nn.BatchNorm2d", network.get_submodule(norm)))
        for convolution, norm in names
    ]
    return [(convolution, norm) for convolution, norm in pairs if not norm.training and not _watched(convolution, norm)]


def _computes_twice(network: nn.Module) -> bool:
    """Whether parts of it run again in the backward pass, outside of the block; by the names of timm and of transformers."""
    switches = ("grad_checkpointing", "gradient_checkpointing")
    return any(vars(part).get(switch) for part in network.modules() for switch in switches)


def _watched(*layers: nn.Module) -> bool:
    return any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


class _NormsInWeights(TorchFunctionMode):
    """Replaces calls rather than layers: a convolution gets other weights, and its norm returns what it is given."""

    def __init__(self, pairs: list[Pair]) -> None:
        super().__init__()
        self._norms = {id(convolution.weight): norm for convolution, norm in pairs}
        self._done = {id(norm.running_mean) for _, norm in pairs}

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch, other than a convolution with its norm, as it is."""
        kwargs = kwargs or {}
        if function is torch.conv2d:
            return self._convolution(*args, **kwargs)
        if function is functional.batch_norm and id(_statistics(*args, **kwargs)) in self._done:
            return args[0] if args else kwargs["input"]
        return function(*args, **kwargs)

    def _convolution(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any, **options: Any
    ) -> Tensor:
        """:func:`torch.conv2d`, whose arguments have these names."""
        norm = self._norms.get(id(weight))
        if norm is None:
            return torch.conv2d(input, weight, bias, *how, **options)
        scale, shift = scale_and_shift(norm, weight.dtype)
        if bias is not None:
            shift = shift + bias * scale
        return torch.conv2d(input, weight * scale[:, None, None, None], shift, *how, **options)


def _statistics(input: Tensor, running_mean: Tensor | None = None, *others: Any, **options: Any) -> Tensor | None:
    """The running mean among the arguments of :func:`torch.nn.functional.batch_norm`."""
    return running_mean
