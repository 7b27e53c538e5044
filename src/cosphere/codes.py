"""Codes: embeddings as packed bits, one bit a dimension.

``b = 1[z > 0]``, the binarisation of Zhai & Wu, "Classification is a Strong Baseline for Deep Metric Learning" (2019):
a zero gives bit 0. Their LayerNorm puts the mean of each embedding at zero, so about half the bits are set; without it a
dimension that is always positive says nothing. The sign does not depend on the length of a row.

Two codes are compared by their Hamming distance, the number of bits that differ. It equals the squared Euclidean
distance of the bits as 0/1 vectors, and ``(D - D cos) / 2`` of the bits as -1/+1 vectors. The cosine of the 0/1
vectors ranks otherwise: it depends on how many bits are set.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere.errors import DataError, SizeError, agreeing, counted

Bytes = npt.NDArray[np.uint8]
Array = TypeVar("Array", Tensor, npt.NDArray[Any])

_CHUNK_VALUES = 2**22
"""Values thresholded at a time."""


@torch.no_grad()
def to_bits(embeddings: Array) -> Array:
    """Threshold at zero and pack eight dimensions a byte, the first in the highest bit, as ``numpy.packbits`` does.

    Args:
        embeddings: (N, D) of any floating type, torch or numpy, any length.

    Returns:
        (N, ceil(D / 8)) uint8 of the same kind and on the same device; the bits behind D are zero.

    Raises:
        SizeError: not (N, D) floating with D of at least 1.
        DataError: a row holds NaN or infinity.

    >>> to_bits(np.array([[0.5, -1.0, 0.0, 2.0]])).tolist()
    [[144]]
    """
    _check_floats(embeddings)
    count, width = embeddings.shape
    packed = np.empty((count, bytes_of(width)), dtype=np.uint8)
    step = max(1, _CHUNK_VALUES // width)
    bad: list[int] = []
    for start in range(0, count, step):
        positive, finite = _thresholded(embeddings[start : start + step])
        bad += (np.flatnonzero(~finite) + start).tolist()
        packed[start : start + step] = np.packbits(positive, axis=1)
    if bad:
        first = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise DataError(
            f"{len(bad)} of {counted(count, 'embedding')} {agreeing(count, 'hold')} NaN or infinity (rows {first}). "
            "Leave them out, or embed again in float32."
        )
    return torch.from_numpy(packed).to(embeddings.device) if isinstance(embeddings, Tensor) else packed


def bytes_of(dim: int) -> int:
    """Bytes of a code of ``dim`` bits.

    >>> bytes_of(1), bytes_of(8), bytes_of(9)
    (1, 1, 2)
    """
    return -(-dim // 8)


def from_bits(codes: Array, dim: int) -> Array:
    """Unpack codes to the directions that they stand for: +1 where a bit is set and -1 where it is not.

    Args:
        codes: (N, ceil(dim / 8)) uint8, torch or numpy.
        dim: D, the number of bits that were packed.

    Returns:
        (N, D) float32 of the same kind and on the same device. Their cosines are ``1 - 2 hamming / D``.

    Raises:
        SizeError: not codes, or of another width than D wants.

    >>> from_bits(np.array([[144]], dtype=np.uint8), 4).tolist()
    [[1.0, -1.0, -1.0, 1.0]]
    """
    packed = code_bytes(codes)
    if isinstance(dim, bool) or dim < 1 or packed.shape[1] != bytes_of(dim):
        raise SizeError(
            f"codes of {packed.shape[1]} bytes hold {8 * packed.shape[1] - 7} to {8 * packed.shape[1]} bits, "
            f"not {dim}. Give the width of the embeddings they were made from."
        )
    signs = np.unpackbits(packed, axis=1, count=dim).astype(np.float32)
    signs *= 2
    signs -= 1
    return torch.from_numpy(signs).to(codes.device) if isinstance(codes, Tensor) else signs


def hamming(first: Array, second: Array) -> Array:
    """Number of differing bits of each pair of codes, row by row.

    Args:
        first: (N, bytes) uint8, torch or numpy.
        second: (N, bytes) uint8 of the same kind.

    Returns:
        (N,) int64 in [0, 8 bytes]. For all pairs of two sets see :func:`cosphere.search.hamming_search`.

    Raises:
        SizeError: not codes, or not of the same shape.

    >>> hamming(np.array([[164], [164]], dtype=np.uint8), np.array([[213], [54]], dtype=np.uint8)).tolist()
    [4, 3]
    """
    ours, theirs = code_bytes(first, "first"), code_bytes(second, "second")
    if ours.shape != theirs.shape:
        raise SizeError(f"want pairs of codes, got {ours.shape} and {theirs.shape}. Make both from the same model.")
    apart: npt.NDArray[np.int64] = np.bitwise_count(ours ^ theirs).sum(axis=1, dtype=np.int64)
    return torch.from_numpy(apart).to(first.device) if isinstance(first, Tensor) else apart


def is_codes(rows: Any) -> bool:
    """Whether rows are packed bits: uint8, of torch or numpy. Floats and all else are not."""
    return isinstance(rows, Tensor | np.ndarray) and rows.dtype in (torch.uint8, np.uint8)


def code_bytes(codes: Any, name: str = "codes") -> Bytes:
    """Codes as (N, bytes) uint8 in numpy, row after row in memory; a view where they already are.

    Raises:
        SizeError: not (N, bytes) uint8, or without a byte.
    """
    check_codes(codes, name)
    array = codes.detach().cpu().numpy() if isinstance(codes, Tensor) else codes
    return np.ascontiguousarray(array)


def check_codes(codes: Any, name: str = "codes") -> None:
    """Raise unless they are (N, bytes) uint8, torch or numpy, of at least one byte."""
    if not isinstance(codes, Tensor | np.ndarray):
        raise SizeError(f"want {name} as a torch tensor or numpy array, got {type(codes).__name__}. Convert them.")
    if not is_codes(codes):
        raise SizeError(
            f"want {name} (N, bytes) of packed bits, uint8, got {tuple(codes.shape)} {codes.dtype}. "
            "cosphere.codes.to_bits makes them from embeddings."
        )
    if codes.ndim != 2 or not codes.shape[1]:
        raise SizeError(
            f"want {name} (N, bytes) of packed bits, got {tuple(codes.shape)}. Give one row for each image."
        )


def _check_floats(embeddings: Any) -> None:
    if not isinstance(embeddings, Tensor | np.ndarray):
        raise SizeError(
            f"want embeddings as a torch tensor or numpy array, got {type(embeddings).__name__}. Convert them."
        )
    if is_codes(embeddings):
        raise SizeError("embeddings are uint8, as codes are: they seem to be packed already. Give the floats.")
    floating = embeddings.is_floating_point() if isinstance(embeddings, Tensor) else embeddings.dtype.kind == "f"
    if embeddings.ndim != 2 or not embeddings.shape[1] or not floating:
        raise SizeError(
            f"want embeddings (N, D) of a floating type, got {tuple(embeddings.shape)} {embeddings.dtype}. "
            "Give one row for each image, as float32."
        )


def _thresholded(chunk: Tensor | npt.NDArray[Any]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(n, D) which are above zero, (n,) which rows are finite."""
    if isinstance(chunk, Tensor):
        return (chunk > 0).cpu().numpy(), torch.isfinite(chunk).all(dim=1).cpu().numpy()
    return np.asarray(chunk > 0), np.asarray(np.isfinite(chunk).all(axis=1))
