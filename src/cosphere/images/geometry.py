"""Geometry on uint8 planes (3, H, W), shared by preprocessing and augmentation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from cosphere.errors import SizeError
from cosphere.images.decode import Pixels


def planes(image: Pixels) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W), without a copy where the memory may be shared."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        got = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise SizeError(f"want an image as a uint8 array (H, W, 3), got {got}. cosphere.images.read_image gives one.")
    if 0 in image.shape:
        raise SizeError(f"want an image with pixels, got {image.shape}.")
    if not image.flags.writeable or min(image.strides) < 0:  # torch can share neither
        image = image.copy()
    return torch.from_numpy(image).permute(2, 0, 1)


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with antialias on uint8; unchanged at the same size."""
    resized: Tensor = T.resize(pixels, [height, width], interpolation=T.InterpolationMode.BILINEAR, antialias=True)
    return resized


def centre(pixels: Tensor, height: int, width: int) -> Tensor:
    """The middle part, with torchvision's rounding. Both sides must be large enough."""
    top = round((pixels.shape[1] - height) / 2.0)
    left = round((pixels.shape[2] - width) / 2.0)
    return pixels[:, top : top + height, left : left + width]
