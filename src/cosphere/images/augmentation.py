"""Random views of training images, and the published presets of preprocessing and augmentation."""

from __future__ import annotations

import dataclasses
import math
import random
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from cosphere.checks import check_choice, check_number
from cosphere.errors import SettingsError, did_you_mean
from cosphere.images.geometry import resize
from cosphere.images.modes import Pixels
from cosphere.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, Triple
from cosphere.images.settings import PlainSettings

PresetName = Literal["sec", "normsoftmax", "none"]


@dataclass(frozen=True, kw_only=True)
class Augmentation(PlainSettings):
    """Random crops and colour changes of training images. All randomness comes from the seed of each view.

    Attributes:
        preset: "sec" resizes a random part of the image (Zhang 2020), "normsoftmax" takes a random square without
            resizing it (Zhai & Wu 2019), "none" takes the centre crop unchanged.
        crop_scale: smallest and largest area of a crop as a share of the image, in (0, 1]; preset "sec" only.
        crop_ratio: smallest and largest aspect ratio (width / height) of a crop; preset "sec" only.
        flip: probability of a horizontal flip. Set 0 for text, stamps and other images with a fixed side.
        rotation: largest rotation in degrees, in either direction. Corners are filled with the mean colour.
        color_jitter: in [0, 1); brightness, contrast and saturation each change by up to this share.
        grayscale: probability of conversion to grayscale.
    """

    preset: PresetName = "sec"
    crop_scale: tuple[float, float] = (0.16, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rotation: float = 0.0
    color_jitter: float = 0.0
    grayscale: float = 0.0

    def __post_init__(self) -> None:
        check_choice(self._name("preset"), self.preset, get_args(PresetName))
        self._set(crop_scale=self._numbers("crop_scale", 2), crop_ratio=self._numbers("crop_ratio", 2))
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise SettingsError(
                f"augmentation.crop_scale {self.crop_scale} must rise within (0, 1], such as (0.16, 1.0)."
            )
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise SettingsError(f"augmentation.crop_ratio {self.crop_ratio} must rise above 0, such as (0.75, 1.33).")
        for name in ("flip", "grayscale"):
            self._set(**{name: check_number(self._name(name), getattr(self, name), at_least=0, at_most=1)})
        self._set(
            rotation=check_number(self._name("rotation"), self.rotation, at_least=0, at_most=180),
            color_jitter=check_number(self._name("color_jitter"), self.color_jitter, at_least=0, below=1),
        )
        self._refuse_idle_settings()

    def _refuse_idle_settings(self) -> None:
        """Reject settings that the chosen preset ignores."""
        idle = {
            "sec": (),
            "normsoftmax": ("crop_scale", "crop_ratio"),
            "none": ("crop_scale", "crop_ratio", "flip", "rotation", "color_jitter", "grayscale"),
        }[self.preset]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in idle and value != field.default and value != 0:  # 0 is what "none" does
                raise SettingsError(
                    f"augmentation.{field.name} {value} has no effect with preset {self.preset!r}; leave it out or use "
                    "preset 'sec'."
                )

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
        if self.preset == "none":
            return preprocessing.pixels(image)
        pixels = preprocessing.resized_planes(image)
        # One generator per view rather than torch's: no global state changes, and views do not depend on torch's version.
        draw = random.Random(int(seed))
        if self.rotation:
            pixels = _turned(pixels, draw.uniform(-self.rotation, self.rotation))
        pixels = self._crop(pixels, preprocessing.size, draw)
        if draw.random() < self.flip:
            pixels = pixels.flip(-1)
        return self._recoloured(pixels, draw).contiguous()

    def _crop(self, pixels: Tensor, size: int, draw: random.Random) -> Tensor:
        _, height, width = pixels.shape
        if self.preset == "normsoftmax":
            top, left = draw.randint(0, height - size), draw.randint(0, width - size)
            return pixels[:, top : top + size, left : left + size]
        top, left, tall, wide = _random_part(height, width, self.crop_scale, self.crop_ratio, draw)
        return resize(pixels[:, top : top + tall, left : left + wide], size, size)

    def _recoloured(self, pixels: Tensor, draw: random.Random) -> Tensor:
        if not self.color_jitter and not self.grayscale:
            return pixels
        from torchvision.transforms.v2 import (
            functional as T,
        )  # here, because it loads slowly and only training needs it

        if self.color_jitter:
            for change in (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation):
                pixels = change(pixels, draw.uniform(1 - self.color_jitter, 1 + self.color_jitter))
        if self.grayscale and draw.random() < self.grayscale:
            pixels = T.rgb_to_grayscale(pixels, num_output_channels=3)
        return pixels


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
            size x 256 / 224, random square; Zhai & Wu 2019) or "none" (shorter side to size x 256 / 224, no
            augmentation).
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
    preprocessing = Preprocessing(
        size=size,
        resize=round(size * 256 / (227 if chosen == "sec" else 224)),
        resize_mode="squash" if chosen == "normsoftmax" else "shorter",
        mean=mean,
        std=std,
        channels=channels,
        scale=scale,
    )
    return preprocessing, Augmentation(preset=chosen)


def _random_part(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], draw: random.Random
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop: torchvision's RandomResizedCrop with an explicit generator."""
    for _ in range(10):
        area = height * width * draw.uniform(*scale)
        aspect = math.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            return draw.randint(0, height - tall), draw.randint(0, width - wide), tall, wide
    # No such crop fits into a very long image: use the largest centred one with an allowed aspect ratio.
    aspect = min(max(width / height, ratio[0]), ratio[1])
    wide, tall = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - tall) // 2, (width - wide) // 2, max(1, tall), max(1, wide)


def _turned(pixels: Tensor, degrees: float) -> Tensor:
    """Rotate about the centre and fill the corners with the mean colour.

    Rotates the difference from the mean, because torchvision blends the border of the corners with black.
    """
    from torchvision.transforms.v2 import functional as T

    mean = pixels.float().mean(dim=(1, 2), keepdim=True)
    turned: Tensor = T.rotate(pixels.float() - mean, degrees, interpolation=T.InterpolationMode.BILINEAR)
    return (turned + mean).round_().clamp_(0, 255).to(torch.uint8)
