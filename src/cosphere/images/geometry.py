"""Resizing and cropping of uint8 images (3, H, W), shared by preprocessing and augmentation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as T

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
    """Resize with bilinear interpolation and antialiasing; unchanged if the size is already right."""
    resized: Tensor = T.resize(pixels, [height, width], interpolation=T.InterpolationMode.BILINEAR, antialias=True)
    return resized


def centre(pixels: Tensor, height: int, width: int) -> Tensor:
    """Centre crop with torchvision's rounding. Both sides must be large enough."""
    top = round((pixels.shape[1] - height) / 2.0)
    left = round((pixels.shape[2] - width) / 2.0)
    return pixels[:, top : top + height, left : left + width]
