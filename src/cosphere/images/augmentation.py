"""Random views of training images, and the published presets of preprocessing and augmentation."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosphere._types import Floats
from cosphere.checks import check_choice, check_number
from cosphere.errors import SettingsError, did_you_mean
from cosphere.images import colours
from cosphere.images.crops import DRAWS as _CROP_DRAWS
from cosphere.images.crops import crop_batch, random_part
from cosphere.images.draws import uniforms
from cosphere.images.geometry import resize
from cosphere.images.modes import Pixels
from cosphere.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, Triple
from cosphere.images.settings import PlainSettings

PresetName = Literal["sec", "normsoftmax", "none", "simclr-cifar", "simclr-cifar100", "simclr-224"]
CIFAR_MEAN: Triple = (0.4914, 0.4822, 0.4465)
CIFAR_STD: Triple = (0.2023, 0.1994, 0.2010)
CIFAR100_MEAN: Triple = (0.5071, 0.4867, 0.4408)
CIFAR100_STD: Triple = (0.2675, 0.2565, 0.2761)


class _Preset(NamedTuple):
    """What sets a preset apart."""

    crop: Literal["part", "square", "centre"]
    """A random part of the image, resized; a random square as it is; the centre, unchanged."""
    margin: float
    """Side before the crop over the side after it."""
    values: Mapping[str, Any] = {}
    """Settings that it has instead of the usual ones."""
    batched: bool = False
    """Whether colours change after a batch was made, each image by its own amounts and in an order of its own (SimCLR)."""
    squash: bool = False
    """Whether both sides are resized to one length."""
    scale: tuple[Triple, Triple] | None = None
    """Mean and standard deviation of its data set, for networks with random weights."""


_SIMCLR = {"color_probability": 0.8, "grayscale": 0.2}
_PRESETS: dict[str, _Preset] = {
    "sec": _Preset("part", 256 / 227),
    "normsoftmax": _Preset("square", 256 / 224, squash=True),
    "none": _Preset("centre", 256 / 224),
    "simclr-cifar": _Preset(
        "part",
        1.0,
        {"crop_scale": (0.2, 1.0), "color_jitter": 0.4, "hue": 0.1, **_SIMCLR},
        batched=True,
        squash=True,
        scale=(CIFAR_MEAN, CIFAR_STD),
    ),
    "simclr-224": _Preset(
        "part",
        256 / 224,
        {"crop_scale": (0.08, 1.0), "color_jitter": 0.8, "hue": 0.2, "blur": 0.5, **_SIMCLR},
        batched=True,
    ),
}
_PRESETS["simclr-cifar100"] = _PRESETS["simclr-cifar"]._replace(scale=(CIFAR100_MEAN, CIFAR100_STD))
_LATER = {"hue": 0.0, "blur": 0.0, "color_probability": 1.0}
"""Settings that the first presets did not have, with the values that leave those as they were."""
_COLOURS = ("color_jitter", "hue", "color_probability", "grayscale", "blur")
_IDLE: dict[str, tuple[str, ...]] = {
    "part": (),
    "square": ("crop_scale", "crop_ratio"),
    "centre": ("crop_scale", "crop_ratio", "flip", "rotation", *_COLOURS),
}
"""Settings that a kind of crop ignores."""


def _own(usual: Any) -> Any:
    """A field that takes the preset's own value where none is given: the usual one unless the preset has another."""
    return field(default=None, metadata={"usual": usual})


@dataclass(frozen=True, kw_only=True)
class Augmentation(PlainSettings):
    """Random crops and colour changes of training images. All randomness comes from the seed of each view.

    A setting that is not given takes the value of the preset.

    Attributes:
        preset: "sec" resizes a random part of the image (Zhang 2020), "normsoftmax" takes a random square without
            resizing it (Zhai & Wu 2019), "none" takes the centre crop unchanged. "simclr-cifar" and "simclr-224" resize a random
            part and change colours as SimCLR does (Chen et al. 2020): brightness, contrast, saturation and hue in random order,
            then gray, then, for "simclr-224", blur. "simclr-cifar100" differs from "simclr-cifar" in :func:`own_scale` alone.
        crop_scale: smallest and largest area of a crop as a share of the image, in (0, 1]; not for preset "normsoftmax".
        crop_ratio: smallest and largest aspect ratio (width / height) of a crop; not for preset "normsoftmax".
        flip: probability of a horizontal flip. Set 0 for text, stamps and other images with a fixed side.
        rotation: largest rotation in degrees, in either direction. Corners are filled with the mean colour.
        color_jitter: in [0, 1); brightness, contrast and saturation each change by up to this share.
        hue: in [0, 0.5]; the hue turns by up to this share of the colour circle, in either direction.
        color_probability: probability that a view gets ``color_jitter`` and ``hue``.
        grayscale: probability of conversion to grayscale.
        blur: probability of a Gaussian blur with a standard deviation of 0.1 to 2 pixels and a kernel of a tenth of the side.
    """

    preset: PresetName = "sec"
    crop_scale: tuple[float, float] = _own((0.16, 1.0))
    crop_ratio: tuple[float, float] = _own((3 / 4, 4 / 3))
    flip: float = _own(0.5)
    rotation: float = _own(0.0)
    color_jitter: float = _own(0.0)
    hue: float = _own(0.0)
    color_probability: float = _own(1.0)
    grayscale: float = _own(0.0)
    blur: float = _own(0.0)

    def __post_init__(self) -> None:
        check_choice(self._name("preset"), self.preset, get_args(PresetName))
        own = {
            one.name: self._kind.values.get(one.name, one.metadata["usual"])
            for one in dataclasses.fields(self)
            if one.metadata
        }
        self._set(**{name: value for name, value in own.items() if getattr(self, name) is None})
        self._set(crop_scale=self._numbers("crop_scale", 2), crop_ratio=self._numbers("crop_ratio", 2))
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise SettingsError(
                f"augmentation.crop_scale {self.crop_scale} must rise within (0, 1], such as (0.16, 1.0)."
            )
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise SettingsError(f"augmentation.crop_ratio {self.crop_ratio} must rise above 0, such as (0.75, 1.33).")
        for name in ("flip", "grayscale", "blur", "color_probability"):
            self._set(**{name: check_number(self._name(name), getattr(self, name), at_least=0, at_most=1)})
        self._set(
            rotation=check_number(self._name("rotation"), self.rotation, at_least=0, at_most=180),
            color_jitter=check_number(self._name("color_jitter"), self.color_jitter, at_least=0, below=1),
            hue=check_number(self._name("hue"), self.hue, at_least=0, at_most=0.5),
        )
        self._refuse_idle_settings(own)

    @property
    def _kind(self) -> _Preset:
        return _PRESETS[self.preset]

    def _refuse_idle_settings(self, own: Mapping[str, Any]) -> None:
        """Reject settings that the chosen preset ignores."""
        for name in _IDLE[self._kind.crop]:
            value = getattr(self, name)
            if value not in (own[name], 0):  # 0 is what "none" does
                raise SettingsError(
                    f"augmentation.{name} {value} has no effect with preset {self.preset!r}; leave it out or use "
                    "preset 'sec'."
                )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON. Settings of later versions that change nothing are left out, so that old names stay what they were."""
        return {
            name: value
            for name, value in super().as_dict().items()
            if self._kind.batched or name not in _LATER or value != _LATER[name]
        }

    def pixels(self, image: Pixels, preprocessing: Preprocessing, seed: int) -> Tensor:
        """Return one training view of an image.

        Args:
            image: (H, W, 3) uint8 of any size, or already :meth:`Preprocessing.resized`; both give the same view.
            preprocessing: sizes of the resized image and of the view.
            seed: any integer. The same seed gives the same view, in any process and in any order.

        Returns:
            (3, size, size) uint8.

        Raises:
            SizeError: ``image`` has another shape or dtype.
        """
        prepared = self.prepared(image, preprocessing, seed)
        return self.finished(prepared[None], preprocessing, [seed])[0] if self._kind.batched else prepared

    def prepared(self, image: Pixels, preprocessing: Preprocessing, seed: int) -> Tensor:
        """What of :meth:`pixels` is done image by image.

        SimCLR's presets leave the colours to :meth:`finished`, and the crop
        too where all images have one size.

        Args:
            image: as for :meth:`pixels`.
            preprocessing: as for :meth:`pixels`.
            seed: as for :meth:`pixels`.

        Returns:
            (3, size, size) uint8.

        Raises:
            SizeError: ``image`` has another shape or dtype.
        """
        if self._kind.crop == "centre":
            return preprocessing.pixels(image)
        pixels = preprocessing.resized_planes(image)
        if self._crops_batches(preprocessing):
            return pixels
        # One generator per view rather than torch's: no global state changes, and views do not depend on torch's version.
        draw = random.Random(int(seed))
        if self.rotation:
            pixels = _turned(pixels, draw.uniform(-self.rotation, self.rotation))
        pixels = self._crop(pixels, preprocessing.size, draw)
        if draw.random() < self.flip:
            pixels = pixels.flip(-1)
        return (pixels if self._kind.batched else self._recoloured(pixels, draw)).contiguous()

    @torch.no_grad()
    def finished(
        self, pixels: Tensor, preprocessing: Preprocessing, seeds: Sequence[int] | NDArray[np.integer]
    ) -> Tensor:
        """The rest of :meth:`pixels`, for a batch of :meth:`prepared` images. Presets that leave nothing to it return the batch.

        Args:
            pixels: (B, 3, S, S) uint8 on any device. On a CPU an image gets the same pixels whatever batch it is in.
            preprocessing: that of :meth:`prepared`.
            seeds: (B,) integers, those of :meth:`prepared`.

        Returns:
            (B, 3, S, S) uint8 on the same device.
        """
        if not self._kind.batched or not len(pixels):
            return pixels
        images = pixels.to(torch.float32)
        if self._crops_batches(preprocessing):
            images = crop_batch(images, seeds, scale=self.crop_scale, ratio=self.crop_ratio, flip=self.flip)
        self._recolour(images, uniforms(seeds, _CROP_DRAWS + 12)[:, _CROP_DRAWS:])
        return images.round_().clamp_(0, colours.WHITE).to(torch.uint8)

    def _crops_batches(self, preprocessing: Preprocessing) -> bool:
        """Whether all prepared images are squares of the final size, so that a batch is cropped at once."""
        whole = preprocessing.resize == preprocessing.size and preprocessing.resize_mode == "squash"
        return self._kind.batched and whole and not self.rotation

    def _recolour(self, images: Tensor, table: Floats) -> None:
        """SimCLR's colours, in place.

        Args:
            images: (B, 3, S, S) float.
            table: (B, 12) in [0, 1): whether colours change, four amounts, four places in the order, gray, whether and how far to blur.
        """
        spread = np.array([self.color_jitter] * 3 + [self.hue])
        amounts = torch.from_numpy((2 * table[:, 1:5] - 1) * spread).to(images)[:, :, None, None, None]
        order = table[:, 5:9].argsort(axis=1)
        changes = [
            lambda some, rows: colours.brightness(some, 1 + amounts[rows, 0]),
            lambda some, rows: colours.contrast(some, 1 + amounts[rows, 1]),
            lambda some, rows: colours.saturation(some, 1 + amounts[rows, 2]),
            lambda some, rows: colours.hue(some, amounts[rows, 3]),
        ]
        colours.in_any_order(images, np.flatnonzero(table[:, 0] < self.color_probability), order, changes)
        gray = np.flatnonzero(table[:, 9] < self.grayscale)
        if len(gray):
            rows = torch.from_numpy(gray).to(images.device)
            images[rows] = colours.gray(images[rows]).expand(-1, 3, -1, -1)
        blurred = np.flatnonzero(table[:, 10] < self.blur)
        if len(blurred):
            rows = torch.from_numpy(blurred).to(images.device)
            images[rows] = colours.blur(images[rows], 0.1 + 1.9 * table[blurred, 11])

    def _crop(self, pixels: Tensor, size: int, draw: random.Random) -> Tensor:
        _, height, width = pixels.shape
        if self._kind.crop == "square":
            top, left = draw.randint(0, height - size), draw.randint(0, width - size)
            return pixels[:, top : top + size, left : left + size]
        top, left, tall, wide = random_part(height, width, self.crop_scale, self.crop_ratio, draw)
        return resize(pixels[:, top : top + tall, left : left + wide], size, size)

    def _recoloured(self, pixels: Tensor, draw: random.Random) -> Tensor:
        if not any((self.color_jitter, self.hue, self.grayscale, self.blur)):
            return pixels
        from torchvision.transforms.v2 import (
            functional as T,
        )  # here, because it loads slowly and only training needs it

        # A probability of 1 draws nothing: the numbers that follow stay those of versions that had none.
        change = self.color_probability == 1 or draw.random() < self.color_probability
        if self.color_jitter and change:
            for adjust in (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation):
                pixels = adjust(pixels, draw.uniform(1 - self.color_jitter, 1 + self.color_jitter))
        if self.hue and change:
            pixels = T.adjust_hue(pixels, draw.uniform(-self.hue, self.hue))
        if self.grayscale and draw.random() < self.grayscale:
            pixels = T.rgb_to_grayscale(pixels, num_output_channels=3)
        if self.blur and draw.random() < self.blur:
            sigma = np.array([draw.uniform(0.1, 2)])
            pixels = colours.blur(pixels[None].float(), sigma)[0].round_().to(torch.uint8)
        return pixels


def own_scale(name: str) -> tuple[Triple, Triple] | None:
    """Mean and standard deviation that a preset gives to networks with random weights; None where the backbone's are taken.

    >>> own_scale("simclr-cifar")
    ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201))
    """
    return _PRESETS[name].scale if name in _PRESETS else None


def preset(
    name: str,
    size: int = 224,
    *,
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
    channels: Literal["rgb", "bgr"] = "rgb",
    scale: float = 1.0,
) -> tuple[Preprocessing, Augmentation]:
    """A published combination of preprocessing and augmentation, at any size.

    Args:
        name: "sec" (shorter side to size x 256 / 227, random resized crop; Zhang 2020), "normsoftmax" (both sides to
            size x 256 / 224, random square; Zhai & Wu 2019), "none" (shorter side to size x 256 / 224, no
            augmentation), "simclr-cifar" (both sides to size, SimCLR's crops and colours on CIFAR without blur),
            "simclr-cifar100" (the same), or "simclr-224" (shorter side to size x 256 / 224, those on ImageNet; Chen et al. 2020).
        size: side of the network input, in pixels.
        mean: mean that the backbone expects; see :class:`Preprocessing`.
        std: standard deviation that the backbone expects.
        channels: channel order that the backbone expects.
        scale: value of white that the backbone expects.

    Raises:
        SettingsError: the name is unknown or a number is out of range.

    >>> preprocessing, augmentation = preset("sec", 227)
    >>> preprocessing.resize, preprocessing.resize_mode, augmentation.crop_scale
    (256, 'shorter', (0.16, 1.0))
    """
    if name not in get_args(PresetName):
        raise SettingsError(f"unknown preset {name!r}. {did_you_mean(name, get_args(PresetName))}")
    chosen: PresetName = name  # type: ignore[assignment]  # checked just above
    kind = _PRESETS[chosen]
    preprocessing = Preprocessing(
        size=size,
        resize=round(size * kind.margin),
        resize_mode="squash" if kind.squash else "shorter",
        mean=mean,
        std=std,
        channels=channels,
        scale=scale,
    )
    return preprocessing, Augmentation(preset=chosen)


def _turned(pixels: Tensor, degrees: float) -> Tensor:
    """Rotate about the centre and fill the corners with the mean colour.

    Rotates the difference from the mean, because torchvision blends the border of the corners with black.
    """
    from torchvision.transforms.v2 import functional as T

    mean = pixels.float().mean(dim=(1, 2), keepdim=True)
    turned: Tensor = T.rotate(pixels.float() - mean, degrees, interpolation=T.InterpolationMode.BILINEAR)
    return (turned + mean).round_().clamp_(0, 255).to(torch.uint8)
