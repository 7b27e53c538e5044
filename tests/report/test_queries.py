from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cosphere.errors import DataError, SizeError
from cosphere.report import ReportData
from cosphere.report import queries as module
from cosphere.report.queries import choose, class_scores, confusions, neighbours, outcomes


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def by_hand(
    embeddings: np.ndarray, labels: np.ndarray, asking: list[int], answering: list[int]
) -> list[dict[str, float]]:
    rows = embeddings.astype(np.float64).tolist()
    found = []
    for i in asking:
        right = [(cosine(rows[i], rows[j]), -j) for j in answering if j != i and labels[j] == labels[i]]
        wrong = [(cosine(rows[i], rows[j]), -j) for j in answering if labels[j] != labels[i]]
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


@pytest.mark.parametrize("block", [1, 1 << 30])
@pytest.mark.parametrize("split", [False, True])
def test_outcomes_agree_with_loops(mixed, block: int, split: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    embeddings, labels = mixed
    asks = np.arange(40) % 3 != 0 if split else None
    answers = np.arange(40) % 2 == 0 if split else None
    asking = [i for i in range(40) if not split or i % 3]
    answering = [i for i in range(40) if not split or i % 2 == 0]
    found = outcomes(embeddings, labels, is_query=asks, is_gallery=answers)
    want = by_hand(embeddings, labels, asking, answering)
    assert found.rows.tolist() == asking
    for name in ("right", "wrong", "rank"):
        assert getattr(found, name).tolist() == [one[name] for one in want]
    able = found.answerable
    assert np.isnan(found.gap[~able]).all()
    np.testing.assert_allclose(found.gap[able], np.array([one["gap"] for one in want])[able], atol=1e-5)
    assert 39 in found.rows.tolist() or split
    assert not able.all()
    assert (found.rank > 1).sum() > 5  # the data holds failures


def test_a_duplicate_of_the_query_counts_and_the_query_does_not() -> None:
    embeddings = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    found = outcomes(embeddings, np.array([0, 1, 0, 1]))
    assert found.right.tolist() == [2, 3, 0, 1]
    assert found.rank.tolist() == [1, 3, 1, 1]  # an equal cosine does not push the right one down


def test_nothing_to_find() -> None:
    one = outcomes(np.ones((1, 3), np.float32), np.zeros(1, np.int64))
    assert one.right.tolist() == [-1]
    assert one.wrong.tolist() == [-1]
    assert one.rank.tolist() == [0]
    none = outcomes(np.ones((2, 3), np.float32), np.zeros(2, np.int64), is_gallery=np.zeros(2, bool))
    assert none.rank.tolist() == [0, 0]
    nobody = outcomes(np.ones((2, 3), np.float32), np.zeros(2, np.int64), is_query=np.zeros(2, bool))
    assert len(nobody.rows) == len(nobody.gap) == 0
    assert [len(part) for part in choose(none, 5)] == [0, 0, 0]


def test_a_large_set_is_sampled_by_seed(mixed) -> None:
    embeddings, labels = mixed
    first, again, other = (outcomes(embeddings, labels, max_queries=10, seed=seed).rows.tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == 10
    assert first == sorted(first)


def test_outcomes_refuse_wrong_input() -> None:
    with pytest.raises(SizeError, match="Give one label for each row"):
        outcomes(np.ones((3, 2), np.float32), np.zeros(2, np.int64))
    with pytest.raises(DataError, match="NaN"):
        outcomes(np.full((3, 2), np.nan, np.float32), np.zeros(3, np.int64))


def test_worst_and_best_are_ordered_by_gap(mixed) -> None:
    embeddings, labels = mixed
    found = outcomes(embeddings, labels)
    want = by_hand(embeddings, labels, list(range(40)), list(range(40)))
    able = [i for i in range(40) if math.isfinite(want[i]["gap"])]
    worst_first = sorted(able, key=lambda i: -want[i]["gap"])
    chosen = choose(found, 6, seed=3)
    assert chosen.worst.tolist() == worst_first[:6]
    assert chosen.best.tolist() == worst_first[::-1][:6]
    assert len(set(chosen.random.tolist())) == 6
    assert set(chosen.random.tolist()) <= set(able)
    assert (
        chosen.random.tolist() == choose(found, 6, seed=3).random.tolist() != choose(found, 6, seed=4).random.tolist()
    )
    assert len(choose(found, 1000).worst) == len(able)


def test_class_scores_agree_with_loops(mixed) -> None:
    embeddings, labels = mixed
    want = by_hand(embeddings, labels, list(range(40)), list(range(40)))
    hits: dict[int, list[bool]] = {}
    for i, one in enumerate(want):
        if one["rank"]:
            hits.setdefault(int(labels[i]), []).append(one["rank"] == 1)
    rows = sorted((sum(h) / len(h), -len(h), label) for label, h in hits.items())
    assert [(s.recall, -s.queries, s.label) for s in class_scores(outcomes(embeddings, labels), labels)] == rows
    assert 99 not in hits


def test_confusions_agree_with_loops(mixed) -> None:
    embeddings, labels = mixed
    want = by_hand(embeddings, labels, list(range(40)), list(range(40)))
    found = confusions(outcomes(embeddings, labels), labels, count=1000)
    for one in found:
        failed = [i for i in range(40) if want[i]["rank"] > 1]
        there = [i for i in failed if (labels[i], labels[want[i]["wrong"]]) == (one.first, one.second)]
        back = [i for i in failed if (labels[i], labels[want[i]["wrong"]]) == (one.second, one.first)]
        assert (one.first_as_second, one.second_as_first) == (len(there), len(back))
        assert one.example == max(there + back, key=lambda i: want[i]["gap"])
        assert one.first < one.second
    totals = [one.first_as_second + one.second_as_first for one in found]
    assert totals == sorted(totals, reverse=True)
    assert sum(totals) == sum(one["rank"] > 1 for one in want)
    assert confusions(outcomes(embeddings, labels), labels, count=2) == found[:2]


@pytest.mark.parametrize("gallery", [None, np.arange(40) % 2 == 0])
def test_neighbours_agree_with_loops(mixed, gallery: np.ndarray | None) -> None:
    embeddings, labels = mixed
    data = ReportData(name="x", embeddings=embeddings, labels=labels, is_gallery=gallery)
    rows = embeddings.astype(np.float64).tolist()
    answering = [j for j in range(40) if gallery is None or gallery[j]]
    for k in (1, 5, 100):
        for i, hits in zip((0, 3, 17), neighbours(data, np.array([0, 3, 17]), k), strict=True):
            order = sorted((j for j in answering if j != i), key=lambda j: -cosine(rows[i], rows[j]))[:k]
            if k == 100:  # all that every one of the asked can have
                order = order[: len(hits)]
                assert len(hits) == len(answering) - 1
            assert [hit.row for hit in hits] == order
            np.testing.assert_allclose(
                [hit.cosine for hit in hits], [cosine(rows[i], rows[j]) for j in order], atol=1e-5
            )


def test_stored_neighbours_are_used_when_they_reach_far_enough(mixed) -> None:
    embeddings, labels = mixed
    ids = np.tile(np.array([7, 8, 9]), (40, 1))
    scores = np.tile(np.array([0.5, 0.25, 0.125], np.float32), (40, 1))
    data = ReportData(name="x", embeddings=embeddings, labels=labels, neighbour_ids=ids, neighbour_scores=scores)
    assert neighbours(data, np.array([4]), 2) == [[(7, 0.5), (8, 0.25)]]
    longer = neighbours(data, np.array([4]), 4)[0]
    assert [hit.row for hit in longer[:3]] != [7, 8, 9]
    assert len(longer) == 4


def test_no_gallery_gives_no_neighbours(mixed) -> None:
    embeddings, _ = mixed
    empty = ReportData(name="x", embeddings=embeddings, is_gallery=np.zeros(40, bool))
    assert neighbours(empty, np.array([1, 2]), 3) == [[], []]
    itself = np.zeros(40, bool)
    itself[1] = True
    assert neighbours(replace(empty, is_gallery=itself), np.array([1]), 3) == [[]]
    assert neighbours(ReportData(name="x"), np.array([0]), 3) == [[]]
