"""BN-Inception, the network of the SEC paper and of many metric-learning tables, as a table of its ten blocks.

Ioffe & Szegedy, "Batch Normalization", 2015 (figure 5 and its table). The parameter names and every layer's shape are
those of Cadene's ``pretrainedmodels`` port of the Caffe model, so that its file ``bn_inception-52deb4733.pth`` loads.
The input is BGR, 0 to 255, minus the mean colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from timm.models._builder import build_model_with_cfg
from timm.models._registry import generate_default_cfgs, register_model
from torch import Tensor, nn

from cosphere.models.networks.config import NetworkCfg
from cosphere.models.weights import fit_weights

WIDTH = 1024
"""Channels of the feature map."""

WEIGHTS_FILE = "bn_inception-52deb4733.pth"

CLASSIFIER = "last_linear"
"""Name of the classifier in the published file."""

default_cfgs = generate_default_cfgs(
    {
        "bn_inception": NetworkCfg(
            url=f"http://data.lip6.fr/cadene/pretrainedmodels/{WEIGHTS_FILE}",
            # The means of SEC's code. Other ports use (104, 117, 128) in BGR order: red differs by 5 levels.
            mean=(123.0, 117.0, 104.0),
            std=(1.0, 1.0, 1.0),
            channels="bgr",
            scale=255.0,
            first_conv="conv1_7x7_s2",
            classifier=CLASSIFIER,
            pool_size=(7, 7),
        )
    }
)


class _Block(NamedTuple):
    """Channels of one inception block; 0 means that it has no such branch."""

    name: str
    one: int  # 1x1
    reduce: int  # 1x1 before the 3x3
    three: int  # 3x3
    double_reduce: int  # 1x1 before the two 3x3
    double: int  # each of the two 3x3
    pool: str  # "avg" or "max"
    projection: int  # 1x1 after the pooling; 0 in the blocks that halve the map, which pass their pooled input on

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


# Levels for heads at several depths, as timm counts them: the last layer before each halving of the map.
_STAGES = ("conv1_7x7_s2", "conv2_3x3", "inception_3b", "inception_4d", "inception_5b")


class BNInception(nn.Module):
    """BN-Inception. (B, 3, H, W) float, BGR 0..255 minus mean -> (B, num_classes), or (B, 1024) where that is 0.

    The layers lie flat in the module, not block by block: their names are the contract with the published file.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self._convolution("conv1_7x7_s2", 3, 64, size=7, stride=2)
        self._convolution("conv2_3x3_reduce", 64, 64)
        self._convolution("conv2_3x3", 64, 192, size=3)
        self.halve = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        # Caffe includes the zero padding in the average, and the weights were trained with that.
        self.smooth = nn.AvgPool2d(3, stride=1, padding=1, ceil_mode=True, count_include_pad=True)
        self.spread = nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True)
        width = 192
        widths = {"conv1_7x7_s2": 64, "conv2_3x3": width}
        for block in _BLOCKS:
            width = widths[f"inception_{block.name}"] = self._add(block, width)
        self.feature_info = [
            {"num_chs": widths[name], "reduction": 2 ** (position + 1), "module": name}
            for position, name in enumerate(_STAGES)
        ]
        self.num_features = self.head_hidden_size = width
        self.reset_classifier(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, num_classes), or pooled features (B, 1024) without a classifier."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Feature map, all values >= 0. (B, 3, H, W) -> (B, 1024, about H/32, about W/32); 7 x 7 for 224 and 227 pixels."""
        features, _ = self.forward_intermediates(images, [])
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, 1024, H', W') -> logits, or with ``pre_logits`` the average over positions (B, 1024)."""
        pooled = features.mean((2, 3))
        return pooled if pre_logits else cast("Tensor", self.last_linear(pooled))

    def forward_intermediates(
        self, images: Tensor, indices: Sequence[int] = range(len(_STAGES)), **_: Any
    ) -> tuple[Tensor, list[Tensor]]:
        """The feature map, and the maps of the chosen stages from shallow to deep.

        Args:
            images: (B, 3, H, W).
            indices: positions in ``feature_info``.
            **_: timm's further options; maps are (B, C, H', W') whatever they say.
        """
        names = [_STAGES[index] for index in indices]
        maps: list[Tensor] = []

        def taken(name: str, x: Tensor) -> Tensor:
            if name in names:
                maps.append(x)
            return x

        x = self.halve(taken("conv1_7x7_s2", self._apply_layer("conv1_7x7_s2", images)))
        x = self._apply_layer("conv2_3x3", self._apply_layer("conv2_3x3_reduce", x))
        x = self.halve(taken("conv2_3x3", x))
        for block in _BLOCKS:
            x = taken(f"inception_{block.name}", self._run(block, x))
        return x, maps

    def get_classifier(self) -> nn.Module:
        """The classifier; the identity where there is none."""
        return self.last_linear

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier; 0 classes take it away."""
        self.num_classes = num_classes
        self.last_linear = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def _convolution(self, name: str, inputs: int, outputs: int, *, size: int = 1, stride: int = 1) -> int:
        convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.add_module(name, convolution)
        # Cadene's port says momentum 0.9, which is Caffe's weight of the *old* statistics: torch calls that 0.1.
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs, eps=1e-5, momentum=0.1))
        return outputs

    def _add(self, block: _Block, inputs: int) -> int:
        """Create the layers of one block. Returns the number of channels of its output."""
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
        normed: Tensor = self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x))
        return nn.functional.relu(normed, inplace=True)

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
            # On an odd side the pooling would give one position fewer than the convolutions. A border of zeros corrects
            # that without changing a maximum, since values are >= 0. The published sizes never reach this with odd sides.
            branches.append(self.halve(nn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))))
        return torch.cat(branches, 1)


def _fitted(tensors: Mapping[str, Tensor], net: BNInception) -> dict[str, Tensor]:
    """The published tensors in the shapes of ``net``: the file holds batch-norm vectors as (1, C) and no counters.

    Raises:
        WeightsError: the file lacks a layer or has one too many, which timm would pass over in silence.
    """
    fit_weights(net, tensors, source=WEIGHTS_FILE, name="bn_inception", ignore=() if net.num_classes else (CLASSIFIER,))
    return net.state_dict()


@register_model
def bn_inception(pretrained: bool = False, **settings: Any) -> BNInception:
    """BN-Inception with Cadene's ImageNet weights, as ``timm.create_model("bn_inception")`` makes it."""
    unknown: Any = ("in_chans", "global_pool", "img_size")  # what timm passes to every network
    net: BNInception = build_model_with_cfg(
        BNInception, "bn_inception", pretrained, pretrained_filter_fn=_fitted, kwargs_filter=unknown, **settings
    )
    return net
