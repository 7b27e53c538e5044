"""Compact storage of a gallery: encoding of rows, bytes per row, and decoding to unit vectors.

Queries stay float32 and are compared with the decoded rows, tile by tile: the asymmetric distance of Jégou et al., "Product
quantization for nearest neighbor search" (2011). Only directions are stored, not lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere.checks import check_seed, check_whole
from cosphere.codes import bytes_of, from_bits, to_bits
from cosphere.errors import SizeError
from cosphere.rows import BLOCK_BYTES, CosineBlocks, Matrix, UnitRows, check_widths, rounded_up, unit_rows
from cosphere.search._faiss import faiss_for
from cosphere.search.exact import Neighbours, search_blocks
from cosphere.tensors import directions

_TILE_VALUES = 2**22
"""Values decoded at a time: 16 MiB of float32."""
_WORDS = 256
"""Entries of a codebook: one byte names one."""
FEWEST_ROWS = _WORDS
"""Fewest rows to train a product quantiser on."""


class Storage(Protocol):
    """Encoding of rows of width ``dim``."""

    @property
    def dim(self) -> int:
        """D."""

    @property
    def bytes_per_row(self) -> int:
        """Bytes per row."""

    def encode(self, rows: Tensor, /) -> Tensor:
        """(n, D) float32 unit rows -> (n, ...) codes."""

    def decode(self, codes: Tensor, /) -> Tensor:
        """The approximate inverse: (n, D) float32, of any length."""


@dataclass(frozen=True)
class Floats:
    """Rows in float32 or float16. Values of a unit row are at most 1; float16 rounds each to 11 significant bits."""

    dim: int
    dtype: torch.dtype = torch.float32

    @property
    def bytes_per_row(self) -> int:
        """4 D or 2 D."""
        return self.dim * self.dtype.itemsize

    def encode(self, rows: Tensor) -> Tensor:
        """To the type."""
        return rows.to(self.dtype)

    def decode(self, codes: Tensor) -> Tensor:
        """To float32."""
        return codes.float()


@dataclass(frozen=True)
class Int8:
    """Rows as integers from -127 to 127, each scaled by its own largest value. The scale is not needed for a direction."""

    dim: int

    @property
    def bytes_per_row(self) -> int:
        """D."""
        return self.dim

    def encode(self, rows: Tensor) -> Tensor:
        """(n, D) int8."""
        largest = rows.abs().amax(dim=1, keepdim=True)
        return (rows * (127 / torch.where(largest > 0, largest, 1.0))).round().to(torch.int8)

    def decode(self, codes: Tensor) -> Tensor:
        """To float32."""
        return codes.float()


@dataclass(frozen=True)
class Bits:
    """Rows as packed signs: see :mod:`cosphere.codes`."""

    dim: int

    @property
    def bytes_per_row(self) -> int:
        """ceil(D / 8)."""
        return bytes_of(self.dim)

    def encode(self, rows: Tensor) -> Tensor:
        """(n, ceil(D / 8)) uint8."""
        return to_bits(rows)

    def decode(self, codes: Tensor) -> Tensor:
        """(n, D) of -1 and +1."""
        return from_bits(codes, self.dim)


@dataclass(frozen=True, eq=False)
class ProductQuantiser:
    """Rows cut into M equal parts, each replaced by the nearest of 256 codewords (Jégou et al., 2011). One byte per part."""

    dim: int
    words: npt.NDArray[np.float32]
    """(M, 256, ceil(D / M)). If M does not divide D, rows are padded with zeros."""

    @classmethod
    def train(cls, rows: Matrix, parts: int, *, seed: int = 0) -> ProductQuantiser:
        """Train the codebooks by k-means (faiss, 25 iterations), part by part.

        Args:
            rows: (N, D) float, any length, N at least 256: images similar to those that will be searched. Labels are not used.
            parts: M, from 1 to D: bytes per row.
            seed: of the initial codewords.

        Raises:
            SizeError: fewer than 256 rows.
            SettingsError: parts out of range.
        """
        unit = unit_rows(rows, name="training rows")
        if unit.size < FEWEST_ROWS:
            raise SizeError(
                f"a product quantiser learns {_WORDS} words for each part and wants as many rows, got {unit.size}. "
                "Train it on more images, or keep them another way."
            )
        check_whole("parts", parts, least=1, most=unit.width)
        check_seed(seed)
        wide = _lengthened(unit.rows.cpu(), parts).numpy()
        quantiser = faiss_for("product quantisation").ProductQuantizer(wide.shape[1], parts, 8)
        quantiser.cp.seed = seed
        quantiser.cp.min_points_per_centroid = 1  # faiss warns below 39 rows per codeword
        quantiser.train(wide)
        words = faiss_for("product quantisation").vector_to_array(quantiser.centroids)
        return cls(unit.width, words.reshape(parts, _WORDS, -1).astype(np.float32))

    @property
    def bytes_per_row(self) -> int:
        """M. The codebooks, 1024 D bytes, are stored once for all rows."""
        return len(self.words)

    def encode(self, rows: Tensor) -> Tensor:
        """(n, M) uint8."""
        faiss = faiss_for("product quantisation")
        parts = len(self.words)
        wide = _lengthened(rows.cpu(), parts).numpy()
        quantiser = faiss.ProductQuantizer(wide.shape[1], parts, 8)
        faiss.copy_array_to_vector(self.words.ravel(), quantiser.centroids)
        return torch.from_numpy(quantiser.compute_codes(wide)).to(rows.device)

    def decode(self, codes: Tensor) -> Tensor:
        """(n, D) the concatenated codewords."""
        words = torch.from_numpy(self.words).to(codes.device)
        part = torch.arange(len(words), device=codes.device)
        return words[part, codes.long()].flatten(1)[:, : self.dim]


def _lengthened(rows: Tensor, parts: int) -> Tensor:
    """(n, D) padded with zeros to the next multiple of ``parts``."""
    missing = -rows.shape[1] % parts
    return torch.nn.functional.pad(rows, (0, missing)).contiguous()


@dataclass(frozen=True, eq=False)
class Stored:
    """N encoded rows."""

    storage: Storage
    kept: Tensor
    """(N, ...)"""

    @classmethod
    def of(cls, rows: UnitRows, storage: Storage) -> Stored:
        """Encode unit rows, block by block."""
        step = max(1, _TILE_VALUES // rows.width)
        parts = [storage.encode(rows.rows[start : start + step]) for start in range(0, rows.size, step)]
        return cls(storage, torch.cat(parts))

    def __len__(self) -> int:
        """N."""
        return len(self.kept)

    def rows(self) -> Tensor:
        """(N, D) float32: all rows, decoded to unit length."""
        step = max(1, _TILE_VALUES // self.storage.dim)
        return torch.cat([self._unit(slice(at, at + step)) for at in range(0, len(self), step)])

    def _unit(self, here: slice) -> Tensor:
        return directions(self.storage.decode(self.kept[here])).unit


class StoredBlocks:
    """Cosines between queries and encoded rows, which are decoded tile by tile for each block of queries.

    Args:
        gallery: G rows.
        most: queries in the largest block.
    """

    def __init__(self, gallery: Stored, most: int) -> None:
        self._gallery = gallery
        self._block = torch.empty(most, len(gallery), dtype=torch.float32, device=gallery.kept.device)

    def of(self, queries: Tensor) -> Tensor:
        """(b, D) unit rows -> (b, G) float32: a view of the buffer, overwritten by the next call."""
        block, gallery = self._block[: len(queries)], self._gallery
        step = max(1, _TILE_VALUES // gallery.storage.dim)
        for start in range(0, len(gallery), step):
            rows = gallery._unit(slice(start, start + step))
            padded = torch.zeros(rounded_up(len(rows)), rows.shape[1], dtype=torch.float32, device=rows.device)
            padded[: len(rows)] = rows
            tile = CosineBlocks(UnitRows(padded, len(rows)), len(queries))
            block[:, start : start + len(rows)] = tile.of(queries)
        return block


def search_stored(
    queries: UnitRows,
    gallery: Stored,
    k: int,
    exclude: Any | None = None,
    block_bytes: int = BLOCK_BYTES,
    keep: Any | None = None,
) -> Neighbours:
    """The k encoded rows nearest to each float query by cosine; equal ones are ordered by row. Memory is bounded as in exact search."""
    check_widths(queries.width, gallery.storage.dim)
    return search_blocks(queries, len(gallery), lambda most: StoredBlocks(gallery, most), k, exclude, block_bytes, keep)
