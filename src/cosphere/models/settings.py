"""What a model is made of, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cosphere.checks import MOST_DIM, check_choice, check_number, check_switch, check_whole
from cosphere.errors import SettingsError
from cosphere.fields import convert, make_plain
from cosphere.files import path_of
from cosphere.models.heads import HeadSettings, NormName, PoolingName, check_head
from cosphere.models.stems import StemName


@dataclass(frozen=True, kw_only=True)
class EmbedderSettings:
    """What a model is made of.

    Attributes:
        backbone: a timm model, or one of ours: "bn_inception", "iresnet18" (34, 50, 100), "mobilefacenet" (_050, _025, _mbf); small
            ResNets for images of 32 pixels ("resnet8_cifar", "resnet8x4_cifar", "resnet14_cifar", "resnet20_cifar",
            "resnet18_quarter", "resnet18_half").
        weights: "imagenet", "none" for random ones, the path of a .pth or .safetensors file, or the folder of a run or bundle to
            fine-tune: its backbone is taken, and its head too if that has the same settings. A published file of a face network
            gives its head where pooling, norm, bias and `after` are the published ones.
        stem: what comes before the first stage: the backbone's "own", or for a ResNet "cifar", a 3 x 3 convolution without pooling,
            for images of 32 pixels.
        cut: divide every first weight of backbone and head by it, so that embeddings start short (cut-initialisation, Draganov et al.
            2025, who take 3 for SimCLR); for random weights.
        head: "linear" (SEC and NormSoftmax; its settings `after`, `weight_norm` and `cut` change the linear layer), "mlp" (a hidden
            layer, for contrastive self-supervision), "groups" (parts that are trained as embeddings of their own, as HDC and A-BIER do).
        head_settings: settings of that head alone, as `hidden: 2048`; those left out keep their defaults.
        pooling: how positions become one vector: "avg", "max", "avg+max" (their sum), "concat" (both, twice as wide), "gem",
            a transformer's class "token", "flatten" (all positions side by side, as iResNet) or "depthwise" (a learned sum and batch
            norm, as MobileFaceNet).
        norm: before the linear layer: "batch" (SEC), "layer" (NormSoftmax; for bits), "none".
        dim: D, numbers in an embedding; 0 leaves the linear layer out and takes the backbone's width.
        bias: whether the linear layer has one; that of the official NormSoftmax code has none.
    """

    backbone: str = "tf_efficientnet_lite0"
    weights: Literal["imagenet", "none"] | str = "imagenet"
    stem: StemName = "own"
    cut: float = 1.0
    head: str = "linear"
    head_settings: dict[str, Any] = field(default_factory=dict)
    pooling: PoolingName = "avg"
    norm: NormName = "batch"
    dim: int = 512
    bias: bool = True

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("backbone", "head"):
            object.__setattr__(self, name, convert(f"model.{name}", str, getattr(self, name)))
        object.__setattr__(self, "head_settings", convert("model.head_settings", dict, self.head_settings))
        object.__setattr__(self, "weights", str(self.weights))  # a Path too: the bundle's JSON holds text
        check_choice("model.stem", self.stem, get_args(StemName))
        object.__setattr__(self, "cut", check_number("model.cut", self.cut, above=0))
        if self.cut != 1 and self.weights != "none":
            raise SettingsError(
                f"model.cut {self.cut:g} is for random weights; it would spoil those of {self.weights!r}. Set model.weights none, or "
                "leave model.cut out."
            )
        check_choice("model.pooling", self.pooling, get_args(PoolingName))
        check_choice("model.norm", self.norm, get_args(NormName))
        check_whole("model.dim", self.dim, least=0, most=MOST_DIM)
        check_switch("model.bias", self.bias)
        check_head(self.head, self.head_settings)
        if self.weights.startswith("~"):
            object.__setattr__(self, "weights", str(path_of(self.weights)))

    @property
    def shared(self) -> HeadSettings:
        """The settings that every head understands."""
        return HeadSettings(dim=self.dim, pooling=self.pooling, norm=self.norm, bias=self.bias)
