from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosphere.errors import SettingsError
from cosphere.report import StripItem, neighbour_strip
from cosphere.report.strip import PAPER, PLAIN, QUERY, RIGHT, WRONG, Layout

WHITE = (255, 255, 255)


def flat(colour: tuple[int, int, int], width: int = 40, height: int = 40) -> np.ndarray:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def three() -> list[StripItem]:
    return [
        StripItem(flat((9, 8, 7)), 0.9, "a", True),
        StripItem(flat((9, 8, 7)), 0.5, "b", False),
        StripItem(flat((9, 8, 7)), -0.25, "c", None),
    ]


@pytest.mark.parametrize("thumb", [32, 64, 160])
def test_frames_stand_where_they_should(thumb: int) -> None:
    strip = neighbour_strip(flat((1, 2, 3)), three(), thumb=thumb)
    frame, gap = max(2, thumb // 40), max(6, thumb // 16)
    tile = thumb + 2 * frame
    for place, colour in enumerate([QUERY, RIGHT, WRONG, PLAIN]):
        left = gap + place * (tile + gap) + (2 * gap if place else 0)
        corners = [(left, gap), (left, gap + tile - 1), (left + tile - 1, gap + tile - 1)]
        assert [strip.getpixel(corner) for corner in corners] == [colour] * 3
        assert strip.getpixel((left - 1, gap)) == PAPER
        assert strip.getpixel((left + tile, gap)) == PAPER
    assert strip.size[0] == gap + 4 * (tile + gap) + 2 * gap
    assert strip.mode == "RGB"


def test_right_and_wrong_differ_without_colour() -> None:
    """The glyphs, read as black and white inside their badges."""
    layout = Layout(160)
    side = 160 // 7
    strip = neighbour_strip(flat((1, 2, 3)), three())

    def badge(place: int) -> np.ndarray:
        left = layout.left(place) + layout.tile - side
        return np.asarray(strip.crop((left, layout.gap, left + side, layout.gap + side)).convert("L")) > 200

    tick, cross, none = badge(1), badge(2), badge(3)
    middle = side // 2
    assert cross[middle, middle]
    assert not tick[middle - 4, middle - 4]
    assert cross[middle - 4, middle - 4]
    assert (tick != cross).sum() > 20
    assert not none[: layout.frame].any()  # an unknown one has a bare frame
    assert tick.any()


def test_pictures_keep_their_shape_and_are_centred() -> None:
    layout = Layout(100)
    strip = neighbour_strip(flat((200, 0, 0), width=400, height=200), [], thumb=100)
    top = layout.gap + layout.frame
    column = [strip.getpixel((layout.gap + layout.tile // 2, top + y)) for y in range(100)]
    red = [y for y, pixel in enumerate(column) if pixel[0] > 150 and pixel[1] < 50]
    assert red == list(range(25, 75))
    assert strip.size == layout.size(0)


def test_box_crops_before_scaling() -> None:
    picture = flat((0, 0, 250))
    picture[:, :20] = (250, 0, 0)
    layout = Layout(64)
    strip = neighbour_strip(picture, [StripItem(picture, 1.0, box=(20, 0, 40, 40))], query_box=(0, 0, 20, 40), thumb=64)
    centre = layout.gap + layout.tile // 2
    assert strip.getpixel((centre, centre))[0] > 200
    assert strip.getpixel((layout.left(1) + layout.tile // 2, centre))[2] > 200


def test_files_are_read_and_missing_ones_become_grey(tmp_path: Path) -> None:
    there, empty = tmp_path / "there.png", tmp_path / "empty.jpg"
    Image.new("RGB", (50, 50), (0, 200, 0)).save(there)
    empty.touch()
    items = [
        StripItem(tmp_path / "gone.jpg", 0.5, "a", True),
        StripItem(empty, 0.4),
        StripItem(flat((0, 0, 0))[0], 0.1),
    ]
    strip = neighbour_strip(there, items, thumb=96)
    layout = Layout(96)
    assert strip.getpixel((layout.gap + 40, layout.gap + 40)) == (0, 200, 0)
    for place in (1, 2, 3):
        corner = (layout.left(place) + layout.frame + 1, layout.gap + layout.tile - layout.frame - 2)
        assert strip.getpixel(corner) == (128, 128, 128)
    assert strip.getpixel((layout.left(1), layout.gap)) == RIGHT
    note = strip.crop((layout.left(1) + 4, layout.gap + 30, layout.left(1) + 90, layout.gap + 70))
    assert (np.asarray(note) == 255).any()  # the note is written


def text_columns(strip: Image.Image, layout: Layout, line: int) -> np.ndarray:
    top = layout.tile + 2 * layout.gap + line * layout.line
    return np.flatnonzero((np.asarray(strip)[top : top + layout.line] < 200).any(axis=(0, 2)))


def test_long_labels_stay_under_their_tile() -> None:
    layout = Layout(80)
    items = [StripItem(flat((0, 0, 0)), 0.5, "word " * 40), StripItem(flat((0, 0, 0)), 0.5, "W" * 300)]
    strip = neighbour_strip(flat((0, 0, 0)), items, thumb=80)
    columns = text_columns(strip, layout, line=1)
    rule = layout.left(1) - layout.gap - layout.gap // 2
    allowed = {rule} | {layout.left(place) + x for place in (1, 2) for x in range(-1, layout.tile + 1)}
    assert set(columns.tolist()) <= allowed
    assert len(columns) > 60


def test_rank_and_cosine_are_written() -> None:
    """Other numbers give other pixels in the first line, other labels only in the second."""
    layout = Layout(160)

    def lines(score: float, label: str) -> tuple[bytes, bytes]:
        strip = np.asarray(neighbour_strip(flat((0, 0, 0)), [StripItem(flat((0, 0, 0)), score, label)]))
        top = layout.tile + 2 * layout.gap
        return strip[top : top + layout.line].tobytes(), strip[top + layout.line :].tobytes()

    one, other, renamed = lines(0.123, "a"), lines(0.124, "a"), lines(0.123, "b")
    assert one[0] != other[0]
    assert one[1] == other[1]
    assert one[0] == renamed[0]
    assert one[1] != renamed[1]


def test_a_thumbnail_too_small_for_text_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"thumb=31 pixels is too small.*Use 32 or more"):
        neighbour_strip(flat(WHITE), [], thumb=31)
