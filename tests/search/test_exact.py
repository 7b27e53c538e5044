from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.errors import DataError, SizeError
from cosphere.search import KINDS, Index, search


def cosine(a: list[float], b: list[float]) -> float:
    scale = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / scale if scale else 0.0


def nearest_by_hand(query: list[float], gallery: list[list[float]], k: int, skip: int) -> list[int]:
    rows = [j for j in range(len(gallery)) if j != skip]
    return sorted(rows, key=lambda j: -round(cosine(query, gallery[j]), 6))[:k]  # sorted is stable: lower row first


def drawn(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 4, 16])
@pytest.mark.parametrize("same_set", [True, False])
def test_search_agrees_with_loops(k: int, same_set: bool) -> None:
    x = drawn(17, 3)  # negative cosines included
    found = search(x, x, k=k, exclude=torch.arange(17) if same_set else None)
    rows = x.tolist()
    want = [nearest_by_hand(query, rows, k, i if same_set else -1) for i, query in enumerate(rows)]
    assert found.ids.tolist() == want
    assert (found.ids[:, 0] == torch.arange(17)).all() != same_set  # this data can tell the two modes apart
    assert found.ids.dtype == torch.int64
    assert found.scores.dtype == torch.float32
    for query, ids, scores in zip(rows, found.ids.tolist(), found.scores.tolist(), strict=True):
        assert scores == pytest.approx([cosine(query, rows[j]) for j in ids], abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    queries=st.lists(st.sampled_from([(1, 0), (0, 1), (-1, 0), (0, -1), (0, 0)]), min_size=1, max_size=40),
    gallery=st.lists(st.sampled_from([(2, 0), (0, 3), (-1, 0), (0, -1), (0, 0)]), min_size=2, max_size=40),
    data=st.data(),
)
def test_equal_cosines_come_by_lower_row(
    queries: list[tuple[int, int]], gallery: list[tuple[int, int]], data: st.DataObject
) -> None:
    skip = data.draw(st.lists(st.integers(-1, len(gallery) - 1), min_size=len(queries), max_size=len(queries)))
    k = data.draw(st.integers(1, len(gallery) - 1))
    found = search(torch.tensor(queries).float(), torch.tensor(gallery).float(), k=k, exclude=skip)
    rows = [list(map(float, row)) for row in gallery]
    want = [
        nearest_by_hand(list(map(float, query)), rows, k, left_out)
        for query, left_out in zip(queries, skip, strict=True)
    ]
    assert found.ids.tolist() == want


@settings(deadline=None, max_examples=25)
@given(block_bytes=st.integers(1, 3_000_000), k=st.integers(1, 149), at=st.integers(0, 139), size=st.integers(1, 60))
def test_block_size_and_company_do_not_matter(block_bytes: int, k: int, at: int, size: int) -> None:
    x = drawn(150, 20)
    x[::7] = x[3]  # duplicates
    want = search(x, x, k=k, exclude=torch.arange(150))
    found = search(x[at : at + size], x, k=k, exclude=torch.arange(150)[at : at + size], block_bytes=block_bytes)
    assert torch.equal(found.ids, want.ids[at : at + size])
    assert torch.equal(found.scores, want.scores[at : at + size])


def test_length_and_kind_of_array_do_not_matter() -> None:
    x, y = drawn(10, 8), drawn(30, 8, seed=1)
    want = search(x, y, k=5)
    found = search((x * 7.0).double().numpy(), np.asfortranarray(y.numpy()), k=5, exclude=np.full(10, -1))
    assert torch.equal(found.ids, want.ids)
    assert search(x.requires_grad_(), y, k=5).scores.requires_grad is False


def test_a_duplicate_of_the_query_is_found_and_the_query_is_not() -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [-1.0, 0.0]])
    assert search(x, x, k=2, exclude=[0, 1, 2]).ids.tolist() == [[1, 2], [0, 2], [0, 1]]


def test_a_zero_row_has_cosine_zero() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    found = search(x, x, k=3)
    assert found.ids.tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1]]
    assert found.scores.tolist() == [[0, 0, 0], [1, 0, -1], [1, 0, -1]]


@pytest.mark.parametrize(
    ("k", "exclude", "words"),
    [
        (6, None, "k=6, but a query can have from 1 to 5 neighbours (gallery of 5)."),
        (5, [0, 1, 2, 3, 4], "k=5, but a query can have from 1 to 4 neighbours (gallery of 5, itself left out)."),
        (0, None, "k=0, but"),
        (True, None, "k=True, but"),
        (-1, None, "k=-1, but"),
        (1.0, None, "k=1.0, but"),
        (np.int64(6), None, "k=6, but"),
    ],
)
def test_a_k_that_cannot_be_is_refused(k: int, exclude: list[int] | None, words: str) -> None:
    with pytest.raises(SizeError) as error:
        search(drawn(5, 2), drawn(5, 2), k=k, exclude=exclude)
    assert words in str(error.value)
    assert re.search(r"Choose k as a whole number from 1 to [45], or add images\.", str(error.value))


@pytest.mark.parametrize("kind", KINDS)
def test_a_k_of_numpy_is_a_whole_number_too(kind: str) -> None:
    x = drawn(300, 8)
    index = Index.build(x, kind, check_queries=0)
    for found in (index.search(x[:3], np.int64(4)), index.search(x[:3], np.int32(4))):  # type: ignore[arg-type]
        assert found.ids.tolist() == index.search(x[:3], 4).ids.tolist()


def test_an_excluded_row_of_none_leaves_the_whole_gallery() -> None:
    assert search(torch.eye(2), torch.eye(2), k=2, exclude=[-1, -1]).ids.tolist() == [[0, 1], [1, 0]]


def test_wrong_input_names_the_side() -> None:
    with pytest.raises(SizeError, match=r"queries have 3 dimensions, the gallery 2\. Embed both with the same model"):
        search(drawn(4, 3), drawn(4, 2), k=1)
    with pytest.raises(SizeError, match=r"want queries with at least one row .* got \(0, 2\)"):
        search(drawn(0, 2), drawn(4, 2), k=1)
    bad = drawn(4, 2)
    bad[2] = float("nan")
    with pytest.raises(DataError, match=r"1 of 4 rows of gallery hold NaN or infinity \(rows 2\)"):
        search(drawn(4, 2), bad, k=1)
