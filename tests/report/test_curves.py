from __future__ import annotations

import numpy as np
import pytest
from svg import SVG, affine, group, line_points, texts

from cosphere.report import curves


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
    found = curves.curve(rows, "a")
    assert found.steps.tolist() == [0, 4]
    assert found.values.tolist() == [1, 2]
    assert curves.curve([], "a").steps.shape == (0,)


def test_curve_averages_neighbours_when_there_are_many() -> None:
    rows = [{"step": step, "a": float(step % 10)} for step in range(1000)]
    found = curves.curve(rows, "a", limit=100)
    assert found.values.tolist() == [4.5] * 100
    assert found.steps.tolist() == [10 * at + 4.5 for at in range(100)]


def test_loss_curve_draws_every_point() -> None:
    rows = zigzag(30)
    svg = curves.training_curves(rows)
    points = line_points(svg, "whole-loss")
    assert len(points) == 30
    assert affine(points[:, 1], np.array([row["train/loss"] for row in rows])) < 0.01
    assert affine(points[:, 0], np.array([row["step"] for row in rows])) < 0.01
    assert {"Loss", "step", "loss", "whole loss"} <= set(texts(svg))
    assert "metric loss" not in texts(svg)


def test_loss_over_many_magnitudes_is_drawn_on_a_logarithmic_axis() -> None:
    rows = [{"step": at, "train/loss_sec": 10.0 ** -(at % 4)} for at in range(8)]
    points = line_points(curves.training_curves(rows), "sec-unweighted")
    assert affine(points[:, 1], np.log10([row["train/loss_sec"] for row in rows])) < 0.01


def test_a_single_step_is_visible() -> None:
    svg = curves.training_curves(zigzag(1))
    assert group(svg, "whole-loss").find(f".//{SVG}use") is not None


def test_share_curve_marks_where_sec_equals_the_loss() -> None:
    svg = curves.sec_share_curve(zigzag(9, "train/sec_share"))
    assert len(line_points(svg, "sec-share")) == 9
    assert "SEC as large as the metric loss" in texts(svg)
    assert curves.sec_share_curve([{"step": 1, "train/sec_share": 0.0}]) is None


def test_norm_curves_draw_mean_and_variation() -> None:
    rows = [
        {"step": s, "train/norm_mean": 5 + s % 2, "train/norm_var": 4.0, "train/norm_cv": 0.1 + 0.05 * (s % 3)}
        for s in range(12)
    ]
    svg = curves.norm_curves(rows)
    assert affine(line_points(svg, "norm-mean")[:, 1], np.array([row["train/norm_mean"] for row in rows])) < 0.01
    assert affine(line_points(svg, "norm-cv")[:, 1], np.array([row["train/norm_cv"] for row in rows])) < 0.01
    assert {"mean ± std", "CV (std / mean)"} <= set(texts(svg))


def test_health_curves_draw_rank_and_uniformity() -> None:
    rows = [
        {"step": 10 * s, "val/effective_rank": 20 + (s % 3), "val/uniformity": -2 - 0.1 * (s % 4)} for s in range(9)
    ]
    svg = curves.health_curves(rows)
    for name, key in (("effective-rank", "val/effective_rank"), ("uniformity", "val/uniformity")):
        points = line_points(svg, name)
        assert affine(points[:, 1], np.array([row[key] for row in rows])) < 0.01
        assert affine(points[:, 0], np.array([row["step"] for row in rows])) < 0.01
    assert {"Health on validation", "effective rank", "uniformity", "step"} <= set(texts(svg))
    assert curves.health_curves([{"step": 1, "val/effective_rank": 3.0}]) is None


def test_validation_marks_the_best_step() -> None:
    rows = [
        {"step": s, "val/recall@1": v, "val/map@r": 0.1} for s, v in [(0, 0.3), (50, 0.7126), (100, 0.6), (150, 0.65)]
    ]
    svg = curves.validation_curve(rows)
    assert "best 71.3 % at step 50" in texts(svg)
    marks = [(float(use.get("x")), float(use.get("y"))) for use in group(svg, "val-recall").iter(f"{SVG}use")]
    best = group(svg, "val-best").find(f".//{SVG}use")
    assert len(marks) == 4
    assert (float(best.get("x")), float(best.get("y"))) == marks[1]
    assert min(marks, key=lambda mark: mark[1]) == marks[1]  # y points down


def test_curves_without_data_are_none() -> None:
    rows = [{"step": 1, "other": 2.0}]
    for draw in (
        curves.training_curves,
        curves.sec_share_curve,
        curves.norm_curves,
        curves.validation_curve,
        curves.health_curves,
    ):
        assert draw([]) is None
        assert draw(rows) is None


def histogram(low: float, high: float, shares: list[float]) -> dict[str, object]:
    return {"low": low, "high": high, "shares": shares}


def test_ridges_are_the_logged_histograms_at_their_steps() -> None:
    log = [{"step": 10 * at, "val/lengths": histogram(1.0, 3.0, [0.1, 0.6, 0.2, 0.1])} for at in range(20)]
    svg = curves.length_ridges(log, most=4)
    assert svg is not None
    assert {"0", "60", "130", "190", "Lengths on validation"} <= set(texts(svg))
    for step in (0, 60, 130, 190):
        outline = group(svg, f"lengths-{step}").find(f"{SVG}path")
        assert outline is not None
    assert "50" not in texts(svg)


def test_ridges_have_the_shape_of_the_shares() -> None:
    shares = [0.1, 0.6, 0.2, 0.1]
    svg = curves.length_ridges([{"step": 5, "val/lengths": histogram(1.0, 3.0, shares)}])
    assert svg is not None
    heights = sorted({round(y, 3) for _, y in line_points(svg, "lengths-5")})
    base, rest = heights[0], np.array(heights[1:]) - heights[0]
    assert base == min(heights)
    assert rest / rest.max() == pytest.approx(np.array(sorted(set(shares))) / 0.6, abs=0.01)


@pytest.mark.parametrize(
    "odd",
    [
        None,
        3,
        {},
        {"shares": []},
        {"low": 0, "high": 1, "shares": ["x"]},
        {"low": float("nan"), "high": 1, "shares": [1]},
    ],
)
def test_what_is_no_histogram_is_left_out(odd: object) -> None:
    assert curves.length_ridges([{"step": 5, "val/lengths": odd}]) is None


def test_equal_lengths_are_drawn() -> None:
    assert curves.length_ridges([{"step": 5, "val/lengths": histogram(2.0, 2.0, [1.0, 0.0])}]) is not None
