"""Figure of a comparison: a forest plot of the differences and the gain of every class.

No information is conveyed by colour alone: gains lie right of zero and losses left of it, and marks differ in shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from cosphere.evaluate.comparison import EQUAL, Comparison, Difference
from cosphere.files import path_of, write_atomic
from cosphere.report.drawing import COLOURS, STYLE, clean

_STYLE: Any = {**STYLE, "figure.facecolor": "white", "axes.facecolor": "white"}
NAMED_CLASSES = 6
"""Largest gains, and as many largest losses, that are named."""
_WIDTH = 10.0
"""Inches."""
_DOTS = 150
"""Dots an inch of the PNG."""
_LETTERS = 30
"""Of a name, before its middle is left out."""


def write_comparison_figure(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write `comparison.png` and `comparison.svg`.

    Raises:
        RunError: the folder cannot be written.
    """
    paths = [path_of(folder) / f"comparison.{kind}" for kind in ("png", "svg")]
    figure = comparison_figure(comparison)

    def write_png(part: Path) -> None:
        figure.savefig(part, format="png", dpi=_DOTS)

    def write_svg(part: Path) -> None:
        figure.savefig(part, format="svg", metadata={"Date": None})

    with matplotlib.rc_context(_STYLE):
        write_atomic(paths[0], write_png)
        write_atomic(paths[1], write_svg)
    return paths


@matplotlib.rc_context(_STYLE)
def comparison_figure(comparison: Comparison) -> Figure:
    """The forest plot on top, then a row for each arm: all classes in order of their gain, and the extreme ones by name."""
    others = [arm for arm in comparison.arms if arm != comparison.baseline]
    score = comparison.scores[0].score
    forest = 1.1 + 0.34 * (len(comparison.differences) + len({one.score for one in comparison.differences}))
    named = min(2 * NAMED_CLASSES, len(comparison.class_names))
    row = max(2.9, 1.1 + 0.21 * named)
    layout = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.12)
    figure = Figure(figsize=(_WIDTH, forest + row * len(others)), layout=layout)
    FigureCanvasAgg(figure)
    heights = [forest, *[row] * len(others)]
    parts = np.atleast_1d(np.asarray(figure.subfigures(len(heights), 1, height_ratios=heights))).tolist()
    seeds = _forest(parts[0].subplots(), comparison)
    _title(parts[0], _forest_title(comparison, seeds))
    for part, arm in zip(parts[1:], others, strict=True):
        left, right = part.subplots(1, 2, width_ratios=[1, 1])
        _title(part, f"{_short(arm)} against {_short(comparison.baseline)}: {score} by class")
        gains = 100 * comparison.gains(arm, score)
        _every_class(left, gains)
        _named_classes(right, gains, comparison.class_names, score)
    return figure


def _title(part: SubFigure, text: str) -> None:
    part.suptitle(text, x=0.01, ha="left", fontsize=10.5, fontweight="bold")


def _forest(axes: Axes, comparison: Comparison) -> bool:
    """One row per difference: a dot with a thick interval, and below it a hollow square with a thin interval over seeds alone.

    Returns:
        Whether any interval over seeds was drawn.
    """
    place, ticks, names = 0.0, [], []
    seeds_shown = False
    before = None
    for one in comparison.differences:
        if one.score != before:
            place += 1.0
            ticks.append(place)
            names.append(one.score)
            before = one.score
        place += 1.0
        ticks.append(place)
        names.append(_short(one.arm))
        seeds_shown |= _one_difference(axes, one, place)
        p = f"p = {one.p_holm:.3f}" if one.p_holm >= 0.001 else "p < 0.001"
        text = f"{100 * one.value:+.1f}   {p}".replace("-", "\N{MINUS SIGN}")  # as on the axis
        axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.axvline(0, color=COLOURS["ink"], linewidth=1)
    axes.set_yticks(ticks, names)
    heads = {one.score for one in comparison.differences}
    for label in axes.get_yticklabels():
        if label.get_text() in heads:
            label.set_fontweight("bold")
            label.set_color(COLOURS["ink"])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_ylim(place + 0.7, 0.4)
    _around_zero(axes)
    axes.set_xlabel(f"difference to {_short(comparison.baseline)}, percentage points (right of 0: better)")
    return seeds_shown


def _one_difference(axes: Axes, one: Difference, place: float) -> bool:
    """Whether an interval over seeds was drawn."""
    low, high = (100 * end for end in one.interval)
    axes.plot([low, high], [place, place], color=COLOURS["blue"], linewidth=3.2, solid_capstyle="butt")
    axes.plot(100 * one.value, place, marker="o", markersize=7, color=COLOURS["blue"])
    if one.seeds is None or one.seeds.low is None or one.seeds.high is None:
        return False
    below = place + 0.32
    ends = [100 * one.seeds.low, 100 * one.seeds.high]
    axes.plot(ends, [below, below], color=COLOURS["faint"], linewidth=1, marker="|", markersize=6)
    axes.plot(100 * one.value, below, marker="s", markersize=4, color=COLOURS["faint"], markerfacecolor="white")
    return True


def _forest_title(comparison: Comparison, seeds: bool) -> str:
    level = f"{100 * comparison.level:g} % intervals"
    if not seeds:
        return f"{level} over {comparison.over}; p corrected after Holm"
    return f"{level}: thick over seeds and {comparison.over}, thin over seeds alone; p corrected after Holm"


def _every_class(axes: Axes, gains: Any) -> None:
    """Classes from the largest gain to the largest loss, one bar each."""
    ordered = np.sort(gains)[::-1]
    place = np.arange(1, len(ordered) + 1)
    # As steps, not as bars: eleven thousand bars would be a file of megabytes.
    for part, colour in ((ordered.clip(min=0), "blue"), (ordered.clip(max=0), "orange")):
        axes.fill_between(
            np.append(place, place[-1] + 1) - 0.5,
            np.append(part, part[-1]),
            step="post",
            color=COLOURS[colour],
            linewidth=0,
        )
    won, lost = int((gains > 100 * EQUAL).sum()), int((gains < -100 * EQUAL).sum())
    axes.axhline(0, color=COLOURS["ink"], linewidth=1)
    axes.set_xlim(0.5, len(ordered) + 0.5)
    axes.set_xlabel(f"class, by gain: {won} won, {len(gains) - won - lost} tied, {lost} lost")
    axes.set_ylabel("gain, percentage points")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _named_classes(axes: Axes, gains: Any, names: tuple[str, ...], score: str) -> None:
    """Label the classes at both ends."""
    order = np.argsort(-gains, kind="stable")
    if len(order) > 2 * NAMED_CLASSES:
        order = np.concatenate([order[:NAMED_CLASSES], order[-NAMED_CLASSES:]])
        axes.axhline(NAMED_CLASSES - 0.5, color=COLOURS["faint"], linewidth=1, linestyle=(0, (2, 3)))
    shown = gains[order]
    colours = [COLOURS["blue"] if gain >= 0 else COLOURS["orange"] for gain in shown]
    axes.barh(np.arange(len(order)), shown, color=colours, height=0.72)
    axes.axvline(0, color=COLOURS["ink"], linewidth=1)
    axes.set_yticks(np.arange(len(order)), [_short(names[at]) for at in order], fontsize=8.5)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{score}, percentage points")


def _around_zero(axes: Axes) -> None:
    """Set axis limits that include zero with a margin, even if all values are exactly zero."""
    low, high = axes.get_xlim()
    low, high = min(low, 0.0), max(high, 0.0)
    room = 0.06 * (high - low)
    axes.set_xlim(low - room, high + room) if high - low > 0.2 else axes.set_xlim(low - 0.5, high + 0.5)


def _short(text: str) -> str:
    """One line of at most `_LETTERS`, both ends kept; dollars do not start a formula."""
    line = clean(text)
    if len(line) > _LETTERS:
        half = (_LETTERS - 1) // 2
        line = f"{line[:half].rstrip()}…{line[-half:].lstrip()}"
    return line.replace("$", r"\$")
