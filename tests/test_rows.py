from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.rows import (
    CosineBlocks,
    check_block_bytes,
    cosine_product,
    exclusions,
    full_float32,
    rows_within,
    unit_rows,
)


def drawn(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", [1, 3, 64, 513])
def test_unit_rows_are_the_rows_over_their_length(width: int) -> None:
    x = drawn(70, width) * 50
    found = unit_rows(x)
    wide = x.double().numpy()
    want = wide / np.sqrt((wide**2).sum(axis=1, keepdims=True))
    assert found.rows.dtype == torch.float32
    np.testing.assert_allclose(found.rows.numpy(), want, rtol=2e-7, atol=1e-9)
    assert found.padded.shape == (96, width)
    assert not found.padded[70:].any()


def test_rows_too_short_or_too_long_for_squares_in_float32() -> None:
    found = unit_rows(torch.tensor([[3e30, 4e30], [0.0, 0.0], [3e-3, 4e-3], [3e-9, 4e-9]])).rows
    assert torch.allclose(found, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_numpy_layout_gives_the_rows_of_the_tensor(dtype: type, tmp_path) -> None:
    x = drawn(9, 6).numpy().astype(dtype)
    want = unit_rows(torch.from_numpy(x.copy())).rows
    fortran, strided = np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]
    backwards = x[::-1].copy()[::-1]
    locked = x.copy()
    locked.setflags(write=False)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    swapped = x.astype(np.dtype(dtype).newbyteorder(">"))
    for layout in (fortran, strided, backwards, locked, mapped, swapped):
        assert torch.equal(unit_rows(layout).rows, want)


def test_the_input_is_not_changed_and_not_shared() -> None:
    x = torch.eye(3)
    unit_rows(x).padded.zero_()
    assert torch.equal(x, torch.eye(3))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.zeros(3), "want things (B, D), got (3,)"),
        (torch.zeros(3, 2, dtype=torch.int64), "floating type, got torch.int64"),
        (np.zeros((3, 2), dtype=np.uint8), "floating type, got (3, 2) uint8"),
        (np.zeros((3, 2, 1)), "want things (N, D) of a floating type, got (3, 2, 1)"),
        ([[1.0, 2.0]], "as a torch tensor or numpy array, got list"),
        (torch.zeros(0, 2), "at least one row and one column, got (0, 2)"),
        (np.zeros((2, 0), dtype=np.float32), "at least one row and one column, got (2, 0)"),
    ],
)
def test_what_is_no_set_of_rows_is_refused(rows: object, words: str) -> None:
    with pytest.raises(SizeError) as error:
        unit_rows(rows, name="things")  # type: ignore[arg-type]
    assert words in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_rows_that_are_not_finite_are_counted_and_named(value: float, kind: str) -> None:
    x = torch.ones(9, 2)
    x[[1, 3, 4, 5, 6, 8], 1] = value
    with pytest.raises(DataError, match=r"6 of 9 rows of embeddings hold NaN or infinity \(rows 1, 3, 4, 5, 6, ...\)"):
        unit_rows(x if kind == "torch" else x.numpy())
    x[[3, 4, 5, 6, 8]] = 1.0
    with pytest.raises(DataError, match=r"1 of 9 rows of embeddings hold NaN or infinity \(rows 1\)"):
        unit_rows(x)


@settings(deadline=None, max_examples=30)
@given(
    width=st.sampled_from([1, 2, 7, 64, 257]),
    start=st.integers(0, 150),
    rows=st.integers(1, 150),
    columns=st.integers(1, 300),
)
def test_a_cosine_is_the_same_bits_in_every_block(width: int, start: int, rows: int, columns: int) -> None:
    """One query or many, a narrow gallery or a wide one: this is what ranks and ties rest on."""
    x = drawn(300, width)
    whole = unit_rows(x)
    want = CosineBlocks(whole, 300).of(whole.rows)
    some = unit_rows(x[:columns])
    queries = whole.rows[start : start + rows]
    assert torch.equal(CosineBlocks(some, len(queries)).of(queries), want[start : start + rows, :columns])
    np.testing.assert_allclose(want.numpy(), whole.rows.double().numpy() @ whole.rows.double().numpy().T, atol=1e-6)


def test_a_shorter_block_does_not_see_the_one_before() -> None:
    gallery = unit_rows(torch.eye(4))
    blocks = CosineBlocks(gallery, 40)
    blocks.of(torch.ones(40, 4))
    assert blocks.of(torch.eye(4)[:3]).tolist() == torch.eye(4)[:3].tolist()


def test_neither_autocast_nor_a_lower_precision_touches_cosines() -> None:
    x = unit_rows(drawn(40, 64))
    want = x.rows.double() @ x.rows.double().T
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = CosineBlocks(x, 40).of(x.rows)
            with full_float32(torch.device("cpu")):
                assert (x.rows @ x.rows.T).dtype == torch.float32
            assert (x.rows @ x.rows.T).dtype == torch.bfloat16  # outside, autocast is on again
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert (found - want).abs().max() < 1e-6


def test_block_rows_keep_within_the_bytes() -> None:
    assert rows_within(10_000, 100) == 96
    assert rows_within(3_200, 100) == 32
    assert rows_within(1, 100) == 32
    with pytest.raises(SettingsError, match=r"block_bytes must be above 0 and at most 2\^40, got 0"):
        check_block_bytes(0)


@pytest.mark.parametrize(
    ("exclude", "words"),
    [
        ([0, 1], "for each of 3 queries, got (2,)"),
        ([0.0, 1.0, 2.0], "got (3,) torch.float64"),
        ([True, False, True], "got (3,) torch.bool"),
        ([0, 1, 4], "exclude names rows 0 to 4, but the gallery has rows 0 to 3"),
        ([-2, 1, 2], "exclude names rows -2 to 2, but"),
    ],
)
def test_exclusions_are_checked(exclude: list[float], words: str) -> None:
    with pytest.raises(SizeError) as error:
        exclusions(exclude, 3, 4, torch.device("cpu"))
    assert words in str(error.value)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_product_has_the_same_bits_in_every_tile_and_on_both_sides_of_the_diagonal(data: st.DataObject) -> None:
    width, count = data.draw(st.sampled_from([1, 7, 64, 512])), 200
    unit = unit_rows(drawn(count, width))
    every = CosineBlocks(unit, count).of(unit.rows)
    bounds = st.lists(st.integers(0, count), min_size=2, max_size=2, unique=True).map(sorted)
    (top, bottom), (left, right) = data.draw(bounds), data.draw(bounds)
    found = cosine_product(unit.rows[top:bottom], unit.rows[left:right], torch.empty(256 * 256))
    assert torch.equal(found, every[top:bottom, left:right])
    assert torch.equal(found.T, every[left:right, top:bottom])
