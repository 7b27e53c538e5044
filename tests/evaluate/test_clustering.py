from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate import agreement, clustering

LISTS = st.integers(1, 30).flatmap(lambda n: st.tuples(*[st.lists(st.integers(-3, 3), min_size=n, max_size=n)] * 2))


def test_the_printed_numbers() -> None:
    found = agreement([0, 0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 2, 2, 1])
    assert found._asdict() == pytest.approx(
        {
            "nmi": 0.5120965390369825,
            "nmi_geometric": 0.5124265165712271,
            "f1": 0.3636363636363636,
            "precision": 1 / 3,
            "recall": 0.4,
            "purity": 5 / 7,
        },
        abs=1e-12,
    )


@settings(deadline=None, max_examples=50)
@given(lists=LISTS)
def test_agrees_with_scikit_learn_and_with_counting_pairs(lists: tuple[list[int], list[int]]) -> None:
    clusters, labels = lists
    found = agreement(clusters, labels)
    assert found.nmi == pytest.approx(normalized_mutual_info_score(labels, clusters), abs=1e-9)
    geometric = normalized_mutual_info_score(labels, clusters, average_method="geometric")
    assert found.nmi_geometric == pytest.approx(geometric, abs=1e-7)
    pairs = list(itertools.combinations(range(len(labels)), 2))
    together = {(i, j) for i, j in pairs if clusters[i] == clusters[j]}
    same = {(i, j) for i, j in pairs if labels[i] == labels[j]}
    assert found.precision == (len(together & same) / len(together) if together else 0.0)
    assert found.recall == (len(together & same) / len(same) if same else 0.0)
    total = found.precision + found.recall
    assert found.f1 == pytest.approx(2 * found.precision * found.recall / total if total else 0.0)
    largest = [
        max([labels[i] for i in range(len(labels)) if clusters[i] == cluster].count(label) for label in set(labels))
        for cluster in set(clusters)
    ]
    assert found.purity == sum(largest) / len(labels)


def test_names_of_clusters_and_labels_do_not_matter() -> None:
    generator = np.random.default_rng(0)
    clusters, labels = generator.integers(0, 9, 200), generator.integers(0, 7, 200)
    renamed = agreement(100 - 3 * clusters, labels * (2**63 // 20) - 2**62)
    assert renamed == pytest.approx(agreement(clusters, labels))


def test_benchmark_scale_needs_no_dense_table() -> None:
    """60 000 clusters by 60 000 classes would be 28.8 GB."""
    labels = np.arange(60_000)
    assert agreement(labels[::-1], labels).nmi == pytest.approx(1.0)
    assert agreement(labels, labels // 2).f1 == 0.0
    assert agreement(labels // 2, labels // 2).f1 == 1.0


def blobs(classes: int = 6, each: int = 20, spread: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    labels = np.repeat(np.arange(classes), each)
    points = np.eye(8)[labels] + generator.standard_normal((classes * each, 8)) * spread
    return (points * generator.uniform(0.1, 10, (len(labels), 1))).astype(np.float32), labels


def test_finds_the_classes_of_well_apart_directions_whatever_the_lengths() -> None:
    points, labels = blobs()
    found = clustering(points, labels, restarts=5)
    assert found.as_dict() == pytest.approx({"nmi": 1.0, "nmi_geometric": 1.0, "f1": 1.0, "purity": 1.0})
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    sklearn = KMeans(6, n_init=5, random_state=0).fit(unit.astype(np.float64))
    assert found.objective == pytest.approx(sklearn.inertia_ / len(unit), rel=1e-4)
    assert agreement(found.assignments, sklearn.labels_).f1 == 1.0
    assert (found.clusters, found.restarts, found.iterations, found.seed) == (6, 5, 50, 0)


def test_agrees_with_scikit_learn_on_directions_that_overlap() -> None:
    points, labels = blobs(spread=0.45)
    unit = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float64)
    found = clustering(points, labels, restarts=10)
    sklearn = KMeans(6, n_init=10, random_state=0).fit(unit)
    assert found.objective == pytest.approx(sklearn.inertia_ / len(unit), rel=0.02)
    want = normalized_mutual_info_score(labels, sklearn.labels_)
    assert found.as_dict()["nmi"] == pytest.approx(want, abs=0.06)
    assert 0.2 < want < 0.95


def test_one_seed_gives_one_result_and_settings_matter() -> None:
    points, labels = blobs(spread=0.6)
    one = clustering(points, labels, seed=4)
    again = clustering(torch.from_numpy(points), labels, seed=4)
    assert one.assignments.tolist() == again.assignments.tolist()
    assert one == again
    assert clustering(points, labels, seed=5).assignments.tolist() != one.assignments.tolist()
    assert clustering(points, labels, seed=4, iterations=1).objective > one.objective
    assert clustering(points, labels, clusters=2).clusters == 2
    assert set(clustering(points, labels, clusters=2).assignments.tolist()) == {0, 1}


def test_more_rows_than_faiss_samples_are_all_used() -> None:
    """By itself faiss takes 256 rows a cluster; the far few would then mostly be missed."""
    points = np.tile(np.eye(2, dtype=np.float32)[:1], (3000, 1))
    points[-2:] = [[0, 1]]
    found = clustering(points, [0] * 2998 + [1] * 2, restarts=20, seed=1)
    assert found.objective < 1e-3
    assert found.as_dict()["f1"] == 1.0


@pytest.mark.parametrize("clusters", [1, 4, 5])
def test_few_and_equal_rows(clusters: int) -> None:
    points = np.array([[1, 0], [1, 0], [1, 0], [0, 0], [0, 1]], dtype=np.float32)
    found = clustering(points, [0, 0, 1, 1, 2], clusters=clusters)
    assert len(found.assignments) == 5
    assert 0 <= min(found.as_dict().values()) <= max(found.as_dict().values()) <= 1


def test_one_class() -> None:
    assert clustering(np.eye(3), [7, 7, 7]).as_dict() == {"nmi": 1, "nmi_geometric": 1, "f1": 1, "purity": 1}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"clusters": 4}, SizeError, "4 clusters want at least as many rows, got 3"),
        ({"clusters": 0}, SettingsError, "clusters must be at least 1, got 0"),
        ({"iterations": 0}, SettingsError, "iterations must be at least 1"),
        ({"restarts": 0}, SettingsError, "restarts must be at least 1"),
        ({"labels": [0, 1]}, SizeError, "want labels (3,)"),
        ({"embeddings": np.full((3, 2), np.nan)}, DataError, "3 of 3 rows"),
    ],
)
def test_wrong_input_is_named(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        clustering(**{"embeddings": np.eye(3), "labels": [0, 0, 1], **arguments})
    assert words in str(caught.value)


def test_agreement_wants_two_lists_of_one_length() -> None:
    with pytest.raises(SizeError, match=r"want clusters \(2,\), one for each row, got \(3,\)"):
        agreement([0, 1, 2], [0, 1])
    with pytest.raises(SizeError, match="at least one label"):
        agreement([], np.array([], dtype=np.int64))


def test_without_faiss_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SettingsError, match="needs the package faiss-cpu"):
        clustering(np.eye(3), [0, 0, 1])
