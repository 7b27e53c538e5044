from __future__ import annotations

import itertools
import math
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score

from cosphere.errors import SizeError
from cosphere.evaluate import agreement
from cosphere.evaluate.agreement import _CHUNK_TERMS, expected_mutual_information

LISTS = st.integers(1, 30).flatmap(lambda n: st.tuples(*[st.lists(st.integers(-3, 3), min_size=n, max_size=n)] * 2))


def partitions(rows: int, clusters: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, clusters, rows), generator.integers(0, classes, rows)


def test_the_printed_numbers() -> None:
    found = agreement([0, 0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 2, 2, 1])
    assert found._asdict() == pytest.approx(
        {
            "nmi": 0.5120965390369825,
            "nmi_geometric": 0.5124265165712271,
            "ami": 0.1912924413004042,
            "ari": 2 * (2 * 21 - 6 * 5) / ((6 + 5) * 21 - 2 * 6 * 5),
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
    assert found.ami == pytest.approx(adjusted_mutual_info_score(labels, clusters), abs=1e-9)
    assert found.ari == pytest.approx(adjusted_rand_score(labels, clusters), abs=1e-12)
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


@pytest.mark.parametrize(
    ("rows", "clusters", "classes"),
    [(2000, 3, 5), (2000, 40, 40), (2000, 600, 500), (300, 300, 2), (5000, 2, 2), (800, 750, 750)],
)
def test_ami_agrees_with_scikit_learn_on_tables_of_any_shape(rows: int, clusters: int, classes: int) -> None:
    found, labels = partitions(rows, clusters, classes, seed=rows + clusters)
    mixed = np.where(np.arange(rows) % 3 == 0, labels, found)
    for ours in (found, mixed):
        want = adjusted_mutual_info_score(labels, ours)
        assert agreement(ours, labels).ami == pytest.approx(want, abs=1e-9)
    assert agreement(mixed, labels).ami > 0.02  # so that a constant 0 would not pass


def mean_over_all_orders(clusters: list[int], labels: list[int]) -> float:
    def mutual_information(ours: tuple[int, ...]) -> float:
        both, one, other = Counter(zip(ours, labels, strict=True)), Counter(ours), Counter(labels)
        size = len(labels)
        return sum(n / size * math.log(size * n / (one[i] * other[j])) for (i, j), n in both.items())

    orders = list(itertools.permutations(clusters))
    return sum(map(mutual_information, orders)) / len(orders)


@pytest.mark.parametrize(
    ("clusters", "labels"),
    [([0, 0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 2, 2, 1]), ([0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 1]), ([0, 1], [0, 1])],
)
def test_the_expectation_is_the_mean_over_all_orders(clusters: list[int], labels: list[int]) -> None:
    """The second has sizes that must overlap: 5 + 4 of 7 rows."""
    found = expected_mutual_information(np.bincount(clusters), np.bincount(labels))
    assert found == pytest.approx(mean_over_all_orders(clusters, labels), abs=1e-12)


@pytest.mark.parametrize("terms", [1, 7, 100])
def test_the_expectation_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch, terms: int) -> None:
    clusters, labels = partitions(500, 30, 12, seed=1)
    sizes = np.bincount(clusters), np.bincount(labels)
    whole = expected_mutual_information(*sizes)
    assert terms < _CHUNK_TERMS
    monkeypatch.setattr(sys.modules["cosphere.evaluate.agreement"], "_CHUNK_TERMS", terms)
    assert expected_mutual_information(*sizes) == pytest.approx(whole, rel=1e-13)


def test_chance_is_worth_nothing_to_ami_and_ari_but_much_to_nmi() -> None:
    clusters, labels = partitions(3000, 600, 600, seed=2)
    found = agreement(clusters, labels)
    assert abs(found.ami) < 0.01
    assert abs(found.ari) < 0.01
    assert found.nmi > 0.7


def test_names_of_clusters_and_labels_do_not_matter() -> None:
    clusters, labels = partitions(200, 9, 7, seed=0)
    renamed = agreement(100 - 3 * clusters, labels * (2**63 // 20) - 2**62)
    assert renamed == pytest.approx(agreement(clusters, labels))


def test_the_two_sides_are_alike_but_for_precision_and_recall() -> None:
    clusters, labels = partitions(200, 9, 7, seed=0)
    one, other = agreement(clusters, labels), agreement(labels, clusters)
    for name in ("nmi", "nmi_geometric", "ami", "ari", "f1"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-12)
    assert (one.precision, one.recall) == (other.recall, other.precision)


def test_benchmark_scale_needs_no_dense_table() -> None:
    """60 000 clusters by 60 000 classes would be 28.8 GB."""
    labels = np.arange(60_000)
    assert agreement(labels[::-1], labels).nmi == pytest.approx(1.0)
    assert agreement(labels, labels // 2).f1 == 0.0
    assert agreement(labels // 2, labels // 2).f1 == 1.0
    assert agreement(labels // 2, labels // 2).ami == pytest.approx(1.0, abs=1e-9)
    assert agreement(labels, labels.clip(min=1)).ami == 0.0  # exactly: all assignments of such sizes share as much
    clusters, classes = partitions(60_000, 11_000, 9_000, seed=5)
    assert abs(agreement(clusters, classes).ami) < 0.01


@pytest.mark.parametrize(
    ("clusters", "labels", "ami", "ari", "nmi"),
    [
        ([4], [7], 1.0, 1.0, 1.0),  # one row
        ([0, 0, 0], [5, 5, 5], 1.0, 1.0, 1.0),  # one cluster, one class
        ([0, 0, 0], [1, 1, 2], 0.0, 0.0, 0.0),  # one cluster
        ([0, 1, 2], [3, 3, 3], 0.0, 0.0, 0.0),  # one class
        ([2, 1, 0], [0, 1, 2], 1.0, 1.0, 1.0),  # every row alone, on both sides
        ([2, 1, 0, 3], [0, 0, 1, 1], 0.0, 0.0, 2 / 3),  # every row alone: NMI is blind to it
        ([0, 1, 0, 1], [0, 0, 1, 1], -0.5, -0.5, 0.0),  # worse than chance
    ],
)
def test_partitions_at_the_edge(clusters: list[int], labels: list[int], ami: float, ari: float, nmi: float) -> None:
    found = agreement(clusters, labels)
    assert (found.ami, found.ari, found.nmi) == pytest.approx((ami, ari, nmi), abs=1e-12)
    assert found.ami == pytest.approx(adjusted_mutual_info_score(labels, clusters), abs=1e-9)
    assert found.ari == pytest.approx(adjusted_rand_score(labels, clusters), abs=1e-12)


def test_wants_two_lists_of_one_length() -> None:
    with pytest.raises(SizeError, match=r"want clusters \(2,\), one for each row, got \(3,\)"):
        agreement([0, 1, 2], [0, 1])
    with pytest.raises(SizeError, match="at least one label"):
        agreement([], np.array([], dtype=np.int64))
    with pytest.raises(SizeError, match="at least one label"):
        agreement([], [])
    with pytest.raises(SizeError, match="want integer clusters, got float64"):
        agreement([0.5, 1.0], [0, 1])
