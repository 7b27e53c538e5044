"""What all figures share: colours, style, and SVG text that a page can take in.

A figure is a whole SVG document in the light colours of :data:`COLOURS`; :func:`inline` makes it part of a page, whose light or
dark theme it then follows. Text stays text, so that it can be searched, read aloud and tested.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from cosphere.files import write_atomic, write_text

COLOURS = {
    "blue": "#0072b2",
    "orange": "#c25200",
    "green": "#00805a",
    "purple": "#a4427f",
    "ink": "#2b2f33",
    "faint": "#6a7078",
    "rule": "#d9dce0",
}
"""Okabe and Ito's hues, darkened to a contrast of at least 4.5 on white. A page may exchange them by name."""


WIDTH, HEIGHT = 4.7, 2.9
"""Inches at 72 points: near the width of a phone, so that text is not scaled down there."""


STYLE: Any = {  # typed loosely: matplotlib 3.11 wants its own names as literals, 3.9 knows no types
    "svg.fonttype": "none",
    "svg.hashsalt": "cosphere",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": COLOURS["faint"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["faint"],
    "ytick.color": COLOURS["faint"],
    "text.color": COLOURS["ink"],
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.7,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


WIDE = 8.2
"""Inches of a figure that takes the whole width of a page."""
PRINTED_DOTS = 200
"""Dots an inch of the PNG of a figure."""
_printed: ContextVar[dict[str, bytes] | None] = ContextVar("printed", default=None)
_named: ContextVar[dict[str, str] | None] = ContextVar("named", default=None)

Numbers = npt.NDArray[np.floating[Any]]


class Drawn(NamedTuple):
    """A figure for a page."""

    name: str
    svg: str
    description: str


@contextmanager
def drawing(
    height: float = HEIGHT, panels: int = 1, width: float = WIDTH
) -> Iterator[tuple[Figure, list[Axes], list[str]]]:
    """A styled figure with panels above each other; the SVG is the one item of the list afterwards."""
    svg: list[str] = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        axes = np.atleast_1d(figure.subplots(panels, 1, sharex=True)).tolist()
        yield figure, axes, svg
        buffer = io.StringIO()
        # None of these leaves out the metadata block, whose addresses would look like requests.
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
        svg.append(buffer.getvalue())
        printed = _printed.get()
        if printed is not None:
            figure.set_layout_engine("none")  # It is laid out already, which takes longer than drawing.
            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=PRINTED_DOTS, facecolor="white")
            printed[svg[0]] = picture.getvalue()


@contextmanager
def printing(folder: Path) -> Iterator[None]:
    """Also write each figure that is made part of a page within as `NAME.svg` and `NAME.png`, as a paper would print it.

    The files are written at the end, and none where the page fails.

    Args:
        folder: to write into; made if missing.

    Raises:
        RunError: a file cannot be written.
    """
    printed: dict[str, bytes] = {}
    named: dict[str, str] = {}
    first, second = _printed.set(printed), _named.set(named)
    try:
        yield
    finally:
        _printed.reset(first)
        _named.reset(second)
    for name, svg in named.items():
        write_text(folder / f"{name}.svg", svg)
        write_atomic(folder / f"{name}.png", partial(_write_bytes, printed[svg]))


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def clean(text: str) -> str:
    """``text`` without control characters, which XML cannot hold, in one line."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def line_look(line: int) -> tuple[str, str]:
    """Colour and dash of a line by its place among those of a figure: 16 differ, and no two of them by their colour alone.

    >>> line_look(0), line_look(4)
    (('blue', '-'), ('blue', '--'))
    """
    hues, dashes = ("blue", "orange", "green", "purple"), ("-", "--", "-.", ":")
    return hues[line % 4], dashes[(line + line // 4) % 4]


def legend(axes: Axes, *, beside: bool = False, handlelength: float = 2.2) -> None:
    """A legend where it covers least; to the right of the axes where marks may lie anywhere in them."""
    if beside:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=handlelength)
    else:
        axes.legend(loc="best", handlelength=handlelength, borderaxespad=0.2)


def gid_of(name: str) -> str:
    """The id of a series in the SVG, from its name in the legend."""
    return re.sub(r"[^a-z]+", "-", name.lower()).strip("-")


def inline(svg: str, name: str, description: str) -> str:
    """Make a figure part of an HTML page: unique ids, no outside address, colours that the page can exchange.

    Args:
        svg: what a function of this module returned.
        name: letters that no other figure of the page uses.
        description: what the figure shows, for those who cannot see it; plain text without quotes or angle brackets.

    Returns:
        An ``<svg>`` element. Colours are ``var(--blue, #0072b2)`` and so on, the names of :data:`COLOURS`.
    """
    named = _named.get()
    if named is not None:
        named[name] = svg
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Only inside of tags: names of classes stand between them and stay as they are.
    body = re.sub(r"<[a-z][^>]*>", lambda tag: _adapted(tag.group(), name), body)
    # The page decides the size; the view box keeps the shape.
    return re.sub(r'<svg width="[^"]*" height="[^"]*"', f'<svg role="img" aria-label="{description}"', body, count=1)


def charts(drawn: Sequence[tuple[str, str | None, str]]) -> str:
    """HTML of figures side by side where there is room; those that have no data are left out.

    Args:
        drawn: name, SVG and description of each, as :func:`inline` takes them.
    """
    shapes = [f'<figure class="chart">{inline(svg, name, words)}</figure>' for name, svg, words in drawn if svg]
    return f'<div class="charts">{"".join(shapes)}</div>' if shapes else ""


def _adapted(tag: str, name: str) -> str:
    """One tag of a figure with the page's ids, colours and font."""
    tag = re.sub(r' xmlns(:xlink)?="[^"]*"', "", tag).replace("xlink:href", "href")
    tag = tag.replace(' id="', f' id="{name}-').replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    tag = re.sub(r" font-family: [^;]*;", "", tag)
    for colour, code in COLOURS.items():
        tag = re.sub(rf"((?:fill|stroke): ){code}", rf"\1var(--{colour}, {code})", tag)
    return tag
