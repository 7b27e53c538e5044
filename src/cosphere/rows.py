"""Cosines of many rows in bounded memory, the same number whichever block a row falls into.

A matrix product may round an element differently when its shape changes: BLAS takes another kernel for a single row or a
narrow remainder. Ranks and ties would then depend on the block size. Both sides are therefore padded with zero rows to a
multiple of :data:`STEP`, for which the kernels of a CPU agree bit for bit (tests/test_rows.py checks that). A GPU may
still choose kernels by shape; there the last bit is not guaranteed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere.errors import DataError, SettingsError, SizeError, agreeing, counted
from cosphere.tensors import check_embeddings, directions, full_precision

Matrix = Tensor | npt.NDArray[Any]
"""(N, D) floating rows, of torch or numpy; strided, read-only and memory-mapped arrays too."""

STEP = 32
"""Both sides of every product are padded to a multiple of this many rows."""
BLOCK_BYTES = 128 * 2**20
"""Default bound of the working memory of one block."""
EQUAL_COSINE = 1e-6
"""Vectors whose cosine is nearer to 1 than this are equal: float32 rounding of a product of unit rows is about 1e-7."""
_CHUNK_VALUES = {"cpu": 2**18}
"""Values normalised at a time: on a CPU 2 MiB in float64, which stays in its cache."""
_MOST_CHUNK_VALUES = 2**22
"""Values normalised at a time on other devices, where each step costs a launch: 32 MiB in float64."""


class UnitRows(NamedTuple):
    """Rows of unit length, float32 unless float64 was requested, padded with zero rows to a multiple of :data:`STEP`."""

    padded: Tensor
    """(N rounded up, D)."""
    size: int
    """N."""

    @property
    def rows(self) -> Tensor:
        """(N, D), a view."""
        return self.padded[: self.size]

    @property
    def width(self) -> int:
        """D."""
        return self.padded.shape[1]

    @property
    def device(self) -> torch.device:
        """The device of the rows."""
        return self.padded.device


def rounded_up(count: int) -> int:
    """``count`` rounded up to a multiple of :data:`STEP`.

    >>> rounded_up(0), rounded_up(1), rounded_up(32), rounded_up(33)
    (0, 32, 32, 64)
    """
    return -(-count // STEP) * STEP


@torch.no_grad()
def unit_rows(embeddings: Matrix, *, name: str = "embeddings", dtype: torch.dtype = torch.float32) -> UnitRows:
    """Copy rows, scaled to length 1 in float64 and rounded to ``dtype``. Zero rows stay zero.

    Args:
        embeddings: (N, D) of any floating type; a tensor keeps its device.
        name: what they are, for errors.
        dtype: float32, or float64 for rows whose cosines differ in less than float32 can tell.

    Raises:
        SizeError: not (N, D) floating, or N or D is zero.
        DataError: a row holds NaN or infinity; the error counts and names them.
    """
    check_rows(embeddings, name)
    count, width = embeddings.shape
    device = embeddings.device if isinstance(embeddings, Tensor) else torch.device("cpu")
    padded = torch.zeros(rounded_up(count), width, dtype=dtype, device=device)
    step = max(1, _CHUNK_VALUES.get(device.type, _MOST_CHUNK_VALUES) // width)
    bad: list[Tensor] = []
    for start in range(0, count, step):
        chunk = widened(embeddings[start : start + step])
        finite = torch.isfinite(chunk).all(dim=1)
        if not bool(finite.all()):
            bad.append((~finite).nonzero().flatten() + start)
        padded[start : start + len(chunk)] = directions(chunk).unit
    if bad:
        raise _not_finite(torch.cat(bad), count, name)
    return UnitRows(padded, count)


def widened(chunk: Matrix) -> Tensor:
    """Convert to float64, in which squares of the largest float32 do not overflow. A NumPy array of any layout is copied."""
    if isinstance(chunk, Tensor):
        return chunk.detach().double()
    return torch.from_numpy(np.array(chunk, dtype=np.float64, order="C"))


def as_array(values: Any) -> npt.NDArray[Any]:
    """Convert to NumPy: a tensor on any device, with or without a gradient, or anything that NumPy converts."""
    if isinstance(values, Tensor):
        # NumPy has no bfloat16.
        values = values.detach()
        return (full_precision(values) if values.dtype == torch.bfloat16 else values).cpu().numpy()
    return np.asarray(values)


def check_rows(embeddings: Any, name: str) -> None:
    """Raise unless they are (N, D) of a floating type, torch or numpy, with N and D of at least 1."""
    if isinstance(embeddings, Tensor):
        check_embeddings(embeddings, name=name)
    elif not isinstance(embeddings, np.ndarray):
        raise SizeError(f"want {name} as a torch tensor or numpy array, got {type(embeddings).__name__}. Convert them.")
    elif embeddings.ndim != 2 or embeddings.dtype.kind != "f":
        raise SizeError(
            f"want {name} (N, D) of a floating type, got {embeddings.shape} {embeddings.dtype}. "
            "Give one row for each image, as float32; packed bits go to cosphere.search.hamming_search."
        )
    if not all(embeddings.shape):
        raise SizeError(f"want {name} with at least one row and one column, got {tuple(embeddings.shape)}. Give one.")


def _not_finite(rows: Tensor, count: int, name: str) -> DataError:
    first = ", ".join(str(row) for row in rows[:5].tolist())
    more = ", ..." if len(rows) > 5 else ""
    return DataError(
        f"{len(rows)} of {counted(count, 'row')} of {name} {agreeing(count, 'hold')} NaN or infinity (rows {first}{more}). "
        "Leave them out, or embed again in float32."
    )


def check_widths(queries: int, gallery: int, unit: str = "dimensions") -> None:
    """Raise unless both sides have the same width.

    Args:
        queries: width of a query.
        gallery: width of a gallery row.
        unit: what is counted, for the error: dimensions or bits.
    """
    if queries != gallery:
        raise SizeError(f"queries have {queries} {unit}, the gallery {gallery}. Embed both with the same model.")


def check_block_bytes(block_bytes: int) -> None:
    """Raise unless the setting is a number of bytes, of a terabyte at most."""
    if not 1 <= block_bytes <= 2**40:
        raise SettingsError(
            f"block_bytes must be above 0 and at most 2^40, got {block_bytes}. Leave it out for {BLOCK_BYTES}."
        )


def rows_within(block_bytes: int, bytes_per_row: int) -> int:
    """Number of query rows per block, rounded down to a multiple of :data:`STEP` (minimum :data:`STEP`).

    >>> rows_within(1_000_000, 10_000), rows_within(1, 10_000)
    (96, 32)
    """
    return max(STEP, block_bytes // max(1, bytes_per_row) // STEP * STEP)


class CosineBlocks:
    """Computes the cosines of one block of queries after another, in one reused buffer.

    Args:
        gallery: G rows.
        most: queries in the largest block.
    """

    def __init__(self, gallery: UnitRows, most: int) -> None:
        self._gallery = gallery
        wide, width = rounded_up(most), len(gallery.padded)
        kind = gallery.padded.dtype
        self._queries = torch.zeros(wide, gallery.width, dtype=kind, device=gallery.device)
        self._cosines = torch.empty(wide, width, dtype=kind, device=gallery.device)

    def of(self, queries: Tensor) -> Tensor:
        """(b, D) unit rows -> (b, G) float32 cosines: a view of the buffer, overwritten by the next call."""
        count, padded = len(queries), rounded_up(len(queries))
        self._queries[:count] = queries  # from any device
        self._queries[count:padded] = 0
        block = self._cosines[:padded]
        with full_float32(block.device):
            torch.mm(self._queries[:padded], self._gallery.padded.T, out=block)
        return block[:count, : self._gallery.size]


def cosine_product(first: Tensor, second: Tensor, buffer: Tensor) -> Tensor:
    """Cosines of unit rows in the memory of a buffer, with the bits that :class:`CosineBlocks` gives them.

    Args:
        first: (n, D) float32.
        second: (m, D) float32.
        buffer: one dimension, at least n times m values when both are rounded up to :data:`STEP`.

    Returns:
        (n, m) float32, a view of the buffer.
    """
    left, right = _padded(first), _padded(second)
    product = buffer[: len(left) * len(right)].view(len(left), len(right))
    with full_float32(product.device):
        torch.mm(left, right.T, out=product)
    return product[: len(first), : len(second)]


def _padded(rows: Tensor) -> Tensor:
    missing = rounded_up(len(rows)) - len(rows)
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Matrix products in full float32, without autocast, TF32 or bfloat16 passes: near neighbours differ in the last bits."""
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)


def exclusions(exclude: Any, queries: int, gallery: int, device: torch.device) -> Tensor | None:
    """Check ``exclude``, the gallery row that each query leaves out: (Q,) int64 with -1 for none, or None."""
    if exclude is None:
        return None
    rows = torch.as_tensor(np.array(exclude) if not isinstance(exclude, Tensor) else exclude)
    if rows.shape != (queries,) or rows.is_floating_point() or rows.dtype == torch.bool:
        raise SizeError(
            f"want exclude (Q,) integers, one gallery row for each of {queries} queries, "
            f"got {tuple(rows.shape)} {rows.dtype}. Use -1 for a query that excludes nothing."
        )
    rows = rows.to(device=device, dtype=torch.int64)
    if queries and not (int(rows.min()) >= -1 and int(rows.max()) < gallery):
        raise SizeError(
            f"exclude names rows {int(rows.min())} to {int(rows.max())}, "
            f"but the gallery has rows 0 to {gallery - 1}. "
            "Use -1 for a query that excludes nothing."
        )
    return rows


def hide_excluded(cosines: Tensor, exclude: Tensor | None) -> None:
    """Set the excluded cosine of each row to -inf, in place. (b, G), (b,)."""
    if exclude is None:
        return
    rows = (exclude >= 0).nonzero().flatten()
    cosines[rows, exclude[rows]] = -torch.inf
