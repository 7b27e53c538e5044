"""Convert images of any mode that Pillow decodes to RGB, in blocks of rows, so that conversion needs little memory."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB, upright."""

MAX_IN_FLIGHT = 400_000_000
"""Bytes that the threads of a process decode into at the same time: 4 for each of 100 million pixels.

An image that takes more by itself waits until it is alone: RGB takes 7 bytes per pixel, because Pillow holds it in 4 and the
result has 3."""

_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
"""Bytes per pixel in which Pillow holds an image; 4 in other modes."""

_DECODERS = {"WEBP": 12, "AVIF": 12, "HEIF": 8}
"""Bytes per pixel that a decoder holds beside Pillow's image, until that is complete."""

_BLOCK_PIXELS = 2**18
"""Pixels converted at a time."""

_SAMPLE = 2**18
"""Number of values sampled to find the range of an image without a known scale."""


def bytes_per_pixel(picture: Image.Image) -> int:
    """The most memory that decoding an opened image and :func:`to_rgb` take, in bytes per pixel."""
    decoder = _DECODERS.get(picture.format or "", 0)
    if "progressive" in picture.info:  # the decoder keeps the coefficients, 2 bytes for each of up to 3 channels
        decoder = 6
    return _STORED.get(picture.mode, 4) + max(3, decoder)


def to_rgb(picture: Image.Image, into: Pixels | None = None) -> Pixels:
    """Convert an image in any mode to (H, W, 3) uint8.

    Transparency is composited over white and 16-bit gray is scaled. Integers of 32 bits in 0..65535 are 16-bit gray;
    floating-point values are shares in 0..1, which filters may overshoot by a half, or gray levels in 0..255. Other values have
    no known scale: the darkest becomes black and the brightest white. Up to one value in a thousand may lie outside a
    range without changing the scale of the others; NaN and infinity are black.

    Args:
        picture: the image.
        into: (H, W, 3) uint8 to write to, of any strides; None makes a new array.

    Raises:
        ValueError: no value is finite.
    """
    width, height = picture.size
    pixels = np.empty((height, width, 3), dtype=np.uint8) if into is None else into
    rows = max(1, _BLOCK_PIXELS // max(1, width))
    wide = picture.mode in ("I", "F")
    low, scale = _scale(picture, rows) if wide else (0.0, 1.0)
    for top in range(0, height, rows):
        part = picture.crop((0, top, width, min(top + rows, height)))
        block = _scaled(np.asarray(part), low, scale) if wide else _block(part)
        pixels[top : top + rows] = block[:, :, None] if block.ndim == 2 else block
    return pixels


def _block(picture: Image.Image) -> Pixels:
    """Convert a few rows; gray may come back as (H, W)."""
    mode = picture.mode
    if mode == "RGB" and "transparency" not in picture.info:
        return np.asarray(picture)
    if mode.startswith("I;16"):
        return _from_16_bit(np.asarray(picture))
    if "transparency" in picture.info or mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        if mode == "La":
            picture = picture.convert("LA")
        clear = picture.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB"))
    return np.asarray(picture.convert("RGB"))


def _from_16_bit(values: NDArray[Any]) -> Pixels:
    """Scale 0..65535 to 0..255, rounding to nearest: 65535 / 257 is exactly 255."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _scaled(values: NDArray[Any], low: float, scale: float) -> Pixels:
    """(values - low) * scale, rounded and clipped to 0..255; NaN and infinity become 0."""
    wide = np.where(np.isfinite(values), values.astype(np.float64), low)
    return np.rint(np.clip((wide - low) * scale, 0, 255)).astype(np.uint8)


def _scale(picture: Image.Image, rows: int) -> tuple[float, float]:
    """The value that becomes black, and the factor to gray levels.

    Raises:
        ValueError: no value is finite.
    """
    whole = picture.mode == "I"
    # The values that become black and white, and how far beyond them a value is still of this scale, and clipped.
    ranges = ((0.0, 65535.0, 0.0),) if whole else ((0.0, 1.0, 0.5), (0.0, 255.0, 0.0))
    outside = [0] * len(ranges)
    count = 0
    sample: list[NDArray[Any]] = []
    every = max(1, picture.width * picture.height // _SAMPLE)
    for top in range(0, picture.height, rows):
        values = np.asarray(picture.crop((0, top, picture.width, min(top + rows, picture.height))))
        values = values[np.isfinite(values)]
        count += len(values)
        for place, (low, high, over) in enumerate(ranges):
            outside[place] += int(((values < low - over) | (values > high + over)).sum())
        sample.append(values[::every].copy())  # a view would keep all values in memory
    if not count:
        raise ValueError("none of its values is a number")
    for (low, high, _), odd in zip(ranges, outside, strict=True):
        if odd <= _tolerated(count):
            return low, 255 / (high - low)
    values = np.sort(np.concatenate(sample).astype(np.float64))
    odd = _tolerated(len(values))
    low, high = float(values[odd]), float(values[len(values) - 1 - odd])
    return low, 255 / (high - low) if high > low else 0.0


def _tolerated(count: int) -> int:
    """How many of ``count`` values may lie outside a range: one in a thousand, and one of at least a hundred."""
    return max(count // 1000, int(count >= 100))


class _Budget:
    """The bytes that images are being decoded into in this process."""

    def __init__(self) -> None:
        self.used = 0
        self.freed = threading.Condition()


_budget = _Budget()


@contextlib.contextmanager
def bytes_in_flight(count: int) -> Iterator[None]:
    """Wait until ``count`` more bytes may be taken; an image beyond :data:`MAX_IN_FLIGHT` waits until it is alone."""
    budget = _budget
    with budget.freed:
        budget.freed.wait_for(lambda: not budget.used or budget.used + count <= MAX_IN_FLIGHT)
        budget.used += count
    try:
        yield
    finally:
        with budget.freed:
            budget.used -= count
            budget.freed.notify_all()


def _forget_threads() -> None:
    """A forked process starts with a budget of its own: the threads that hold its parent's do not exist in it."""
    global _budget
    _budget = _Budget()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_threads)
