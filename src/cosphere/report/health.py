"""Report section on embedding health: dimension usage, collapse and remedies."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from cosphere.report import curves
from cosphere.report.data import ReportData
from cosphere.report.drawing import charts
from cosphere.report.markup import missing, paragraph, safe, section, table
from cosphere.report.space import pair_densities, spectrum_figure

SETTING = r"--\w+(\.\w+)*"
"""A setting as the command takes it."""


def panel(data: ReportData) -> str:
    """Warnings, key measures with explanations, and their course during training."""
    numbers, svg = _numbers(data), curves.health_curves(data.metrics)
    drawn = charts(
        [
            (
                "pairs",
                None if data.embeddings is None else pair_densities(data.embeddings),
                "Cosines of pairs of images",
            ),
            (
                "spectrum",
                None if data.embeddings is None else spectrum_figure(data.embeddings),
                "Variance by component",
            ),
            ("health", svg, "Effective rank and uniformity over steps"),
        ]
    )
    if not numbers:
        none = "No embeddings to examine yet. Evaluate the run to see their health: cosphere evaluate RUN DATA."
        return section("health", "Health", missing(none), drawn)
    intro = paragraph(
        "A healthy embedding spreads its images over many directions, keeps those of one class close, and lets no image be "
        "everybody's neighbour. When it collapses, all crowd into one place or a few directions, with no room for new classes."
    )
    warnings = numbers.get("warnings")
    warned = [str(one) for one in warnings] if isinstance(warnings, (list, tuple)) else []
    verdict = "".join(_warning(one) for one in warned) or paragraph("Nothing here looks like a collapse.")
    words = f"{table(['measure', 'here', 'meaning'], _rows(numbers), kind='health')}{_note(numbers)}"
    body = f'<div class="beside"><div>{words}</div>{drawn}</div>' if drawn else words
    return section("health", "Health", intro, verdict, body)


def _warning(sentence: str) -> str:
    """With the names of settings in one piece: a phone would break them after their hyphens."""
    named = re.sub(SETTING, r"<code>\g<0></code>", safe(sentence))
    return f'<p class="warning">{named}</p>'


def _numbers(data: ReportData) -> Mapping[str, Any]:
    """What the evaluation measured; empty without it."""
    measured = data.scores.get("health")
    return measured if isinstance(measured, Mapping) else {}


def _rows(numbers: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Each measure that is known, its value and how to read it."""
    k = _shown(numbers, "k", "{:.0f}")
    below, hub = _shown(numbers, "margin_below_zero", "{:.0f} %", 100), _shown(numbers, "largest_hub", "{:.0f}")
    rank = f"{{:.3g}} of {_shown(numbers, 'dim', '{:.0f}')}"
    rows = [
        ("Effective rank", _shown(numbers, "effective_rank", rank), "directions in which images differ"),
        ("Participation ratio", _shown(numbers, "participation_ratio", "{:.3g}"), "directions that hold most of it"),
        ("Mean cosine", _shown(numbers, "mean_cosine", "{:z.3f}"), "of two images; near 1 all look similar"),
        ("Uniformity", _shown(numbers, "uniformity", "{:z.2f}"), "0 is one point, about -4 an even sphere"),
        ("Alignment", _shown(numbers, "alignment", "{:z.2f}"), "within a class; 0 is one point, 2 unrelated"),
        ("Margin", _shown(numbers, "margin", "{:+z.3f}"), f"to the nearest other class; below 0 for {below} of images"),
        ("Hubness", _shown(numbers, "hubness", "{:z.2f}"), f"0 is fair; the largest hub is near to {hub} images"),
        ("Orphans", _shown(numbers, "orphans", "{:.1f} %", 100), f"images among the {k} nearest of nobody"),
    ]
    return [row for row in rows if row[1]]


def _shown(numbers: Mapping[str, Any], name: str, form: str, times: float = 1) -> str:
    """Format a number; empty if it is not a number, as in a file of another version."""
    value = numbers.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return ""
    return form.format(times * value)


def _note(numbers: Mapping[str, Any]) -> str:
    """What the sample represents."""
    compared, rows = _shown(numbers, "compared", "{:.0f}"), _shown(numbers, "rows", "{:.0f}")
    alive = (numbers.get("rows") or 0) - (numbers.get("zero_rows") or 0)
    if not compared or not rows or numbers["compared"] >= alive:
        return ""
    return paragraph(
        f"Ranks, uniformity, margins and hubs are those of a random {compared} of the {rows} images.", "note"
    )
