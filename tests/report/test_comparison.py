from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.text
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cosphere.evaluate.comparison import Arm, Comparison, compare
from cosphere.report.comparison import NAMED_CLASSES, comparison_figure, write_comparison_figure

SVG = "{http://www.w3.org/2000/svg}"


def made(
    arms: int = 3, classes: int = 40, runs: int = 3, name: str = "a class with quite a long name, number {}"
) -> Comparison:
    generator = np.random.default_rng(0)
    names = np.repeat([name.format(number) for number in range(classes)], 6)
    easy = generator.random(classes).repeat(6) * 0.5 + 0.2
    found = {}
    for arm in range(arms):
        hits = generator.random((runs, len(names))) < easy + 0.04 * arm
        found[f"an-arm-{arm}"] = Arm({"recall@1": hits.astype(float), "map@r": easy * hits}, tuple(range(runs)))
    return compare(found, names, samples=50)


def texts(figure: Figure) -> list[Any]:
    """All that is written; matplotlib keeps labels of ticks outside an axis, which it does not draw."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            hidden |= {id(tick.label1) for tick in ticks if not low <= tick.get_loc() <= high}
    every = figure.findobj(matplotlib.text.Text)
    return [one for one in every if one.get_visible() and one.get_text().strip() and id(one) not in hidden]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that touch, and texts that leave the picture, as drawn."""
    figure.set_dpi(150)
    figure.savefig(io.BytesIO(), format="png", dpi=150)
    boxes = [(one.get_text(), one.get_window_extent()) for one in texts(figure)]
    width, height = figure.bbox.width, figure.bbox.height
    found = [(text, "the edge") for text, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]
    for (text, box), (other, against) in itertools.combinations(boxes, 2):
        across = min(box.x1, against.x1) - max(box.x0, against.x0)
        down = min(box.y1, against.y1) - max(box.y0, against.y0)
        if across > 1 and down > 1:
            found.append((text, other))
    return found


@pytest.mark.parametrize(
    ("arms", "classes", "runs"),
    [(2, 40, 1), pytest.param(4, 40, 3, marks=pytest.mark.slow), (3, 2, 2), (2, 3, 1), (2, 700, 1)],
)
def test_no_text_touches_another_or_leaves_the_picture(arms: int, classes: int, runs: int) -> None:
    assert overlapping(comparison_figure(made(arms, classes, runs))) == []


def test_the_overlap_check_can_fail() -> None:
    figure = comparison_figure(made(2, 10, 1))
    figure.text(0.01, 0.99, "on top of the title", va="top")
    assert overlapping(figure)


def test_what_is_drawn_is_what_was_found() -> None:
    found = made(2, 40, 3)
    figure = comparison_figure(found)
    forest, every, named = figure.axes
    gains = 100 * found.gains("an-arm-1", "recall@1")
    widths = [bar.get_width() for bar in named.patches]
    ordered = np.sort(gains)[::-1]
    np.testing.assert_allclose(widths, np.concatenate([ordered[:NAMED_CLASSES], ordered[-NAMED_CLASSES:]]))
    labels = [label.get_text() for label in named.get_yticklabels()]
    assert labels[0].endswith(found.class_names[int(np.argmax(gains))][-4:])
    row = found.differences[0]
    assert f"{row.won} won, {row.tied} tied, {row.lost} lost" in every.get_xlabel()
    lines = [line.get_xdata() for line in forest.lines]
    for difference in found.differences:
        wanted = [difference.interval, (difference.seeds.low, difference.seeds.high)]
        for ends in wanted:
            assert any(len(line) == 2 and np.allclose(line, 100 * np.array(ends)) for line in lines)
    assert "percentage points" in forest.get_xlabel()
    assert "percentage points" in named.get_xlabel()
    bottom, top = forest.get_xlim()
    assert bottom < 0 < top


def test_each_arm_has_a_row_and_one_colour_does_not_carry_the_meaning() -> None:
    found = made(4, 40, 1)
    figure = comparison_figure(found)
    assert len(figure.axes) == 1 + 2 * 3
    for axes in figure.axes[2::2]:
        for bar in axes.patches:
            assert (bar.get_width() >= 0) == (bar.get_facecolor()[2] > bar.get_facecolor()[0])  # side and colour agree


@pytest.mark.slow
def test_files_are_whole_and_the_same_each_time(tmp_path: Path) -> None:
    found = made(2, 8, 1, name="<b>& $x_{}$ \x07 β")
    paths = write_comparison_figure(found, tmp_path / "one")
    assert [path.name for path in paths] == ["comparison.png", "comparison.svg"]
    with Image.open(paths[0]) as picture:
        assert picture.width == 1500
        corner = picture.convert("RGB").getpixel((0, 0))
    assert corner == (255, 255, 255)
    root = ElementTree.fromstring(paths[1].read_text(encoding="utf-8"))
    drawn = ["".join(node.itertext()) for node in root.iter(f"{SVG}text")]
    assert any("<b>& $x_3$ β" in text for text in drawn)
    again = write_comparison_figure(found, tmp_path / "two")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_nothing_but_zeros_can_be_drawn() -> None:
    values = {"recall@1": np.ones((1, 40))}
    found = compare({"a": Arm(values, (0,)), "b": Arm(values, (0,))}, np.repeat(np.arange(20), 2), samples=20)
    assert overlapping(comparison_figure(found)) == []
