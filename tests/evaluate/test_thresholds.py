"""Conversions against trigonometry and drawn hyperplanes, the table against a bootstrap that draws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate.thresholds import convert_threshold, matched_hamming, rates_at, threshold_table
from cosphere.evaluate.verification import tar_at_far

MEASURES = ["cosine", "angle", "degrees", "l2", "squared_l2", "hamming"]


def vectors_at(angle):
    return np.array([1.0, 0.0]), np.array([math.cos(angle), math.sin(angle)])


@pytest.mark.parametrize("angle", [0.0, 1e-6, 0.3, math.pi / 2, 2.5, math.pi])
def test_each_measure_is_what_two_vectors_show(angle):
    a, b = vectors_at(angle)
    shown = {
        "cosine": a @ b,
        "angle": angle,
        "degrees": math.degrees(angle),
        "l2": np.linalg.norm(a - b),
        "squared_l2": np.sum((a - b) ** 2),
        "hamming": 256 * angle / math.pi,
    }
    for measure, value in shown.items():
        assert convert_threshold(angle, "angle", measure, bits=256) == pytest.approx(value, rel=1e-9, abs=1e-12)


@given(st.floats(0, 1), st.sampled_from(MEASURES), st.sampled_from(MEASURES), st.integers(1, 4096))
@settings(max_examples=200, deadline=None)
def test_there_and_back(share, one, other, bits):
    low, high = {"cosine": (-1, 1), "angle": (0, math.pi), "degrees": (0, 180), "l2": (0, 2)}.get(
        one, (0, 4 if one == "squared_l2" else bits)
    )
    value = low + share * (high - low)
    back = convert_threshold(convert_threshold(value, one, other, bits=bits), other, one, bits=bits)
    # A cosine's last digit is an angle of 1e-8 where the curve is flat.
    assert back == pytest.approx(value, abs=2e-7 * (high - low))
    assert convert_threshold(value, one, one, bits=bits) == pytest.approx(value)


def test_small_distances_keep_their_digits():
    assert convert_threshold(1e-9, "l2", "angle") == pytest.approx(1e-9, rel=1e-12)
    assert convert_threshold(1e-9, "angle", "squared_l2") == pytest.approx(1e-18, rel=1e-12)


def test_above_a_cosine_is_below_all_others():
    for measure in MEASURES[1:]:
        found = [convert_threshold(value, to=measure, bits=64) for value in (-0.5, 0.0, 0.5, 0.9)]
        assert found == sorted(found, reverse=True)


def test_hamming_is_the_mean_over_random_hyperplanes():
    normals = np.random.default_rng(0).normal(size=(200_000, 2))
    for angle in (0.4, 1.5, 2.9):
        a, b = vectors_at(angle)
        differing = np.mean((normals @ a > 0) != (normals @ b > 0))
        assert convert_threshold(angle, "angle", "hamming", bits=1) == pytest.approx(differing, abs=0.004)


def test_a_cosine_that_rounding_put_above_one():
    assert convert_threshold(1.0000001, to="l2") == 0
    assert convert_threshold(-1.0000001, to="degrees") == 180


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"value": 1.1}, r"as cosine lies in \[-1, 1\], got 1\.1"),
        ({"value": math.nan}, "got nan"),
        ({"value": 181, "from_": "degrees"}, r"as degrees lies in \[0, 180\]"),
        ({"value": -0.1, "from_": "l2"}, r"as l2 lies in \[0, 2\]"),
        ({"value": 9, "from_": "hamming", "bits": 8}, r"as hamming lies in \[0, 8\]"),
        ({"value": 0.5, "to": "hamming"}, "bits must be a whole number >= 1; got None"),
        ({"value": 0.5, "to": "hamming", "bits": 0}, "bits must be a whole number >= 1; got 0"),
        ({"value": 0.5, "to": "cosin"}, "no measure 'cosin'. Did you mean 'cosine'"),
    ],
)
def test_a_wrong_conversion_is_named(words, message):
    with pytest.raises(SettingsError, match=message):
        convert_threshold(**words)


def drawn(seed, count, steps=None):
    random = np.random.default_rng(seed)
    same = random.random(count) < 0.4
    same[:2] = [True, False]
    scores = random.normal(size=count) + same
    return (np.round(scores * steps) / steps if steps else scores), same


@pytest.mark.parametrize("steps", [None, 4])
@pytest.mark.parametrize("far", [0.0, 0.001, 0.05, 0.3])
def test_intervals_are_those_of_a_bootstrap_that_draws(far, steps):
    scores, same = drawn(3, 500, steps)
    row = threshold_table(scores, same, [far], level=0.8)[0]
    assert (row.tar, row.far, row.threshold) == tar_at_far(scores, same, far)
    random = np.random.default_rng(0)
    genuine, impostors = scores[same], scores[~same]
    found = []
    for _ in range(1500):
        others = random.choice(impostors, len(impostors))
        threshold = np.sort(others)[::-1][math.floor(far * len(others) + 1e-9)]
        accepted = (random.choice(genuine, len(genuine)) > row.threshold).mean()
        found.append((threshold, (impostors > threshold).mean(), accepted))
    # The share of resamples below and above each end is what the level says, up to chance and ties.
    for (low, high), values in zip(
        (row.threshold_interval, row.far_interval, row.tar_interval), np.transpose(found), strict=True
    ):
        assert (values < low).mean() <= 0.14
        assert (values <= low).mean() >= 0.06
        assert (values > high).mean() <= 0.14
        assert (values >= high).mean() >= 0.06


def test_all_accepted_does_not_mean_that_all_will_be():
    row = threshold_table(np.r_[np.ones(20), np.zeros(30)], np.arange(50) < 20, [0.1])[0]
    assert (row.tar, row.tar_interval) == (1, (pytest.approx(0.025 ** (1 / 20)), 1))


def test_no_false_accept_does_not_mean_a_rate_of_zero():
    scores, same = drawn(0, 1000)
    row = threshold_table(scores, same, [1e-6])[0]
    count = int((~same).sum())
    assert row.far == row.far_interval.low == 0
    assert 3 / count <= row.far_interval.high <= 5 / count


def test_everything_may_be_accepted():
    row = threshold_table([0.5, 0.1], [1, 0], [1.0])[0]
    assert (row.threshold, row.far, row.tar) == (-math.inf, 1, 1)
    assert row.far_interval == (1, 1)
    assert row.as_dict()["threshold"] is None


def test_a_threshold_from_elsewhere():
    scores, same = drawn(1, 300)
    found = rates_at(scores, same, 0.7)
    assert found.far == np.mean([s > 0.7 for s, t in zip(scores, same, strict=True) if not t])
    assert found.tar == np.mean([s > 0.7 for s, t in zip(scores, same, strict=True) if t])
    with pytest.raises(SettingsError, match="threshold must be a number in units of the score; got nan"):
        rates_at(scores, same, math.nan)
    with pytest.raises(SettingsError, match="level must be a number above 0"):
        threshold_table(scores, same, level=1)
    with pytest.raises(SettingsError, match="far must be a number"):
        threshold_table(scores, same, [1.5])


def test_matched_hamming_accepts_no_more_pairs():
    random = np.random.default_rng(0)
    rows = random.normal(size=(60, 40)).astype(np.float32)
    labels = np.repeat(np.arange(12), 5)
    codes = np.packbits(rows > 0, axis=1)
    found = matched_hamming(0.2, rows, codes, labels=labels, pairs=40_000)
    # By hand over all pairs of two classes, of which the drawn ones are a large sample.
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    i, j = np.nonzero(labels[:, None] < labels[None])
    distances = np.array([(rows[a] > 0).astype(int) @ (rows[b] <= 0) + (rows[a] <= 0).astype(int) @ (rows[b] > 0)
                          for a, b in zip(i, j, strict=True)])  # fmt: skip
    wanted = (np.sum(unit[i] * unit[j], axis=1) > 0.2).mean()
    assert found.accepted_by_cosine == pytest.approx(wanted, abs=0.01)
    assert found.accepted == pytest.approx((distances < found.threshold).mean(), abs=0.01)
    assert found.accepted <= found.accepted_by_cosine
    assert (distances < found.threshold + 1).mean() > wanted - 0.01
    assert found == matched_hamming(0.2, rows, codes, labels=labels, pairs=40_000)


def test_matched_hamming_is_the_expectation_for_random_hyperplanes():
    random = np.random.default_rng(1)
    centres = random.normal(size=(50, 16))
    rows = np.repeat(centres, 4, axis=0) + 0.8 * random.normal(size=(200, 16))
    codes = np.packbits(rows @ random.normal(size=(16, 2048)) > 0, axis=1)
    for cosine in (0.1, 0.4):
        found = matched_hamming(cosine, rows, codes, pairs=100_000)
        assert found.threshold == pytest.approx(convert_threshold(cosine, to="hamming", bits=2048), rel=0.03)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"codes": np.zeros((3, 1), np.uint8)}, SizeError, "got 4 embeddings and 3 codes"),
        ({"codes": np.zeros((4, 1))}, SizeError, "uint8"),
        ({"labels": [0, 1]}, SizeError, r"want labels \(4,\)"),
        ({"labels": [5, 5, 5, 5]}, DataError, "no pair of two classes"),
        ({"pairs": 0}, SettingsError, "pairs must be a whole number >= 1"),
        ({"embeddings": np.full((4, 2), np.nan)}, DataError, "NaN"),
    ],
)
def test_wrong_input_of_matched_hamming_is_named(change, error, message):
    given_ = {"threshold": 0.5, "embeddings": np.ones((4, 2)), "codes": np.zeros((4, 1), np.uint8)}
    with pytest.raises(error, match=message):
        matched_hamming(**{**given_, **change})
