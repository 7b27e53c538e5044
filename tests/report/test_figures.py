from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from svg import affine, bars, line_points, texts

from cosphere.report import figures


def test_figures_without_data_are_none() -> None:
    assert figures.recall_figure({"nmi": 0.5}) is None
    assert figures.class_figure([], [], []) is None


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
    assert {"<script>x</script>", "$a_1$", r"\frac{1}{0} $", "bad name", "10 %, 10 queries", "50 %, 50 queries"} <= set(
        found
    )
    (cut,) = [text for text in found if text.startswith("a name far")]
    assert "…" in cut
    assert cut.endswith("2012")
