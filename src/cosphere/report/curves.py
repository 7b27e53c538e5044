"""Figures of a run's log: values over training steps, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from cosphere.report.drawing import COLOURS, Numbers, drawing, gid_of, legend

Log = Sequence[Mapping[str, Any]]


class Curve(NamedTuple):
    """One logged value over steps; both (n,), finite."""

    steps: Numbers
    values: Numbers


def curve(metrics: Log, key: str, *, limit: int = 400) -> Curve:
    """The finite values logged under ``key``, averaged over neighbouring steps down to at most ``limit`` points."""
    pairs = [
        (float(row["step"]), float(row[key]))
        for row in metrics
        if isinstance(row.get("step"), (int, float))
        and isinstance(row.get(key), (int, float))
        and math.isfinite(row[key])
    ]
    points = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    if len(points) > limit:
        points = np.stack([part.mean(axis=0) for part in np.array_split(points, limit)])
    return Curve(points[:, 0], points[:, 1])


def training_curves(metrics: Log) -> str | None:
    """The loss and its terms over steps: whole, metric, SEC. None when no loss was logged."""
    terms = [
        ("train/loss", "whole loss", "ink", "-"),
        ("train/loss_metric", "metric loss", "blue", "--"),
        ("train/loss_sec", "SEC, unweighted", "orange", "-."),
    ]
    curves = [(curve(metrics, key), name, colour, dash) for key, name, colour, dash in terms]
    curves = [one for one in curves if len(one[0].steps)]
    if not curves:
        return None
    with drawing() as (_, (axes,), svg):
        for line, name, colour, dash in curves:
            axes.plot(
                line.steps,
                line.values,
                color=COLOURS[colour],
                linestyle=dash,
                label=name,
                gid=gid_of(name),
                marker=_dot(line),
            )
        _scaled(axes, [line.values for line, *_ in curves])
        axes.set(title="Loss", xlabel="step", ylabel="loss")
        legend(axes)
    return svg[0]


def sec_share_curve(metrics: Log) -> str | None:
    """Weighted SEC over metric loss, with the line above which SEC is the larger one. None when not logged."""
    share = curve(metrics, "train/sec_share")
    if not len(share.steps) or not share.values.any():
        return None
    with drawing() as (_, (axes,), svg):
        axes.plot(share.steps, share.values, color=COLOURS["orange"], gid="sec-share", marker=_dot(share))
        axes.axhline(1.0, color=COLOURS["faint"], linestyle=":", linewidth=1.2)
        _scaled(axes, [share.values])
        axes.annotate(
            "SEC as large as the metric loss",
            (0.99, 1.0),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8.5,
            color=COLOURS["faint"],
        )
        axes.set(title="SEC against the metric loss", xlabel="step", ylabel="weight × SEC / metric loss")
    return svg[0]


def norm_curves(metrics: Log) -> str | None:
    """Mean length with one standard deviation around it, and the CV below. None when not logged."""
    mean, variance, cv = (curve(metrics, f"train/norm_{name}") for name in ("mean", "var", "cv"))
    if not len(mean.steps):
        return None
    with drawing(height=3.5, panels=2) as (_, (above, below), svg):
        above.plot(mean.steps, mean.values, color=COLOURS["blue"], gid="norm-mean", marker=_dot(mean))
        if len(variance.steps) == len(mean.steps):
            spread = np.sqrt(np.maximum(variance.values, 0))
            above.fill_between(
                mean.steps, mean.values - spread, mean.values + spread, color=COLOURS["blue"], alpha=0.18, linewidth=0
            )
        above.set(title="Length of the embeddings in a batch", ylabel="mean ± std")
        below.plot(cv.steps, cv.values, color=COLOURS["orange"], gid="norm-cv", marker=_dot(cv))
        below.set(xlabel="step", ylabel="CV (std / mean)")
        below.set_ylim(bottom=0)
    return svg[0]


def length_ridges(metrics: Log, *, most: int = 8) -> str | None:
    """Histograms of the validation embeddings' lengths, one above another, the last step on top. None when not logged.

    Each has the same height, so that its width is what shows.

    Args:
        metrics: logged lines; those with ``val/lengths`` count.
        most: histograms to draw: the first, the last, and some evenly between them.
    """
    rows = [(row["step"], row["val/lengths"]) for row in metrics if _is_histogram(row.get("val/lengths"))]
    if not rows:
        return None
    chosen = [rows[at] for at in np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]
    with drawing(height=1.1 + 0.42 * len(chosen)) as (_, (axes,), svg):
        for place, (step, one) in enumerate(chosen):
            shares = np.array(one["shares"])
            edges = np.linspace(one["low"], max(one["high"], one["low"] + 1e-9), len(shares) + 1)
            axes.stairs(
                place + 1.5 * shares / max(shares.max(), 1e-9),
                edges,
                baseline=place,
                fill=True,
                facecolor=COLOURS["blue"],
                edgecolor=COLOURS["ink"],
                alpha=0.45,
                linewidth=0.8,
                gid=f"lengths-{step}",
                zorder=len(chosen) - place,
            )
        axes.set_yticks(range(len(chosen)), [f"{step}" for step, _ in chosen])
        axes.set(title="Lengths on validation", xlabel="length of the embedding", ylabel="step")
        axes.set_xlim(left=0)
    return svg[0]


def _is_histogram(content: Any) -> bool:
    """Whether a logged value is what :func:`cosphere.tensors.length_histogram` gives, with anything in it."""
    if not isinstance(content, Mapping) or not isinstance(content.get("shares"), list) or not content["shares"]:
        return False
    numbers = [content.get("low"), content.get("high"), *content["shares"]]
    return all(isinstance(one, int | float) and math.isfinite(one) for one in numbers)


def health_curves(metrics: Log) -> str | None:
    """Effective rank of the validation embeddings over steps, and their uniformity below. None when not logged."""
    rank, uniformity = curve(metrics, "val/effective_rank"), curve(metrics, "val/uniformity")
    if not len(rank.steps) or not len(uniformity.steps):
        return None
    with drawing(height=3.5, panels=2) as (_, (above, below), svg):
        above.plot(rank.steps, rank.values, color=COLOURS["blue"], gid="effective-rank", marker="o", markersize=3.5)
        above.set(title="Health on validation", ylabel="effective rank")
        above.set_ylim(bottom=0)
        below.plot(
            uniformity.steps, uniformity.values, color=COLOURS["purple"], gid="uniformity", marker="s", markersize=3
        )
        below.set(xlabel="step", ylabel="uniformity")
    return svg[0]


def validation_curve(metrics: Log) -> str | None:
    """Recall@1 and MAP@R on validation over steps, the best Recall@1 marked. None when not logged."""
    recall, precision = curve(metrics, "val/recall@1"), curve(metrics, "val/map@r")
    if not len(recall.steps):
        return None
    with drawing() as (_, (axes,), svg):
        axes.plot(
            recall.steps,
            100 * recall.values,
            color=COLOURS["blue"],
            marker="o",
            markersize=3.5,
            label="Recall@1",
            gid="val-recall",
        )
        if len(precision.steps):
            axes.plot(
                precision.steps,
                100 * precision.values,
                color=COLOURS["purple"],
                linestyle="--",
                marker="s",
                markersize=3,
                label="MAP@R",
                gid="val-map",
            )
        best = int(recall.values.argmax())
        step, value = recall.steps[best], 100 * recall.values[best]
        axes.plot(
            [step],
            [value],
            "o",
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=COLOURS["orange"],
            markeredgewidth=2,
            gid="val-best",
        )
        late = step > recall.steps.mean()
        axes.annotate(
            f"best {value:.1f} % at step {step:.0f}",
            (step, value),
            xytext=(-4 if late else 4, 9),
            textcoords="offset points",
            ha="right" if late else "left",
            fontsize=9,
            color=COLOURS["orange"],
        )
        axes.margins(y=0.18)
        axes.set(title="Validation", xlabel="step", ylabel="score (%)")
        axes.legend(loc="lower right")
    return svg[0]


def _scaled(axes: Axes, values: Iterable[Numbers]) -> None:
    """A logarithmic axis where values span more than two orders of magnitude, else one that starts near zero."""
    every = np.concatenate([np.asarray(part, dtype=np.float64) for part in values])
    if len(every) and every.min() > 0 and every.max() > 100 * every.min():
        axes.set_yscale("log")


def _dot(line: Curve) -> str | None:
    """A marker for lines that would otherwise be invisible: a single point has no length."""
    return "o" if len(line.steps) == 1 else None
