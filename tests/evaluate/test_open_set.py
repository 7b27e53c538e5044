"""Open-set scores against queries answered one by one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate.open_set import open_set, open_set_split


def drawn(seed, count=60, classes=8):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    return random.normal(size=(count, 4)) + random.normal(size=(classes, 4))[labels], labels


def answers(queries, gallery):
    """Best cosine with each gallery image, query by query."""
    unit = [row / np.linalg.norm(row) for row in gallery]
    return np.array([[query / np.linalg.norm(query) @ row for row in unit] for query in queries])


@given(st.integers(0, 2**31), st.floats(-0.5, 0.95), st.sampled_from([1, 2**20]))
@settings(max_examples=12, deadline=None)
def test_against_queries_one_by_one(seed, threshold, block_bytes):
    gallery, names = drawn(seed, 30, 5)
    queries, asked = drawn(seed + 1, 70, 9)
    asked[:2] = [names[0], 8]
    found = open_set(
        queries, asked, threshold=threshold, gallery=gallery, gallery_labels=names, fpirs=[0.1, 0.5, 1],
        samples=3, block_bytes=block_bytes,
    )  # fmt: skip
    cosines = answers(queries, gallery)
    known = np.isin(asked, names)
    best, named = cosines.max(axis=1), names[cosines.argmax(axis=1)]
    right = named == asked
    assert found.dir == pytest.approx(
        np.mean([r and b > threshold for r, b in zip(right[known], best[known], strict=True)])
    )
    assert found.false_alarms == pytest.approx((best[~known] > threshold).mean())
    assert found.rejected == pytest.approx((best[known] <= threshold).mean())
    assert found.dir + found.rejected + found.misnamed == pytest.approx(1)
    assert found.rank_1 == pytest.approx(right[known].mean())
    assert found.auroc == pytest.approx(roc_auc_score(known, best), abs=1e-9)
    for rate in (0.1, 0.5, 1):
        allowed = [t for t in [-math.inf, *best] if (best[~known] > t).mean() <= rate + 1e-12]
        want = max((right[known] & (best[known] > t)).mean() for t in allowed)
        assert found.dir_at_fpir[rate] == pytest.approx(want)
    assert (found.known_queries, found.unknown_queries) == (known.sum(), (~known).sum())
    assert found.gallery == 30
    assert found.as_dict()["dir@fpir=1e-1"] == found.dir_at_fpir[0.1]


def test_the_order_of_the_gallery_does_not_matter_even_at_ties():
    gallery = np.array([[1.0, 0], [1, 0], [0, 1]])
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        found = open_set(
            np.array([[2.0, 0], [0, 3], [-1, -1]]), [7, 9, 1], threshold=0.5,
            gallery=gallery[order], gallery_labels=np.array([7, 8, 9])[order], samples=1,
        )  # fmt: skip
        assert (found.dir, found.misnamed, found.false_alarms) == (0.5, 0.5, 0)  # 7 and 8 are equally near the first


def test_a_query_at_the_threshold_is_rejected():
    queries, gallery = np.array([[1.0, 0], [0, 1]]), np.array([[1.0, 0]])
    at = open_set(queries, [0, 1], threshold=1.0, gallery=gallery, gallery_labels=[0], samples=1)
    below = open_set(queries, [0, 1], threshold=-0.5, gallery=gallery, gallery_labels=[0], samples=1)
    assert (at.dir, at.rejected, at.false_alarms) == (0, 1, 0)
    assert (below.dir, below.rejected, below.false_alarms) == (1, 0, 1)


@given(st.integers(0, 2**31), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
@settings(max_examples=25, deadline=None)
def test_a_split_leaves_every_known_class_on_both_sides(seed, known_share, gallery_share):
    _, labels = drawn(seed, 40, 9)
    split = open_set_split(labels, known_share=known_share, gallery_share=gallery_share, seed=seed % 5)
    assert sorted([*split.gallery, *split.queries]) == list(range(40))
    known = set(labels[split.gallery])
    assert known <= set(labels[split.queries])
    assert 0 < len(known) < len(set(labels))
    several = sum(np.sum(labels == name) >= 2 for name in set(labels))
    assert len(known) == min(max(1, round(known_share * several)), len(set(labels)) - 1)
    for name in known:
        count = int((labels == name).sum())
        assert np.sum(labels[split.gallery] == name) == min(max(1, round(gallery_share * count)), count - 1)


def test_a_split_is_drawn():
    labels = np.repeat(np.arange(20), 6)
    first = open_set_split(labels, seed=1)
    assert np.array_equal(first.gallery, open_set_split(labels, seed=1).gallery)
    assert not np.array_equal(first.gallery, open_set_split(labels, seed=2).gallery)
    # Neither the first classes nor the first images of a class.
    assert set(labels[first.gallery]) != set(range(10))
    assert any(
        set(first.gallery[labels[first.gallery] == name] % 6) != {0, 1, 2} for name in set(labels[first.gallery])
    )


def test_without_a_gallery_the_split_is_used():
    rows, labels = drawn(4, 80)
    split = open_set_split(labels, seed=3)
    found = open_set(torch.from_numpy(rows), labels, threshold=0.6, seed=3)
    want = open_set(
        rows[split.queries], labels[split.queries], threshold=0.6, seed=3,
        gallery=rows[split.gallery], gallery_labels=labels[split.gallery],
    )  # fmt: skip
    assert found.as_dict() == want.as_dict()
    assert found.intervals == want.intervals
    assert found.intervals["dir"].low <= found.dir <= found.intervals["dir"].high


def test_intervals_take_classes_whole():
    """Each class all right or all wrong: 40 queries know no more than their 4 classes."""
    queries = np.repeat(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]), 10, axis=0)
    asked = np.repeat([0, 1, 2, 3], 10)
    gallery, names = np.eye(3), [0, 2, 1]  # class 0 is found, 1 and 2 are exchanged, 3 is unknown
    found = open_set(queries, asked, threshold=0.5, gallery=gallery, gallery_labels=names, samples=500, level=0.8)
    assert found.dir == pytest.approx(1 / 3)
    assert found.intervals["dir"] == (
        0,
        pytest.approx(2 / 3),
    )  # of 27 draws 8 have no class 0, 7 have two of it or three
    assert found.intervals["false_alarms"] == (pytest.approx(0.1 ** (1 / 10)), 1)  # 10 of 10


def test_no_alarm_among_few_queries_does_not_mean_that_there_are_none():
    queries, asked = np.eye(4)[[0, 1, 2, 2, 3]], [0, 1, 2, 2, 3]
    found = open_set(queries, asked, threshold=0.5, gallery=np.eye(4)[:2], gallery_labels=[0, 1], samples=50)
    assert (found.dir, found.false_alarms) == (1, 0)
    assert found.intervals["false_alarms"] == (0, pytest.approx(1 - 0.025 ** (1 / 3)))
    assert found.intervals["dir"] == (pytest.approx(0.025 ** (1 / 2)), 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"threshold": math.nan}, SettingsError, "threshold must be a number, finite; got nan"),
        ({"fpirs": [2]}, SettingsError, r"fpir must be a number >= 0 and at most 1, finite; got 2"),
        ({"samples": 0}, SettingsError, "samples must be a whole number from 1 to 1000000"),
        ({"gallery": np.eye(2)}, SettingsError, "gallery and gallery_labels together"),
        ({"labels": [0, 0, 1]}, SizeError, r"want labels \(4,\)"),
        ({"labels": [0, 0, 0, 0]}, DataError, "got 1 class, 1 with two"),
        ({"labels": [0, 1, 2, 3]}, DataError, "0 with two"),
        ({"known_share": 0}, SettingsError, "known_share must be a number above 0 and below 1"),
        ({"gallery": np.eye(2), "gallery_labels": [0, 1]}, DataError, "4 of 4 queries are of a class in the gallery"),
        ({"gallery": np.eye(2), "gallery_labels": [7, 8]}, DataError, "0 of 4 queries"),
        ({"gallery": np.eye(3), "gallery_labels": [0, 1, 2]}, SizeError, "dimensions"),
        ({"gallery": np.eye(2), "gallery_labels": [0]}, SizeError, r"want gallery_labels \(2,\)"),
        ({"embeddings": np.full((4, 2), np.inf)}, DataError, "NaN or infinity"),
    ],
)
def test_wrong_input_is_named(change, error, message):
    with pytest.raises(error, match=message):
        open_set(**{"embeddings": np.ones((4, 2)), "labels": [0, 0, 1, 1], "threshold": 0.5, **change})


def test_lists_are_named_and_tensors_with_a_gradient_will_do():
    rows, labels = torch.eye(6).requires_grad_(), torch.tensor([0, 0, 1, 1, 2, 2])
    assert open_set(rows, labels, threshold=0.5, samples=3).gallery == 2
    with pytest.raises(SizeError, match="want embeddings as a torch tensor or numpy array, got list"):
        open_set(rows.tolist(), labels, threshold=0.5)
