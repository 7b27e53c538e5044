"""Resizing and cropping of uint8 images (3, H, W), shared by preprocessing and augmentation."""

from __future__ import annotations

import platform

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cosphere.errors import SizeError
from cosphere.images.modes import Pixels


def planes(image: Pixels) -> Tensor:
    """Convert (H, W, 3) uint8 to a (3, H, W) tensor that shares the memory where torch allows it.

    Raises:
        SizeError: the array has another shape or dtype, or no pixels.
    """
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        got = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise SizeError(f"want an image as a uint8 array (H, W, 3), got {got}. cosphere.images.read_image gives one.")
    if 0 in image.shape:
        raise SizeError(f"want an image with pixels, got {image.shape}.")
    if not image.flags.writeable or min(image.strides) < 0:  # torch cannot share either
        image = image.copy()
    return torch.from_numpy(image).permute(2, 0, 1)


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """Resize with bilinear interpolation and antialiasing; unchanged if the size is already right.

    Bit for bit torchvision's ``resize``, without torchvision: importing it takes longer than a search.

    Args:
        pixels: (3, H, W) uint8.
        height: wanted, in pixels.
        width: wanted, in pixels.
    """
    count, *old = pixels.shape
    if old == [height, width]:
        return pixels
    batch = pixels[None]
    if pixels.permute(1, 2, 0).is_contiguous():
        # With this stride torch knows the batch of one as channels last, and keeps that layout in the result.
        batch = pixels.as_strided((1, *pixels.shape), (pixels.numel(), *pixels.stride()))
    native = pixels.device.type == "cpu" and (
        torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in ("aarch64", "arm64")
    )
    resized = interpolate(
        batch if native else batch.float(), size=[height, width], mode="bilinear", align_corners=False, antialias=True
    )
    return (resized if native else resized.round_().to(pixels.dtype)).reshape(count, height, width)


def centre(pixels: Tensor, height: int, width: int) -> Tensor:
    """Centre crop with torchvision's rounding. Both sides must be large enough."""
    top = round((pixels.shape[1] - height) / 2.0)
    left = round((pixels.shape[2] - width) / 2.0)
    return pixels[:, top : top + height, left : left + width]
