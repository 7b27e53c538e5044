"""Geometry and numbers between a decoded picture and the network: resizing, crops, augmentation, normalisation.

    picture (H, W, 3) uint8 -> Preprocessing.resized -> (may be cached) -> Preprocessing.pixels or Augmentation.pixels
        -> batch (B, 3, S, S) uint8 -> Preprocessing.to_input -> (B, 3, S, S) float32

Geometry belongs to a preset, the numbers (mean, std, channel order, scale) to the backbone; the two are independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cosphere.checks import check_choice, check_number, check_whole
from cosphere.errors import SettingsError, SizeError
from cosphere.images.decode import Pixels
from cosphere.images.geometry import centre, planes, resize
from cosphere.images.settings import PlainSettings

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

LONGEST = 8
"""A picture more than this many times longer than wide keeps only its middle: a strip of 2 x 3000 pixels, brought to a
shorter side of 256, would take 300 MB."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing(PlainSettings):
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
        for name in ("size", "resize"):
            self._set(**{name: check_whole(self._name(name), getattr(self, name), least=1)})
        if self.resize < self.size:
            raise SettingsError(
                f"preprocessing.resize {self.resize} is smaller than size {self.size}, so no crop fits in it; "
                f"try {round(self.size * 256 / 224)}."
            )
        check_choice(self._name("resize_mode"), self.resize_mode, ("shorter", "squash"))
        check_choice(self._name("channels"), self.channels, ("rgb", "bgr"))
        self._set(mean=self._numbers("mean", 3), std=self._numbers("std", 3))
        if min(self.std) <= 0:
            raise SettingsError(f"preprocessing.std {self.std} must be above 0; it divides the pixels.")
        self._set(scale=check_number(self._name("scale"), self.scale, above=0))

    @property
    def rule(self) -> str:
        """Names what :meth:`resized` does, for the key of a pixel cache."""
        return f"{self.resize_mode} {self.resize}, at most {LONGEST}:1, bilinear, antialias"

    def resized(self, image: Pixels) -> Pixels:
        """The picture at the size from which crops are taken; the step that is worth caching.

        Args:
            image: (H, W, 3) uint8.

        Returns:
            (H', W', 3) uint8: shorter side ``resize``, or both. Unchanged where it has that size already.

        Raises:
            SizeError: another shape or type.
        """
        return np.ascontiguousarray(self.resized_planes(image).permute(1, 2, 0).numpy())

    def resized_planes(self, image: Pixels) -> Tensor:
        """:meth:`resized` as (3, H', W') uint8; a view of the same memory where the size is right already."""
        pixels = planes(image)
        _, height, width = pixels.shape
        if self.resize_mode == "squash":
            return resize(pixels, self.resize, self.resize)
        limit = LONGEST * min(height, width)
        if max(height, width) > limit:
            pixels = centre(pixels, min(height, limit), min(width, limit))
            _, height, width = pixels.shape
        if height <= width:  # rounding down is torchvision's, and so the published results'
            return resize(pixels, self.resize, int(self.resize * width / height))
        return resize(pixels, int(self.resize * height / width), self.resize)

    def pixels(self, image: Pixels) -> Tensor:
        """Resize and take the centre: what is seen in evaluation and use.

        Args:
            image: (H, W, 3) uint8, of any size, or already :meth:`resized`.

        Returns:
            (3, size, size) uint8.

        Raises:
            SizeError: another shape or type.
        """
        return centre(self.resized_planes(image), self.size, self.size).contiguous()

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
