from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from cosphere.report import figures

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def group(svg: str, name: str) -> ElementTree.Element:
    found = [node for node in ElementTree.fromstring(svg).iter(f"{SVG}g") if node.get("id") == name]
    assert len(found) == 1, name
    return found[0]


def line_points(svg: str, name: str) -> np.ndarray:
    """Points of the drawn line, in the picture's units with y upwards."""
    path = group(svg, name).find(f"{SVG}path").get("d")
    points = np.array([[float(x), -float(y)] for x, y in re.findall(r"[ML] (\S+) (\S+)", path)])
    return points


def affine(drawn: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How far drawn values are from values on the best linear axis; zero when the axis is linear and the data whole."""
    slope, offset = np.polyfit(values, drawn, 1)
    assert slope > 0
    return np.abs(slope * values + offset - drawn).max()


def zigzag(count: int, key: str = "train/loss") -> list[dict[str, float]]:
    """Values that no simplification of a path may drop."""
    return [{"step": 10 * at, key: 1.0 + (at % 2) + at / 50} for at in range(count)]


def test_curve_keeps_finite_values_in_order() -> None:
    rows = [
        {"step": 0, "a": 1.0},
        {"step": 1, "a": float("nan")},
        {"step": 2},
        {"a": 5.0},
        {"step": 3, "a": None},
        {"step": 4, "a": 2},
    ]
    found = figures.curve(rows, "a")
    assert found.steps.tolist() == [0, 4]
    assert found.values.tolist() == [1, 2]
    assert figures.curve([], "a").steps.shape == (0,)


def test_curve_averages_neighbours_when_there_are_many() -> None:
    rows = [{"step": step, "a": float(step % 10)} for step in range(1000)]
    found = figures.curve(rows, "a", limit=100)
    assert found.values.tolist() == [4.5] * 100
    assert found.steps.tolist() == [10 * at + 4.5 for at in range(100)]


def test_loss_curve_draws_every_point() -> None:
    rows = zigzag(30)
    svg = figures.training_curves(rows)
    points = line_points(svg, "whole-loss")
    assert len(points) == 30
    assert affine(points[:, 1], np.array([row["train/loss"] for row in rows])) < 0.01
    assert affine(points[:, 0], np.array([row["step"] for row in rows])) < 0.01
    assert {"Loss", "step", "loss", "whole loss"} <= set(texts(svg))
    assert "metric loss" not in texts(svg)


def test_loss_over_many_magnitudes_is_drawn_on_a_logarithmic_axis() -> None:
    rows = [{"step": at, "train/loss_sec": 10.0 ** -(at % 4)} for at in range(8)]
    points = line_points(figures.training_curves(rows), "sec-unweighted")
    assert affine(points[:, 1], np.log10([row["train/loss_sec"] for row in rows])) < 0.01


def test_a_single_step_is_visible() -> None:
    svg = figures.training_curves(zigzag(1))
    assert group(svg, "whole-loss").find(f".//{SVG}use") is not None


def test_share_curve_marks_where_sec_equals_the_loss() -> None:
    svg = figures.sec_share_curve(zigzag(9, "train/sec_share"))
    assert len(line_points(svg, "sec-share")) == 9
    assert "SEC as large as the metric loss" in texts(svg)
    assert figures.sec_share_curve([{"step": 1, "train/sec_share": 0.0}]) is None


def test_norm_curves_draw_mean_and_variation() -> None:
    rows = [
        {"step": s, "train/norm_mean": 5 + s % 2, "train/norm_var": 4.0, "train/norm_cv": 0.1 + 0.05 * (s % 3)}
        for s in range(12)
    ]
    svg = figures.norm_curves(rows)
    assert affine(line_points(svg, "norm-mean")[:, 1], np.array([row["train/norm_mean"] for row in rows])) < 0.01
    assert affine(line_points(svg, "norm-cv")[:, 1], np.array([row["train/norm_cv"] for row in rows])) < 0.01
    assert {"mean ± std", "CV (std / mean)"} <= set(texts(svg))


def test_health_curves_draw_rank_and_uniformity() -> None:
    rows = [
        {"step": 10 * s, "val/effective_rank": 20 + (s % 3), "val/uniformity": -2 - 0.1 * (s % 4)} for s in range(9)
    ]
    svg = figures.health_curves(rows)
    for name, key in (("effective-rank", "val/effective_rank"), ("uniformity", "val/uniformity")):
        points = line_points(svg, name)
        assert affine(points[:, 1], np.array([row[key] for row in rows])) < 0.01
        assert affine(points[:, 0], np.array([row["step"] for row in rows])) < 0.01
    assert {"Health on validation", "effective rank", "uniformity", "step"} <= set(texts(svg))
    assert figures.health_curves([{"step": 1, "val/effective_rank": 3.0}]) is None


def test_validation_marks_the_best_step() -> None:
    rows = [
        {"step": s, "val/recall@1": v, "val/map@r": 0.1} for s, v in [(0, 0.3), (50, 0.7126), (100, 0.6), (150, 0.65)]
    ]
    svg = figures.validation_curve(rows)
    assert "best 71.3 % at step 50" in texts(svg)
    marks = [(float(use.get("x")), float(use.get("y"))) for use in group(svg, "val-recall").iter(f"{SVG}use")]
    best = group(svg, "val-best").find(f".//{SVG}use")
    assert len(marks) == 4
    assert (float(best.get("x")), float(best.get("y"))) == marks[1]
    assert min(marks, key=lambda mark: mark[1]) == marks[1]  # y points down


def test_figures_without_data_are_none() -> None:
    rows = [{"step": 1, "other": 2.0}]
    for draw in (
        figures.training_curves,
        figures.sec_share_curve,
        figures.norm_curves,
        figures.validation_curve,
        figures.health_curves,
    ):
        assert draw([]) is None
        assert draw(rows) is None
    assert figures.recall_figure({"nmi": 0.5}) is None
    assert figures.class_figure([], [], []) is None


def bars(svg: str, name: str) -> np.ndarray:
    """Heights of the outlined histogram, one a bin: its flat parts."""
    points = line_points(svg, name)
    return np.array([b[1] for a, b in itertools.pairwise(points) if a[1] == b[1] and a[0] != b[0]])


def test_norm_histogram_shows_shares_of_lengths() -> None:
    lengths = np.append(np.random.default_rng(2).uniform(1, 3, size=300), 5.0)  # with empty bins between
    svg = figures.norm_histogram(lengths)
    edges = np.linspace(lengths.min(), lengths.max(), 41)
    counts = np.array(
        [sum(low <= v < high or v == high == edges[-1] for v in lengths) for low, high in itertools.pairwise(edges)]
    )
    drawn = bars(svg, "this-run")
    assert len(drawn) >= len(np.flatnonzero(counts))
    # Equal neighbouring bins are one flat part of the path, so compare the levels and not their number.
    slope = (drawn.max() - drawn.min()) / counts.max()
    levels = {round(float(level), 2) for level in (drawn - drawn.min()) / slope}
    assert levels == {float(count) for count in counts} | {0.0}
    assert {"this run", "images (%)", "length of the embedding"} <= set(texts(svg))


def test_each_histogram_adds_up_to_all_of_its_own_values() -> None:
    svg = figures.similarity_histogram(np.full(10, 0.2), np.full(1000, 0.8))
    few, many = bars(svg, "nearest-right"), bars(svg, "nearest-wrong")
    assert few.max() == many.max() > few.min()


@pytest.mark.parametrize("right", [np.array([0.5, -np.inf, 0.25]), np.full(3, -np.inf), np.empty(0)])
def test_similarity_histogram_survives_missing_and_equal_values(right: np.ndarray) -> None:
    svg = figures.similarity_histogram(right, np.full(4, 0.5))
    assert {"nearest right", "nearest wrong", "cosine to the query", "queries (%)"} <= set(texts(svg))
    assert not re.search(r"\b(nan|inf)\b", svg)


def test_histogram_of_bits_shows_distances() -> None:
    svg = figures.similarity_histogram(np.array([-3.0, -5.0]), np.array([-9.0, -7.0]), bits=True)
    assert {"bits that differ from the query", "3", "9"} <= set(texts(svg))
    assert not any("cosine" in one for one in texts(svg))


def test_recall_figure_draws_values_bounds_and_baseline() -> None:
    scores = {
        "recall@10": {"value": 0.9, "low": 0.85, "high": 0.93},
        "recall@1": {"value": 0.614, "low": 0.6, "high": 0.63},
        "nmi": 0.4,
        "recall@2": 0.7,
    }
    svg = figures.recall_figure(scores, {"recall@2": {"value": 0.5}, "recall@1": {"value": 0.4}})
    assert {"61.4", "70.0", "90.0", "1", "2", "10", "before training", "after training"} <= set(texts(svg))
    drawn = [(p[0], p[1]) for p in line_points(svg, "after-training")]
    before = line_points(svg, "before-training")
    assert affine(np.array([y for _, y in drawn] + before[:, 1].tolist()), np.array([61.4, 70, 90, 40, 50])) < 0.01
    assert before[:, 0].tolist() == [x for x, _ in drawn[:2]]  # the same K stands at the same place
    assert "before training" not in texts(figures.recall_figure(scores))


def test_recalls_are_read_in_order_of_k() -> None:
    scores = {"recall@10": 0.9, "recall@2": {"value": 0.5, "low": 0.4, "high": None}, "recall@x": 1.0, "map@r": 0.3}
    assert figures.recalls(scores) == [(2, 0.5, 0.4, 0.5), (10, 0.9, 0.9, 0.9)]


def test_class_names_are_text_and_nothing_else() -> None:
    names = [
        "<script>x</script>",
        "$a_1$",
        r"\frac{1}{0} $",
        "bad\x00\x1bname",
        "a name far too long for the margin of a figure 2012",
    ]
    svg = figures.class_figure(names, [0.1, 0.2, 0.3, 0.4, 0.5], [10, 20, 30, 40, 50])
    found = texts(svg)
    assert "<script>" not in svg
    assert {"<script>x</script>", "$a_1$", r"\frac{1}{0} $", "bad name", "10 % of 10", "50 % of 50"} <= set(found)
    (cut,) = [text for text in found if text.startswith("a name far")]
    assert "…" in cut
    assert cut.endswith("2012")


def contrast(first: str, second: str) -> float:
    """Of two #rrggbb colours, as WCAG 2.1 defines it."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        return sum(
            w * (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4)
            for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
        )

    high, low = sorted([light(first), light(second)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_series_and_text_can_be_read_on_white() -> None:
    for name, code in figures.COLOURS.items():
        assert name == "rule" or contrast(code, "#ffffff") >= 4.5, name


def test_inline_has_no_address_and_exchangeable_colours() -> None:
    svg = figures.class_figure(['id="x" href="#y" fill: #0072b2'], [0.5], [4])
    page = figures.inline(svg, "one", "words")
    assert "http" not in page
    assert "<metadata" not in page
    assert page.startswith('<svg role="img" aria-label="words"')
    assert "var(--blue, #0072b2)" in page
    assert 'id="x" href="#y" ' in page  # between tags nothing changes
    inside = " ".join(re.findall(r"<[^>]*>", page))
    assert not re.search(r"(fill|stroke): #(0072b2|2b2f33|6a7078|d9dce0)", inside)
    ids = re.findall(r' id="([^"]*)"', inside)
    assert len(ids) == len(set(ids)) > 5
    assert all(name.startswith("one-") for name in ids)
    for target in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', inside):
        assert "".join(target) in ids


def test_figures_do_not_change_the_callers_matplotlib() -> None:
    import matplotlib

    names = set(figures.STYLE)
    before = {name: matplotlib.rcParams[name] for name in names}
    figures.training_curves(zigzag(3))
    assert {name: matplotlib.rcParams[name] for name in names} == before
