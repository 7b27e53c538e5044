"""Figures from plain numbers, as SVG text.

Each function returns a whole SVG document in the light colours of :data:`COLOURS`; :func:`inline` makes one fit into a
page and follow its light or dark theme. Text stays text, so that it can be searched, read aloud and tested.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from cosphere.report.data import read_scores

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

Rows = Sequence[Mapping[str, Any]]
Numbers = npt.NDArray[np.floating[Any]]


class Curve(NamedTuple):
    """One logged value over steps; both (n,), finite."""

    steps: Numbers
    values: Numbers


def curve(metrics: Rows, key: str, *, limit: int = 400) -> Curve:
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


@contextmanager
def _drawing(height: float = HEIGHT, panels: int = 1) -> Iterator[tuple[Figure, list[Axes], list[str]]]:
    """A styled figure with panels above each other; the SVG is the one item of the list afterwards."""
    svg: list[str] = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), dpi=72, layout="constrained")
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


def clean(text: str) -> str:
    """``text`` without control characters, which XML cannot hold, in one line."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _legend(axes: Axes) -> None:
    axes.legend(loc="best", handlelength=2.2, borderaxespad=0.2)


def _scaled(axes: Axes, values: Iterable[Numbers]) -> None:
    """A logarithmic axis where values span more than two orders of magnitude, else one that starts near zero."""
    every = np.concatenate([np.asarray(part, dtype=np.float64) for part in values])
    if len(every) and every.min() > 0 and every.max() > 100 * every.min():
        axes.set_yscale("log")


def training_curves(metrics: Rows) -> str | None:
    """The loss and its terms over steps: whole, metric, SEC. None when no loss was logged."""
    terms = [
        ("train/loss", "whole loss", "ink", "-"),
        ("train/loss_metric", "metric loss", "blue", "--"),
        ("train/loss_sec", "SEC, unweighted", "orange", "-."),
    ]
    found = [(curve(metrics, key), name, colour, dash) for key, name, colour, dash in terms]
    found = [one for one in found if len(one[0].steps)]
    if not found:
        return None
    with _drawing() as (_, (axes,), svg):
        for line, name, colour, dash in found:
            axes.plot(
                line.steps,
                line.values,
                color=COLOURS[colour],
                linestyle=dash,
                label=name,
                gid=_gid(name),
                marker=_dot(line),
            )
        _scaled(axes, [line.values for line, *_ in found])
        axes.set(title="Loss", xlabel="step", ylabel="loss")
        _legend(axes)
    return svg[0]


def sec_share_curve(metrics: Rows) -> str | None:
    """Weighted SEC over metric loss, with the line above which SEC is the larger one. None when not logged."""
    share = curve(metrics, "train/sec_share")
    if not len(share.steps) or not share.values.any():
        return None
    with _drawing() as (_, (axes,), svg):
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


def norm_curves(metrics: Rows) -> str | None:
    """Mean length with one standard deviation around it, and the CV below. None when not logged."""
    mean, variance, cv = (curve(metrics, f"train/norm_{name}") for name in ("mean", "var", "cv"))
    if not len(mean.steps):
        return None
    with _drawing(height=3.5, panels=2) as (_, (above, below), svg):
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


def health_curves(metrics: Rows) -> str | None:
    """Effective rank of the validation embeddings over steps, and their uniformity below. None when not logged."""
    rank, uniformity = curve(metrics, "val/effective_rank"), curve(metrics, "val/uniformity")
    if not len(rank.steps) or not len(uniformity.steps):
        return None
    with _drawing(height=3.5, panels=2) as (_, (above, below), svg):
        above.plot(rank.steps, rank.values, color=COLOURS["blue"], gid="effective-rank", marker="o", markersize=3.5)
        above.set(title="Health on validation", ylabel="effective rank")
        above.set_ylim(bottom=0)
        below.plot(
            uniformity.steps, uniformity.values, color=COLOURS["purple"], gid="uniformity", marker="s", markersize=3
        )
        below.set(xlabel="step", ylabel="uniformity")
    return svg[0]


def validation_curve(metrics: Rows) -> str | None:
    """Recall@1 and MAP@R on validation over steps, the best Recall@1 marked. None when not logged."""
    recall, precision = curve(metrics, "val/recall@1"), curve(metrics, "val/map@r")
    if not len(recall.steps):
        return None
    with _drawing() as (_, (axes,), svg):
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


def norm_histogram(norms: Numbers) -> str:
    """How long the embeddings are, as a share of images: (N,) lengths."""
    with _drawing() as (_, (axes,), svg):
        _histograms(axes, [("this run", norms, "blue", "-")])
        axes.set(title="Lengths", xlabel="length of the embedding", ylabel="images (%)")
        axes.set_xlim(left=0)
    return svg[0]


def similarity_histogram(nearest_right: Numbers, nearest_wrong: Numbers, *, bits: bool = False) -> str:
    """Similarity of each query to its nearest right and nearest wrong image.

    Args:
        nearest_right: (Q,) cosines, or minus the Hamming distances.
        nearest_wrong: (Q,) the same; values that are not finite are left out.
        bits: whether they are Hamming distances.
    """
    sign = -1 if bits else 1
    sets = [
        ("nearest right", sign * nearest_right, "green", "-"),
        ("nearest wrong", sign * nearest_wrong, "orange", "--"),
    ]
    with _drawing() as (_, (axes,), svg):
        _histograms(axes, sets)
        xlabel = "bits that differ from the query" if bits else "cosine to the query"
        axes.set(title="How near are right and wrong?", xlabel=xlabel, ylabel="queries (%)")
    return svg[0]


def _histograms(axes: Axes, sets: Sequence[tuple[str, Numbers, str, str]], bins: int = 40) -> None:
    """Outlined, filled histograms on shared bins; each set's shares sum to 100."""
    finite = [(name, values[np.isfinite(values)], colour, dash) for name, values, colour, dash in sets]
    every = np.concatenate([values for _, values, *_ in finite])
    edges = np.histogram_bin_edges(every, bins=bins) if len(every) else np.linspace(0, 1, bins + 1)
    for name, values, colour, dash in finite:
        shares = 100 * np.histogram(values, edges)[0] / max(1, len(values))
        axes.stairs(shares, edges, fill=True, color=COLOURS[colour], alpha=0.22)
        axes.stairs(shares, edges, color=COLOURS[colour], linestyle=dash, linewidth=1.5, label=name, gid=_gid(name))
    _legend(axes)


def recall_figure(scores: Mapping[str, Any], baseline: Mapping[str, Any] | None = None) -> str | None:
    """Recall@K over K with its interval, and before training if known.

    Args:
        scores: ``{"recall@1": {"value": 0.6, "low": 0.58, "high": 0.62}, ...}``, shares in [0, 1].
        baseline: the same before training.

    Returns:
        SVG, or None when there is no recall among the scores.
    """
    after, before = recalls(scores), recalls(baseline or {})
    if not after:
        return None
    ks = sorted({k for k, *_ in [*after, *before]})
    places = {k: place for place, k in enumerate(ks)}
    with _drawing() as (_, (axes,), svg):
        if before:
            _recall_line(axes, before, places, "orange", "--", "s", "before training")
        _recall_line(axes, after, places, "blue", "-", "o", "after training")
        for k, value, *_ in after:
            at = (places[k], 100 * value)
            axes.annotate(f"{at[1]:.1f}", at, xytext=(0, 8), textcoords="offset points", ha="center", fontsize=9)
        axes.set_xticks(range(len(ks)), [str(k) for k in ks])
        axes.set(title="Recall@K", xlabel="K (neighbours looked at)", ylabel="queries with a right one (%)")
        axes.margins(x=0.08, y=0.16)
        if before:
            axes.legend(loc="lower right")
    return svg[0]


def _recall_line(
    axes: Axes, points: Sequence[Recall], places: Mapping[int, int], colour: str, dash: str, marker: str, name: str
) -> None:
    """Recall over K with error bars."""
    at = [places[point.k] for point in points]
    values = 100 * np.array([point.value for point in points])
    low, high = (100 * np.array([getattr(point, side) for point in points]) for side in ("low", "high"))
    axes.plot(
        at, values, color=COLOURS[colour], linestyle=dash, marker=marker, markersize=4.5, label=name, gid=_gid(name)
    )
    bounds = np.stack([values - low, high - values]).clip(min=0)
    axes.errorbar(at, values, yerr=bounds, fmt="none", ecolor=COLOURS[colour], capsize=3)


class Recall(NamedTuple):
    """Recall@K as shares in [0, 1]."""

    k: int
    value: float
    low: float
    high: float


def recalls(scores: Mapping[str, Any]) -> list[Recall]:
    """Each Recall@K among scores, smallest K first; the value stands in for a missing bound."""
    found = []
    for name, score in read_scores(scores).items():
        kind, _, k = name.partition("@")
        if kind == "recall" and k.isdigit():
            low, high = (score.value if bound is None else bound for bound in (score.low, score.high))
            found.append(Recall(int(k), score.value, low, high))
    return sorted(found)


def class_figure(names: Sequence[str], recall: Sequence[float], queries: Sequence[int]) -> str | None:
    """Recall@1 of some classes as bars, first at the top. Shares in [0, 1]; None without classes."""
    if not len(names):
        return None
    with _drawing(height=0.9 + 0.24 * len(names)) as (_, (axes,), svg):
        places = range(len(names))
        axes.barh(places, [100 * share for share in recall], height=0.62, color=COLOURS["blue"])
        for place, share, count in zip(places, recall, queries, strict=True):
            axes.annotate(
                f"{100 * share:.0f} % of {count}",
                (100 * share, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
        labels = [_cut(clean(name), 28) for name in names]
        # Names are data: a dollar sign in one must not start a formula.
        axes.set_yticks(places, labels, parse_math=False, color=COLOURS["ink"], fontsize=8.5)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 118)
        axes.set_xticks(range(0, 101, 25))
        axes.set(title="Classes found worst", xlabel="Recall@1 (%)")
    return svg[0]


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 8]}…{text[-7:]}"


def _gid(name: str) -> str:
    return re.sub(r"[^a-z]+", "-", name.lower()).strip("-")


def _dot(line: Curve) -> str | None:
    """A marker for lines that would otherwise be invisible: a single point has no length."""
    return "o" if len(line.steps) == 1 else None


def inline(svg: str, name: str, description: str) -> str:
    """Make a figure part of an HTML page: unique ids, no outside address, colours that the page can exchange.

    Args:
        svg: what a function of this module returned.
        name: letters that no other figure of the page uses.
        description: what the figure shows, for those who cannot see it; plain text without quotes or angle brackets.

    Returns:
        An ``<svg>`` element. Colours are ``var(--blue, #0072b2)`` and so on, the names of :data:`COLOURS`.
    """
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Only inside of tags: names of classes stand between them and stay as they are.
    body = re.sub(r"<[a-z][^>]*>", lambda tag: _adapted(tag.group(), name), body)
    # The page decides the size; the view box keeps the shape.
    return re.sub(r'<svg width="[^"]*" height="[^"]*"', f'<svg role="img" aria-label="{description}"', body, count=1)


def _adapted(tag: str, name: str) -> str:
    """One tag of a figure with the page's ids, colours and font."""
    tag = re.sub(r' xmlns(:xlink)?="[^"]*"', "", tag).replace("xlink:href", "href")
    tag = tag.replace(' id="', f' id="{name}-').replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    tag = re.sub(r" font-family: [^;]*;", "", tag)
    for colour, code in COLOURS.items():
        tag = re.sub(rf"((?:fill|stroke): ){code}", rf"\1var(--{colour}, {code})", tag)
    return tag
