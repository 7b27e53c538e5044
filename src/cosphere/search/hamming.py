"""Exact search by Hamming distance: every code of the gallery is compared with every query, in blocks.

Distances are small integers, exact in float32, so they do not depend on the block size. On a CPU they come from faiss's
``hammings``, the fastest maintained kernel (a popcount of 512 bits at a time where the processor has it), called tile by tile
so that a tile stays in the cache. On other devices they come from products of -1/+1 rows, which are exact too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere.codes import Array, Bytes, bytes_of, check_codes, code_bytes, is_codes, to_bits
from cosphere.errors import SizeError, counted
from cosphere.rows import (
    BLOCK_BYTES,
    UnitRows,
    check_block_bytes,
    check_widths,
    full_float32,
    rows_within,
    unit_rows,
)
from cosphere.search._faiss import faiss_for
from cosphere.search.allowed import Allowed
from cosphere.search.counting import in_threads, scan
from cosphere.search.exact import Neighbours

_TILE_QUERIES = 64
"""Query codes per tile; 16 KiB at 2048 bits."""
_TILE_BYTES = 2**18
"""Gallery codes per tile. They and the distances stay in the second-level cache."""
_SCAN_QUERIES = 32
"""Queries up to which the counting search of faiss is the faster one."""
_MOST_BITS = 2**24
"""Distances up to this are exact in float32."""


class BitRows(NamedTuple):
    """Checked packed codes: the counterpart of :class:`cosphere.rows.UnitRows`, with the same attributes."""

    padded: Tensor
    """(N, bytes) uint8, contiguous. Distances are integers, so rows need no padding."""
    size: int
    """N."""

    @property
    def rows(self) -> Tensor:
        """(N, bytes) uint8, a view."""
        return self.padded[: self.size]

    @property
    def width(self) -> int:
        """Bits of a code, including those that pad the last byte."""
        return 8 * self.padded.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.padded.device


class SignRows(NamedTuple):
    """Packed signs of rows of D numbers: what an index of bits takes in place of float rows, with the attributes of a search."""

    bits: BitRows
    dim: int
    """D; the bits behind it are zero."""

    @property
    def rows(self) -> Tensor:
        """(N, ceil(D / 8)) uint8, a view."""
        return self.bits.rows

    @property
    def size(self) -> int:
        """N."""
        return self.bits.size

    @property
    def width(self) -> int:
        """D."""
        return self.dim

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.bits.device


Rows = UnitRows | SignRows
"""What an index is built from and searched with."""


def rows_given(values: Any, name: str, dim: int | None = None) -> Rows:
    """Check rows of either kind: floats become unit rows, packed codes stay as they are.

    Args:
        values: (N, D) float of any length, or (N, ceil(D / 8)) uint8; torch or numpy.
        name: what they are, for errors.
        dim: D of packed codes; None takes all bits. Floats say theirs.

    Raises:
        SizeError, DataError: they are neither, or codes of another width.
    """
    if not is_codes(values):
        return unit_rows(values, name=name)
    bits = bit_rows(values, name=name)
    if dim is not None and 8 * bytes_of(dim) != bits.width:
        raise SizeError(
            f"{name} are codes of {counted(bits.width // 8, 'byte')}; wanted {bytes_of(dim)}, for {counted(dim, 'bit')}. "
            "Use the codes of one model."
        )
    return SignRows(bits, bits.width if dim is None else dim)


def rows_at(rows: Rows, places: Tensor) -> Rows:
    """Some of the rows, by their numbers."""
    if isinstance(rows, SignRows):
        return SignRows(BitRows(rows.rows[places], len(places)), rows.dim)
    return UnitRows(rows.rows[places], len(places))


def packed_signs(rows: Rows) -> Bytes:
    """(N, ceil(D / 8)) signs of rows, on the CPU: made of floats, or as they were given."""
    codes = rows.rows.cpu().numpy()
    packed: Bytes = np.ascontiguousarray(codes if isinstance(rows, SignRows) else to_bits(codes))
    return packed


def float_rows(rows: Rows) -> UnitRows:
    """Rows as floats.

    Raises:
        SizeError: they are packed codes, from which floats cannot be made.
    """
    if isinstance(rows, SignRows):
        raise SizeError("this kind of index compares float rows, got packed codes. Give embeddings.")
    return rows


def bit_rows(codes: Any, *, name: str = "codes") -> BitRows:
    """Check packed codes; they are copied only if they are not contiguous.

    Args:
        codes: (N, bytes) uint8, torch or numpy; a tensor keeps its device.
        name: what they are, for errors.

    Raises:
        SizeError: not (N, bytes) uint8, or N or bytes is zero.
    """
    check_codes(codes, name)
    if not len(codes):
        raise SizeError(f"want {name} with at least one row, got {tuple(codes.shape)}. Give one.")
    if 8 * codes.shape[1] > _MOST_BITS:
        raise SizeError(
            f"{name} have {8 * codes.shape[1]} bits, more than the {_MOST_BITS} that are compared exactly. Keep fewer dimensions."
        )
    if isinstance(codes, Tensor):
        return BitRows(codes.detach().contiguous(), len(codes))
    packed = code_bytes(codes, name)
    # torch warns about read-only arrays.
    return BitRows(torch.from_numpy(packed if packed.flags.writeable else packed.copy()), len(packed))


class HammingBlocks:
    """Hamming distances of one block of queries after another, in one reused buffer.

    Args:
        gallery: G codes.
        most: queries in the largest block.
        dtype: of the distances. 16-bit integers halve the memory; codes must have fewer than 2^15 - 1 bits.
    """

    def __init__(self, gallery: BitRows, most: int, dtype: torch.dtype = torch.float32) -> None:
        if dtype == torch.int16 and gallery.width >= 2**15 - 1:
            raise SizeError(f"codes of {gallery.width} bits are too wide for distances in int16. Take float32.")
        self._gallery = gallery
        self._block = torch.empty(most, gallery.size, dtype=dtype, device=gallery.device)

    def of(self, queries: Tensor) -> Tensor:
        """(b, bytes) codes -> (b, G) minus the distance, so that larger is nearer: a view of the buffer.

        The next call overwrites it. Uses ``torch.get_num_threads()`` threads on a CPU.
        """
        return negated_distances(queries, self._gallery.rows, self._block.view(-1))


def negated_distances(first: Tensor, second: Tensor, buffer: Tensor) -> Tensor:
    """Minus the Hamming distances of codes, in the memory of a buffer.

    Args:
        first: (n, bytes) uint8.
        second: (m, bytes) uint8.
        buffer: one dimension, at least n m values, of a type that holds the distances.

    Returns:
        (n, m), a view of the buffer.
    """
    block = buffer[: len(first) * len(second)].view(len(first), len(second))
    if block.device.type == "cpu":
        _count_on_cpu(first.contiguous().numpy(), second.contiguous().numpy(), block)
    else:
        _count_by_products(first, second, block)
    return block


def _count_on_cpu(queries: Bytes, gallery: Bytes, block: Tensor) -> None:
    """Fill a (b, G) block with minus the distances."""
    faiss = faiss_for("comparing codes")
    out, width = block.numpy(), gallery.shape[1]
    step = min(max(64, _TILE_BYTES // width), len(gallery))

    def fill(start: int) -> None:
        part = gallery[start : start + step]
        tile = np.empty(min(_TILE_QUERIES, len(queries)) * len(part), dtype=np.int32)
        for first in range(0, len(queries), _TILE_QUERIES):
            block_queries = queries[first : first + _TILE_QUERIES]
            faiss.hammings(
                faiss.swig_ptr(block_queries),
                faiss.swig_ptr(part),
                len(block_queries),
                len(part),
                width,
                faiss.swig_ptr(tile),
            )
            distances = tile[: len(block_queries) * len(part)].reshape(len(block_queries), len(part))
            np.negative(distances, out=out[first : first + len(block_queries), start : start + step], casting="unsafe")

    in_threads(fill, range(0, len(gallery), step))


def _count_by_products(queries: Tensor, gallery: Tensor, block: Tensor) -> None:
    """Fill a (b, G) block with minus the distances: -(D - <a, b>) / 2 of -1/+1 rows, whole numbers throughout."""
    signs = _signs(queries)
    step = max(1, 2**26 // signs.shape[1])  # 256 MiB of float32
    for start in range(0, len(gallery), step):
        part = _signs(gallery[start : start + step])
        with full_float32(block.device):
            block[:, start : start + step] = ((signs @ part.T) - signs.shape[1]) / 2


def _signs(codes: Tensor) -> Tensor:
    """(n, bytes) uint8 -> (n, 8 bytes) float32 of -1 and +1."""
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=codes.device)
    bits = (codes[:, :, None] >> places) & 1
    return bits.flatten(1).float().mul_(2).sub_(1)


@torch.no_grad()
def hamming_search(
    queries: Array,
    gallery: Array,
    *,
    k: int,
    exclude: Any | None = None,
    dim: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Neighbours:
    """Find the k codes nearest to each query by Hamming distance; equal distances are ordered by row.

    Args:
        queries: (Q, bytes) uint8 of :func:`cosphere.codes.to_bits`, torch or numpy.
        gallery: (G, bytes) uint8. The search runs on its device.
        k: neighbours, from 1 to G, or to G - 1 when each query excludes one.
        exclude: (Q,) integers, a gallery row that each query must not return, -1 for none.
        dim: D, the number of packed bits; None takes all bits of the bytes. Only the scores depend on it.
        block_bytes: bound of the working memory in bytes, besides the codes and the answer; at least 32 queries are compared at a
            time.

    Returns:
        ids (Q, k) and scores (Q, k) float32 ``1 - 2 distance / D`` in [-1, 1]: the cosine of the codes as -1/+1
        vectors. The distance is ``D (1 - score) / 2``.

    Raises:
        SizeError: shapes, k or dim do not fit.

    >>> codes = torch.tensor([[164], [213], [54]], dtype=torch.uint8)
    >>> hamming_search(codes[:1], codes, k=2, exclude=[0]).scores.tolist()  # distances 3 and 4 of 8 bits
    [[0.25, 0.0]]
    """
    return search_bits(
        bit_rows(queries, name="queries"), bit_rows(gallery, name="gallery"), k, exclude, dim, block_bytes
    )


@torch.no_grad()
def search_bits(
    queries: BitRows,
    gallery: BitRows,
    k: int,
    exclude: Any | None = None,
    dim: int | None = None,
    block_bytes: int = BLOCK_BYTES,
    keep: Any | None = None,
) -> Neighbours:
    """:func:`hamming_search` for checked codes; ``keep`` (G,) bool names the rows that may be returned."""
    check_widths(queries.width, gallery.width, "bits")
    check_block_bytes(block_bytes)
    bits = gallery.width if dim is None else dim
    if 8 * bytes_of(bits) != gallery.width:
        raise SizeError(f"dim={bits} does not fit codes of {gallery.width} bits. Give the width that was packed.")
    allowed = Allowed.of(gallery.size, queries.size, keep, exclude)
    k = allowed.check_k(k)
    if fits_scan(queries, gallery, k + allowed.excludes, block_bytes):
        ids, distances = scan(queries.rows.numpy(), gallery.rows.numpy(), k, allowed)
        return Neighbours(torch.from_numpy(ids), 1 - 2 * torch.from_numpy(distances) / bits)
    step = min(rows_within(block_bytes, 12 * gallery.size + 64 * k), queries.size)
    blocks = HammingBlocks(gallery, step)
    dropped = None if allowed.keep is None else torch.from_numpy(~allowed.keep).to(gallery.device)
    all_ids = torch.empty(queries.size, k, dtype=torch.int64)
    scores = torch.empty(queries.size, k, dtype=torch.float32)
    for start in range(0, queries.size, step):
        here = slice(start, start + step)
        block = blocks.of(queries.rows[here].to(gallery.device))
        if allowed.exclude is not None:
            _hide(block, allowed.exclude[here].to(gallery.device), gallery.width)
        if dropped is not None:
            block.masked_fill_(dropped, -(gallery.width + 1))
        rows, distances_here = _nearest_codes(block, k)
        all_ids[here], scores[here] = rows, 1 - 2 * distances_here / bits
    return Neighbours(all_ids, scores)


def fits_scan(queries: BitRows, gallery: BitRows, k: int, block_bytes: int) -> bool:
    """Whether :func:`scan` is the faster way: few queries, counters of k rows for each distance that fit, all on a CPU."""
    on_cpu = queries.device.type == gallery.device.type == "cpu"
    return on_cpu and queries.size <= _SCAN_QUERIES and 8 * queries.size * k * (gallery.width + 1) <= block_bytes


def _hide(block: Tensor, exclude: Tensor, width: int) -> None:
    """Rank the excluded code of each row last."""
    rows = (exclude >= 0).nonzero().flatten()
    block[rows, exclude[rows]] = -(width + 1)


def _nearest_codes(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(b, G) minus distances -> ids and distances (b, k).

    Almost all ranks are tied, so distance and row are combined into one integer: no two are equal, and the lower row wins.
    """
    count = block.shape[1]
    most = (1 - int(block.min())) * count
    kind = torch.int32 if most < 2**31 else torch.int64
    if block.device.type != "cpu":
        keys = block.to(kind).mul_(-count).add_(torch.arange(count, dtype=kind, device=block.device))
        keys = keys.topk(k, dim=1, largest=False).values.long().cpu()
        return keys % count, keys // count
    values: npt.NDArray[Any] = block.numpy()
    rows: npt.NDArray[Any] = np.arange(count, dtype=np.int32 if kind == torch.int32 else np.int64)
    smallest = np.empty((len(values), k), dtype=rows.dtype)

    def take(start: int) -> None:
        keys = values[start : start + 8].astype(rows.dtype) * -count + rows
        if k < count:
            keys.partition(k - 1, axis=1)
        smallest[start : start + 8] = np.sort(keys[:, :k], axis=1)

    in_threads(take, range(0, len(values), 8))
    nearest = torch.from_numpy(smallest).long()
    return nearest % count, nearest // count
