from __future__ import annotations

import numpy as np
import pytest
import torch

from cosphere.codes import bytes_of, from_bits, hamming, is_codes, to_bits
from cosphere.errors import DataError, SizeError

ROWS = [
    [0.5, -1.0, 2.0, 0.0, -0.1, 3.0, -2.0, 0.2],
    [0.4, 1.0, -2.0, 0.1, -0.2, 1.0, -1.0, 0.0],
    [-1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0, -1.0],
]


def packed_by_hand(row: list[float]) -> list[int]:
    bits = ["1" if value > 0 else "0" for value in row]
    bits += ["0"] * (-len(bits) % 8)
    return [int("".join(bits[start : start + 8]), 2) for start in range(0, len(bits), 8)]


def test_bits_bytes_and_distances_behind_layer_norm() -> None:
    """LayerNorm puts the mean of a row at zero and its length at sqrt(D / (1 + eps / variance))."""
    rows = torch.tensor(ROWS, dtype=torch.float64)
    normed = torch.nn.functional.layer_norm(rows, (8,), eps=1e-5)
    assert normed.norm(dim=1).tolist() == pytest.approx([2.82842064, 2.8284113, 2.82841298], abs=1e-7)
    codes = to_bits(normed)
    assert codes.tolist() == [[164], [213], [54]]
    assert codes.tolist() != to_bits(rows).tolist()
    assert hamming(codes[[0, 0, 1]], codes[[1, 2, 2]]).tolist() == [4, 3, 5]


@pytest.mark.parametrize("width", [1, 7, 8, 9, 31, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_packing_agrees_with_strings(width: int, dtype: torch.dtype) -> None:
    x = torch.randn(13, width, generator=torch.Generator().manual_seed(width)).to(dtype)
    x[3] = 0.0
    x[4, 0] = -0.0
    codes = to_bits(x)
    assert codes.dtype == torch.uint8
    assert codes.tolist() == [packed_by_hand(row) for row in x.tolist()]
    assert codes.shape == (13, bytes_of(width))
    back = from_bits(codes, width)
    assert torch.equal(back, torch.where(x.float() > 0, 1.0, -1.0))
    if dtype != torch.bfloat16:
        found = to_bits(x.numpy())
        assert isinstance(found, np.ndarray)
        assert found.tolist() == codes.tolist()
        assert from_bits(found, width).tolist() == back.tolist()


def test_layout_length_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    x = np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32)
    want = to_bits(x).tolist()
    np.save(tmp_path / "x.npy", x)
    for other in (
        x * 1e-30,
        np.asfortranarray(x),
        np.repeat(x, 2, 1)[:, ::2],
        np.load(tmp_path / "x.npy", mmap_mode="r"),
    ):
        assert to_bits(other).tolist() == want
    assert to_bits(torch.from_numpy(x).T.contiguous().T.requires_grad_()).tolist() == want
    monkeypatch.setattr("cosphere.codes._CHUNK_VALUES", 30)
    assert to_bits(x).tolist() == want
    assert to_bits(x[:0]).shape == (0, 2)


def test_distance_is_that_of_the_signs() -> None:
    x = torch.randn(40, 21, generator=torch.Generator().manual_seed(1))
    codes, signs = to_bits(x), from_bits(to_bits(x), 21)
    want = ((21 - (signs[:20] * signs[20:]).sum(dim=1)) / 2).long()
    found = hamming(codes[:20], codes[20:])
    assert torch.equal(found, want)
    assert hamming(codes[:20].numpy(), codes[20:].numpy()).tolist() == want.tolist()
    assert hamming(codes, codes).tolist() == [0] * 40


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_rows_that_are_not_finite_are_counted_and_named(value: float, kind: str) -> None:
    x = torch.ones(9, 2)
    x[[1, 3], 1] = value
    with pytest.raises(DataError, match=r"2 of 9 embeddings hold NaN or infinity \(rows 1, 3\)\. Leave them out"):
        to_bits(x if kind == "torch" else x.numpy())


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.zeros((3, 2), dtype=np.uint8), "seem to be packed already"),
        (torch.zeros(3, 2, dtype=torch.int64), "floating type, got (3, 2) torch.int64"),
        (np.zeros(3), "want embeddings (N, D) of a floating type, got (3,)"),
        (torch.zeros(3, 0), "got (3, 0)"),
        ([[1.0]], "as a torch tensor or numpy array, got list"),
    ],
)
def test_what_cannot_be_packed_is_refused(rows: object, words: str) -> None:
    with pytest.raises(SizeError) as error:
        to_bits(rows)  # type: ignore[type-var]
    assert words in str(error.value)


def test_what_are_no_codes_is_refused() -> None:
    codes = to_bits(torch.eye(16))
    with pytest.raises(SizeError, match="codes of 2 bytes hold 9 to 16 bits, not 17"):
        from_bits(codes, 17)
    with pytest.raises(SizeError, match="not 8"):
        from_bits(codes, 8)
    with pytest.raises(SizeError, match=r"want codes \(N, bytes\) of packed bits, uint8, got \(2, 2\) torch.float32"):
        from_bits(torch.eye(2), 2)
    with pytest.raises(SizeError, match=r"want pairs of codes, got \(16, 2\) and \(15, 2\)"):
        hamming(codes, codes[1:])
    with pytest.raises(SizeError, match=r"want second \(N, bytes\) of packed bits, got \(16,\)"):
        hamming(codes, codes[:, 0])
    assert is_codes(codes)
    assert is_codes(codes.numpy())
    assert not is_codes(torch.eye(2))
    assert not is_codes([1])
