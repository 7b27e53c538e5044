from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.codes import to_bits
from cosphere.errors import SettingsError, SizeError
from cosphere.search import hamming_search
from cosphere.search.hamming import HammingBlocks, _count_by_products, _nearest_codes, bit_rows


def apart(a: list[int], b: list[int]) -> int:
    return sum((x ^ y).bit_count() for x, y in zip(a, b, strict=True))


def nearest_by_hand(query: list[int], gallery: list[list[int]], k: int, skip: int) -> list[int]:
    rows = [j for j in range(len(gallery)) if j != skip]
    return sorted(rows, key=lambda j: apart(query, gallery[j]))[:k]  # sorted is stable: lower row first


def drawn(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, width), dtype=np.uint8))


@pytest.mark.parametrize("width", [1, 2, 3, 8, 17, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_blocks_are_minus_the_distances(width: int, dtype: torch.dtype) -> None:
    gallery = drawn(70, width)
    gallery[:2] = torch.tensor([[0], [255]], dtype=torch.uint8)
    want = [[-apart(a, b) for b in gallery.tolist()] for a in gallery[:67].tolist()]
    blocks = HammingBlocks(bit_rows(gallery), 67, dtype)
    found = blocks.of(gallery[:67])
    assert found.dtype == dtype
    assert found.tolist() == want
    assert blocks.of(gallery[5:6]).tolist() == want[5:6]  # a shorter block does not see the one before
    products = torch.empty(67, 70)
    _count_by_products(gallery[:67], gallery, products)
    assert products.tolist() == want


def test_tiles_and_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = drawn(700, 8)
    want = HammingBlocks(bit_rows(gallery), 130).of(gallery[:130]).clone()
    monkeypatch.setattr("cosphere.search.hamming._TILE_BYTES", 1)
    monkeypatch.setattr("cosphere.search.hamming._TILE_QUERIES", 7)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = HammingBlocks(bit_rows(gallery), 130).of(gallery[:130])
        assert torch.equal(found, want)
        assert hamming_search(gallery, gallery, k=9).ids.tolist()[:3] == [
            nearest_by_hand(row, gallery.tolist(), 9, -1) for row in gallery[:3].tolist()
        ]
    finally:
        torch.set_num_threads(before)


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(2, 40),
    width=st.integers(1, 3),
    levels=st.integers(1, 255),
    block_bytes=st.integers(1, 100_000),
    data=st.data(),
)
def test_search_agrees_with_loops_among_many_ties(
    count: int, width: int, levels: int, block_bytes: int, data: st.DataObject
) -> None:
    gallery = drawn(count, width, seed=count) % levels
    skip = data.draw(st.lists(st.integers(-1, count - 1), min_size=count, max_size=count))
    k = data.draw(st.integers(1, count - 1))
    found = hamming_search(gallery, gallery.numpy(), k=k, exclude=skip, block_bytes=block_bytes)
    rows = gallery.tolist()
    want = [nearest_by_hand(row, rows, k, left_out) for row, left_out in zip(rows, skip, strict=True)]
    assert found.ids.tolist() == want
    scores = [[1 - 2 * apart(row, rows[j]) / (8 * width) for j in ids] for row, ids in zip(rows, want, strict=True)]
    np.testing.assert_allclose(found.scores.numpy(), scores, atol=1e-7)
    assert found.scores.dtype == torch.float32


def test_scores_are_cosines_of_the_signs_whatever_pads_the_last_byte() -> None:
    x = torch.randn(30, 13, generator=torch.Generator().manual_seed(0))
    signs = torch.where(x > 0, 1.0, -1.0) / 13**0.5
    found = hamming_search(to_bits(x), to_bits(x), k=29, exclude=torch.arange(30), dim=13)
    torch.testing.assert_close(found.scores, (signs @ signs.T).gather(1, found.ids))
    with pytest.raises(SizeError, match="dim=17 does not fit codes of 16 bits"):
        hamming_search(to_bits(x), to_bits(x), k=1, dim=17)


def test_distance_and_row_that_do_not_fit_32_bits_together() -> None:
    """Distance and row make one number; 60 000 bits times 80 000 rows would overflow."""
    block = torch.full((1, 80_000), -60_000.0)
    block[0, 7] = -59_999.0
    block[0, -1] = 0.0
    ids, distances = _nearest_codes(block, 3)
    assert ids.tolist() == [[79_999, 7, 0]]
    assert distances.tolist() == [[0, 59_999, 60_000]]


def test_layouts_of_codes(tmp_path) -> None:
    codes = drawn(20, 6).numpy()
    want = hamming_search(codes, codes, k=4).ids
    np.save(tmp_path / "codes.npy", codes)
    locked = codes.copy()
    locked.setflags(write=False)
    for other in (
        np.asfortranarray(codes),
        np.load(tmp_path / "codes.npy", mmap_mode="r"),
        locked,
        torch.tensor(codes),
    ):
        assert torch.equal(hamming_search(other, other, k=4).ids, want)


def test_wrong_input_is_named() -> None:
    with pytest.raises(SizeError, match=r"queries have 16 bits, the gallery 8\. Embed both with the same model"):
        hamming_search(drawn(3, 2), drawn(3, 1), k=1)
    with pytest.raises(SizeError, match=r"want gallery \(N, bytes\) of packed bits, uint8, got \(3, 2\) torch.float32"):
        hamming_search(drawn(3, 2), torch.zeros(3, 2), k=1)
    with pytest.raises(SizeError, match=r"want queries with at least one row, got \(0, 2\)"):
        hamming_search(drawn(0, 2), drawn(3, 2), k=1)
    with pytest.raises(SizeError, match="k=3, but a query can have from 1 to 2"):
        hamming_search(drawn(3, 2), drawn(3, 2), k=3, exclude=[0, 1, 2])
    with pytest.raises(SettingsError, match="block_bytes must be above 0"):
        hamming_search(drawn(3, 2), drawn(3, 2), k=1, block_bytes=0)
    with pytest.raises(SizeError, match="too wide for distances in int16"):
        HammingBlocks(bit_rows(drawn(2, 4096)), 1, torch.int16)
