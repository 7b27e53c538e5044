from __future__ import annotations

import statistics as plain
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate import bootstrap, bootstrap_all, paired_difference, seeds_summary


def test_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=300)
    found = bootstrap(values, samples=20_000, level=0.9)
    want = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, confidence_level=0.9, method="percentile", random_state=5
    ).confidence_interval
    width = want.high - want.low
    assert found.low == pytest.approx(want.low, abs=0.03 * width)
    assert found.high == pytest.approx(want.high, abs=0.03 * width)


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    trials = [bootstrap(generator.random(150) < 0.6, samples=300, level=0.8, seed=i) for i in range(400)]
    covered = np.mean([low <= 0.6 <= high for low, high in trials])
    assert 0.73 < covered < 0.87  # 0.8, four standard errors of 400 trials and a little for 150 queries


def test_bootstrap_by_hand_with_two_values() -> None:
    """The mean of two draws from 0 and 1 is 0, 1/2, 1 with probability 1/4, 1/2, 1/4."""
    assert bootstrap([0, 1], samples=4000, level=0.4) == (0.5, 0.5)  # from the 30th to the 70th of a hundred
    assert bootstrap([0, 1], samples=4000, level=0.6) == (0.0, 1.0)


def test_scores_of_the_same_queries_share_their_resamples_and_do_not_see_each_other() -> None:
    generator = np.random.default_rng(2)
    one, two = generator.random(97), generator.random(97)
    found = bootstrap_all({"one": one, "two": two, "copy": one, "opposite": 1 - one}, samples=500, seed=3)
    assert found["one"] == pytest.approx(bootstrap(one, samples=500, seed=3))
    assert found["two"] == pytest.approx(bootstrap(two, samples=500, seed=3))
    assert found["copy"] == found["one"]
    assert found["opposite"] == pytest.approx((1 - found["one"].high, 1 - found["one"].low))
    assert bootstrap(one, seed=4) != bootstrap(one, seed=5)
    assert bootstrap_all({}) == {}


def test_bounded_memory_does_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    from cosphere.evaluate import statistics

    values = np.random.default_rng(3).random(50)
    want = bootstrap(values, samples=100)
    monkeypatch.setattr(statistics, "_CHUNK_VALUES", 170)  # three samples at a time
    assert bootstrap(values, samples=100) == pytest.approx(want)


def test_all_right_is_exactly_one() -> None:
    assert bootstrap(np.ones(777)) == (1.0, 1.0)
    assert bootstrap([0.25]) == (0.25, 0.25)


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_seeds_agree_with_scipy(n: int, level: float) -> None:
    values = np.random.default_rng(n).normal(0.6, 0.02, n).tolist()
    found = seeds_summary(values, level=level)
    want = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((want.low, want.high), rel=1e-9)
    assert (found.mean, found.sd, found.n) == pytest.approx((plain.mean(values), plain.stdev(values), n))


def test_one_seed_has_a_mean_and_no_interval() -> None:
    assert seeds_summary([0.5]) == (0.5, None, None, None, 1)


def test_paired_difference_agrees_with_scipy_and_sees_the_pairing() -> None:
    seeds = np.array([0.50, 0.60, 0.70])
    gain = np.array([0.010, 0.012, 0.008])
    found = paired_difference(seeds + gain, seeds)
    want = stats.ttest_rel(seeds + gain, seeds).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((want.low, want.high), rel=1e-6)
    assert found.mean == pytest.approx(0.01)
    assert found.low is not None
    assert found.low > 0  # unpaired, the spread over seeds would hide it
    assert paired_difference(seeds, seeds + gain).mean == pytest.approx(-0.01)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: bootstrap([]), SizeError, "at least one number, got shape (0,)"),
        (lambda: bootstrap([[1.0]]), SizeError, "got shape (1, 1)"),
        (lambda: bootstrap([1.0, np.nan]), DataError, "1 of 2 values are NaN or infinite"),
        (lambda: bootstrap([1.0], samples=0), SettingsError, "bootstrap samples must be at least 1, got 0"),
        (lambda: bootstrap([1.0], level=1.0), SettingsError, "level must be between 0 and 1, got 1.0"),
        (lambda: bootstrap_all({"a": [1], "b": [1, 2]}), SizeError, "b has 2 values, others 1"),
        (lambda: seeds_summary([]), SizeError, "at least one number"),
        (lambda: seeds_summary([1, 2], level=0), SettingsError, "level must be"),
        (lambda: paired_difference([1, 2], [1]), SizeError, "want pairs, got 2 and 1 values"),
    ],
)
def test_wrong_input_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
