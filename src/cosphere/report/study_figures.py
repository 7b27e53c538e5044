"""Figures of a study: differences with intervals, scores of each seed, validation scores of each candidate, courses over steps.

No information is conveyed by colour alone: marks differ in shape, and what lies right of zero is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from cosphere.report.convergence import convergence_figures
from cosphere.report.drawing import COLOURS, WIDE, Drawn, clean, drawing, legend
from cosphere.report.spreads import spread_figure

Row = Mapping[str, Any]
MARKS = {"yes": ("o", "blue"), "no": ("s", "orange"), "not decided": ("D", "faint")}
"""Mark and colour of each answer."""
_SHAPES = "osD^vP*X"
_HUES = ("blue", "orange", "green", "purple")
_ROW = 0.3
"""Inches of a line."""


def figures(results: Row, table: Sequence[Row]) -> list[Drawn]:
    """Draw all figures.

    Args:
        results: content of `results.json`.
        table: rows of `table.json`.

    Returns:
        those for which there is anything to show.
    """
    drawn = []
    compared = [one for one in results["comparisons"] if one["verdict"] is not None]
    if compared:
        drawn.append(_forest(compared, results["rules"]["level"]))
    # What the first question is about, else the usual one.
    for name in (*(one["score"] for one in results["comparisons"]), "recall@1", "map@r"):
        final = [row for row in table if row["phase"] == "final" and row.get(f"score.{name}") is not None]
        if final:
            drawn.append(_seeds(final, results, name))
            break
    metric = results["rules"]["metric"]
    tuned = [row for row in table if row["phase"] == "tune" and row.get(f"score.{metric}") is not None]
    if tuned:
        drawn.append(_candidates(tuned, results, metric))
    variance = results.get("variance")
    if variance and len(variance["points"]) > 1:
        drawn.append(_variance(variance))
    if results.get("spreads"):
        drawn.append(spread_figure(results["spreads"]))
    if results.get("convergence"):
        drawn += convergence_figures(results["convergence"])
    return drawn


@contextmanager
def _rows(count: int, parts: list[str]) -> Iterator[Axes]:
    """Axes with ``count`` lines; afterwards the SVG is in ``parts``."""
    with drawing(1.0 + _ROW * count, width=WIDE) as (_, (axes,), svg):
        axes.set_ylim(count - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        yield axes
    parts.append(svg[0])


def _forest(compared: Sequence[Row], level: float) -> Drawn:
    """One line for each comparison: a thick interval over seeds and classes, a thin one over seeds alone."""
    parts: list[str] = []
    with _rows(len(compared), parts) as axes:
        for place, one in enumerate(compared):
            mark, colour = MARKS[one["answer"]]
            seeds, classes = one["verdict"]["evidence"]["seeds"], one["classes"]
            if seeds["low"] is not None:
                ends = [100 * seeds["low"], 100 * seeds["high"]]
                axes.plot(ends, [place, place], color=COLOURS[colour], linewidth=1, marker="|", markersize=7)
            if classes is not None:
                ends = [100 * end for end in (classes["interval"]["low"], classes["interval"]["high"])]
                axes.plot(ends, [place, place], color=COLOURS[colour], linewidth=3.4, alpha=0.5, solid_capstyle="butt")
            axes.plot(100 * seeds["mean"], place, marker=mark, markersize=6.5, color=COLOURS[colour])
        axes.axvline(0, color=COLOURS["ink"], linewidth=1)
        axes.set_yticks(range(len(compared)), [_pair(one) for one in compared])
        for answer, (mark, colour) in MARKS.items():
            axes.plot([], [], marker=mark, linestyle="none", color=COLOURS[colour], label=answer)
        legend(axes, beside=True, handlelength=1.2)
        axes.set(title=f"Differences, with {100 * level:g} % intervals")
        axes.set_xlabel("percentage points (right of 0: better)\nthick: over seeds and classes, thin: over seeds")
    text = "; ".join(
        f"{_pair(one)}: {100 * one['verdict']['evidence']['seeds']['mean']:+.1f} points" for one in compared
    )
    return Drawn("differences", parts[0], f"Differences between arms: {text}")


def _pair(one: Row) -> str:
    other = one.get("against_score") or one["score"]
    scores = one["score"] if other == one["score"] else f"{one['score']} − {other}"
    return _name(f"{one['arm']} − {one['against']} ({scores})")


def _name(text: str) -> str:
    """A name on an axis; dollars start no formula."""
    return clean(text).replace("$", r"\$")


def _seeds(final: Sequence[Row], results: Row, score: str) -> Drawn:
    """Test score of each final run, one line for each arm, and their mean."""
    arms = [arm["name"] for arm in results["arms"]]
    parts: list[str] = []
    means = []
    with _rows(len(arms), parts) as axes:
        for place, arm in enumerate(arms):
            values = np.array([100 * row[f"score.{score}"] for row in final if row["arm"] == arm])
            if len(values):
                axes.plot(values, np.full(len(values), place), "o", markersize=4.5, color=COLOURS["blue"], alpha=0.55)
                axes.plot(values.mean(), place, "|", markersize=15, markeredgewidth=2, color=COLOURS["ink"])
                means.append(f"{arm} {values.mean():.1f}")
        axes.set_yticks(range(len(arms)), [_name(arm) for arm in arms])
        axes.set(title="Test scores", xlabel=f"{score}, % (dots: seeds; line: their mean)")
    return Drawn("scores", parts[0], f"Test {score} in percent, mean over seeds: {'; '.join(means)}")


def _candidates(tuned: Sequence[Row], results: Row, metric: str) -> Drawn:
    """Validation score of each candidate, and which was chosen: the mean over its seeds."""
    chosen = {arm["name"]: arm.get("candidate") for arm in results["arms"]}
    parts: list[str] = []
    with _rows(len(chosen), parts) as axes:
        for place, (arm, winner) in enumerate(chosen.items()):
            values: dict[int, list[float]] = {}
            for row in tuned:
                if row["arm"] == arm:
                    values.setdefault(row["candidate"], []).append(100 * row[f"score.{metric}"])
            means = {number: float(np.mean(scores)) for number, scores in values.items()}
            rest = [mean for number, mean in means.items() if number != winner]
            axes.plot(rest, np.full(len(rest), place), "x", markersize=5, color=COLOURS["faint"])
            if winner in means:
                axes.plot(means[winner], place, "o", markersize=7, color=COLOURS["green"])
        axes.set_yticks(range(len(chosen)), [_name(arm) for arm in chosen])
        axes.set(title="Validation scores of the candidates", xlabel=f"{metric}, % (dot: chosen)")
    return Drawn("candidates", parts[0], f"Validation {metric} of each candidate, by arm")


def _variance(variance: Row) -> Drawn:
    """One mark for each pair of runs: how much evener lengths became, and what was gained."""
    pairs = list(dict.fromkeys((one["arm"], one["against"]) for one in variance["points"]))
    with drawing(3.6, width=WIDE) as (_, (axes,), svg):
        for at, (arm, against) in enumerate(pairs):
            own = [one for one in variance["points"] if (one["arm"], one["against"]) == (arm, against)]
            axes.plot(
                [100 * one["reduction"] for one in own],
                [100 * one["gain"] for one in own],
                linestyle="none",
                marker=_SHAPES[at % len(_SHAPES)],
                color=COLOURS[_HUES[at // len(_SHAPES) % len(_HUES)]],
                label=_name(f"{arm} − {against}"),
            )
        axes.axhline(0, color=COLOURS["ink"], linewidth=1)
        axes.set(title="Evener lengths and gains", xlabel="fall of the relative variance of lengths, %")
        axes.set_ylabel(f"gain in {variance['score']}, points")
        legend(axes, beside=True, handlelength=1.2)
    rank = variance["spearman"]
    text = "unknown" if rank is None else f"{rank:.2f}"
    return Drawn("variance", svg[0], f"Fall of the variance of lengths against gain; rank correlation {text}")
