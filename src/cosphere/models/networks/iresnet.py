"""iResNet, the residual network of ArcFace, as InsightFace's arcface_torch defines it.

Deng et al., "ArcFace", CVPR 2019; Han et al., "Deep Pyramidal Residual Networks", CVPR 2017 for the block. Each block is
batch norm, convolution, batch norm, PReLU, convolution, batch norm, without squeeze-and-excitation, and the first convolution
keeps the resolution: 112 px become 7 x 7 positions of 512 channels.

Published embeddings come from batch norm, flattened positions, a linear layer and a batch norm whose weight stays 1. The first
of these ends the network here; the others are the linear head with ``pooling: flatten``, ``norm: none`` and ``after: batch-shift``.
Names and shapes are those of arcface_torch, whose ``.pth`` files load. Its dropout before the linear layer is left out: all of its
configurations set it to 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timm.models._builder import build_model_with_cfg
from timm.models._registry import generate_default_cfgs, register_model
from torch import Tensor, nn

from cosphere.models.networks.config import FACE_INPUT, NetworkCfg
from cosphere.models.networks.conventions import Stepwise

_WIDTHS = (64, 128, 256, 512)

_HEAD: Any = ("fc", "features")

default_cfgs = generate_default_cfgs(
    {
        name: NetworkCfg(**FACE_INPUT, first_conv="conv1", classifier=_HEAD)
        for name in ("iresnet18", "iresnet34", "iresnet50", "iresnet100")
    }
)


class _Block(nn.Module):
    """BN-conv-BN-PReLU-conv-BN beside a shortcut; the second convolution carries the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        main: Tensor = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return main + shortcut


class IResNet(Stepwise):
    """iResNet. (B, 3, H, W) float in [-1, 1] -> feature map (B, 512, about H/16, about W/16)."""

    HEAD: Mapping[str, str] = {"fc": "linear", "features": "output"}

    def __init__(self, blocks: Sequence[int], num_classes: int = 0) -> None:
        """Create the network.

        Args:
            blocks: number of blocks in each of the four layers.
            num_classes: of a classifier on the averaged features, which timm's own users may want; 0 for none.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.prelu = nn.PReLU(_WIDTHS[0])
        inputs = _WIDTHS[0]
        for number, (width, count) in enumerate(zip(_WIDTHS, blocks, strict=True), 1):
            sizes = [inputs] + [width] * (count - 1)
            layer = nn.Sequential(*(_Block(size, width, 1 if place else 2) for place, size in enumerate(sizes)))
            self.add_module(f"layer{number}", layer)
            inputs = width
        self.bn2 = nn.BatchNorm2d(inputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.1)  # as arcface_torch
        names = ("prelu", "layer1", "layer2", "layer3", "bn2")
        self._describe(list(zip(names, (_WIDTHS[0], *_WIDTHS), strict=True)), first=1, num_classes=num_classes)

    def steps(self) -> dict[str, nn.Module]:
        """The modules by name, in order."""
        names = ("conv1", "bn1", "prelu", "layer1", "layer2", "layer3", "layer4", "bn2")
        return {name: self.get_submodule(name) for name in names}

    def head_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published head: the linear layer over flattened positions, and the batch norm."""
        head = self._head(tensors)
        weight = head.get("linear.weight")
        if weight is not None and weight.ndim == 2 and weight.shape[1] % self.num_features == 0:
            # The file flattens channel by channel, our pooling position by position.
            by_channel = weight.reshape(len(weight), self.num_features, -1)
            head["linear.weight"] = by_channel.transpose(1, 2).reshape(weight.shape)
        return head


def _made(name: str, pretrained: bool, blocks: Sequence[int], settings: Mapping[str, Any]) -> IResNet:
    unknown: Any = ("in_chans", "global_pool", "img_size")  # what timm passes to every network
    net: IResNet = build_model_with_cfg(
        IResNet, name, pretrained, kwargs_filter=unknown, blocks=blocks, **{"num_classes": 0, **settings}
    )
    return net


@register_model
def iresnet18(pretrained: bool = False, **settings: Any) -> IResNet:
    """iResNet-18, 24 million parameters with the published head."""
    return _made("iresnet18", pretrained, (2, 2, 2, 2), settings)


@register_model
def iresnet34(pretrained: bool = False, **settings: Any) -> IResNet:
    """iResNet-34, 34 million parameters with the published head."""
    return _made("iresnet34", pretrained, (3, 4, 6, 3), settings)


@register_model
def iresnet50(pretrained: bool = False, **settings: Any) -> IResNet:
    """iResNet-50, 44 million parameters with the published head."""
    return _made("iresnet50", pretrained, (3, 4, 14, 3), settings)


@register_model
def iresnet100(pretrained: bool = False, **settings: Any) -> IResNet:
    """iResNet-100, 65 million parameters with the published head."""
    return _made("iresnet100", pretrained, (3, 13, 30, 3), settings)
