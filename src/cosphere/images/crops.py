"""Random crops: where a crop of one image lies, and the crops of a whole batch of images of one size."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosphere._types import Floats
from cosphere.images.draws import uniforms

_TRIES = 10
"""Crops that are tried before the largest one in the middle is taken."""
DRAWS = 2 * _TRIES + 3
"""Numbers that :func:`crop_batch` draws of each seed."""


def random_part(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], draw: random.Random
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop: torchvision's RandomResizedCrop with an explicit generator."""
    for _ in range(_TRIES):
        area = height * width * draw.uniform(*scale)
        aspect = math.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            return draw.randint(0, height - tall), draw.randint(0, width - wide), tall, wide
    # No such crop fits into a very long image: use the largest centred one with an allowed aspect ratio.
    aspect = min(max(width / height, ratio[0]), ratio[1])
    wide, tall = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - tall) // 2, (width - wide) // 2, max(1, tall), max(1, wide)


def crop_batch(
    images: Tensor,
    seeds: Sequence[int] | NDArray[np.integer],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: float,
) -> Tensor:
    """Crop each image at random, resize the crop to the size of the image, and flip it or not.

    Crops are drawn by the rule of :func:`random_part`. They are enlarged, so bilinear interpolation needs no antialiasing. All
    arithmetic is elementwise, so on a CPU an image comes out bit for bit the same whatever batch it is in.

    Args:
        images: (B, 3, S, S) float, levels 0 to 255.
        seeds: (B,) integers; row i depends on seed i alone.
        scale: smallest and largest area of a crop as a share of the image.
        ratio: smallest and largest width / height.
        flip: probability of a horizontal flip.

    Returns:
        (B, 3, S, S) whole levels.
    """
    size = images.shape[2]
    draws = uniforms(seeds, DRAWS)
    tall, wide = _random_sizes(size, draws, scale, ratio)
    top, left = (
        np.floor(draws[:, place] * (size - side + 1)) for place, side in ((2 * _TRIES, tall), (2 * _TRIES + 1, wide))
    )
    along = np.arange(size)[None, :]
    across = np.where((draws[:, -1] < flip)[:, None], size - 1 - along, along)
    # Rows first, as (B, row, 3, column), then columns, as (B, column, 3, row): whole rows of memory are taken each time.
    rows = _sampled(images.permute(0, 2, 1, 3), *_taps(along, top, tall, size, images))
    columns = _sampled(rows.permute(0, 3, 2, 1), *_taps(across, left, wide, size, images))
    return columns.permute(0, 2, 3, 1).round().contiguous()


def _random_sizes(
    size: int, draws: Floats, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Height and width of the first crop that fits into a square, (B,) each; of the whole square where none does."""
    area = size * size * (scale[0] + (scale[1] - scale[0]) * draws[:, :_TRIES])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + (high - low) * draws[:, _TRIES : 2 * _TRIES])
    wide, tall = np.round(np.sqrt(area * aspect)), np.round(np.sqrt(area / aspect))
    fits = (wide > 0) & (wide <= size) & (tall > 0) & (tall <= size)
    row, first = np.arange(len(draws)), fits.argmax(axis=1)
    found = fits.any(axis=1)
    whole = min(max(1.0, ratio[0]), ratio[1])
    last = (min(size, round(size / whole)), min(size, round(size * whole)))
    return np.where(found, tall[row, first], last[0]), np.where(found, wide[row, first], last[1])


def _taps(
    places: NDArray[np.integer], start: Floats, side: Floats, size: int, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The two source pixels of each of (B or 1, S) places of a resized crop, and the weight of the second: (B, S) each."""
    inside = (places + 0.5) * (side / size)[:, None] - 0.5
    inside = np.clip(inside, 0, side[:, None] - 1)  # as if the crop were an image of its own
    before = np.floor(inside)
    after = np.minimum(before + 1, side[:, None] - 1)
    first, second = ((start[:, None] + one).astype(np.int64) for one in (before, after))
    return torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(inside - before).to(like)


def _sampled(images: Tensor, first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Interpolate (B, S, 3, S) along dimension 1 at (B, S) places -> (B, S, 3, S)."""
    count, size = images.shape[:2]
    lines = images.reshape(count * size, -1)
    starts = torch.arange(count)[:, None] * size
    one, other = (lines.index_select(0, (starts + index).flatten().to(lines.device)) for index in (first, second))
    # Not lerp: whether that rounds once or twice depends on an element's place.
    return (one + (other - one) * weight.reshape(-1, 1)).view(images.shape)
