"""Geometry and numbers between a decoded picture and the network: resizing, crops, augmentation, normalisation.

    picture (H, W, 3) uint8 -> Preprocessing.resized -> (may be cached) -> Preprocessing.pixels or Augmentation.pixels
        -> batch (B, 3, S, S) uint8 -> Preprocessing.to_input -> (B, 3, S, S) float32

Geometry belongs to a preset, the numbers (mean, std, channel order, scale) to the backbone; the two are independent.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from cosphere.errors import SettingsError, SizeError, did_you_mean

PresetName = Literal["sec", "normsoftmax", "none"]
Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

LONGEST = 8
"""A picture more than this many times longer than wide keeps only its middle: a strip of 2 x 3000 pixels, brought to a
shorter side of 256, would take 300 MB."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes the network's input, the same in training and use; saved with the model.

    Attributes:
        size: pixels, side of the square that the network sees.
        resize: pixels, shorter side (or both sides) before the crop; at least ``size``.
        resize_mode: "shorter" brings the shorter side to ``resize`` and keeps the aspect, "squash" brings both there.
        mean: red, green, blue, in units of ``scale``; subtracted.
        std: red, green, blue, in units of ``scale``; divided by.
        channels: the order in which the network wants them.
        scale: what white is before the mean is subtracted: 1 for [0, 1], 255 for Caffe's raw levels.
    """

    size: int = 224
    resize: int = 256
    resize_mode: Literal["shorter", "squash"] = "shorter"
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0

    def __post_init__(self) -> None:
        _whole(self, "size", "resize")
        if self.size < 1:
            raise SettingsError(f"preprocessing.size {self.size} is no image size; want at least 1 pixel, such as 224.")
        if self.resize < self.size:
            raise SettingsError(
                f"preprocessing.resize {self.resize} is smaller than size {self.size}, so no crop fits in it; "
                f"try {round(self.size * 256 / 224)}."
            )
        _one_of(self, "resize_mode", ("shorter", "squash"))
        _one_of(self, "channels", ("rgb", "bgr"))
        for name in ("mean", "std"):
            _numbers(self, name, 3)
        if min(self.std) <= 0:
            raise SettingsError(f"preprocessing.std {self.std} must be above 0; it divides the pixels.")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise SettingsError(f"preprocessing.scale {self.scale} must be above 0; want 1 or 255.")

    @property
    def rule(self) -> str:
        """Names what :meth:`resized` does, for the key of a pixel cache."""
        return f"{self.resize_mode} {self.resize}, at most {LONGEST}:1, bilinear, antialias"

    def resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture at the size from which crops are taken; the step that is worth caching.

        Args:
            image: (H, W, 3) uint8.

        Returns:
            (H', W', 3) uint8: shorter side ``resize``, or both. Unchanged where it has that size already.

        Raises:
            SizeError: another shape or type.
        """
        return np.ascontiguousarray(self._resized(image).permute(1, 2, 0).numpy())

    def _resized(self, image: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) -> (3, H', W'), a view of the same memory where the size is right already."""
        pixels = _planes(image)
        _, height, width = pixels.shape
        if self.resize_mode == "squash":
            return _resize(pixels, self.resize, self.resize)
        limit = LONGEST * min(height, width)
        if max(height, width) > limit:
            pixels = _centre(pixels, min(height, limit), min(width, limit))
            _, height, width = pixels.shape
        if height <= width:  # rounding down is torchvision's, and so the published results'
            return _resize(pixels, self.resize, int(self.resize * width / height))
        return _resize(pixels, int(self.resize * height / width), self.resize)

    def pixels(self, image: NDArray[np.uint8]) -> Tensor:
        """Resize and take the centre: what is seen in evaluation and use.

        Args:
            image: (H, W, 3) uint8, of any size, or already :meth:`resized`.

        Returns:
            (3, size, size) uint8.

        Raises:
            SizeError: another shape or type.
        """
        return _centre(self._resized(image), self.size, self.size).contiguous()

    def to_input(self, batch: Tensor) -> Tensor:
        """Normalise a batch for the network, on whatever device it is.

        Args:
            batch: (B, 3, H, W) RGB, uint8 or floating point, 0 to 255. Channels-last stays channels-last.

        Returns:
            (B, 3, H, W) float32: ``(batch / 255 * scale - mean) / std``, in the order of ``channels``.

        Raises:
            SizeError: another shape.
        """
        if batch.ndim != 4 or batch.shape[1] != 3:
            raise SizeError(
                f"want a batch of images (B, 3, H, W), got {tuple(batch.shape)}. Stack them, channels first."
            )
        # One multiplication and one addition; exact for the raw levels minus a mean.
        factor = torch.tensor([self.scale / 255 / std for std in self.std], device=batch.device)
        offset = torch.tensor([-mean / std for mean, std in zip(self.mean, self.std, strict=True)], device=batch.device)
        found = torch.addcmul(offset[:, None, None], batch.to(torch.float32), factor[:, None, None])
        if self.channels == "bgr":
            found = found.flip(1)
        last = torch.channels_last
        if batch.is_contiguous(memory_format=last) and not batch.is_contiguous():
            return found.contiguous(memory_format=last)
        return found.contiguous()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Preprocessing:
        """The inverse of :meth:`as_dict`; settings left out take their defaults. SettingsError for unknown ones."""
        return cls(**_known(cls, content))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random crops and changes of training pictures. Every draw comes from one seed, none from a global state.

    Attributes:
        preset: "sec" crops a random share of the picture and brings it to size (Zhang 2020), "normsoftmax" takes a
            random square of that size (Zhai & Wu 2019), "none" takes the centre and changes nothing.
        crop_scale: smallest and largest share of the picture's area in a crop, in (0, 1]; preset "sec" only.
        crop_ratio: smallest and largest width / height of a crop; preset "sec" only.
        flip: probability of a left-right mirror image. Set 0 for writing, stamps and other things with a side.
        rotation: degrees; each picture is turned by up to this much either way. The corners take the mean colour.
        color_jitter: in [0, 1); brightness, contrast and saturation each change by up to this share.
        grayscale: probability of losing the colour.
    """

    preset: PresetName = "sec"
    crop_scale: tuple[float, float] = (0.16, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rotation: float = 0.0
    color_jitter: float = 0.0
    grayscale: float = 0.0

    def __post_init__(self) -> None:
        _one_of(self, "preset", get_args(PresetName))
        for name in ("crop_scale", "crop_ratio"):
            _numbers(self, name, 2)
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise SettingsError(
                f"augmentation.crop_scale {self.crop_scale} must rise within (0, 1], such as (0.16, 1.0)."
            )
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise SettingsError(f"augmentation.crop_ratio {self.crop_ratio} must rise above 0, such as (0.75, 1.33).")
        for name in ("flip", "grayscale"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"augmentation.{name} {getattr(self, name)} is a probability; want 0 to 1.")
        if not 0 <= self.rotation <= 180:
            raise SettingsError(f"augmentation.rotation {self.rotation} is in degrees; want 0 to 180.")
        if not 0 <= self.color_jitter < 1:
            raise SettingsError(f"augmentation.color_jitter {self.color_jitter} is a share; want 0 up to, not with, 1.")
        self._refuse_idle_settings()

    def _refuse_idle_settings(self) -> None:
        """A setting that this preset would not look at is a mistake, not a wish."""
        idle = {
            "sec": (),
            "normsoftmax": ("crop_scale", "crop_ratio"),
            "none": ("crop_scale", "crop_ratio", "flip", "rotation", "color_jitter", "grayscale"),
        }[self.preset]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in idle and value != field.default and value != 0:  # 0 asks for what "none" does
                raise SettingsError(
                    f"augmentation.{field.name} {value} has no effect with preset {self.preset!r}; leave it out or use "
                    "preset 'sec'."
                )

    def pixels(self, image: NDArray[np.uint8], preprocessing: Preprocessing, seed: int) -> Tensor:
        """One training view of a picture.

        Args:
            image: (H, W, 3) uint8, of any size, or already :meth:`Preprocessing.resized`: both give the same view.
            preprocessing: the sizes.
            seed: any integer. The same seed gives the same view, in any process and in any order.

        Returns:
            (3, size, size) uint8.

        Raises:
            SizeError: another shape or type of image.
        """
        if self.preset == "none":
            return preprocessing.pixels(image)
        pixels = preprocessing._resized(image)
        # One generator for each view, not torch's: nothing global is touched, and the views do not change with torch.
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
        return _resize(pixels[:, top : top + tall, left : left + wide], size, size)

    def _recoloured(self, pixels: Tensor, draw: random.Random) -> Tensor:
        if self.color_jitter:
            for change in (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation):
                pixels = change(pixels, draw.uniform(1 - self.color_jitter, 1 + self.color_jitter))
        if self.grayscale and draw.random() < self.grayscale:
            pixels = T.rgb_to_grayscale(pixels, num_output_channels=3)
        return pixels

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Augmentation:
        """The inverse of :meth:`as_dict`; settings left out take their defaults. SettingsError for unknown ones."""
        return cls(**_known(cls, content))


def preset(
    name: str,
    size: int = 224,
    *,
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
    channels: Literal["rgb", "bgr"] = "rgb",
    scale: float = 1.0,
) -> tuple[Preprocessing, Augmentation]:
    """A published way to treat pictures, at any size.

    Args:
        name: "sec" (shorter side to size x 256 / 227, random share of the area; Zhang 2020), "normsoftmax" (both sides
            to size x 256 / 224, random square; Zhai & Wu 2019) or "none" (shorter side to size x 256 / 224, no
            augmentation).
        size: pixels, side of the network's input.
        mean: as the backbone wants it; see :class:`Preprocessing`.
        std: as the backbone wants it.
        channels: as the backbone wants it.
        scale: as the backbone wants it.

    Raises:
        SettingsError: unknown name or impossible numbers.

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
    """Top, left, height and width of a random part: torchvision's RandomResizedCrop with our own draws."""
    for _ in range(10):
        area = height * width * draw.uniform(*scale)
        aspect = math.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            return draw.randint(0, height - tall), draw.randint(0, width - wide), tall, wide
    # No such part fits a very long picture: the largest one with an allowed aspect, from the centre.
    aspect = min(max(width / height, ratio[0]), ratio[1])
    wide, tall = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - tall) // 2, (width - wide) // 2, max(1, tall), max(1, wide)


def _planes(image: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W), without a copy where the memory may be shared."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        got = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise SizeError(f"want an image as a uint8 array (H, W, 3), got {got}. cosphere.images.read_image gives one.")
    if 0 in image.shape:
        raise SizeError(f"want an image with pixels, got {image.shape}.")
    if not image.flags.writeable or min(image.strides) < 0:  # torch can share neither
        image = image.copy()
    return torch.from_numpy(image).permute(2, 0, 1)


def _resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with antialias on uint8; unchanged at the same size."""
    resized: Tensor = T.resize(pixels, [height, width], interpolation=T.InterpolationMode.BILINEAR, antialias=True)
    return resized


def _turned(pixels: Tensor, degrees: float) -> Tensor:
    """Turned about the middle, the corners in the mean colour.

    Turning what differs from the mean, not the levels, keeps torchvision's dark seam off the border of the corners.
    """
    mean = pixels.float().mean(dim=(1, 2), keepdim=True)
    turned: Tensor = T.rotate(pixels.float() - mean, degrees, interpolation=T.InterpolationMode.BILINEAR)
    return (turned + mean).round_().clamp_(0, 255).to(torch.uint8)


def _centre(pixels: Tensor, height: int, width: int) -> Tensor:
    """The middle part, with torchvision's rounding. Both sides must be large enough."""
    top = round((pixels.shape[1] - height) / 2.0)
    left = round((pixels.shape[2] - width) / 2.0)
    return pixels[:, top : top + height, left : left + width]


def _whole(settings: object, *names: str) -> None:
    """Raise unless these settings are whole numbers; numpy's become Python's, for JSON."""
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise SettingsError(f"preprocessing.{name} must be a whole number of pixels, got {value!r}.")
        object.__setattr__(settings, name, int(value))


def _numbers(settings: object, name: str, count: int) -> None:
    """Raise unless this setting is so many finite numbers; a list (from JSON or YAML) becomes a tuple."""
    room, value = type(settings).__name__.lower(), getattr(settings, name)
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise SettingsError(f"{room}.{name} must be {count} finite numbers, got {value!r}.")
    object.__setattr__(settings, name, numbers)


def _one_of(settings: object, name: str, known: tuple[str, ...]) -> None:
    value = getattr(settings, name)
    if value not in known:
        raise SettingsError(
            f"unknown {type(settings).__name__.lower()}.{name} {value!r}. {did_you_mean(str(value), known)}"
        )


def _known(settings: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings, after each name has been recognised."""
    names = [field.name for field in dataclasses.fields(settings)]
    for name in content:
        if name not in names:
            raise SettingsError(f"unknown setting {settings.__name__.lower()}.{name}. {did_you_mean(name, names)}")
    return dict(content)
