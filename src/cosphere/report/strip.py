"""Image strip of a query and its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from cosphere.errors import DataError, SettingsError
from cosphere.images import Box
from cosphere.report.pictures import font, load, placeholder, shortened

INK, PAPER, FAINT = (33, 37, 41), (255, 255, 255), (108, 117, 125)
RIGHT, WRONG, PLAIN, QUERY = (0, 122, 77), (198, 40, 40), (173, 181, 189), (0, 94, 162)
"""Frame colours. Right and wrong also differ in their glyph, and in lightness when printed grey."""


class StripItem(NamedTuple):
    """One neighbour of a strip."""

    path: str | Path | npt.NDArray[np.uint8]
    """A file, or (H, W, 3) uint8 RGB."""
    score: float
    """Cosine in [-1, 1]."""
    label: str | None = None
    correct: bool | None = None
    """Whether it is of the query's class; None: unknown, no mark."""
    box: Box | None = None
    """Crop in pixels: left, top, right, bottom."""


class Layout(NamedTuple):
    """Measures of a strip in pixels, all from the side of a thumbnail."""

    thumb: int

    @property
    def frame(self) -> int:
        """Width of a frame."""
        return max(2, self.thumb // 40)

    @property
    def gap(self) -> int:
        """Space between tiles and around the strip."""
        return max(6, self.thumb // 16)

    @property
    def line(self) -> int:
        """Height of a line of text."""
        return max(12, self.thumb // 9)

    @property
    def tile(self) -> int:
        """Side of a framed thumbnail."""
        return self.thumb + 2 * self.frame

    def left(self, place: int) -> int:
        """Where tile ``place`` starts; 0 is the query, set apart by a wider gap."""
        return self.gap + place * (self.tile + self.gap) + (2 * self.gap if place else 0)

    def size(self, neighbours: int) -> tuple[int, int]:
        """Width and height of a strip."""
        width = self.left(neighbours) + self.tile + self.gap if neighbours else self.tile + 2 * self.gap
        return width, self.tile + 2 * self.line + 3 * self.gap


def neighbour_strip(
    query: str | Path | npt.NDArray[np.uint8],
    neighbours: Sequence[StripItem],
    *,
    thumb: int = 160,
    query_label: str | None = None,
    query_box: Box | None = None,
) -> Image.Image:
    """Draw the query on the left, followed by its neighbours with rank, cosine and label.

    A right neighbour has a green frame and a tick, a wrong one a red frame and a cross. A picture that cannot be read
    becomes a grey square with a note.

    Args:
        query: a file, or (H, W, 3) uint8 RGB.
        neighbours: nearest first; may be empty.
        thumb: side of a thumbnail, pixels, at least 32.
        query_label: shown under the query.
        query_box: crop of the query in pixels: left, top, right, bottom.

    Returns:
        An RGB picture whose width depends on the number of neighbours.

    Raises:
        SettingsError: ``thumb`` is too small to write on.
    """
    if thumb < 32:
        raise SettingsError(f"thumb={thumb} pixels is too small for text. Use 32 or more.")
    layout = Layout(thumb)
    strip = Image.new("RGB", layout.size(len(neighbours)), PAPER)
    _tile(strip, layout, 0, query, query_box, QUERY)
    _caption(strip, layout, 0, "query", query_label)
    if neighbours:
        line = layout.left(1) - layout.gap - layout.gap // 2
        ImageDraw.Draw(strip).line([(line, layout.gap), (line, strip.height - layout.gap)], fill=PLAIN, width=1)
    for place, item in enumerate(neighbours, start=1):
        colour = PLAIN if item.correct is None else RIGHT if item.correct else WRONG
        _tile(strip, layout, place, item.path, item.box, colour)
        _caption(strip, layout, place, f"{place} · {item.score:.3f}", item.label)
        if item.correct is not None:
            _glyph(strip, layout, place, "tick" if item.correct else "cross", colour)
    return strip


def _tile(
    strip: Image.Image,
    layout: Layout,
    place: int,
    source: str | Path | npt.NDArray[np.uint8],
    box: Box | None,
    colour: tuple[int, int, int],
) -> None:
    """A framed thumbnail."""
    left, top, frame = layout.left(place), layout.gap, layout.frame
    draw = ImageDraw.Draw(strip)
    draw.rectangle(
        [left, top, left + layout.tile - 1, top + layout.tile - 1], fill=(241, 243, 245), outline=colour, width=frame
    )
    try:
        picture = load(source, layout.thumb, box)
    except DataError:
        name = "" if isinstance(source, np.ndarray) else Path(source).name
        picture = placeholder(layout.thumb, f"cannot read {name}".strip())
    middle = frame + layout.thumb // 2
    strip.paste(picture, (left + middle - picture.width // 2, top + middle - picture.height // 2))


def _caption(strip: Image.Image, layout: Layout, place: int, heading: str, label: str | None) -> None:
    """Two lines under a tile: rank and cosine, then the label."""
    letters, bold = font(layout.line - 3), font(layout.line - 3, bold=True)
    left, top = layout.left(place), layout.tile + 2 * layout.gap
    draw = ImageDraw.Draw(strip)
    draw.text((left, top), shortened(heading, bold, layout.tile), font=bold, fill=INK)
    if label:
        draw.text((left, top + layout.line), shortened(label, letters, layout.tile), font=letters, fill=FAINT)


def _glyph(
    strip: Image.Image, layout: Layout, place: int, shape: Literal["tick", "cross"], colour: tuple[int, int, int]
) -> None:
    """A tick or a cross on a disc in the tile's top right corner, independent of fonts and colour."""
    side = max(12, layout.thumb // 7)
    left, top = layout.left(place) + layout.tile - side, layout.gap
    draw = ImageDraw.Draw(strip)
    draw.rectangle([left, top, left + side - 1, top + side - 1], fill=colour)
    strokes = {
        "tick": [[(0.22, 0.55), (0.42, 0.74), (0.78, 0.28)]],
        "cross": [[(0.26, 0.26), (0.74, 0.74)], [(0.74, 0.26), (0.26, 0.74)]],
    }
    for stroke in strokes[shape]:
        points = [(left + x * side, top + y * side) for x, y in stroke]
        draw.line(points, fill=PAPER, width=max(2, side // 8), joint="curve")
