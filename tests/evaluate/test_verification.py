"""Verification against scikit-learn, and against rules written out pair by pair."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate.verification import (
    far_name,
    fold_accuracies,
    roc,
    tar_at_far,
    verification,
    verification_intervals,
)


def drawn(seed, count=200, steps=None):
    """Scores of same pairs lie higher; with ``steps`` they are tied in many places."""
    random = np.random.default_rng(seed)
    same = random.random(count) < 0.5
    same[:2] = [True, False]
    scores = np.tanh(random.normal(size=count) * 0.5 + 0.6 * same)
    return (np.round(scores * steps) / steps if steps else scores), same


def exact_tar(scores, same, far):
    """Over every threshold there is: the most accepted among those that keep the rate."""
    impostors, genuine = scores[~same], scores[same]
    allowed = [t for t in [-math.inf, *scores, math.inf] if (impostors > t).mean() <= far + 1e-12]
    return max((genuine > t).mean() for t in allowed)


@given(st.integers(0, 2**31), st.integers(4, 80), st.sampled_from([None, 2, 10]), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_auc_and_tar_by_the_definition(seed, count, steps, far):
    scores, same = drawn(seed, count, steps)
    found = verification(scores, same, folds=None, fars=[far])
    assert found.auc == pytest.approx(roc_auc_score(same, scores), abs=1e-12)
    point = tar_at_far(scores, same, far)
    assert point.tar == found.tar_at_far[far] == pytest.approx(exact_tar(scores, same, far))
    assert point.far == (scores[~same] > point.threshold).mean() <= far + 1e-12


@given(st.integers(0, 2**31), st.sampled_from([None, 3, 20]))
@settings(max_examples=40, deadline=None)
def test_the_curve_holds_every_threshold(seed, steps):
    scores, same = drawn(seed, 60, steps)
    curve = roc(scores, same)
    assert len(curve.thresholds) == len(np.unique(scores)) + 1
    for threshold, far, tar in zip(*curve, strict=True):
        assert far == pytest.approx((scores[~same] > threshold).mean())
        assert tar == pytest.approx((scores[same] > threshold).mean())
    assert (curve.far[0], curve.tar[0], curve.far[-1], curve.tar[-1]) == (0, 0, 1, 1)


def test_equal_error_rate():
    # Two of four impostors above 0.5, one of four same pairs below: the rates meet between two points.
    scores = [0.9, 0.8, 0.7, 0.2, 0.6, 0.55, 0.1, 0.0]
    same = [1, 1, 1, 1, 0, 0, 0, 0]
    assert verification(scores, same, folds=None).eer == pytest.approx(0.25)
    assert verification([3, 2, 1, 0], [1, 1, 0, 0], folds=None).eer == 0
    assert verification([0, 1, 2, 3], [1, 1, 0, 0], folds=None).eer == 1
    assert verification([1, 1], [1, 0], folds=None).eer == pytest.approx(0.5)


def by_the_protocol(scores, same, folds):
    """InsightFace's loop, threshold by threshold."""
    distances = 2 - 2 * scores
    grid = np.arange(0, 4, 0.01)
    accuracies, thresholds = [], []
    for own in np.array_split(np.arange(len(scores)), folds):
        rest = np.setdiff1d(np.arange(len(scores)), own)
        right = [np.mean((distances[rest] < threshold) == same[rest]) for threshold in grid]
        thresholds.append(grid[int(np.argmax(right))])
        accuracies.append(np.mean((distances[own] < thresholds[-1]) == same[own]))
    return accuracies, thresholds


@pytest.mark.parametrize("count", [40, 203])
@pytest.mark.parametrize("seed", range(3))
def test_insightface_folds(seed, count):
    scores, same = drawn(seed, count)
    found = fold_accuracies(scores, same, 10, protocol="insightface")
    accuracies, thresholds = by_the_protocol(scores, same, 10)
    assert found.accuracies.tolist() == accuracies
    assert found.thresholds.tolist() == thresholds


@pytest.mark.parametrize("steps", [None, 5])
@pytest.mark.parametrize("seed", range(3))
def test_exact_folds_use_the_best_threshold_of_the_others(seed, steps):
    scores, same = drawn(seed, 103, steps)
    found = fold_accuracies(scores, same, 5)
    for own, accuracy, threshold in zip(
        np.array_split(np.arange(103), 5), found.accuracies, found.thresholds, strict=True
    ):
        rest = np.setdiff1d(np.arange(103), own)
        best = max(np.mean((scores[rest] > t) == same[rest]) for t in [-np.inf, *scores[rest]])
        assert np.mean((scores[rest] > threshold) == same[rest]) == pytest.approx(best)
        assert np.mean((scores[own] > threshold) == same[own]) == accuracy
    whole = verification(scores, same, 5)
    assert whole.accuracy == found.accuracies.mean()
    assert whole.accuracy_std == found.accuracies.std()


def test_the_nearest_rule_may_exceed_the_rate():
    # 100 impostors; the curve has no corner at one in a hundred, and both neighbours are equally far.
    impostors = [*np.linspace(-1, 0, 98).tolist(), 0.61, 0.61]
    genuine = [0.9, 0.8, 0.7, 0.6, 0.6]
    scores, same = np.array(genuine + impostors), np.array([1] * 5 + [0] * 100)
    exact, nearest = tar_at_far(scores, same, 0.01), tar_at_far(scores, same, 0.01, rule="nearest")
    assert (exact.tar, exact.far) == (0.6, 0.0)
    assert (nearest.tar, nearest.far) == (1.0, 0.02)
    assert (scores[same == 1] > nearest.threshold).mean() == nearest.tar
    assert (scores[same == 0] > nearest.threshold).mean() == nearest.far


def test_a_rate_that_floats_cannot_write_is_counted_right():
    scores = np.concatenate([np.arange(100) / 100, [2.0]])
    same = np.array([0] * 100 + [1])
    for hundredths in range(101):
        assert tar_at_far(scores, same, hundredths / 100).far == hundredths / 100


def test_keys():
    found = verification(*drawn(0), fars=[0.01, 0.001, 0.5]).as_dict()
    assert list(found) == ["accuracy", "accuracy_std", "auc", "eer", "tar@far=1e-2", "tar@far=1e-3", "tar@far=5e-1"]
    assert [far_name(far) for far in (1e-6, 0.05, 0.25)] == ["1e-6", "5e-2", "2.5e-1"]
    without = verification(*drawn(0), folds=None)
    assert "accuracy" not in without.as_dict()
    assert math.isnan(without.accuracy)
    assert math.isnan(without.accuracy_std)


def test_any_order_and_scale_of_scores_will_do():
    scores, same = drawn(4)
    order = np.random.default_rng(0).permutation(len(scores))
    first = verification(scores, same, folds=None).as_dict()
    assert verification(scores[order], same[order], folds=None).as_dict() == pytest.approx(first)
    assert verification(scores * 100 - 7, same, folds=None).as_dict() == pytest.approx(first)
    strided = np.repeat(scores, 2)[::2]
    strided.flags.writeable = False
    assert verification(strided, same.tolist(), folds=None).as_dict() == first


def test_intervals_hold_the_score_and_shrink_with_more_pairs():
    wide = verification_intervals(*drawn(1, 200), samples=200)
    narrow = verification_intervals(*drawn(1, 5000), samples=200)
    for key, value in verification(*drawn(1, 200), folds=None, fars=[1e-2, 1e-3]).as_dict().items():
        assert wide[key].low <= value <= wide[key].high
    assert narrow["auc"].high - narrow["auc"].low < (wide["auc"].high - wide["auc"].low) / 3
    assert verification_intervals(*drawn(1, 50), samples=20) == verification_intervals(*drawn(1, 50), samples=20)


def test_six_thousand_pairs_take_no_time():
    scores, same = drawn(0, 6000)
    began = time.perf_counter()
    verification(scores, same)
    assert time.perf_counter() - began < 2  # 0.2 s is the bound; a busy machine is slower


@pytest.mark.parametrize(
    ("scores", "same", "settings", "error", "message"),
    [
        ([0.1, 0.2], [1, 0, 1], {}, SizeError, r"want scores \(n,\) and same \(n,\), got \(2,\) and \(3,\)"),
        ([0.1, math.nan], [1, 0], {}, DataError, "1 of 2 scores are NaN or infinite"),
        ([0.1, 0.2], [1, 2], {}, DataError, "want True and False, or 1 and 0"),
        ([0.1, 0.2], [1, 1], {}, DataError, "want both same and different pairs, got 2 and 0"),
        ([], [], {}, DataError, "want both same and different pairs, got 0 and 0"),
        ([0.1, 0.2], [1, 0], {}, SizeError, "2 pairs cannot be cut into 10 folds"),
        ([0.1, 0.2], [1, 0], {"folds": 1}, SettingsError, "at least 2 folds, got 1"),
        ([0.1, 0.2], [1, 0], {"folds": None, "fars": [2]}, SettingsError, "false accept rate is in"),
        ([0.1, 0.2], [1, 0], {"folds": 2, "protocol": "lfw"}, SettingsError, "'exact' or 'insightface'; got 'lfw'"),
        ([0.1, 0.2], [1, 0], {"folds": None, "far_rule": "near"}, SettingsError, "'exact' or 'nearest'; got 'near'"),
    ],
)
def test_wrong_input_is_named(scores, same, settings, error, message):
    with pytest.raises(error, match=message):
        verification(scores, same, **settings)
