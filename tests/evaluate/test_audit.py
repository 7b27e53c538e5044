from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate import AuditSettings, audit_embeddings, likely_mislabelled
from cosphere.evaluate.audit import _alike, _gap, _Near


def table(rows: Any, labels: Any, files: Any | None = None) -> Embeddings:
    count = int(max(labels)) + 1
    return Embeddings(
        embeddings=np.asarray(rows, dtype=np.float32),
        labels=np.asarray(labels, dtype=np.int64),
        paths=tuple(f"{row}.jpg" for row in range(len(rows))),
        class_names=tuple(f"class {number}" for number in range(count)),
        files=files,
    )


def drawn(classes: int = 30, each: int = 20, width: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    return 2 * random.normal(size=(classes, width))[labels] + random.normal(size=(len(labels), width)), labels


def test_planted_faults_come_first() -> None:
    rows, labels = drawn()
    labels = labels.copy()
    labels[5] = 7  # a wrong label
    rows[labels == 3] += rows[labels == 2].mean(axis=0) - rows[labels == 3].mean(axis=0)  # 2 and 3 are one class
    labels[labels == 29] = 28  # 28 is two classes
    rows[300] = -30 * rows.mean(axis=0)  # like nothing else
    rows[101] = rows[450] + 1e-3 * rows[101]  # nearly a copy, under another label
    rows[41] = 2 * rows[42]
    splits = np.where(np.arange(600) % 2 == 0, "train", "test")
    found = audit_embeddings(table(rows, labels), splits=splits, settings=AuditSettings(duplicate=0.985))
    assert found.suspects.rows[0] in (5, 101, 450)
    assert 5 in found.suspects.rows[:5]
    assert [(pair.first, pair.second, pair.across_splits, pair.across_classes) for pair in found.duplicates] == [
        (101, 450, True, True),
        (41, 42, True, False),
    ]
    assert (found.alike[0].first, found.alike[0].second) == (2, 3)
    assert found.alike[0].mixing == pytest.approx(1, abs=0.25)
    assert len(found.alike) == 1
    for one, other in found.alike[0].examples:
        assert (labels[one], labels[other]) == (2, 3)
    assert found.divided[0].label == 28
    assert {frozenset(part) for part in found.divided[0].parts} == {
        frozenset(range(560, 580)),
        frozenset(range(580, 600)),
    }
    assert found.outliers[0].row == 300
    assert found.counts()["  across splits"] == 2
    suspects = likely_mislabelled(rows, labels, top=100)
    assert found.suspects.rows.tolist() == suspects.rows.tolist()  # one implementation


def test_a_clean_set_has_few_findings() -> None:
    rows, labels = drawn(seed=3)
    found = audit_embeddings(table(rows, labels), settings=AuditSettings(duplicate=0.985))
    assert len(found.suspects) == len(found.duplicates) == len(found.alike) == 0
    assert len(found.divided) <= 3
    assert len(found.outliers) <= 6


def test_the_numbers_are_what_they_say() -> None:
    rows, labels = drawn(6, 9, 5, seed=4)
    found = audit_embeddings(table(rows, labels), settings=AuditSettings(neighbours=4, duplicate=0.9))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    near = np.argsort(-cosines, axis=1)[:, :4]
    listed = {tuple(sorted((i, int(j)))) for i in range(54) for j in near[i] if cosines[i, j] >= 0.9}
    assert {(pair.first, pair.second) for pair in found.duplicates} == listed
    assert len(listed) > 5
    for pair in found.duplicates:
        assert pair.likeness == pytest.approx(cosines[pair.first, pair.second], abs=1e-6)
        assert pair.across_classes == (labels[pair.first] != labels[pair.second])
        assert not pair.across_splits
    for pair in found.alike:
        both = []
        for own, other in ((pair.first, pair.second), (pair.second, pair.first)):
            votes = labels[near[labels == own]].ravel()
            share = (votes == other).sum() / max(1, np.isin(votes, (own, other)).sum())
            both.append(share / (9 / 17))
        assert pair.mixing == pytest.approx(min(both))
    for outlier in found.outliers:
        assert outlier.cosine == pytest.approx(np.sort(cosines[outlier.row])[-4:].mean(), abs=1e-6)


def test_rows_of_one_file_are_no_duplicates() -> None:
    rows, labels = drawn(3, 8)
    rows[1] = rows[0]
    files = tuple("same" if row < 2 else f"{row}" for row in range(24))
    assert audit_embeddings(table(rows, labels, files)).duplicates == ()
    assert len(audit_embeddings(table(rows, labels)).duplicates) == 1


@pytest.mark.parametrize("odd", [0, 1, 40])
def test_among_copies_an_image_is_judged_by_how_far_the_others_are(odd: int) -> None:
    """The median of absolute deviations of the copies is rounding, whatever the other images are."""
    rows = np.random.default_rng(0).normal(size=(100, 32))
    rows[odd:] = rows[-1]
    found = audit_embeddings(table(rows, np.arange(100) % 4), settings=AuditSettings(neighbours=4))
    assert [outlier.row for outlier in found.outliers] == [0] * (odd == 1)
    assert all(outlier.score < 200 for outlier in found.outliers)


def test_tiny_and_wrong_sets() -> None:
    found = audit_embeddings(table(np.eye(2), [0, 1]))
    assert sum(found.counts().values()) == 0
    with pytest.raises(SizeError, match="one image alone cannot be compared"):
        audit_embeddings(table(np.eye(1), [0]))
    with pytest.raises(SizeError, match="want a split for each of 2 rows, got 1"):
        audit_embeddings(table(np.eye(2), [0, 1]), splits=["train"])
    unlabelled = Embeddings(
        embeddings=np.eye(2, dtype=np.float32), labels=np.zeros(2, np.int64), paths=("a", "b"), class_names=("",)
    )
    with pytest.raises(DataError, match="the images have no labels"):
        audit_embeddings(unlabelled)
    for settings, words in (
        ({"neighbours": 0}, "neighbours must be a whole number from 1 to 1000; got 0"),
        ({"duplicate": 0}, "duplicate must be a number above 0 and at most 1"),
        ({"top": 0}, "top must be a whole number from 1 to 1000000; got 0"),
    ):
        with pytest.raises(SettingsError, match=words):
            AuditSettings(**settings)  # type: ignore[arg-type]


def test_pixels_decide_where_they_are_compared() -> None:
    rows, labels = drawn(4, 6, 8, seed=1)
    rows[3], rows[9] = rows[2] * 1.5, rows[8] + 1e-3
    asked: list[list[int]] = []

    def compare(pairs: np.ndarray) -> np.ndarray:
        asked.extend(pairs.tolist())
        return np.where((pairs == [8, 9]).all(axis=1), 0.97, 0.4)

    found = audit_embeddings(table(rows, labels), compare=compare)
    assert {(2, 3), (8, 9)} <= {tuple(pair) for pair in asked}
    assert [(pair.first, pair.second, pair.likeness) for pair in found.duplicates] == [(8, 9, 0.97)]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert all(unit[one] @ unit[other] > 0.8 for one, other in asked)


def test_memory_is_bounded_by_images_not_by_pairs() -> None:
    """A square of 12,000 classes has 1.2 GB, and one class of 6000 images 36 million pairs."""
    labels, others = np.repeat(np.arange(12_000), 3), np.array([[1, 2], [0, 2], [0, 1]])
    ids = 3 * labels[:, None] + np.tile(others, (12_000, 1))  # each image is near the other two of its class
    ids[labels == 4], ids[labels == 9] = ids[labels == 9], ids[labels == 4].copy()
    unit = np.random.default_rng(0).normal(size=(6000, 4))
    tracemalloc.start()
    (found,) = _alike(_Near(ids, np.ones(ids.shape)), labels, 10)
    _gap(unit, unit[:, 0] > 1)
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()
    assert (found.first, found.second, found.mixing) == (4, 9, 5 / 3)


def test_the_gap_of_two_parts_is_that_of_all_pairs() -> None:
    unit = np.random.default_rng(1).normal(size=(23, 5))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    side = np.arange(23) % 3 == 0
    within = [unit[i] @ unit[j] for i in range(23) for j in range(23) if i != j and side[i] == side[j]]
    across = [unit[i] @ unit[j] for i in range(23) for j in range(23) if side[i] and not side[j]]
    assert _gap(unit, side) == pytest.approx(np.mean(within) - np.mean(across))
