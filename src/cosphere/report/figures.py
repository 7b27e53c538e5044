"""Figures of an evaluation: histograms, Recall@K and classes, as SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from cosphere.report.data import read_scores
from cosphere.report.drawing import COLOURS, Numbers, clean, drawing, gid_of, legend


def norm_histogram(norms: Numbers) -> str:
    """How long the embeddings are, as a share of images: (N,) lengths."""
    with drawing() as (_, (axes,), svg):
        draw_histograms(axes, [("this run", norms, "blue", "-")])
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
    with drawing() as (_, (axes,), svg):
        draw_histograms(axes, sets)
        xlabel = "bits that differ from the query" if bits else "cosine to the query"
        axes.set(title="How near are right and wrong?", xlabel=xlabel, ylabel="queries (%)")
    return svg[0]


def draw_histograms(axes: Axes, sets: Sequence[tuple[str, Numbers, str, str]], bins: int = 40) -> None:
    """Outlined, filled histograms on shared bins; each set's shares sum to 100."""
    finite = [(name, values[np.isfinite(values)], colour, dash) for name, values, colour, dash in sets]
    every = np.concatenate([values for _, values, *_ in finite])
    edges = np.histogram_bin_edges(every, bins=bins) if len(every) else np.linspace(0, 1, bins + 1)
    for name, values, colour, dash in finite:
        shares = 100 * np.histogram(values, edges)[0] / max(1, len(values))
        axes.stairs(shares, edges, fill=True, color=COLOURS[colour], alpha=0.22)
        axes.stairs(shares, edges, color=COLOURS[colour], linestyle=dash, linewidth=1.5, label=name, gid=gid_of(name))
    legend(axes)


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
    with drawing() as (_, (axes,), svg):
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
        at, values, color=COLOURS[colour], linestyle=dash, marker=marker, markersize=4.5, label=name, gid=gid_of(name)
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
    shares = []
    for name, score in read_scores(scores).items():
        kind, _, k = name.partition("@")
        if kind == "recall" and k.isdigit():
            low, high = (score.value if bound is None else bound for bound in (score.low, score.high))
            shares.append(Recall(int(k), score.value, low, high))
    return sorted(shares)


def class_figure(names: Sequence[str], recall: Sequence[float], queries: Sequence[int]) -> str | None:
    """Recall@1 of some classes as bars, first at the top. Shares in [0, 1]; None without classes."""
    if not len(names):
        return None
    with drawing(height=0.9 + 0.24 * len(names)) as (_, (axes,), svg):
        places = range(len(names))
        axes.barh(places, [100 * share for share in recall], height=0.62, color=COLOURS["blue"])
        for place, share, count in zip(places, recall, queries, strict=True):
            axes.annotate(
                f"{100 * share:.0f} %, {count} quer{'y' if count == 1 else 'ies'}",
                (100 * share, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
        labels = [cut(clean(name), 28) for name in names]
        # Names are data: a dollar sign in one must not start a formula.
        axes.set_yticks(places, labels, parse_math=False, color=COLOURS["ink"], fontsize=8.5)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 140)
        axes.set_xticks(range(0, 101, 25))
        axes.set(title="Classes with the lowest recall", xlabel="Recall@1 (%)")
    return svg[0]


def cut(text: str, letters: int) -> str:
    """At most ``letters`` of a name: its start and its end."""
    return text if len(text) <= letters else f"{text[: letters - 8]}…{text[-7:]}"
