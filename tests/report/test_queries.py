from __future__ import annotations

import math

import numpy as np
import pytest

from cosphere.evaluate import RetrievalScores, retrieval
from cosphere.report.queries import choose, confusions, failed, worst_classes


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def by_hand(embeddings: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    rows = embeddings.astype(np.float64).tolist()
    found = []
    for i in range(len(rows)):
        right = [(cosine(rows[i], rows[j]), -j) for j in range(len(rows)) if j != i and labels[j] == labels[i]]
        wrong = [(cosine(rows[i], rows[j]), -j) for j in range(len(rows)) if labels[j] != labels[i]]
        best_right, best_wrong = max(right, default=(-math.inf, 1)), max(wrong, default=(-math.inf, 1))
        rank = 1 + sum(c > best_right[0] for c, _ in wrong) if right else 0
        found.append(
            {"right": -best_right[1], "wrong": -best_wrong[1], "rank": rank, "gap": best_wrong[0] - best_right[0]}
        )
    return found


@pytest.fixture
def mixed() -> tuple[np.ndarray, np.ndarray]:
    """40 rows of 7 classes and one alone in its class; lengths differ a lot."""
    draw = np.random.default_rng(5)
    labels = np.append(draw.integers(0, 7, size=39), 99)
    embeddings = draw.normal(size=(40, 4)) * draw.uniform(0.1, 20, size=(40, 1))
    return embeddings.astype(np.float32), labels


@pytest.fixture
def ranking(mixed) -> RetrievalScores:
    return retrieval(*mixed, ks=(1,))


def test_worst_and_best_are_ordered_by_margin(mixed, ranking: RetrievalScores) -> None:
    want = by_hand(*mixed)
    able = [i for i in range(40) if math.isfinite(want[i]["gap"])]
    worst_first = sorted(able, key=lambda i: -want[i]["gap"])
    chosen = choose(ranking, 6, seed=3)
    worst, random, best = ([int(ranking.query_rows[at]) for at in positions] for positions in chosen)
    assert worst == worst_first[:6]
    assert best == worst_first[::-1][:6]
    assert len(set(random)) == 6
    assert set(random) <= set(able)
    again, other = (choose(ranking, 6, seed=seed).random.tolist() for seed in (3, 4))
    assert chosen.random.tolist() == again != other
    assert len(choose(ranking, 1000).worst) == len(able)


def test_queries_without_a_wrong_image_are_not_chosen() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    assert [len(part) for part in choose(retrieval(rows, np.zeros(4, np.int64), ks=(1,)), 5)] == [0, 0, 0]


def test_failed_queries_are_those_that_recall_misses(mixed, ranking: RetrievalScores) -> None:
    want = [one["rank"] > 1 for one in by_hand(*mixed) if one["rank"]]
    assert failed(ranking).tolist() == want
    assert failed(ranking).mean() == pytest.approx(1 - ranking.recall[1])


def test_worst_classes_agree_with_loops(mixed, ranking: RetrievalScores) -> None:
    embeddings, labels = mixed
    hits: dict[int, list[bool]] = {}
    for i, one in enumerate(by_hand(embeddings, labels)):
        if one["rank"]:
            hits.setdefault(int(labels[i]), []).append(one["rank"] == 1)
    rows = sorted((sum(h) / len(h), -len(h), label) for label, h in hits.items())
    assert [(one.recall, -one.queries, one.label) for one in worst_classes(ranking, 100)] == rows
    assert worst_classes(ranking, 2) == worst_classes(ranking, 100)[:2]
    assert 99 not in hits


def test_confusions_agree_with_loops(mixed, ranking: RetrievalScores) -> None:
    embeddings, labels = mixed
    want = by_hand(embeddings, labels)
    pairs = confusions(ranking, labels, count=1000)
    for one in pairs:
        failures = [i for i in range(40) if want[i]["rank"] > 1]
        there = [i for i in failures if (labels[i], labels[want[i]["wrong"]]) == (one.first, one.second)]
        back = [i for i in failures if (labels[i], labels[want[i]["wrong"]]) == (one.second, one.first)]
        assert (one.first_as_second, one.second_as_first) == (len(there), len(back))
        assert ranking.query_rows[one.example] == max(there + back, key=lambda i: want[i]["gap"])
        assert one.first < one.second
    totals = [one.first_as_second + one.second_as_first for one in pairs]
    assert totals == sorted(totals, reverse=True)
    assert sum(totals) == sum(one["rank"] > 1 for one in want)
    assert confusions(ranking, labels, count=2) == pairs[:2]
