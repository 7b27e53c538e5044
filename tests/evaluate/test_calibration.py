"""A threshold over all pairs against pairs taken one by one, and its intervals against data whose truth is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate import _pairs, calibration
from cosphere.evaluate.calibration import calibrate, pair_rates
from cosphere.evaluate.verification import tar_at_far
from cosphere.search import search


def drawn(seed, count=60, classes=7, dim=5):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    labels[:2] = [0, 1]
    return random.normal(size=(count, dim)) + 1.2 * random.normal(size=(classes, dim))[labels], labels


def by_pairs(rows, labels):
    """Cosines of all pairs, one by one, and which are of one class."""
    unit = [row / np.linalg.norm(row) if np.any(row) else row for row in np.asarray(rows, dtype=float)]
    found = [(unit[i] @ unit[j], labels[i] == labels[j]) for i in range(len(unit)) for j in range(i + 1, len(unit))]
    return np.array([cosine for cosine, _ in found]), np.array([same for _, same in found])


@given(st.integers(0, 2**31), st.floats(1e-4, 0.999), st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_the_exact_rule_over_all_pairs(seed, far, classes):
    rows, labels = drawn(seed, 40, classes)
    found = calibrate(rows, labels, far, samples=1)
    cosines, same = by_pairs(rows, labels)
    want = tar_at_far(cosines, same, far)
    assert found.threshold == pytest.approx(want.threshold, abs=1e-6)
    assert (found.far, found.tar) == (pytest.approx(want.far), pytest.approx(want.tar))
    assert found.far <= far
    assert (found.different_pairs, found.same_pairs) == ((~same).sum(), same.sum())
    rates = pair_rates(rows, labels, found.threshold)
    assert (rates.far, rates.tar) == (found.far, found.tar)


@given(st.integers(0, 2**31), st.sampled_from([1, 200_000]), st.randoms())
@settings(max_examples=8, deadline=None)
def test_neither_blocks_nor_order_matter(seed, block_bytes, order):
    rows, labels = drawn(seed, 100)
    shuffled = np.array(order.sample(range(100), 100))
    first = calibrate(rows, labels, 0.03, samples=20)
    assert calibrate(rows[shuffled], labels[shuffled], 0.03, samples=20, block_bytes=block_bytes) == first
    assert calibrate(7 * rows, labels + 10**12, 0.03, samples=20) == first


def test_the_threshold_is_a_cosine_that_search_gives():
    rows, labels = drawn(0, 90)
    found = calibrate(rows, labels, 0.02, samples=1)
    scores = search(rows, rows, k=89, exclude=torch.arange(90)).scores.numpy()
    assert found.threshold in scores
    # The service's answers, cut off by the rule: each pair is met from both sides.
    ids = search(rows, rows, k=89, exclude=torch.arange(90)).ids.numpy()
    wrong = found.same(scores) & (labels[ids] != labels[:, None])
    assert wrong.sum() == 2 * round(found.far * found.different_pairs)


def test_equal_and_opposite_and_directionless_rows():
    rows = np.array([[1, 0], [1, 0], [1, 0], [0, 0], [-1, 0], [0, -1]], dtype=np.float16)
    labels = ["a", "a", "b", "b", "c", "d"]
    cosines, same = by_pairs(rows, labels)
    for far in (0.05, 0.16, 0.5, 0.9):
        found = calibrate(rows, labels, far, samples=5)
        want = tar_at_far(cosines, same, far)
        assert (found.threshold, found.far, found.tar) == (want.threshold, pytest.approx(want.far), want.tar)


@pytest.mark.parametrize("cosines", [[-0.0, 0.0, 0.5], [-1.0, -0.5, -1e-30], [1e-30, -1e-30, 0.0, 1.0, -1.0]])
def test_keys_keep_the_order_of_floats(cosines):
    values = torch.tensor(cosines, dtype=torch.float32).add(0.0)
    keys = _pairs._keys(values)
    for a, key_a in zip(values.tolist(), keys.tolist(), strict=True):
        back = _pairs._cosine((key_a >> 16) + 2**15, key_a & 0xFFFF)
        assert back == a
        for b, key_b in zip(values.tolist(), keys.tolist(), strict=True):
            assert (a < b) == (key_a < key_b)


def test_nobody_has_two_images():
    found = calibrate(np.eye(5), range(5), 0.1, samples=3)
    assert (found.tar, found.tar_interval, found.same_pairs) == (None, None, 0)
    assert pair_rates(np.eye(5), range(5), 0.5) == (0, None, 10, 0)


def test_any_array_will_do():
    rows, labels = drawn(5)
    rows = rows.astype(np.float32)
    first = calibrate(rows, labels, 0.02, samples=5)
    for same in (torch.from_numpy(rows), np.repeat(rows, 2, axis=0)[::2], np.asfortranarray(rows)):
        assert calibrate(same, torch.from_numpy(labels), 0.02, samples=5) == first
    half = torch.from_numpy(rows).bfloat16()
    assert calibrate(half, labels, 0.02, samples=5) == calibrate(half.float(), labels, 0.02, samples=5)
    frozen = rows.copy()
    frozen.flags.writeable = False
    assert calibrate(frozen, [f"class {label}" for label in labels], 0.02, samples=5).threshold == first.threshold


def interval_by_hand(rows, labels, far, samples):
    """Classes drawn, all pairs of the drawn images compared, except those of two copies of one class."""
    random = np.random.default_rng(1)
    cosines, _ = by_pairs(rows, labels)
    table = np.zeros((len(rows), len(rows)))
    table[np.triu_indices(len(rows), 1)] = cosines
    table += table.T
    names = np.unique(labels)
    every = cosines[[labels[i] != labels[j] for i in range(len(rows)) for j in range(i + 1, len(rows))]]
    thresholds, rates = [], []
    for _ in range(samples):
        members = np.concatenate([np.flatnonzero(labels == name) for name in random.choice(names, len(names))])
        impostors = np.sort(
            [table[a, b] for at, a in enumerate(members) for b in members[at + 1 :] if labels[a] != labels[b]]
        )[::-1]
        thresholds.append(impostors[min(math.floor(far * len(impostors) + 1e-9), len(impostors) - 1)])
        rates.append((every > thresholds[-1]).mean())
    return np.quantile(thresholds, [0.1, 0.9]), np.quantile(rates, [0.1, 0.9])


def test_intervals_are_those_of_classes_drawn_by_hand():
    rows, labels = drawn(2, 40, classes=10)
    found = calibrate(rows, labels, 0.05, samples=2000, level=0.8)
    thresholds, rates = interval_by_hand(rows, labels, 0.05, 250)
    np.testing.assert_allclose(found.threshold_interval, thresholds, atol=0.02)
    np.testing.assert_allclose(found.far_interval, rates, atol=0.012)


def chance(trials, seen, rate):
    """Of so many successes or fewer."""
    return sum(math.comb(trials, one) * rate**one * (1 - rate) ** (trials - one) for one in range(seen + 1))


@pytest.mark.parametrize("far", [1e-9, 1e-3, 0.01, 0.1])
def test_two_classes_resample_into_nothing_new_and_pairs_bound_the_intervals(far):
    """E4: none of 49 pairs above the threshold is no rate of 0: the ends are where what was seen has a chance of 2.5 %."""
    rows, labels = drawn(4, 14, classes=2)
    labels = np.arange(14) // 7
    found = calibrate(rows, labels, far, samples=50)
    for (low, high), seen, pairs in (
        (found.far_interval, round(found.far * 49), 49),
        (found.tar_interval, round(found.tar * 42), 42),
    ):
        assert (low == 0) if seen == 0 else chance(pairs, seen - 1, low) >= 0.975 - 1e-9
        assert (high == 1) if seen == pairs else chance(pairs, seen, high) <= 0.025 + 1e-9
    assert found.far_interval[0] <= found.far <= found.far_interval[1]
    if far < 0.02:  # no pair lies above
        assert found.far_interval == (0, pytest.approx(1 - 0.025 ** (1 / 49)))
        assert found.threshold_interval[1] == 1
    every = np.sort(by_pairs(rows, labels)[0][~by_pairs(rows, labels)[1]])[::-1]
    above = next(
        count for count in range(49) if chance(49, count, far) >= 0.975
    )  # pairs above the true threshold at most
    assert found.threshold_interval[0] <= every[above] + 1e-6


def test_intervals_hold_the_truth_of_new_classes():
    """Threshold from some classes, rate on many others: the interval should hold it as often as it says."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(600, 6))
    truth = np.repeat(np.arange(600), 2)
    world = centres[truth] + 0.5 * random.normal(size=(1200, 6))
    held = 0
    for trial in range(15):
        chosen = np.flatnonzero(np.isin(truth, random.choice(600, 40, replace=False)))
        found = calibrate(world[chosen], truth[chosen], 0.02, samples=100, level=0.9, seed=trial)
        rate = pair_rates(world, truth, found.threshold).far
        held += found.far_interval[0] <= rate <= found.far_interval[1]
    assert held >= 11


def test_a_thinned_tail_gives_the_same_answer_and_nearly_the_same_interval(monkeypatch):
    rows, labels = drawn(3, 400, classes=40)
    whole = calibrate(rows, labels, 0.2, samples=100)
    monkeypatch.setattr(calibration, "_TAIL", 30_000)
    thinned = calibrate(rows, labels, 0.2, samples=100)
    assert (thinned.threshold, thinned.far, thinned.tar) == (whole.threshold, whole.far, whole.tar)
    np.testing.assert_allclose(thinned.threshold_interval, whole.threshold_interval, atol=0.012)
    np.testing.assert_allclose(thinned.far_interval, whole.far_interval, atol=0.01)
    assert thinned != whole  # it was thinned


def test_progress_reaches_the_end_and_the_seed_decides():
    rows, labels = drawn(0, 100)
    steps = []
    calibrate(rows, labels, 0.1, samples=5, block_bytes=1, progress=lambda done, total: steps.append((done, total)))
    assert [total for _, total in steps] == [200] * len(steps)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1][0] == 200
    assert calibrate(rows, labels, 0.1, seed=1) != calibrate(rows, labels, 0.1, seed=2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"far": 0}, SettingsError, "far must be a number above 0 and below 1, finite; got 0"),
        ({"far": math.nan}, SettingsError, "far must be a number above 0 and below 1, finite; got nan"),
        ({"samples": 0}, SettingsError, "samples must be a whole number from 1 to 1000000"),
        ({"level": 1}, SettingsError, r"level must be a number above 0"),
        ({"block_bytes": 0}, SettingsError, "block_bytes must be above 0"),
        ({"labels": [0, 0, 0]}, DataError, "all 3 images are of one class"),
        ({"labels": [0, 1]}, SizeError, r"want labels \(3,\)"),
        ({"embeddings": np.array([[1, np.nan], [1, 2], [3, 4]])}, DataError, "1 of 3 rows of embeddings hold NaN"),
        ({"embeddings": np.array([[1, np.inf], [1, 2], [3, 4]])}, DataError, "rows 0"),
        ({"embeddings": np.eye(3, dtype=np.uint8)}, SizeError, "of a floating type"),
        ({"embeddings": np.zeros((0, 3)), "labels": []}, SizeError, "at least one row"),
        ({"embeddings": np.ones((1, 3)), "labels": [0]}, DataError, "^1 image is of one class"),
    ],
)
def test_wrong_input_is_named(change, error, message):
    with pytest.raises(error, match=message):
        calibrate(**{"embeddings": np.eye(3), "labels": [0, 0, 1], "far": 0.5, **change})


def test_a_threshold_of_nan_is_named():
    with pytest.raises(SettingsError, match="threshold must be a number"):
        pair_rates(np.eye(3), [0, 0, 1], math.nan)


def test_equal_vectors_have_one_cosine_and_a_useless_threshold_is_seen() -> None:
    """One picture under two labels: rounding must not decide which of the equal pairs lie above."""
    rows = np.random.default_rng(0).normal(size=(20, 97)).astype(np.float32)
    labels = np.concatenate([np.arange(20), 20 + np.arange(20)])
    found = calibrate(np.concatenate([rows, rows * 3]), labels, far=0.01)
    assert found.threshold == 1.0
    assert found.far == 0.0
    assert not found.same(np.array([1.0000001, 1.0, 0.99999994, 0.5], dtype=np.float32)).any()
    rates = pair_rates(np.concatenate([rows, rows]), np.concatenate([np.arange(20), np.arange(20)]), 1 - 2e-6)
    assert rates.tar == 1.0
    assert pair_rates(np.concatenate([rows, rows]), np.tile(np.arange(20), 2), 1.0).tar == 0.0
