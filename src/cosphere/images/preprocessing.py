"""From a decoded image to network input: resizing, cropping and normalisation.

    image (H, W, 3) uint8 -> Preprocessing.resized -> (optionally cached) -> Preprocessing.pixels or Augmentation.pixels
        -> batch (B, 3, S, S) uint8 -> Preprocessing.to_input -> (B, 3, S, S) float32

A preset defines the geometry; the backbone defines mean, std, channel order and scale. The two are independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cosphere.checks import check_choice, check_number, check_whole
from cosphere.errors import SettingsError, SizeError
from cosphere.images.geometry import centre, planes, resize
from cosphere.images.modes import Pixels
from cosphere.images.settings import PlainSettings

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

LONGEST = 8
"""Largest aspect ratio; longer images are cropped to their middle. A strip of 2 x 3000 pixels, resized to a shorter side
of 256, would take 300 MB."""


MAX_SIDE = 8192
"""Largest side of a resized image, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing(PlainSettings):
    """How an image becomes network input, in training and in use; saved with the model.

    Attributes:
        size: side of the square network input, in pixels.
        resize: shorter side (or both sides) before cropping, in pixels; at least ``size``.
        resize_mode: "shorter" resizes the shorter side to ``resize`` and keeps the aspect ratio, "squash" resizes both
            sides to ``resize``.
        mean: subtracted from red, green and blue, in units of ``scale``.
        std: divides red, green and blue, in units of ``scale``.
        channels: channel order of the network input.
        scale: value of white before the mean is subtracted: 1 for [0, 1], 255 for Caffe's raw levels.
        decoding: "exact" decodes every pixel, as the official code of SEC and NormSoftmax does, so that a JPEG file and an array
            of its pixels give the same embedding; "reduced" decodes JPEG files of at least twice the needed size at 1/2, 1/4 or
            1/8 scale, which is several times faster and moves an embedding slightly (cosine about 0.999).
    """

    size: int = 224
    resize: int = 256
    resize_mode: Literal["shorter", "squash"] = "shorter"
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0
    decoding: Literal["exact", "reduced"] = "exact"

    def __post_init__(self) -> None:
        check_choice(self._name("decoding"), self.decoding, ("exact", "reduced"))
        for name in ("size", "resize"):
            self._set(**{name: check_whole(self._name(name), getattr(self, name), least=1, most=MAX_SIDE)})
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
        """Description of what :meth:`resized` does, for the key of a pixel cache."""
        decoding = "" if self.decoding == "exact" else f", {self.decoding} decoding"
        return f"{self.resize_mode} {self.resize}, at most {LONGEST}:1, bilinear, antialias{decoding}"

    @property
    def sufficient_side(self) -> int | None:
        """Shorter side in pixels below which a decoder must not reduce an image; None decodes every pixel."""
        return self.resize if self.decoding == "reduced" else None

    def resized(self, image: Pixels) -> Pixels:
        """Resize an image to the size that crops are taken from; its result can be cached.

        Args:
            image: (H, W, 3) uint8.

        Returns:
            (H', W', 3) uint8, shorter side (or both sides) ``resize``. Unchanged if it has that size already.

        Raises:
            SizeError: ``image`` has another shape or dtype.
        """
        return np.ascontiguousarray(self.resized_planes(image).permute(1, 2, 0).numpy())

    def resized_planes(self, image: Pixels) -> Tensor:
        """:meth:`resized` as a (3, H', W') uint8 tensor; a view of ``image`` if it has the right size already."""
        pixels = planes(image)
        _, height, width = pixels.shape
        if self.resize_mode == "squash":
            return resize(pixels, self.resize, self.resize)
        limit = LONGEST * min(height, width)
        if max(height, width) > limit:
            pixels = centre(pixels, min(height, limit), min(width, limit))
            _, height, width = pixels.shape
        if height <= width:  # rounds down as torchvision does, on which the published results rest
            return resize(pixels, self.resize, int(self.resize * width / height))
        return resize(pixels, int(self.resize * height / width), self.resize)

    def pixels(self, image: Pixels) -> Tensor:
        """Resize and centre crop: the view used for evaluation and inference.

        Args:
            image: (H, W, 3) uint8 of any size, or already :meth:`resized`.

        Returns:
            (3, size, size) uint8.

        Raises:
            SizeError: ``image`` has another shape or dtype.
        """
        return centre(self.resized_planes(image), self.size, self.size).contiguous()

    def to_input(self, batch: Tensor) -> Tensor:
        """Normalise a batch for the network, on the device of the batch.

        Args:
            batch: (B, 3, H, W) RGB, uint8 or floating point, 0 to 255. The memory format is preserved.

        Returns:
            (B, 3, H, W) float32: ``(batch / 255 * scale - mean) / std``, in the order of ``channels``.

        Raises:
            SizeError: ``batch`` has another shape.
        """
        if batch.ndim != 4 or batch.shape[1] != 3:
            raise SizeError(
                f"want a batch of images (B, 3, H, W), got {tuple(batch.shape)}. Stack them, channels first."
            )
        # One multiply-add; exact for raw levels minus a mean.
        factor = torch.tensor([self.scale / 255 / std for std in self.std], device=batch.device)
        offset = torch.tensor([-mean / std for mean, std in zip(self.mean, self.std, strict=True)], device=batch.device)
        values = batch.to(torch.float32)
        # In place where that is a copy: a batch is tens of megabytes, which the system hands over page by page.
        own = values if values is not batch and not values.requires_grad else None
        normalised = torch.addcmul(offset[:, None, None], values, factor[:, None, None], out=own)
        if self.channels == "bgr":
            normalised = normalised.flip(1)
        last = torch.channels_last
        if batch.is_contiguous(memory_format=last) and not batch.is_contiguous():
            return normalised.contiguous(memory_format=last)
        return normalised.contiguous()
