"""MobileFaceNet: bottlenecks with PReLU, made for faces of 112 px.

Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices", CCBR 2018, table 1.
The network ends with the 1x1 convolution to 512 channels, 7 x 7 positions for 112 px. Published embeddings come from a global
depth-wise convolution, a linear layer and a batch norm: the linear head with ``pooling: depthwise``, ``norm: none``, ``bias: false``
and ``after: batch``.

Several networks go by this name. ``mobilefacenet`` is the paper's table: 1.0 million parameters with a head of 128 dimensions, as in
TreB1eN's InsightFace_Pytorch and in wujiyang's Face_Pytorch. ``mobilefacenet_mbf`` is what InsightFace's arcface_torch calls "mbf": twice
the channels between bottlenecks of the same inner width, 2.1 million parameters with 512 dimensions. ``_050`` and ``_025`` scale the
paper's channels, for CPUs. Names are arcface_torch's; files of the other two load too, because they hold the same layers in the
same order. Other variants (foamliu's, with another table) are refused by shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from timm.models._builder import build_model_with_cfg
from timm.models._registry import generate_default_cfgs, register_model
from torch import Tensor, nn

from cosphere.models.networks.config import FACE_INPUT, NetworkCfg
from cosphere.models.networks.conventions import Stepwise

_VARIANTS = ("mobilefacenet", "mobilefacenet_050", "mobilefacenet_025", "mobilefacenet_mbf")

default_cfgs = generate_default_cfgs(
    {name: NetworkCfg(**FACE_INPUT, first_conv="layers.0.layers.0", classifier="features") for name in _VARIANTS}
)


class _Widths(NamedTuple):
    """Channels of a variant."""

    stem: int
    """Of the first convolution and of the first stage."""
    groups: int
    """Of the second convolution, which is depth-wise where they equal ``stem``."""
    wide: int
    """Of the second and third stage."""
    inner: tuple[int, int, int, int, int]
    """Inside the bottlenecks of layers 2, 3, 4, 5 and 7; the one of layer 6 has twice that of layer 5."""
    last: int
    """Of the feature map."""

    def scaled(self, share: float) -> _Widths:
        """All channels times a share."""
        stem, groups, wide, last = (round(share * one) for one in (self.stem, self.groups, self.wide, self.last))
        a, b, c, d, e = (round(share * one) for one in self.inner)
        return _Widths(stem, groups, wide, (a, b, c, d, e), last)


_PAPER = _Widths(stem=64, groups=64, wide=128, inner=(128, 128, 256, 256, 256), last=512)
_MBF = _PAPER._replace(stem=128, wide=256)


class _Layer(nn.Module):
    """Convolution, batch norm, and PReLU unless ``linear``."""

    def __init__(
        self, inputs: int, outputs: int, size: int = 1, *, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as arcface_torch
        parts: list[nn.Module] = [convolution, nn.BatchNorm2d(outputs)]
        self.layers = nn.Sequential(*parts, *([] if linear else [nn.PReLU(outputs)]))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class _Bottleneck(nn.Module):
    """Widen, filter each channel by itself, narrow; with a shortcut where the size stays."""

    def __init__(self, inputs: int, outputs: int, inner: int, *, stride: int = 1) -> None:
        super().__init__()
        self.residual = stride == 1
        self.layers = nn.Sequential(
            _Layer(inputs, inner),
            _Layer(inner, inner, 3, stride=stride, groups=inner),
            _Layer(inner, outputs, linear=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class _Repeated(nn.Module):
    """Bottlenecks of one size."""

    def __init__(self, width: int, inner: int, count: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_Bottleneck(width, width, inner) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class MobileFaceNet(Stepwise):
    """MobileFaceNet. (B, 3, H, W) float in [-1, 1] -> feature map (B, 512, about H/16, about W/16) at full width."""

    HEAD: Mapping[str, str] = {
        "features.layers.0.layers.0": "pool",
        "features.layers.0.layers.1": "pool.norm",
        "features.layers.2": "linear",
        "features.layers.3": "output",
    }

    def __init__(self, widths: _Widths, num_classes: int = 0) -> None:
        """Create the network.

        Args:
            widths: channels.
            num_classes: of a classifier on the averaged features, which timm's own users may want; 0 for none.
        """
        super().__init__()
        stem, wide, inner = widths.stem, widths.wide, widths.inner
        self.layers = nn.ModuleList(
            [
                _Layer(3, stem, 3, stride=2),
                _Layer(stem, stem, 3, groups=widths.groups),
                _Bottleneck(stem, stem, inner[0], stride=2),
                _Repeated(stem, inner[1], 4),
                _Bottleneck(stem, wide, inner[2], stride=2),
                _Repeated(wide, inner[3], 6),
                _Bottleneck(wide, wide, 2 * inner[3], stride=2),
                _Repeated(wide, inner[4], 2),
            ]
        )
        self.conv_sep = _Layer(wide, widths.last)
        stages = [("layers.1", stem), ("layers.3", stem), ("layers.5", wide), ("conv_sep", widths.last)]
        self._describe(stages, first=2, num_classes=num_classes)

    def steps(self) -> dict[str, nn.Module]:
        """The modules by name, in order."""
        return {**{f"layers.{place}": layer for place, layer in enumerate(self.layers)}, "conv_sep": self.conv_sep}

    def own_names(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors of a file by arcface_torch's names, where it holds the same layers in the same order by other names."""
        layers = _without_counters(self.state_dict())
        norm = [f".{kind}" for kind in ("weight", "bias", "running_mean", "running_var")]
        parts = [
            (name, norm if name in ("features.layers.0.layers.1", "features.layers.3") else norm[:1])
            for name in self.HEAD
        ]
        ours = [*layers, *(name + kind for name, kinds in parts for kind in kinds)]
        theirs = _without_counters(tensors)
        kinds = [[name.rpartition(".")[2] for name in names] for names in (ours, theirs)]
        if "conv_sep.layers.0.weight" in tensors or kinds[0] != kinds[1]:
            return tensors  # what does not fit is named when it is loaded
        return {name: tensors[their_name] for name, their_name in zip(ours, theirs, strict=True)}

    def head_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published head: the global depth-wise convolution with its batch norm, the linear layer, the batch norm."""
        head = self._head(tensors)
        filters, linear = head.get("pool.weight"), head.get("linear.weight")
        if filters is not None and filters.ndim == 4:  # (C, 1, H, W)
            head["pool.weight"] = filters.flatten(1)
        if linear is not None and linear.ndim == 4:  # Face_Pytorch's linear layer is a 1x1 convolution
            head["linear.weight"] = linear.flatten(1)
        return head


def _without_counters(names: Mapping[str, Tensor]) -> list[str]:
    return [name for name in names if not name.endswith("num_batches_tracked")]


def _made(name: str, pretrained: bool, widths: _Widths, settings: Mapping[str, Any]) -> MobileFaceNet:
    unknown: Any = ("in_chans", "global_pool", "img_size")  # what timm passes to every network
    net: MobileFaceNet = build_model_with_cfg(
        MobileFaceNet, name, pretrained, kwargs_filter=unknown, widths=widths, **{"num_classes": 0, **settings}
    )
    return net


@register_model
def mobilefacenet(pretrained: bool = False, **settings: Any) -> MobileFaceNet:
    """The paper's network."""
    return _made("mobilefacenet", pretrained, _PAPER, settings)


@register_model
def mobilefacenet_050(pretrained: bool = False, **settings: Any) -> MobileFaceNet:
    """The paper's network with half of the channels."""
    return _made("mobilefacenet_050", pretrained, _PAPER.scaled(0.5), settings)


@register_model
def mobilefacenet_025(pretrained: bool = False, **settings: Any) -> MobileFaceNet:
    """The paper's network with a quarter of the channels."""
    return _made("mobilefacenet_025", pretrained, _PAPER.scaled(0.25), settings)


@register_model
def mobilefacenet_mbf(pretrained: bool = False, **settings: Any) -> MobileFaceNet:
    """InsightFace's "mbf"."""
    return _made("mobilefacenet_mbf", pretrained, _MBF, settings)
