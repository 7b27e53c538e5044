"""The sphere itself: embeddings of three numbers around the sphere of their mean length, while they train.

Each run has a sphere and a histogram of lengths below it. Lengths are in units of the mean length of their snapshot, so that the sphere
always has radius 1 and only the spread shows; a thin line from the centre to each point shows its length.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image

from cosphere._types import Floats, Integers
from cosphere.errors import SizeError
from cosphere.files import path_of, write_atomic
from cosphere.report.drawing import COLOURS, STYLE, clean
from cosphere.spherical import length_statistics

_STYLE: Any = {**STYLE, "figure.facecolor": "white", "axes.facecolor": "white", "font.size": 13, "axes.grid": False}
_WIDTH, _HEIGHT = 7.2, 5.1
"""Inches; letters stay readable at half this width."""
_DOTS, _DOTS_MOVING = 200, 100
"""Dots an inch of the PNG, and of the animation."""
_REACH = 2.0
"""Half the width of a panel, in mean lengths; points beyond it stand at its edge, and the histogram's last bin counts them."""
_HUES = ("blue", "orange", "green", "purple")
_SHAPES = "o^sDvP*X"
_TILT = np.deg2rad(18.0)
_TURN = np.deg2rad(150.0)
"""How far the view goes round in an animation."""
_COLOURS_MOVING = 112
_MILLISECONDS, _PAUSE = 110, 2500
"""Of a frame, and of the last one."""


class SphereRun(NamedTuple):
    """The embeddings of one run over its steps."""

    title: str
    embeddings: npt.NDArray[np.floating[Any]]
    """(T, N, 3): T snapshots of the same N images."""


def write_sphere(
    runs: Sequence[SphereRun], labels: Integers, steps: Sequence[int], folder: str | Path, *, name: str = "sphere"
) -> list[Path]:
    """Write `NAME.svg` and `NAME.png`, the last snapshot, and `NAME.gif`, all of them.

    Args:
        runs: drawn side by side.
        labels: (N,) class of each image, in [0, 32): each of eight shapes in four colours.
        steps: T steps at which the snapshots were taken.
        folder: to write into.
        name: of the files.

    Raises:
        SizeError: the embeddings do not have three numbers, or numbers of snapshots, images or classes do not fit.
        RunError: a file cannot be written.
    """
    _check(runs, labels, steps)
    paths = [path_of(folder) / f"{name}.{kind}" for kind in ("svg", "png", "gif")]
    with matplotlib.rc_context(_STYLE):
        figure = sphere_figure(runs, labels, steps)
        write_atomic(paths[0], lambda part: figure.savefig(part, format="svg", metadata={"Date": None}))
        write_atomic(paths[1], lambda part: figure.savefig(part, format="png", dpi=_DOTS))
        frames = [_frame(runs, labels, steps, at) for at in range(len(steps))]
    write_atomic(paths[2], lambda part: _save_frames(frames, part))
    return paths


def sphere_figure(runs: Sequence[SphereRun], labels: Integers, steps: Sequence[int], at: int = -1) -> Figure:
    """One snapshot of all runs; see :func:`write_sphere`.

    Args:
        runs: drawn side by side.
        labels: (N,) class of each image.
        steps: T steps.
        at: which snapshot; the view depends on it.
    """
    _check(runs, labels, steps)
    place = at % len(steps)
    angle = _TURN * place / max(len(steps) - 1, 1)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH * len(runs) / 2, _HEIGHT))
        FigureCanvasAgg(figure)
        axes = np.asarray(figure.subplots(2, len(runs), height_ratios=[3.9, 1], squeeze=False))
        figure.subplots_adjust(left=0.025, right=0.975, top=0.93, bottom=0.125, wspace=0.05, hspace=0.0)
        for column, run in enumerate(runs):
            relative, cv = _relative(run.embeddings[place])
            _sphere(axes[0, column], relative, labels, angle)
            axes[0, column].set_title(clean(run.title), loc="center", fontsize=16, parse_math=False)
            _histogram(axes[1, column], relative, cv)
        figure.text(0.5, 0.93, f"step {steps[place]}", ha="center", fontsize=12, color=COLOURS["faint"])
    return figure


def _check(runs: Sequence[SphereRun], labels: Integers, steps: Sequence[int]) -> None:
    if not runs or not len(labels) or not len(steps):
        raise SizeError("want at least one run, one image and one snapshot to draw. Give SphereRun(title, (T, N, 3)).")
    for run in runs:
        shape = np.shape(run.embeddings)
        if shape != (len(steps), len(labels), 3):
            raise SizeError(
                f"want embeddings ({len(steps)} steps, {len(labels)} images, 3) of {run.title!r}; got {shape}. "
                "Train with model.dim 3."
            )
    most = len(_HUES) * len(_SHAPES)
    if min(labels) < 0 or max(labels) >= most:
        raise SizeError(f"want labels from 0 to {most - 1}; got {min(labels)} to {max(labels)}. Draw fewer classes.")


def _relative(embeddings: npt.NDArray[np.floating[Any]]) -> tuple[Floats, float]:
    """(N, 3) in units of their mean length, and the CV of the lengths."""
    wide = np.asarray(embeddings, dtype=np.float64)
    statistics = length_statistics(torch.from_numpy(wide))
    return wide / (statistics.mean or 1.0), statistics.cv


def _turned(points: Floats, angle: float) -> Floats:
    """Seen from the front: (..., 3) as right, up and towards the viewer."""
    x = points[..., 0] * np.cos(angle) - points[..., 1] * np.sin(angle)
    y = points[..., 0] * np.sin(angle) + points[..., 1] * np.cos(angle)
    up = points[..., 2] * np.cos(_TILT) - y * np.sin(_TILT)
    return np.stack([x, up, y * np.cos(_TILT) + points[..., 2] * np.sin(_TILT)], axis=-1)


def _sphere(axes: Axes, points: Floats, labels: Integers, angle: float) -> None:
    """The points far side first, and between the two sides the sphere."""
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    shown = points * np.minimum(1, _REACH * 0.98 / np.maximum(norms, 1e-12))
    seen = _turned(shown, angle)
    axes.set(xlim=(-_REACH, _REACH), ylim=(-_REACH * 0.96, _REACH * 0.96), aspect="equal")
    axes.set_axis_off()
    far = seen[:, 2] < 0
    _points(axes, seen[far], labels[far], opacity=0.5)
    axes.add_patch(Circle((0, 0), 1, facecolor="#dfe5ea", alpha=0.55, edgecolor="none", zorder=2))
    _net(axes, angle)
    axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor=COLOURS["faint"], linewidth=1.4, zorder=3))
    _points(axes, seen[~far], labels[~far], opacity=0.95, order=4)


def _points(axes: Axes, seen: Floats, labels: Integers, *, opacity: float, order: int = 1) -> None:
    for label in np.unique(labels):
        own = labels == label
        colour = COLOURS[_HUES[label % len(_HUES)]]
        centre, gap = np.zeros_like(seen[own]), np.full_like(seen[own], np.nan)
        ends = np.stack([centre, seen[own], gap], axis=1).reshape(-1, 3)
        axes.plot(ends[:, 0], ends[:, 1], color=colour, linewidth=0.7, alpha=0.35 * opacity, zorder=order)
        shape = _SHAPES[label // len(_HUES)]
        axes.scatter(
            seen[own, 0],
            seen[own, 1],
            s=24,
            marker=shape,
            color=colour,
            alpha=opacity,
            linewidths=0,
            zorder=order + 0.5,
        )


def _net(axes: Axes, angle: float) -> None:
    """Meridians and parallels of the side that faces the viewer."""
    round_ = np.linspace(0, 2 * np.pi, 121)
    circles = [
        np.stack([np.cos(round_) * np.cos(at), np.cos(round_) * np.sin(at), np.sin(round_)], axis=1)
        for at in np.arange(0, np.pi, np.pi / 6)
    ]
    circles += [
        np.stack([np.cos(round_) * np.cos(at), np.sin(round_) * np.cos(at), np.full_like(round_, np.sin(at))], axis=1)
        for at in np.deg2rad([-60, -30, 0, 30, 60])
    ]
    for circle in circles:
        seen = _turned(circle, angle)
        seen[seen[:, 2] < 0] = np.nan
        axes.plot(seen[:, 0], seen[:, 1], color="white", linewidth=0.9, zorder=2.5)


def _histogram(axes: Axes, points: Floats, cv: float) -> None:
    """Lengths in mean lengths, as shares of images."""
    norms = np.linalg.norm(points, axis=1)
    edges = np.linspace(0, _REACH, 41)
    shares = np.histogram(norms.clip(max=_REACH), edges)[0] / len(norms)
    axes.stairs(shares, edges, fill=True, color=COLOURS["blue"], alpha=0.35)
    axes.stairs(shares, edges, color=COLOURS["blue"], linewidth=1.3)
    axes.axvline(1, color=COLOURS["ink"], linewidth=1, linestyle=(0, (3, 2)))
    axes.set(xlim=(0, _REACH), ylim=(0, 0.3), yticks=[])
    axes.set_xticks([0, 1, _REACH], ["0", "1", f"{_REACH:g}+"])
    first, _, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("length ÷ mean length", labelpad=0)
    axes.text(0.99, 0.92, f"CV {cv:.2f}", transform=axes.transAxes, ha="right", va="top", fontsize=14, weight="bold")


def _frame(runs: Sequence[SphereRun], labels: Integers, steps: Sequence[int], at: int) -> Image.Image:
    """One picture of the animation."""
    buffer = io.BytesIO()
    sphere_figure(runs, labels, steps, at).savefig(buffer, format="png", dpi=_DOTS_MOVING)
    return Image.open(buffer).convert("RGB")


def _save_frames(frames: Sequence[Image.Image], path: Path) -> None:
    """A GIF that repeats for ever, and waits at its end. All frames share their colours."""
    palette = _palette(frames)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    first.save(
        path,
        format="GIF",
        save_all=True,
        append_images=rest,
        duration=[*[_MILLISECONDS] * len(rest), _PAUSE],
        loop=0,
        optimize=True,
    )


def _palette(frames: Sequence[Image.Image]) -> Image.Image:
    """The colours of some frames, as the view turns and each hue is now in front and now behind; white stays white."""
    some = frames[:: max(1, len(frames) // 8)]
    width, height = some[0].size
    sheet = Image.new("RGB", (width, height * len(some)))
    for place, frame in enumerate(some):
        sheet.paste(frame, (0, place * height))
    palette = sheet.quantize(_COLOURS_MOVING, dither=Image.Dither.NONE)
    levels = np.reshape(palette.getpalette() or [], (-1, 3))
    levels[levels.min(axis=1) > 245] = 255
    palette.putpalette(levels.flatten().tolist())
    return palette
