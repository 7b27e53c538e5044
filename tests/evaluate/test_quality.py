"""Lengths as quality, against loops over pairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import pointbiserialr

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate import length_quality


def error_by_hand(lengths: np.ndarray, right: np.ndarray, share: float) -> float:
    """Sort the pairs by their shorter length and drop the first ones."""
    pairs = sorted(zip(lengths.min(axis=1).tolist(), right.tolist(), strict=True), key=lambda pair: pair[0])
    left = pairs[int(share * len(pairs)) :]
    return sum(not good for _, good in left) / len(left)


@pytest.mark.parametrize("seed", range(3))
def test_the_curve_agrees_with_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(1, 9, (83, 2))
    right = rng.uniform(0, 9, 83) < lengths.min(axis=1)
    found = length_quality(lengths, right)
    assert found.errors == pytest.approx([error_by_hand(lengths, right, share) for share in found.shares])
    assert found.correlation == pytest.approx(pointbiserialr(right, lengths.min(axis=1)).statistic)
    assert found.gain is not None
    assert 0 < found.gain < 1


def test_ties_are_rejected_in_proportion() -> None:
    lengths, right = np.array([[2.0, 2], [2, 2], [2, 2], [3, 3]]), np.array([True, False, False, True])
    want = [
        np.mean(
            [
                error_by_hand(lengths[list(order)], right[list(order)], 0.25)
                for order in itertools.permutations(range(4))
            ]
        )
    ]
    assert length_quality(lengths, right, shares=(0.25,)).errors == pytest.approx(want)


def test_a_perfect_quality_gains_all_and_the_opposite_less_than_nothing() -> None:
    right = np.arange(40) >= 10
    lengths = np.arange(40)[:, None] + np.array([[1.0, 2.0]])
    assert length_quality(lengths, right).gain == pytest.approx(1)
    worst = length_quality(lengths[::-1], right)
    assert worst.gain is not None
    assert worst.gain < 0


def test_constant_lengths_say_nothing() -> None:
    right = np.array([True, False, True, False] * 5)
    found = length_quality(np.full((20, 2), 3.0), right)
    assert found.correlation is None
    assert found.gain == pytest.approx(0)
    assert length_quality(np.random.default_rng(0).uniform(1, 2, (20, 2)), np.ones(20, bool)).gain is None


@pytest.mark.parametrize(
    ("lengths", "right", "shares", "error", "message"),
    [
        ([[1, 2]], [True, False], (0,), SizeError, r"want lengths \(n, 2\) and right \(n,\), got \(1, 2\) and \(2,\)"),
        ([1, 2], [True, False], (0,), SizeError, "want lengths"),
        (np.zeros((0, 2)), [], (0,), SizeError, "want lengths"),
        ([[1, -2]], [True], (0,), DataError, "finite and >= 0"),
        ([[1, np.nan]], [True], (0,), DataError, "finite and >= 0"),
        ([[1, 2]], [True], (1,), SettingsError, "share must be a number"),
    ],
)
def test_wrong_input(lengths, right, shares, error, message) -> None:
    with pytest.raises(error, match=message):
        length_quality(lengths, right, shares=shares)
