"""The convergence of a study's arms: curves of scores and of lengths over steps, and the table of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from cosphere.report.drawing import COLOURS, WIDE, Drawn, clean, drawing, legend, line_look
from cosphere.report.markup import missing, paragraph, table
from cosphere.report.sections import score_name

Row = Mapping[str, Any]


def convergence_figures(content: Row) -> list[Drawn]:
    """Validation score, relative variance of lengths and effective rank over steps: a panel for each arm, with those it is compared with.

    Args:
        content: ``convergence`` of `results.json`.
    """
    rows: dict[str, list[str]] = {}
    for speed in content["speeds"]:
        rows.setdefault(speed["arm"], []).append(speed["against"])
    if not rows:
        return []
    score = f"validation {content['metric']}, %"
    figures = [
        ("convergence", "Validation scores over steps", score, 100.0, content["scores"]),
        ("lengths", "Lengths in training batches over steps", "(sd / mean)² of lengths", 1.0, content["variances"]),
        # Results of an earlier version have none.
        ("ranks", "Effective rank of validation embeddings over steps", "effective rank", 1.0, content.get("ranks")),
    ]
    return [
        _panels(name, title, label, courses, scale, rows) for name, title, label, scale, courses in figures if courses
    ]


def _panels(name: str, title: str, label: str, courses: Row, scale: float, rows: Mapping[str, Sequence[str]]) -> Drawn:
    with drawing(0.5 + 1.75 * len(rows), panels=len(rows), width=WIDE) as (_, panels, svg):
        for place, (axes, (arm, others)) in enumerate(zip(panels, rows.items(), strict=True)):
            for line, one in enumerate((arm, *others)):  # The arm first, then those that it is compared with.
                if one in courses:
                    _course(axes, courses[one], scale, line_look(line), one, f"course-{place}-{line}")
            axes.set_ylabel(label, fontsize=8.5)
            legend(axes, beside=True)
        panels[0].set_title(title)
        panels[-1].set_xlabel("step (line: mean over seeds; band: standard deviation)")
    return Drawn(name, svg[0], f"{label} over steps, for {'; '.join(rows)}, each beside what it is compared with")


def _course(axes: Axes, course: Row, scale: float, look: tuple[str, str], name: str, gid: str) -> None:
    colour, dash = look
    steps = np.array(course["steps"])
    mean, sd = scale * np.array(course["mean"]), scale * np.array(course["sd"])
    marker = "o" if len(steps) <= 20 else None
    text = clean(name).replace("$", r"\$")
    axes.plot(
        steps,
        mean,
        color=COLOURS[colour],
        linestyle=dash,
        marker=marker,
        markersize=3.5,
        label=text,
        gid=gid,
    )
    axes.fill_between(steps, np.maximum(mean - sd, 0), mean + sd, color=COLOURS[colour], alpha=0.15, linewidth=0)


def convergence_table(content: Row | None) -> str:
    """Steps of each pair of arms, and how they were found, as HTML."""
    if not content or not content["speeds"]:
        return missing("This wants validations during the final runs of two arms that differ in SEC.")
    rows = []
    for one in content["speeds"]:
        own = [point for point in content["points"] if (point["arm"], point["against"]) == (one["arm"], one["against"])]
        steps = "; ".join("never" if point["steps"] is None else f"{point['steps']:.0f}" for point in own)
        rows.append(
            [
                f"{one['arm']} − {one['against']}",
                steps,
                *share_of_steps(one["share"]),
                f"{one['reached']} of {one['seeds']}",
            ]
        )
    head = [
        "arm − other",
        "steps, by seed",
        "share of the other's steps, % (seeds that get there)",
        "interval over these seeds",
        "seeds that get there",
    ]
    note = (
        f"Steps until the arm's validation {score_name(content['metric'])} reaches what the other arm's run of the same seed ends "
        f"with. Validations are {content['every']} steps apart and interpolated linearly between; what the first one exceeds counts "
        "as reached there. A seed that never gets there, or diverges, has no share: read the share together with how many get there."
    )
    return table(head, rows, kind="numbers") + paragraph(note, "note")


def share_of_steps(share: Row | None) -> tuple[str, str]:
    """Mean and interval of a share in percent, for a table; dashes where no seed has one.

    >>> share_of_steps({"mean": 0.5, "low": 0.42, "high": 0.58})
    ('50', '42 to 58')
    """
    if share is None:
        return "–", "–"
    span = "–" if share["low"] is None else f"{100 * share['low']:.0f} to {100 * share['high']:.0f}"
    return f"{100 * share['mean']:.0f}", span
