"""ResNets that train on a CPU: those for CIFAR of He et al. (CVPR 2016), and ResNet-18 with narrower stages.

They are timm's ResNets with a stem for images of 32 pixels: a convolution of 3 x 3 with stride 1, as wide as the first stage, and no
pooling. Shortcuts that change the width are projections (option B of the paper); He's CIFAR networks pad with zeros (option A).
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from cosphere.models.networks.config import NetworkCfg

_NAMES = ("resnet8_cifar", "resnet8x4_cifar", "resnet14_cifar", "resnet20_cifar", "resnet18_quarter", "resnet18_half")
default_cfgs = generate_default_cfgs(
    {name: NetworkCfg(input_size=(3, 32, 32), pool_size=(4, 4), first_conv="conv1", classifier="fc") for name in _NAMES}
)


class SmallResNet(ResNet):
    """A ResNet of basic blocks with a stem as wide as its first stage."""

    def __init__(self, layers: tuple[int, ...], channels: tuple[int, ...], **settings: Any) -> None:
        """Create the network.

        Args:
            layers: blocks in each stage.
            channels: width of each stage; all but the first begin with stride 2.
            settings: of timm's ResNet.
        """
        block: Any = BasicBlock
        super().__init__(block, layers, channels=channels, **settings)
        net: Any = self
        width = channels[0]
        net.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        net.bn1 = nn.BatchNorm2d(width)
        net.maxpool = nn.Identity()
        net.layer1[0] = BasicBlock(width, width)
        if len(layers) == 3:
            net.layer4 = nn.Identity()  # which ResNet.forward asks for
        for stage in net.feature_info:
            stage["reduction"] = max(1, stage["reduction"] // 4)
        net.feature_info[0]["num_chs"] = width
        net.init_weights()


def _made(name: str, pretrained: bool, layers: tuple[int, ...], channels: tuple[int, ...], **settings: Any) -> ResNet:
    net: ResNet = build_model_with_cfg(SmallResNet, name, pretrained, layers=layers, channels=channels, **settings)
    return net


@register_model
def resnet8_cifar(pretrained: bool = False, **settings: Any) -> ResNet:
    """Three stages of one block, 16, 32 and 64 wide: 78 thousand weights."""
    return _made("resnet8_cifar", pretrained, (1, 1, 1), (16, 32, 64), **settings)


@register_model
def resnet8x4_cifar(pretrained: bool = False, **settings: Any) -> ResNet:
    """ResNet-8 with stages four times as wide: 64, 128 and 256."""
    return _made("resnet8x4_cifar", pretrained, (1, 1, 1), (64, 128, 256), **settings)


@register_model
def resnet14_cifar(pretrained: bool = False, **settings: Any) -> ResNet:
    """Three stages of two blocks, 16, 32 and 64 wide."""
    return _made("resnet14_cifar", pretrained, (2, 2, 2), (16, 32, 64), **settings)


@register_model
def resnet20_cifar(pretrained: bool = False, **settings: Any) -> ResNet:
    """Three stages of three blocks, 16, 32 and 64 wide: 0.27 million weights."""
    return _made("resnet20_cifar", pretrained, (3, 3, 3), (16, 32, 64), **settings)


@register_model
def resnet18_quarter(pretrained: bool = False, **settings: Any) -> ResNet:
    """ResNet-18 with stages a quarter as wide: 16, 32, 64 and 128."""
    return _made("resnet18_quarter", pretrained, (2, 2, 2, 2), (16, 32, 64, 128), **settings)


@register_model
def resnet18_half(pretrained: bool = False, **settings: Any) -> ResNet:
    """ResNet-18 with stages half as wide: 32, 64, 128 and 256."""
    return _made("resnet18_half", pretrained, (2, 2, 2, 2), (32, 64, 128, 256), **settings)
