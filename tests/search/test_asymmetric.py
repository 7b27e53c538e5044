from __future__ import annotations

import numpy as np
import pytest
import torch

from cosphere.codes import from_bits, to_bits
from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.search import asymmetric_search, hamming_search, reranked_search, search


def drawn(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def asymmetric_by_hand(query: list[float], signs: list[list[float]], skip: int) -> list[tuple[float, int]]:
    length = sum(value * value for value in query) ** 0.5
    scores = [
        (sum(q * s for q, s in zip(query, row, strict=True)) / length / len(row) ** 0.5, j)
        for j, row in enumerate(signs)
        if j != skip
    ]
    return sorted(scores, key=lambda pair: (-round(pair[0], 6), pair[1]))


@pytest.mark.parametrize("width", [3, 8, 21])
@pytest.mark.parametrize("same_set", [True, False])
def test_asymmetric_search_agrees_with_loops(width: int, same_set: bool) -> None:
    x = drawn(23, width) * 5
    codes = to_bits(x)
    exclude = torch.arange(23) if same_set else None
    found = asymmetric_search(x, codes, k=9, exclude=exclude)
    signs = from_bits(codes, width).tolist()
    for i, query in enumerate(x.tolist()):
        want = asymmetric_by_hand(query, signs, i if same_set else -1)[:9]
        assert found.ids[i].tolist() == [j for _, j in want]
        assert found.scores[i].tolist() == pytest.approx([score for score, _ in want], abs=1e-6)
    symmetric = hamming_search(codes, codes, k=9, exclude=exclude)
    assert found.ids.tolist() != symmetric.ids.tolist()  # this data can tell the two apart


def test_neither_blocks_nor_tiles_change_asymmetric_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    x = drawn(150, 40)
    want = asymmetric_search(x, to_bits(x), k=7, exclude=torch.arange(150))
    monkeypatch.setattr("cosphere.search.storage._TILE_VALUES", 40 * 33)
    found = asymmetric_search(x.numpy(), to_bits(x).numpy(), k=7, exclude=np.arange(150), block_bytes=1)
    assert torch.equal(found.ids, want.ids)
    assert torch.equal(found.scores, want.scores)


def test_reranking_everything_is_exact_search_and_a_shortlist_is_of_the_bits() -> None:
    x, y = drawn(30, 24), drawn(60, 24, seed=1)
    exact = search(x, y, k=10)
    for gallery in (y, y.numpy(), y * 3):
        found = reranked_search(x, gallery, k=10, shortlist=60)
        assert torch.equal(found.ids, exact.ids)
        torch.testing.assert_close(found.scores, exact.scores, atol=1e-6, rtol=0)
    short = reranked_search(x, y, k=4, shortlist=7, codes=to_bits(y), block_bytes=1)
    listed = hamming_search(to_bits(x), to_bits(y), k=7).ids
    cosines = (x / x.norm(dim=1, keepdim=True)) @ (y / y.norm(dim=1, keepdim=True)).T
    for i in range(30):
        want = sorted(listed[i].tolist(), key=lambda j: -cosines[i, j])[:4]
        assert short.ids[i].tolist() == want
    assert not torch.equal(short.ids, exact.ids[:, :4])


def test_equal_rows_of_a_shortlist_come_by_lower_row_and_the_query_is_left_out() -> None:
    x = drawn(1, 700).repeat(13, 1)
    found = reranked_search(x, x, k=12, shortlist=50, exclude=torch.arange(13))
    assert found.ids.tolist() == [[j for j in range(13) if j != i] for i in range(13)]


def test_wrong_input_is_named() -> None:
    x = drawn(5, 24)
    codes = to_bits(x)
    with pytest.raises(SizeError, match="queries have 16 bits, the gallery 24"):
        asymmetric_search(x[:, :16], codes, k=1)
    with pytest.raises(SizeError, match="queries have 32 bits, the gallery 24"):
        asymmetric_search(drawn(5, 25), codes, k=1)
    with pytest.raises(SizeError, match=r"want queries of a floating type, got torch.uint8"):
        asymmetric_search(codes, codes, k=1)
    with pytest.raises(SizeError, match=r"want gallery codes \(N, bytes\) of packed bits, uint8"):
        asymmetric_search(x, x, k=1)
    with pytest.raises(DataError, match="5 of 5 rows of queries"):
        asymmetric_search(x * torch.nan, codes, k=1)
    with pytest.raises(SizeError, match="k=3 neighbours want a shortlist of at least 3, got 2"):
        reranked_search(x, x, k=3, shortlist=2)
    with pytest.raises(SizeError, match="the gallery has 4 rows and 5 codes"):
        reranked_search(x, x[:4], k=3, codes=codes)
    with pytest.raises(SizeError, match=r"queries have 24 dimensions, the gallery 23"):
        reranked_search(x, x[:, :23], k=3)
    with pytest.raises(SizeError, match="want gallery as a torch tensor or numpy array, got list"):
        reranked_search(x, x.tolist(), k=1, codes=codes)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [0, -1, True])
def test_a_k_below_one_is_refused(k: int) -> None:
    rows = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(SettingsError, match="k must be a whole number >= 1"):
        reranked_search(rows[:2], rows, k=k)
