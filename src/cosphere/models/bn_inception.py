"""BN-Inception, the network of the SEC paper and of many metric-learning tables, as a table of its ten blocks.

Ioffe & Szegedy, "Batch Normalization", 2015 (figure 5 and its table). The parameter names and every layer's shape are
those of Cadene's ``pretrainedmodels`` port of the Caffe model, so that its file ``bn_inception-52deb4733.pth`` loads.
The classifier (``last_linear``) is left out. The input is BGR, 0 to 255, minus the mean colour.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

WIDTH = 1024
"""Channels of the feature map."""

WEIGHTS_FILE = "bn_inception-52deb4733.pth"
WEIGHTS_URL = f"http://data.lip6.fr/cadene/pretrainedmodels/{WEIGHTS_FILE}"

CLASSIFIER = "last_linear"
"""Name of the layer of the published file that the feature extractor has no use for."""


class _Block(NamedTuple):
    """Channels of one inception block; 0 means that the block has no such branch."""

    name: str
    one: int  # 1x1
    reduce: int  # 1x1 before the 3x3
    three: int  # 3x3
    double_reduce: int  # 1x1 before the two 3x3
    double: int  # each of the two 3x3
    pool: str  # "avg" or "max"
    projection: int  # 1x1 after the pooling; 0 in the blocks that halve the map, whose pooled input passes unchanged

    @property
    def stride(self) -> int:
        return 1 if self.projection else 2


_BLOCKS = (
    _Block("3a", 64, 64, 64, 64, 96, "avg", 32),
    _Block("3b", 64, 64, 96, 64, 96, "avg", 64),
    _Block("3c", 0, 128, 160, 64, 96, "max", 0),
    _Block("4a", 224, 64, 96, 96, 128, "avg", 128),
    _Block("4b", 192, 96, 128, 96, 128, "avg", 128),
    _Block("4c", 160, 128, 160, 128, 160, "avg", 128),
    _Block("4d", 96, 128, 192, 160, 192, "avg", 128),
    _Block("4e", 0, 128, 192, 192, 256, "max", 0),
    _Block("5a", 352, 192, 320, 160, 224, "avg", 128),
    _Block("5b", 352, 192, 320, 192, 224, "max", 128),
)


class BNInception(nn.Module):
    """The convolutional part of BN-Inception. (B, 3, H, W) -> (B, 1024, about H/32, about W/32), all values >= 0.

    The layers lie flat in the module, not block by block: their names are the contract with the published file.
    """

    def __init__(self) -> None:
        super().__init__()
        self._convolution("conv1_7x7_s2", 3, 64, size=7, stride=2)
        self._convolution("conv2_3x3_reduce", 64, 64)
        self._convolution("conv2_3x3", 64, 192, size=3)
        self.halve = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        # Caffe counts the zeros at the border into the average, and so must we.
        self.smooth = nn.AvgPool2d(3, stride=1, padding=1, ceil_mode=True, count_include_pad=True)
        self.spread = nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True)
        width = 192
        for block in _BLOCKS:
            width = self._add(block, width)

    def forward(self, images: Tensor) -> Tensor:
        """Feature map. (B, 3, H, W) float, BGR 0..255 minus mean -> (B, 1024, H', W'); 7 x 7 for 224 and 227 pixels."""
        x: Tensor = self.halve(self._apply_layer("conv1_7x7_s2", images))
        x = self.halve(self._apply_layer("conv2_3x3", self._apply_layer("conv2_3x3_reduce", x)))
        for block in _BLOCKS:
            x = self._run(block, x)
        return x

    def _convolution(self, name: str, inputs: int, outputs: int, *, size: int = 1, stride: int = 1) -> int:
        convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.add_module(name, convolution)
        # Cadene's port writes momentum 0.9. That is Caffe's 0.9 of the *old* statistics, which torch calls 0.1.
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs, eps=1e-5, momentum=0.1))
        return outputs

    def _add(self, block: _Block, inputs: int) -> int:
        """Make the layers of one block; the channels that come out."""
        name = f"inception_{block.name}"
        if block.one:
            self._convolution(f"{name}_1x1", inputs, block.one)
        self._convolution(f"{name}_3x3_reduce", inputs, block.reduce)
        self._convolution(f"{name}_3x3", block.reduce, block.three, size=3, stride=block.stride)
        self._convolution(f"{name}_double_3x3_reduce", inputs, block.double_reduce)
        self._convolution(f"{name}_double_3x3_1", block.double_reduce, block.double, size=3)
        self._convolution(f"{name}_double_3x3_2", block.double, block.double, size=3, stride=block.stride)
        if block.projection:
            self._convolution(f"{name}_pool_proj", inputs, block.projection)
        return block.one + block.three + block.double + (block.projection or inputs)

    def _apply_layer(self, name: str, x: Tensor) -> Tensor:
        found: Tensor = self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x))
        return nn.functional.relu(found, inplace=True)

    def _run(self, block: _Block, x: Tensor) -> Tensor:
        name = f"inception_{block.name}"
        branches = [self._apply_layer(f"{name}_1x1", x)] if block.one else []
        branches.append(self._apply_layer(f"{name}_3x3", self._apply_layer(f"{name}_3x3_reduce", x)))
        double = self._apply_layer(f"{name}_double_3x3_1", self._apply_layer(f"{name}_double_3x3_reduce", x))
        branches.append(self._apply_layer(f"{name}_double_3x3_2", double))
        if block.projection:
            pooled = self.smooth(x) if block.pool == "avg" else self.spread(x)
            branches.append(self._apply_layer(f"{name}_pool_proj", pooled))
        else:
            # On an odd side the pooling would give one place fewer than the convolutions. A border of zeros mends that
            # and changes nothing else: the values are >= 0, and the published sizes never get here with an odd side.
            branches.append(self.halve(nn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))))
        return torch.cat(branches, 1)
