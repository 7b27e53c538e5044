from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate.significance import holm, mcnemar_test, seeds_test, sign_flip_test


def by_enumeration(change: list[float], groups: list[int]) -> float:
    """Every way of flipping the groups, by a plain loop."""
    names = sorted(set(groups))
    seen = abs(sum(change))
    reached = 0
    for signs in itertools.product((-1, 1), repeat=len(names)):
        total = sum(signs[names.index(group)] * value for value, group in zip(change, groups, strict=True))
        reached += abs(total) >= seen - 1e-9
    return reached / 2 ** len(names)


@pytest.mark.parametrize(("won", "lost", "same"), [(0, 0, 4), (1, 0, 3), (5, 5, 0), (9, 2, 30), (40, 71, 500)])
def test_mcnemar_agrees_with_the_binomial_test(won: int, lost: int, same: int) -> None:
    first = [1] * won + [0] * lost + [1, 0] * same
    second = [0] * won + [1] * lost + [1, 0] * same
    want = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert mcnemar_test(first, second) == pytest.approx(want)
    assert mcnemar_test(second, first) == pytest.approx(want)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), min_size=1, max_size=8))
def test_small_sign_flips_agree_with_enumeration(rows: list[tuple[int, int]]) -> None:
    change, groups = [row[0] / 10 for row in rows], [row[1] for row in rows]
    assert sign_flip_test(change) == pytest.approx(by_enumeration(change, list(range(len(change)))))
    if len(set(groups)) > 1:
        assert sign_flip_test(change, classes=groups) == pytest.approx(by_enumeration(change, groups))


def test_drawn_sign_flips_agree_with_all_of_them() -> None:
    change = np.random.default_rng(0).normal(0.3, 1, 14)
    whole = sign_flip_test(change, samples=2**14)
    assert whole == pytest.approx(by_enumeration(change.tolist(), list(range(14))))
    drawn = sign_flip_test(change, samples=2**14 - 1)
    assert drawn != whole
    assert drawn == pytest.approx(whole, abs=4 * np.sqrt(whole / 2**14))


def test_sign_flips_agree_with_scipy() -> None:
    change = np.random.default_rng(1).normal(0.2, 1, 60)
    want = stats.permutation_test(
        (change,), np.mean, permutation_type="samples", n_resamples=20_000, random_state=3, vectorized=True
    ).pvalue
    assert sign_flip_test(change, samples=20_000) == pytest.approx(want, abs=0.015)


def test_a_drawn_p_is_never_zero_and_bounded_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from cosphere.evaluate import significance

    assert sign_flip_test(np.ones(100), samples=99) == 1 / 100
    change = np.random.default_rng(2).normal(0.1, 1, 64)  # whole octets, so that chunks take the same bits
    want = sign_flip_test(change, samples=500)
    monkeypatch.setattr(significance, "_CHUNK_SIGNS", 64 * 7)
    assert sign_flip_test(change, samples=500) == want
    assert sign_flip_test(change[:9]) == pytest.approx(by_enumeration(change[:9].tolist(), list(range(9))))


def test_what_did_not_change_does_not_count() -> None:
    change = [0.1, 0.2, -0.05, 0.3]
    assert sign_flip_test(change + [0.0] * 5000) == sign_flip_test(change)
    assert sign_flip_test(np.zeros(7)) == 1.0
    assert sign_flip_test([1, -1, 1], classes=["a", "a", "b"]) == 1.0  # a's queries cancel; b alone can go either way


def test_queries_that_share_a_class_need_the_test_over_classes() -> None:
    """Two runs that are equally good, each in its own classes: by query one in twenty should differ, and many do."""
    generator = np.random.default_rng(3)
    classes = np.repeat(np.arange(40), 20)
    by_query, by_class = [], []
    for seed in range(150):
        better = generator.normal(0, 0.15, 40)[classes]
        first, second = (generator.random(800) < 0.5 + sign * better for sign in (1, -1))
        by_query.append(mcnemar_test(first, second))
        by_class.append(sign_flip_test(first.astype(float) - second, classes=classes, samples=199, seed=seed))
    assert np.mean(np.array(by_query) < 0.05) > 0.2
    assert np.mean(np.array(by_class) <= 0.05) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 150)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_seeds_agree_with_scipy(n: int) -> None:
    change = np.random.default_rng(n).normal(0.5, 1, n)
    assert seeds_test(change) == pytest.approx(stats.ttest_1samp(change, 0).pvalue)


def test_seeds_without_spread() -> None:
    assert seeds_test([0.1]) is None
    assert seeds_test([0.0, 0.0]) == 1.0
    assert seeds_test([0.1, 0.1, 0.1]) == 0.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_steps_down_as_a_plain_loop_does(p_values: list[float]) -> None:
    """Rejected at a level exactly where Holm's procedure rejects; p-values are the smallest such levels."""
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.3, 0.9):
        rejected: set[int] = set()
        for rank, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
            if p_values[at] * (len(p_values) - rank) > level:
                break
            rejected.add(at)
        assert {at for at, p in enumerate(corrected) if p <= level} == rejected
    assert all(p <= q <= min(1.0, len(p_values) * p + 1e-12) for p, q in zip(p_values, corrected, strict=True))


def test_holm_agrees_with_a_printed_example() -> None:
    """R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") gives 0.03 0.06 0.06 0.02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.2]) == [0.2]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: mcnemar_test([0.5, 1], [0, 1]), SettingsError, "wants values that are 0 or 1"),
        (lambda: mcnemar_test([1], [0, 1]), SizeError, "want pairs, got 1 and 2 values"),
        (lambda: sign_flip_test([]), SizeError, "at least one number"),
        (lambda: sign_flip_test([np.nan]), DataError, "1 of 1 differences are NaN"),
        (
            lambda: sign_flip_test([1.0], samples=0),
            SettingsError,
            "samples must be a whole number from 1 to 1000000; got 0",
        ),
        (
            lambda: sign_flip_test([1.0], seed=-1),
            SettingsError,
            "seed must be a whole number from 0 to 9223372036854775807; got -1",
        ),
        (lambda: sign_flip_test([1.0, 2.0], classes=[0, 0]), DataError, "all 2 queries are of one class"),
        (lambda: holm([0.5, 1.5]), SettingsError, "p-values lie from 0 to 1, got 0.5 to 1.5"),
        (lambda: holm([np.nan]), DataError, "NaN"),
    ],
)
def test_wrong_input_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
