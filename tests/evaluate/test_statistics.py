from __future__ import annotations

import statistics as plain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate.statistics import (
    Interval,
    bootstrap,
    bootstrap_all,
    bootstrap_classes,
    bootstrap_seeds,
    never_certain,
    paired_bootstrap,
    paired_difference,
    seeds_summary,
    share_interval,
)


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
    monkeypatch.setattr(statistics, "_CHUNK_VALUES", 1)  # less than one sample: one at a time
    assert bootstrap(values, samples=100) == pytest.approx(want)


@pytest.mark.parametrize(("hits", "count"), [(0, 49), (49, 49), (0, 1), (3, 20), (1, 10_000)])
def test_the_interval_of_a_share_agrees_with_scipy(hits: int, count: int) -> None:
    want = stats.binomtest(hits, count).proportion_ci(0.9, "exact")
    assert share_interval(hits, count, 0.9) == pytest.approx((want.low, want.high), abs=1e-12)


def test_a_rate_of_which_nothing_was_seen_is_not_certain() -> None:
    point, wide = Interval(0.0, 0.0), Interval(0.0, 0.5)
    assert never_certain(point, 0.0, 49) == share_interval(0, 49)
    assert never_certain(wide, 0.0, 49) == wide
    assert never_certain(Interval(1.0, 1.0), 1.0, 49) == share_interval(49, 49)
    assert never_certain(wide, 0.1, 10) is wide


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


def clustered(seed: int, classes: int = 60, queries: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Hits and misses in classes of which some are easy and some are hard; the mean of all such classes is 0.5."""
    generator = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(classes), queries)
    return (generator.random(len(numbers)) < generator.beta(2, 2, classes)[numbers]).astype(float), numbers


def test_class_bootstrap_by_hand_with_two_classes() -> None:
    """Two draws of {1, 1, 1} and {0}: 3/3, 3/4 and 0/1 with probability 1/4, 1/2, 1/4."""
    values, classes = [1, 1, 1, 0], ["a", "a", "a", "b"]
    assert bootstrap_classes(values, classes, samples=4000, level=0.4) == (0.75, 0.75)
    assert bootstrap_classes(values, classes, samples=4000, level=0.6) == (0.0, 1.0)


def test_class_bootstrap_agrees_with_scipy() -> None:
    generator = np.random.default_rng(6)
    sizes = generator.integers(1, 9, 40)
    classes = np.repeat(np.arange(40), sizes)
    values = generator.random(40)[classes] + generator.normal(0, 0.1, len(classes))
    sums = np.array([sum(v for v, c in zip(values, classes, strict=True) if c == one) for one in range(40)])
    want = stats.bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        confidence_level=0.9,
        method="percentile",
        random_state=5,
    ).confidence_interval
    found = bootstrap_classes(values, classes, samples=10_000, level=0.9)
    assert found == pytest.approx((want.low, want.high), abs=0.03 * (want.high - want.low))


def test_classes_of_one_query_are_queries() -> None:
    values = np.random.default_rng(7).random(80)
    assert bootstrap_classes(values, np.arange(80)[::-1]) == pytest.approx(bootstrap(values[::-1]))


@given(st.randoms(use_true_random=False))
def test_neither_the_order_of_queries_nor_the_names_of_classes_matter(random: Any) -> None:
    values, classes = clustered(8, classes=5, queries=4)
    order = random.sample(range(20), 20)
    want = bootstrap_classes(values, classes, samples=50)
    assert bootstrap_classes(values[order], 7 * classes[order] - 3, samples=50) == pytest.approx(want)
    assert bootstrap_classes(values[order], [f"class {c}" for c in classes[order]], samples=50) == pytest.approx(want)


def test_queries_that_share_a_class_need_the_class_bootstrap() -> None:
    """Intervals of 90 % for classes never seen: drawn by query they hold the truth far too seldom, by class they do."""
    trials = [clustered(seed) for seed in range(200)]
    by_query = np.mean([low <= 0.5 <= high for low, high in (bootstrap(v, samples=200, level=0.9) for v, _ in trials)])
    by_class = [bootstrap_classes(v, c, samples=200, level=0.9) for v, c in trials]
    assert by_query < 0.65
    assert 0.82 < np.mean([low <= 0.5 <= high for low, high in by_class]) < 0.97  # four standard errors: 0.085


def test_paired_bootstrap_is_the_one_of_the_difference_and_sees_the_pairing() -> None:
    first, classes = clustered(9)
    second = first.copy()
    second[::13] = 0
    found = paired_bootstrap(first, second)
    assert found == bootstrap(first - second)
    assert found.low > 0  # each alone is surer than nothing, yet their intervals overlap:
    assert bootstrap(first).low < bootstrap(second).high
    assert paired_bootstrap(first, second, classes=classes) == bootstrap_classes(first - second, classes)
    assert paired_bootstrap(first, first, classes=classes) == (0.0, 0.0)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_where_only_seeds_differ_the_interval_is_students(seeds: int) -> None:
    means = np.random.default_rng(seeds).normal(0.3, 0.02, seeds)
    table = np.repeat(means[:, None], 6, axis=1)
    want = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert bootstrap_seeds(table, samples=9000) == pytest.approx(
        (want.low, want.high), abs=0.01 * (want.high - want.low)
    )


@pytest.mark.parametrize(
    ("of_seeds", "of_classes", "of_both"),
    [(0.0020, 0.0064, 0.0028), (0.0087, 0.0055, 0.0034), (0.004, 0.0, 0.0)],
)
def test_95_percent_over_seeds_and_classes_cover_93_to_97_percent(
    of_seeds: float, of_classes: float, of_both: float
) -> None:
    """Five seeds, 98 classes; standard errors like those measured on Cars196, and seeds alone."""
    generator, seeds, classes, studies = np.random.default_rng(4), 5, 98, 500
    values = generator.normal(0, of_seeds * np.sqrt(seeds) + 1e-12, (studies, seeds, 1))
    values = values + generator.normal(0, of_classes * np.sqrt(classes), (studies, 1, classes))
    values = values + generator.normal(0, of_both * np.sqrt(seeds * classes), (studies, seeds, classes))
    found = bootstrap_all({str(at): one for at, one in enumerate(values)}, classes=np.arange(classes), samples=500)
    assert 0.93 <= np.mean([one.low <= 0 <= one.high for one in found.values()]) <= 0.97
    widths = [one.high - one.low for one in found.values()]
    alone = [one.mean(axis=1).std(ddof=1) * stats.t.ppf(0.975, 4) * 2 / np.sqrt(5) for one in values]
    assert (
        np.mean(np.array(widths) > 0.97 * np.array(alone)) > 0.9
    )  # not narrower than over seeds, up to the resampling


def test_variance_over_seeds_and_classes_is_right() -> None:
    """sd of the resampled means: seeds give s^2 / S without bias, classes s^2 / C; at the 68 % level it is half a width."""
    generator = np.random.default_rng(10)
    seeds, classes = generator.normal(0, 0.02, (12, 1)), generator.normal(0, 0.1, (1, 80))
    low, high = bootstrap_seeds(seeds + classes, classes=np.arange(80), samples=4000, level=0.6827)
    want = np.sqrt(seeds.var(ddof=1) / 12 + classes.var() / 80)
    assert (high - low) / 2 == pytest.approx(want, rel=0.06)


def test_one_seed_is_the_bootstrap_without_seeds() -> None:
    values, classes = clustered(11, classes=10, queries=3)
    assert bootstrap_seeds(values[None], classes=classes) == bootstrap_classes(values, classes)
    both = bootstrap_all({"one": values, "two": np.stack([values, 1 - values])}, classes=classes)
    assert both["one"] == bootstrap_classes(values, classes)
    assert both["two"].low < 0.5 < both["two"].high


def test_strided_and_narrow_values_are_taken() -> None:
    values, classes = clustered(12, classes=6, queries=4)
    want = bootstrap_classes(values, classes)
    assert bootstrap_classes(np.repeat(values, 2)[::2].astype(np.float16), np.repeat(classes, 2)[::2]) == want


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: bootstrap([]), SizeError, "at least one number, got shape (0,)"),
        (lambda: bootstrap([[1.0]]), SizeError, "got shape (1, 1)"),
        (lambda: bootstrap([1.0, np.nan]), DataError, "1 of 2 values are NaN or infinite"),
        (lambda: bootstrap([1.0], samples=0), SettingsError, "samples must be a whole number from 1 to 1000000; got 0"),
        (
            lambda: bootstrap([1.0], level=1.0),
            SettingsError,
            "level must be a number above 0 and below 1, finite; got 1.0",
        ),
        (
            lambda: bootstrap([1.0], seed=-1),
            SettingsError,
            "seed must be a whole number from 0 to 9223372036854775807; got -1",
        ),
        (
            lambda: bootstrap([1.0], seed=1.5),
            SettingsError,
            "seed must be a whole number from 0 to 9223372036854775807; got 1.5",
        ),  # type: ignore[arg-type]
        (lambda: bootstrap_all({"a": [1], "b": [1, 2]}), SizeError, "b has 2 values, others 1"),
        (lambda: bootstrap_classes([1, 0], [1]), SizeError, "want classes (2,), one for each row, got (1,)"),
        (lambda: bootstrap_classes([1, 0], ["a", "a"]), DataError, "all 2 queries are of one class"),
        (lambda: bootstrap_classes([], []), SizeError, "at least one number"),
        (lambda: bootstrap_classes([1, np.inf], [0, 1]), DataError, "1 of 2 values are NaN or infinite"),
        (lambda: bootstrap_seeds([1.0, 2.0]), SizeError, "want values (seeds, queries), got shape (2,)"),
        (lambda: bootstrap_seeds(np.empty((0, 4))), SizeError, "at least one of each, got shape (0, 4)"),
        (lambda: paired_bootstrap([1, 2], [1]), SizeError, "want pairs, got 2 and 1 values"),
        (lambda: seeds_summary([]), SizeError, "at least one number"),
        (lambda: seeds_summary([1, 2], level=0), SettingsError, "level must be"),
        (lambda: paired_difference([1, 2], [1]), SizeError, "want pairs, got 2 and 1 values"),
    ],
)
def test_wrong_input_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def test_the_interval_of_shares_stays_within_them() -> None:
    """Ten folds that are nearly all right: Student's t alone ends above 1."""
    shares = [1.0] * 8 + [0.995, 0.99]
    summary = seeds_summary(shares)
    assert summary.high is not None
    assert summary.high > 1
    assert summary.share_interval() == Interval(summary.low, 1.0)
    few = seeds_summary([1 - share for share in shares])
    assert few.share_interval() == Interval(0.0, few.high)
    close = seeds_summary([0.5, 0.51])
    assert close.share_interval() == (close.low, close.high)
    assert seeds_summary([0.5, 0.6]).share_interval() == Interval(0.0, 1.0)  # two values: 12.7 standard errors
    assert seeds_summary([0.5]).share_interval() is None
