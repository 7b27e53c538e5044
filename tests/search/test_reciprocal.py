from __future__ import annotations

import numpy as np
import pytest
import torch

from cosphere.errors import SettingsError, SizeError
from cosphere.search import k_reciprocal_search, search


def drawn(count: int, width: int = 12, seed: int = 0, classes: int = 9) -> np.ndarray:
    centres = np.random.default_rng(5).normal(size=(classes, width))
    return centres[np.arange(count) % classes] + 0.8 * np.random.default_rng(seed).normal(size=(count, width))


def as_published(queries: np.ndarray, gallery: np.ndarray, k1: int, k2: int, weight: float) -> np.ndarray:
    """(Q, G) distances, step by step as the paper and its official code: dense, one row at a time."""
    rows = np.concatenate([queries, gallery])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    squared = np.maximum(2 - 2 * rows @ rows.T, 0)
    distances = (squared / squared.max(axis=0)).T
    near = [sorted(range(len(rows)), key=lambda j, i=i: (j != i, distances[i, j], j)) for i in range(len(rows))]

    def mutual(i: int, k: int) -> set[int]:
        return {j for j in near[i][: k + 1] if i in near[j][: k + 1]}

    encoded = np.zeros_like(distances)
    for i in range(len(rows)):
        members = set(mutual(i, k1))
        for candidate in mutual(i, k1):
            others = mutual(candidate, round(k1 / 2))
            if len(others & mutual(i, k1)) > 2 / 3 * len(others):
                members |= others
        for j in members:
            encoded[i, j] = np.exp(-distances[i, j])
        encoded[i] /= encoded[i].sum()
    if k2 > 1:
        encoded = np.array([encoded[near[i][:k2]].mean(axis=0) for i in range(len(rows))])
    final = np.empty((len(queries), len(gallery)))
    for i in range(len(queries)):
        for j in range(len(gallery)):
            overlap = np.minimum(encoded[i], encoded[len(queries) + j]).sum()
            final[i, j] = (1 - weight) * (1 - overlap / (2 - overlap)) + weight * distances[i, len(queries) + j]
    return final


@pytest.mark.parametrize(("k1", "k2", "weight"), [(8, 3, 0.3), (5, 1, 0.0), (20, 6, 0.7), (2, 2, 0.5)])
@pytest.mark.parametrize("block_bytes", [1, 2**27])
def test_re_ranking_is_the_published_one(k1: int, k2: int, weight: float, block_bytes: int) -> None:
    queries, gallery = drawn(35, seed=1), drawn(70)
    want = as_published(queries, gallery, k1, k2, weight)
    found = k_reciprocal_search(queries, 3 * gallery, k=70, k1=k1, k2=k2, weight=weight, block_bytes=block_bytes)
    np.testing.assert_allclose(1 - found.scores.numpy(), np.sort(want, axis=1), atol=2e-6)
    np.testing.assert_allclose(np.take_along_axis(want, found.ids.numpy(), axis=1), np.sort(want, axis=1), atol=2e-6)
    few = k_reciprocal_search(queries, gallery, k=4, k1=k1, k2=k2, weight=weight)
    assert torch.equal(few.ids, found.ids[:, :4])
    assert (few.ids[:, 0] != search(queries, gallery, k=1).ids[:, 0]).any()  # it does change answers


def test_a_set_compared_with_itself_leaves_each_row_out() -> None:
    rows = drawn(60)
    found = k_reciprocal_search(rows, k=59, k1=6, k2=2)
    for row, ids in enumerate(found.ids.tolist()):
        assert sorted(ids) == [other for other in range(60) if other != row]
    twice = k_reciprocal_search(rows[:7], rows, k=5, k1=6, k2=1, exclude=range(7))
    assert not (twice.ids == torch.arange(7)[:, None]).any()


def test_the_whole_weight_on_the_plain_distance_is_plain_search() -> None:
    queries, gallery = drawn(9, seed=2), drawn(50)
    found = k_reciprocal_search(queries, gallery, k=50, weight=1.0)
    assert found.ids.tolist() == search(queries, gallery, k=50).ids.tolist()


@pytest.mark.parametrize("rows", [np.ones((5, 3)), np.zeros((4, 3)), np.eye(2)])
def test_equal_zero_and_few_rows(rows: np.ndarray) -> None:
    found = k_reciprocal_search(rows, rows, k=len(rows))
    assert torch.isfinite(found.scores).all()
    assert sorted(found.ids[0].tolist()) == list(range(len(rows)))


def test_wrong_settings() -> None:
    rows = drawn(10)
    with pytest.raises(SettingsError, match="k1 must be a whole number from 2 to 1000; got 1"):
        k_reciprocal_search(rows, k=1, k1=1)
    with pytest.raises(SettingsError, match="k2 must be a whole number from 1 to 5; got 6"):
        k_reciprocal_search(rows, k=1, k1=5, k2=6)
    with pytest.raises(SettingsError, match="weight must be a number >= 0 and at most 1"):
        k_reciprocal_search(rows, k=1, weight=1.5)
    with pytest.raises(SizeError, match="k=10, but a query can have from 1 to 9"):
        k_reciprocal_search(rows, k=10)
    with pytest.raises(SizeError, match="there is no gallery"):
        k_reciprocal_search(rows, k=1, exclude=[0] * 10)
    with pytest.raises(SizeError, match="queries have 12 dimensions, the gallery 3"):
        k_reciprocal_search(rows, rows[:, :3], k=1)
