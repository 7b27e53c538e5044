"""Stems: what a network does to an image before its first stage, where that can be replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from cosphere.errors import SettingsError

StemName = Literal["own", "cifar"]


def change_stem(net: nn.Module, stem: StemName, *, name: str) -> None:
    """Replace the stem of a network in place. Its new first weights come from torch's global generator.

    Args:
        net: a network of timm, or one of ours.
        stem: "own" leaves it as it is; "cifar" takes the one of SimCLR's and SupContrast's code for images of 32 pixels: a
            convolution of 3 x 3 with stride 1 and no pooling, where a ResNet otherwise reduces an image to a quarter of its side.
        name: of the network, for errors.

    Raises:
        SettingsError: the network has no such stem to replace.
    """
    _STEMS[stem](net, name)


def _own(net: nn.Module, name: str) -> None:
    pass


def _cifar(net: Any, name: str) -> None:
    first = getattr(net, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not isinstance(getattr(net, "maxpool", None), nn.Module):
        raise SettingsError(
            f"model.stem 'cifar' is for ResNets that begin with one convolution and a pooling, and {name!r} does not. Use a backbone "
            "such as resnet18 or resnet50, or model.stem own."
        )
    conv = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as timm's ResNets
    net.conv1, net.maxpool = conv, nn.Identity()
    for stage in net.feature_info:
        stage["reduction"] = max(1, stage["reduction"] // 4)


_STEMS: dict[str, Callable[[nn.Module, str], None]] = {"own": _own, "cifar": _cifar}
