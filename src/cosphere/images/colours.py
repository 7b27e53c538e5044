"""Colour changes of a batch of images, each image by its own amounts: the arithmetic of torchvision's colour functions.

torchvision's functions take one amount for all images of a call. Here each takes (B,) amounts, so that a batch is one operation, on a
CPU or a GPU. Every operation is elementwise or sums whole numbers, so on a CPU an image comes out bit for bit the same alone and in
any batch. Values stay floating point between the operations; torchvision rounds uint8 images down after each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cosphere._types import Floats, Integers

WHITE = 255.0


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply all levels. (B, 3, H, W) in [0, 255], (B, 1, 1, 1) >= 0."""
    return (images * factor).clamp_(0, WHITE)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Move all levels away from the image's mean gray, or for a factor below 1 towards it. (B, 3, H, W), (B, 1, 1, 1)."""
    # Whole levels, as torchvision takes them: their sum is exact, whatever its order.
    levels = gray(images).floor_().sum(dim=(1, 2, 3), keepdim=True, dtype=torch.float64)
    mean = (levels / (images.shape[2] * images.shape[3])).to(images.dtype)
    return _blend(images, mean, factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Move each pixel away from its gray, or for a factor below 1 towards it. (B, 3, H, W), (B, 1, 1, 1)."""
    return _blend(images, gray(images), factor)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by a share of the colour circle in [-0.5, 0.5]; value and saturation stay. (B, 3, H, W), (B, 1, 1, 1)."""
    red, green, blue = (images[:, place : place + 1] for place in range(3))
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # 1 where red is not the largest, and where blue alone is. Products, because torch.where is twenty times slower on a CPU.
    others = (value - red).sign_()
    last = (value - green).sign_().mul_(others)
    apart = (green - blue).mul_(1 - others).add_((blue - red).mul_(others - last)).add_((red - green).mul_(last))
    # In turns. A gray pixel has no hue and needs none: its chroma is 0.
    place = apart.div_(chroma.clamp(min=1e-20).mul_(6)).add_(others.add_(last).div_(3)).add_(shift)
    # Smith's HSV to RGB in one formula for the three channels; they start at 1, 2/3 and 1/3, and a turn more keeps all above 0.
    starts = torch.tensor([2.0, 5 / 3, 4 / 3], device=images.device, dtype=images.dtype)[:, None, None]
    wave = (place + starts).frac_().sub_(0.5).abs_().mul_(-6).add_(2).clamp_(0, 1).mul_(chroma)
    return torch.sub(value, wave, out=wave)


def gray(images: Tensor) -> Tensor:
    """Luminance by ITU-R 601-2. (B, 3, H, W) -> (B, 1, H, W)."""
    red, green, blue = (images[:, place : place + 1] for place in range(3))
    # Not add(alpha=): whether that rounds once or twice depends on an element's place.
    return red * 0.2989 + green * 0.587 + blue * 0.114


def blur(images: Tensor, sigma: Floats) -> Tensor:
    """Gaussian blur with reflected borders; the kernel spans a tenth of the image, as SimCLR's. (B, 3, H, W), (B,) pixels > 0."""
    height, width = images.shape[2:]
    radius = min(max(1, min(height, width) // 20), height - 1, width - 1)
    places = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (places / np.asarray(sigma)[:, None]) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    taps = torch.from_numpy(weights).to(images)[:, :, None, None, None].unbind(1)
    padded = torch.nn.functional.pad(images, (radius,) * 4, mode="reflect")
    # A sum over taps, not a convolution, whose algorithm and so whose rounding depends on the size of the batch.
    rows = _sum_of_taps([padded[:, :, place : place + height] for place in range(len(taps))], taps)
    return _sum_of_taps([rows[..., place : place + width] for place in range(len(taps))], taps)


def in_any_order(
    images: Tensor, rows: Integers, order: Integers, changes: list[Callable[[Tensor, Tensor], Tensor]]
) -> None:
    """Apply every change to the images of some rows, in an order of each row's own. In place.

    Args:
        images: (B, 3, H, W) float.
        rows: (R,) integers, on the host: choosing on a GPU would wait for it each time.
        order: (B, len(changes)) integers; ``order[i, t]`` is the change that image i gets at time t.
        changes: each from images (b, 3, H, W) and the numbers (b,) of their rows to the changed images.
    """
    for time in range(len(changes)):
        for number, change in enumerate(changes):
            some = rows[order[rows, time] == number]
            if len(some):
                chosen = torch.from_numpy(some).to(images.device)
                images[chosen] = change(images[chosen], chosen)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (images * factor + other * (1 - factor)).clamp_(0, WHITE)


def _sum_of_taps(shifted: list[Tensor], taps: tuple[Tensor, ...]) -> Tensor:
    total = shifted[0] * taps[0]
    for values, weight in zip(shifted[1:], taps[1:], strict=True):
        total += values * weight
    return total
