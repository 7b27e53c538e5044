"""The figure of a study's lengths: one panel for each pair of arms that differ in SEC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cosphere.report.drawing import COLOURS, WIDE, Drawn, clean, drawing, legend, line_look


def spread_figure(content: Mapping[str, Any]) -> Drawn:
    """Histograms of the test embeddings' lengths, each length as a share of its run's mean.

    Args:
        content: ``spreads`` of `results.json`.
    """
    rows: dict[str, list[str]] = {}
    for arm, against in content["pairs"]:
        rows.setdefault(arm, []).append(against)
    edges = np.array(content["edges"])
    last = _longest(content) + 1
    with drawing(0.5 + 1.45 * len(rows), panels=len(rows), width=WIDE) as (_, panels, svg):
        for place, (axes, (arm, others)) in enumerate(zip(panels, rows.items(), strict=True)):
            for line, one in enumerate((arm, *others)):  # The arm first, then those that it is compared with.
                colour, dash = line_look(line)
                mean, sd = (100 * np.array(content["arms"][one][name])[:last] for name in ("mean", "sd"))
                look: dict[str, Any] = {"color": COLOURS[colour], "linestyle": dash, "linewidth": 1.5}
                name = clean(one).replace("$", r"\$")
                axes.stairs(mean, edges[: last + 1], label=name, gid=f"spread-{place}-{line}", **look)
                axes.stairs(
                    mean + sd,
                    edges[: last + 1],
                    baseline=np.maximum(mean - sd, 0),
                    fill=True,
                    color=COLOURS[colour],
                    alpha=0.15,
                )
            axes.set_ylabel("test images, %", fontsize=8.5)
            axes.set_ylim(bottom=0)
            legend(axes, beside=True)
        panels[0].set_title("Lengths of the test embeddings")
        panels[-1].set_xlabel("length / mean length (line: mean over seeds; band: standard deviation)")
    return Drawn(
        "spreads", svg[0], f"Lengths over their mean, for {'; '.join(rows)}, each beside what it is compared with"
    )


def _longest(content: Mapping[str, Any]) -> int:
    """The last bin that any arm has images in."""
    return max(int(np.flatnonzero(one["mean"])[-1]) for one in content["arms"].values())
