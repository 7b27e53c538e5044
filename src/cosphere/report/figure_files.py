"""Figures of a page that also lie beside it as files a paper could print."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from cosphere.files import write_atomic
from cosphere.report.drawing import PRINTED_DOTS

WIDE = 8.2
"""Inches of a figure that takes the whole width of a page."""


class Drawn(NamedTuple):
    """A figure of the page."""

    name: str
    svg: str
    description: str


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure on white.

    Raises:
        RunError: the file cannot be written.
    """

    def write(part: Path) -> None:
        figure.savefig(part, format="png", dpi=PRINTED_DOTS, facecolor="white")

    write_atomic(path, write)
