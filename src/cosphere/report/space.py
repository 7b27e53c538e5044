"""Figures of how embeddings use their space: cosines of pairs, spectrum, classes that are mistaken for each other, as SVG text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from cosphere._types import Floats, Integers
from cosphere.codes import is_codes
from cosphere.embeddings import Embeddings
from cosphere.health import spectrum
from cosphere.report.drawing import COLOURS, clean, drawing, legend
from cosphere.report.figures import cut, draw_histograms
from cosphere.report.queries import Confusion
from cosphere.rows import unit_rows

PAIRS = 100_000
"""Random pairs behind the densities; more would not change the picture."""
_BLOCK = 2048
"""Pairs whose rows are copied at a time."""


def pair_cosines(embeddings: Embeddings, *, pairs: int = PAIRS, seed: int = 0) -> tuple[Floats, Floats]:
    """Cosines of random images with another image of their class, and with an image of another class.

    Args:
        embeddings: N rows of floats.
        pairs: images drawn, with replacement.
        seed: of the draw.

    Returns:
        (P,) and (Q,); those of images that are alone in their class, or whose class is alone, are left out.
    """
    order = np.argsort(embeddings.labels, kind="stable")
    units, labels = unit_rows(embeddings.embeddings[order]).rows.cpu().numpy(), embeddings.labels[order]
    start = np.searchsorted(labels, labels)
    size = np.searchsorted(labels, labels, side="right") - start
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, len(labels), pairs)
    draw = generator.random(pairs)
    first, own, rest = start[rows], size[rows], len(labels) - size[rows]
    # Rows of a class lie together: go on within the class, or from its end round to its start.
    same = first + (rows - first + 1 + (draw * (own - 1)).astype(np.int64)) % own
    different = (first + own + (draw * rest).astype(np.int64)) % len(labels)
    positive, negative = own > 1, rest > 0
    return _cosines(units, rows[positive], same[positive]), _cosines(units, rows[negative], different[negative])


def _cosines(units: np.ndarray[tuple[int, int], np.dtype[np.float32]], rows: Integers, others: Integers) -> Floats:
    cosines = np.empty(len(rows))
    for at in range(0, len(rows), _BLOCK):
        part = slice(at, at + _BLOCK)
        cosines[part] = np.einsum("nd,nd->n", units[rows[part]], units[others[part]])
    return cosines


def _are_floats(embeddings: Embeddings) -> bool:
    """Whether there are finite floats, not packed bits."""
    rows = embeddings.embeddings
    return len(rows) > 1 and not is_codes(rows) and bool(np.isfinite(rows).all())


def pair_densities(embeddings: Embeddings) -> str | None:
    """Densities of the cosines of positive and of negative pairs; None for packed bits, or where one kind of pair is missing."""
    if not _are_floats(embeddings):
        return None
    positive, negative = pair_cosines(embeddings)
    if not len(positive) or not len(negative):
        return None
    with drawing() as (_, (axes,), svg):
        sets = [("same class", positive, "green", "-"), ("other class", negative, "orange", "--")]
        draw_histograms(axes, sets, bins=60)
        axes.set(title="Similarity of pairs", xlabel="cosine of two images", ylabel="pairs of a kind (%)")
    return svg[0]


def spectrum_figure(embeddings: Embeddings) -> str | None:
    """Share of the variance of the directions in each principal component, largest first; None where there is no variance."""
    if not _are_floats(embeddings):
        return None
    shares = spectrum(embeddings.embeddings)
    if not shares.any():
        return None
    seen = shares[shares > 1e-9]
    with drawing() as (_, (axes,), svg):
        places = np.arange(1, len(seen) + 1)
        marker = "o" if len(seen) < 12 else None
        axes.plot(places, 100 * seen, color=COLOURS["blue"], gid="spectrum", marker=marker, markersize=3.5)
        half = int(np.searchsorted(np.cumsum(shares), 0.9)) + 1
        axes.axvline(half, color=COLOURS["faint"], linestyle=":", linewidth=1.2, label=f"90 % in the first {half}")
        axes.set_yscale("log")
        axes.set(title="Spectrum", xlabel="principal component of the directions", ylabel="variance (%)")
        legend(axes)
    return svg[0]


def confusion_figure(pairs: Sequence[Confusion], names: Sequence[tuple[str, str]]) -> str | None:
    """Queries of two classes that find the other class first, by direction; None without any.

    Args:
        pairs: most confused first.
        names: of both classes of each pair.
    """
    if not pairs:
        return None
    with drawing(height=1.2 + 0.34 * len(pairs)) as (_, (axes,), svg):
        places = np.arange(len(pairs))
        ways = np.array([[one.first_as_second, one.second_as_first] for one in pairs])
        bars: Any = {"edgecolor": "white", "linewidth": 0.5, "height": 0.62}
        axes.barh(places, ways[:, 0], color=COLOURS["blue"], label="first finds second", **bars)
        axes.barh(
            places,
            ways[:, 1],
            left=ways[:, 0],
            color=COLOURS["orange"],
            hatch="///",
            label="second finds first",
            **bars,
        )
        labels = [f"{cut(clean(first), 28)}\n{cut(clean(second), 28)}" for first, second in names]
        axes.set_yticks(places, labels, parse_math=False, color=COLOURS["ink"], fontsize=7.5)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set(title="Mistaken for each other", xlabel="queries")
        axes.legend(loc="lower right", handlelength=1.4)
    return svg[0]
