"""The images shown for a query are the ones that its scores rank, by the same rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cosphere.embeddings import Embeddings
from cosphere.errors import SettingsError, SizeError
from cosphere.evaluate import EvaluationSettings, ranked_images, score_embeddings

ROWS, CLASSES = 40, 5


def table(**columns: Any) -> Embeddings:
    draw = np.random.default_rng(2)
    labels = draw.integers(0, CLASSES, ROWS)
    rows = draw.normal(size=(CLASSES, 6))[labels] + draw.normal(size=(ROWS, 6))
    return Embeddings(
        embeddings=rows.astype(np.float32),
        labels=labels,
        paths=tuple(map(str, range(ROWS))),
        class_names=tuple("abcde"),
        **columns,
    )


FLAGS = {"is_query": np.arange(ROWS) % 3 != 0, "is_gallery": np.arange(ROWS) % 2 == 0}
GROUPS = {"groups": np.arange(ROWS) // 8}


def by_hand(given: Embeddings, query: int, k: int, *, bits: bool, rule: str) -> list[int]:
    def similarity(row: int) -> float:
        first, second = (given.embeddings[one].astype(np.float64) for one in (query, row))
        if bits:
            return -sum((a > 0) != (b > 0) for a, b in zip(first, second, strict=True))
        return float(sum(first * second)) / float(sum(first**2) * sum(second**2)) ** 0.5

    def is_met(row: int) -> bool:
        if row == query or (given.is_gallery is not None and not given.is_gallery[row]):
            return False
        if given.groups is None or given.groups[row] != given.groups[query]:
            return True
        return rule == "same_class" and bool(given.labels[row] != given.labels[query])

    return sorted(filter(is_met, range(ROWS)), key=lambda row: (-similarity(row), row))[:k]


@pytest.mark.parametrize("columns", [{}, FLAGS, GROUPS, {**FLAGS, **GROUPS}], ids=["whole", "sides", "groups", "both"])
@pytest.mark.parametrize("rule", ["same_class", "any_class"])
@pytest.mark.parametrize("bits", [False, True])
@pytest.mark.parametrize("k", [1, 6, 100])
def test_they_agree_with_loops_and_with_the_scores(columns: dict[str, Any], rule: Any, bits: bool, k: int) -> None:
    given = table(**columns)
    settings = EvaluationSettings(ks=(1,), bits=bits, ties="optimistic", group_rule=rule, clustering=False)
    scores = score_embeddings(given, settings).retrieval
    assert scores is not None
    images = ranked_images(given, scores.query_rows, k, settings)
    assert images.rows.shape == images.similarities.shape == (scores.queries, k)
    for at, query in enumerate(scores.query_rows.tolist()):
        expected = by_hand(given, query, k, bits=bits, rule=rule)
        assert images.rows[at].tolist() == expected + [-1] * (k - len(expected))
        assert (images.similarities[at] == -np.inf).tolist() == [False] * len(expected) + [True] * (k - len(expected))
    assert images.rows[:, 0].tolist() == scores.nearest.tolist()
    best = np.maximum(scores.right_similarity, scores.wrong_similarity)
    np.testing.assert_array_equal(images.similarities[:, 0], best)


def test_any_order_of_queries_and_small_blocks_give_the_same() -> None:
    given = table(**FLAGS)
    chosen = [4, 1, 4, 38]
    several = ranked_images(given, chosen, 3, EvaluationSettings(block_bytes=1))
    for at, query in enumerate(chosen):
        assert several.rows[at].tolist() == ranked_images(given, [query], 3).rows[0].tolist()
    assert ranked_images(given, [], 3).rows.shape == (0, 3)


def test_wrong_calls_are_named() -> None:
    with pytest.raises(SizeError, match=r"row 3 is not a query of these embeddings\. Choose rows of"):
        ranked_images(table(**FLAGS), [1, 3], 2)
    with pytest.raises(SizeError, match="row 40 is not a query"):
        ranked_images(table(), [40], 2)
    with pytest.raises(SettingsError, match="k"):
        ranked_images(table(), [0], 0)


def test_some_queries_do_not_rank_the_rows_of_their_own_picture() -> None:
    """Rows 0 and 2 are one file."""
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    table = Embeddings(
        embeddings=rows, labels=np.array([0, 0, 0, 1, 1, 1]), paths=tuple("abadef"), class_names=("x", "y")
    )
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for query, own in ((2, {0, 2}), (4, {4}), (0, {0, 2})):
        order = [row for row in np.argsort(-unit @ unit[query]).tolist() if row not in own]
        assert ranked_images(table, [query], 3).rows.tolist() == [order[:3]]
