"""How embeddings use their space, drawn: pairs against all pairs, spectrum against numpy's, confusions by count."""

from __future__ import annotations

import numpy as np
import pytest
from svg import affine, bars, line_points, texts

from cosphere.embeddings import Embeddings
from cosphere.health import spectrum
from cosphere.report.queries import Confusion
from cosphere.report.space import confusion_figure, pair_cosines, pair_densities, spectrum_figure


def table(labels: np.ndarray, rows: np.ndarray) -> Embeddings:
    return Embeddings(
        embeddings=rows, labels=labels, paths=tuple(map(str, range(len(labels)))), class_names=tuple("abcd")
    )


@pytest.fixture
def uneven() -> Embeddings:
    """Classes of 1, 2, 5 and 12 images, not in order, rows of very different lengths."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat([0, 1, 2, 3], [1, 2, 5, 12]))
    rows = generator.normal(size=(4, 6))[labels] + generator.normal(size=(20, 6))
    return table(labels, (rows * generator.uniform(0.1, 10, (20, 1))).astype(np.float32))


def test_each_drawn_pair_is_a_pair_of_its_kind_and_all_of_them_come_up(uneven: Embeddings) -> None:
    units = uneven.embeddings / np.linalg.norm(uneven.embeddings, axis=1, keepdims=True)
    cosines, same = units @ units.T, uneven.labels[:, None] == uneven.labels[None]
    drawn = pair_cosines(uneven, pairs=20_000)
    for values, kind in zip(drawn, (same & ~np.eye(20, dtype=bool), ~same), strict=True):
        expected = np.unique(cosines[np.triu(kind)].astype(np.float64).round(4))
        assert np.array_equal(np.unique(values.round(4)), expected)


def test_images_are_drawn_alike(uneven: Embeddings) -> None:
    """The mean over images of the mean over their partners, by plain loops."""
    units = uneven.embeddings / np.linalg.norm(uneven.embeddings, axis=1, keepdims=True)
    cosines, labels = units @ units.T, uneven.labels
    own = [
        np.mean([cosines[a, b] for b in range(20) if b != a and labels[b] == labels[a]])
        for a in range(20)
        if (labels == labels[a]).sum() > 1
    ]
    rest = [np.mean([cosines[a, b] for b in range(20) if labels[b] != labels[a]]) for a in range(20)]
    positive, negative = pair_cosines(uneven, pairs=40_000)
    assert positive.mean() == pytest.approx(np.mean(own), abs=0.01)
    assert negative.mean() == pytest.approx(np.mean(rest), abs=0.01)


def test_densities_add_up_to_all_pairs(uneven: Embeddings) -> None:
    svg = pair_densities(uneven)
    assert svg is not None
    assert {"same class", "other class", "cosine of two images"} <= set(texts(svg))
    assert len(bars(svg, "same-class")) > 20


def test_nothing_is_drawn_of_bits_of_one_class_or_of_what_is_not_finite(uneven: Embeddings) -> None:
    one = table(np.zeros(20, dtype=np.int64), uneven.embeddings)
    alone = table(np.arange(4), uneven.embeddings[:4])
    bits = table(uneven.labels, np.ones((20, 2), dtype=np.uint8))
    broken = table(uneven.labels, np.full((20, 6), np.nan, dtype=np.float32))
    assert [pair_densities(each) for each in (one, alone, bits, broken)] == [None] * 4
    same = table(uneven.labels, np.ones((20, 6), dtype=np.float32))
    assert [spectrum_figure(each) for each in (bits, broken, same)] == [None] * 3


@pytest.mark.parametrize("shape", [(20, 6), (5, 9)])
def test_the_spectrum_is_that_of_the_covariance_of_directions(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(1).normal(size=shape) * np.arange(1, shape[1] + 1)
    rows = np.vstack([rows, np.zeros(shape[1])])  # has no direction
    units = rows[:-1] / np.linalg.norm(rows[:-1], axis=1, keepdims=True)
    values = np.linalg.svd(units - units.mean(axis=0), compute_uv=False) ** 2
    found = spectrum(rows)
    assert np.allclose(found, values / values.sum(), atol=1e-6)
    assert not spectrum(np.ones((4, 3))).any()


def test_the_spectrum_is_drawn_on_a_logarithmic_axis(uneven: Embeddings) -> None:
    svg = spectrum_figure(uneven)
    assert svg is not None
    drawn, shares = line_points(svg, "spectrum"), spectrum(uneven.embeddings)
    assert affine(drawn[:, 1], np.log10(shares)) < 1e-3 * np.ptp(drawn[:, 1])
    count = int(np.searchsorted(np.cumsum(shares), 0.9)) + 1
    assert f"90 % in the first {count}" in texts(svg)


def test_confusions_are_bars_of_their_counts_and_names_stay_text() -> None:
    svg = confusion_figure([Confusion(0, 1, 5, 2, 0), Confusion(0, 2, 0, 1, 3)], [("$a$", "<b>"), ("$a$", "c" * 60)])
    assert svg is not None
    shown = texts(svg)
    assert {"$a$", "<b>", "first finds second", "second finds first"} <= {
        part for text in shown for part in text.split("\n")
    }
    assert not any(len(part) > 28 and "c" * 20 in part for part in shown)
    assert confusion_figure([], []) is None
