"""Verification against scikit-learn, and against rules written out pair by pair."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate.verification import (
    best_threshold,
    far_name,
    fold_accuracies,
    right_at,
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


# 200 pairs, ten folds of 10 same and 10 different ones, in ten-thousandths of a cosine. The figures below are what
# InsightFace's own evaluation code and a plain count say of them.
PAIRS = """
8551 5975 8019 8981 8960 8038 6201 8106 7800 3977 -2729 6333 2895 -3757 -1007 468 -1066 -5829 6381
1675 7793 7064 7332 7267 8657 8602 6983 5573 7985 8656 5486 -4577 1677 -3395 -4350 -268 -2731 2103
-6207 1574 8899 8723 8543 6962 6403 4404 8942 9295 8450 7683 247 1180 1991 -2428 -736 -2516 -1061 33
5779 -2265 9439 7797 7225 7917 8933 8530 9521 7769 7535 7961 -2459 2729 -3894 -4167 1734 6029 -1303
-1365 2854 -3444 8511 6394 7700 8396 8706 9135 8511 7663 8423 8993 -5840 4907 -135 4202 1368 -3187
-151 -174 3194 -1180 8469 9010 7456 9497 4013 9558 6937 4561 8341 8179 -2008 6221 892 -3931 -2380
3179 -4456 3109 889 382 7340 6412 6041 6198 6791 5581 8493 7703 8550 8854 6471 1737 -85 -4859 -799
3219 4132 -448 523 1100 6587 3414 7913 7222 7306 6219 8453 6608 7791 9275 2001 -1288 -2505 -5391 231
-1807 3220 -3088 -2737 484 6906 6278 9602 8888 4760 6457 8399 8555 8184 9029 -2522 -6133 -3912 -3304
5499 1827 2196 2550 -47 3891 8567 8512 8657 1533 4900 3645 9165 6073 7635 5076 5734 -567 1746 -2546
4826 -5169 -842 2684 6531 -2735
"""


def published_pairs():
    return np.array([int(word) for word in PAIRS.split()]) / 1e4, np.arange(200) % 20 < 10


def test_insightface_own_figures():
    found = verification(*published_pairs(), fars=[0.01, 0.05, 0.1], protocol="insightface")
    assert found.accuracy == pytest.approx(0.89)
    assert found.accuracy_std == pytest.approx(0.0734846923)
    assert found.folds.accuracies.tolist() == [0.85, 0.95, 0.95, 0.95, 0.9, 0.85, 0.9, 0.95, 0.9, 0.7]
    assert found.folds.thresholds.tolist() == pytest.approx([1.12, *[1.32] * 4, 0.81, 1.32, 1.12, 1.32, 0.89])
    assert list(found.tar_at_far.values()) == [0.77, 0.87, 0.91]
    nearest = verification(*published_pairs(), folds=None, fars=[0.01, 0.05, 0.1], far_rule="nearest")
    assert list(nearest.tar_at_far.values()) == [0.81, 0.87, 0.91]


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
        distinct = np.unique(scores[rest])  # among ties too, the threshold lies in the middle of a gap
        assert abs(threshold) == np.inf or np.isclose(threshold, (distinct[:-1] + distinct[1:]) / 2).any()
    whole = verification(scores, same, 5)
    assert whole.accuracy == found.accuracies.mean()
    assert whole.accuracy_std == found.accuracies.std()


@pytest.mark.parametrize("protocol", ["exact", "insightface"])
def test_folds_may_be_numbered_and_uneven(protocol):
    scores, same = drawn(0, 103)
    numbers = np.random.default_rng(1).integers(0, 4, 103) * 3 + 5
    found = fold_accuracies(scores, same, numbers, protocol=protocol)
    for place, number in enumerate((5, 8, 11, 14)):
        own = numbers == number
        assert found.thresholds[place] == best_threshold(scores[~own], same[~own], protocol=protocol)
        assert (
            found.accuracies[place]
            == right_at(scores[own], same[own], found.thresholds[place], protocol=protocol).mean()
        )
    contiguous = fold_accuracies(scores, same, np.arange(100, 103).repeat([35, 34, 34]), protocol=protocol)
    assert contiguous.accuracies.tolist() == fold_accuracies(scores, same, 3, protocol=protocol).accuracies.tolist()


def balanced_by_hand(scores, same, threshold):
    return (np.mean(scores[same] > threshold) + np.mean(scores[~same] <= threshold)) / 2


@pytest.mark.parametrize("seed", range(3))
def test_balanced_folds_weigh_both_kinds_equally(seed):
    rng = np.random.default_rng(seed)
    same = rng.permutation(np.arange(120) < 100)  # five same pairs for one different
    scores = rng.normal(size=120) + same
    found = fold_accuracies(scores, same, 4, balanced=True)
    for own, accuracy, threshold in zip(
        np.array_split(np.arange(120), 4), found.accuracies, found.thresholds, strict=True
    ):
        rest = np.setdiff1d(np.arange(120), own)
        best = max(balanced_by_hand(scores[rest], same[rest], cut) for cut in [-np.inf, *scores[rest]])
        assert balanced_by_hand(scores[rest], same[rest], threshold) == pytest.approx(best)
        assert accuracy == pytest.approx(balanced_by_hand(scores[own], same[own], threshold))
    accept_all = fold_accuracies(np.zeros(120) + rng.normal(size=120) / 1e3, same, 4, balanced=True).accuracies.mean()
    assert 0.3 < accept_all < 0.7  # plainly, it would be 5 / 6


def test_balanced_equals_plain_where_kinds_are_equal():
    rng = np.random.default_rng(0)
    same = np.tile([True, False], 60)
    scores = np.round(rng.normal(size=120) + same, 1)  # ties too
    plain, balanced = (fold_accuracies(scores, same, 6, balanced=flag) for flag in (False, True))
    assert plain.thresholds.tolist() == balanced.thresholds.tolist()
    assert plain.accuracies == pytest.approx(balanced.accuracies)


@pytest.mark.parametrize(
    ("folds", "error", "message"),
    [
        ([0, 1, 0], SizeError, r"want folds \(4,\) integers, one for each pair, got \(3,\)"),
        ([0.5, 1, 0, 1], SizeError, r"want folds \(4,\) integers"),
        ([7, 7, 7, 7], DataError, "all pairs are in one fold"),
    ],
)
def test_folds_that_are_none(folds, error, message):
    with pytest.raises(error, match=message):
        fold_accuracies([0.1, 0.2, 0.3, 0.4], [True, False, True, False], np.array(folds))
    with pytest.raises(DataError, match="fold 1 has not both same and different pairs"):
        fold_accuracies([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1, 0, 1, 1, 1, 0], np.array([0, 0, 1, 1, 2, 2]), balanced=True)


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


@pytest.mark.parametrize(
    ("scores", "same", "settings", "error", "message"),
    [
        ([0.1, 0.2], [1, 0, 1], {}, SizeError, r"want scores \(n,\) and same \(n,\), got \(2,\) and \(3,\)"),
        ([0.1, math.nan], [1, 0], {}, DataError, "1 of 2 scores are NaN or infinite"),
        ([0.1, 0.2], [1, 2], {}, DataError, "same must hold True and False, or 1 and 0"),
        ([0.1, 0.2], [1, 1], {}, DataError, "want both same and different pairs, got 2 and 0"),
        ([], [], {}, DataError, "want both same and different pairs, got 0 and 0"),
        ([0.1, 0.2], [1, 0], {}, SizeError, "2 pairs cannot be cut into 10 folds"),
        ([0.1, 0.2], [1, 0], {"folds": 1}, SettingsError, "folds must be a whole number >= 2; got 1"),
        ([0.1, 0.2], [1, 0], {"folds": None, "fars": [2]}, SettingsError, "far must be a number >= 0 and at most 1"),
        ([0.1, 0.2], [1, 0], {"folds": 2, "protocol": "lfw"}, SettingsError, "'exact' or 'insightface'; got 'lfw'"),
        ([0.1, 0.2], [1, 0], {"folds": None, "far_rule": "near"}, SettingsError, "'exact' or 'nearest'; got 'near'"),
    ],
)
def test_wrong_input_is_named(scores, same, settings, error, message):
    with pytest.raises(error, match=message):
        verification(scores, same, **settings)


def test_tensors_with_a_gradient_will_do():
    scores = torch.tensor([0.9, 0.8, 0.4, 0.6, 0.2, 0.1], requires_grad=True)
    assert verification(scores, torch.tensor([1, 1, 1, 0, 0, 0]), folds=None).auc == pytest.approx(8 / 9)


def test_no_error_among_few_pairs_does_not_mean_that_there_are_none():
    scores = np.r_[np.linspace(0.8, 0.9, 20), np.linspace(0.1, 0.2, 30)]
    found = verification_intervals(scores, np.arange(50) < 20, fars=[0.1], samples=20)
    unseen = 1 - 0.025 ** (1 / 20)
    assert found["eer"] == (0, pytest.approx(unseen))
    assert found["tar@far=1e-1"] == (pytest.approx(1 - unseen), 1)
