"""Thumbnails for reports, with placeholders for unreadable images."""

from __future__ import annotations

import base64
import functools
import importlib.util
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from cosphere.errors import DataError, ImageError
from cosphere.images import Box, read_image

GREY = (128, 128, 128)


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as bundled with matplotlib, so that pictures look the same on every machine. ``size`` in pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(_fonts() / name), size)


@functools.cache
def _fonts() -> Path:
    """Matplotlib's fonts, without importing it, which would slow a search down."""
    spec = importlib.util.find_spec("matplotlib")
    (folder,) = (spec.submodule_search_locations if spec else None) or [""]
    return Path(folder) / "mpl-data" / "fonts" / "ttf"


def load(source: str | Path | npt.NDArray[np.uint8], side: int, box: Box | None = None) -> Image.Image:
    """Load an image and shrink it to fit a square of ``side`` pixels, preserving the aspect ratio.

    Args:
        source: a file, or (H, W, 3) uint8 RGB.
        side: pixels.
        box: crop of the source in pixels, left, top, right, bottom; None: all of it.

    Raises:
        DataError: the file cannot be read, or the array is not a picture.
    """
    if isinstance(source, np.ndarray):
        pixels = _checked(source)
        if box is not None:
            pixels = pixels[box[1] : box[3], box[0] : box[2]]
    else:
        pixels = read_image(source, box=box, target=side)
    if not pixels.size:
        raise ImageError(f"the crop {box} leaves nothing of the picture. Check the box columns of the table.")
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def _checked(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ImageError(f"want a picture (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}. Convert it to RGB first.")
    return pixels


def placeholder(side: int, note: str) -> Image.Image:
    """A grey placeholder with the reason why the image is missing."""
    square = Image.new("RGB", (side, side), GREY)
    letters = font(max(8, side // 10))
    lines = wrapped(note, letters, side - 8)[:4]
    ImageDraw.Draw(square).multiline_text(
        (side / 2, side / 2), "\n".join(lines), font=letters, fill="white", anchor="mm", align="center"
    )
    return square


def shortened(text: str, letters: ImageFont.FreeTypeFont, width: float) -> str:
    """``text`` in one line of at most ``width`` pixels; elided in the middle, since both ends identify a name."""
    line = " ".join(text.split())
    if letters.getlength(line) <= width:
        return line
    for length in range(len(line) - 1, 0, -1):
        candidate = line[: (length + 1) // 2].rstrip() + "…" + line[len(line) - length // 2 :].lstrip()
        if letters.getlength(candidate) <= width:
            return candidate
    return "…"


def wrapped(text: str, letters: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """``text`` in lines of at most ``width`` pixels, broken at spaces; a longer word is shortened."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and letters.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(shortened(word, letters, width))
    return lines


def jpeg_uri(picture: Image.Image, quality: int = 72) -> str:
    """The picture as a ``data:`` address."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@dataclass
class Thumbnails:
    """Embed each picture once per page, regardless of how often it is shown.

    A style rule holds the bytes, and elements name the rule.
    """

    side: int = 112
    """Pixels of the longer side."""
    addresses: list[str] = field(default_factory=list)
    """The ``data:`` address of each embedded picture."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """File and reason."""
    _names: dict[tuple[str, Box | None], str] = field(default_factory=dict)

    def name(self, file: str, box: Box | None = None) -> str | None:
        """Class name of the style rule that shows ``file``; None when it cannot be read."""
        if file in self.unreadable:
            return None
        key = (file, box)
        if key not in self._names:
            try:
                address = jpeg_uri(load(file, self.side, box))
            except DataError as error:
                self.unreadable[file] = str(error)
                return None
            self._names[key] = f"p{len(self.addresses)}"
            self.addresses.append(address)
        return self._names[key]

    def css(self) -> str:
        """One rule for each picture."""
        return "\n".join(f'.p{at}{{background-image:url("{address}")}}' for at, address in enumerate(self.addresses))
