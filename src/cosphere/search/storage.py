"""Smaller ways to keep a gallery: what a row becomes, how many bytes that takes, and the direction it stands for.

Queries are at hand in full, so they stay float32 and are compared with the decoded rows, tile by tile: what Jégou et
al., "Product quantization for nearest neighbor search" (2011), call the asymmetric distance. Only directions are kept;
a row's length is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere.checks import check_whole
from cosphere.codes import bytes_of, from_bits, to_bits
from cosphere.errors import SizeError
from cosphere.rows import BLOCK_BYTES, CosineBlocks, Matrix, UnitRows, check_widths, rounded_up, unit_rows
from cosphere.search._faiss import faiss_for
from cosphere.search.exact import Neighbours, search_blocks
from cosphere.tensors import directions

_TILE_VALUES = 2**22
"""Values decoded at a time: 16 MiB of float32."""
_WORDS = 256
"""Entries of a codebook: what one byte can name."""
FEWEST_ROWS = _WORDS
"""Rows that a product quantiser wants to learn from."""


class Storage(Protocol):
    """How rows of width ``dim`` are kept."""

    @property
    def dim(self) -> int:
        """D."""

    @property
    def bytes_per_row(self) -> int:
        """Bytes that one row takes."""

    def encode(self, rows: Tensor, /) -> Tensor:
        """(n, D) float32 unit rows -> (n, ...) what is kept of them."""

    def decode(self, kept: Tensor, /) -> Tensor:
        """The inverse, as far as it goes: (n, D) float32, of any length."""


@dataclass(frozen=True)
class Floats:
    """Rows in float32 or float16. A unit row's values are at most 1; float16 rounds each to 11 bits."""

    dim: int
    dtype: torch.dtype = torch.float32

    @property
    def bytes_per_row(self) -> int:
        """4 D or 2 D."""
        return self.dim * self.dtype.itemsize

    def encode(self, rows: Tensor) -> Tensor:
        """To the type."""
        return rows.to(self.dtype)

    def decode(self, kept: Tensor) -> Tensor:
        """To float32."""
        return kept.float()


@dataclass(frozen=True)
class Int8:
    """Rows in whole numbers from -127 to 127: each over its own largest value. A direction needs no scale."""

    dim: int

    @property
    def bytes_per_row(self) -> int:
        """D."""
        return self.dim

    def encode(self, rows: Tensor) -> Tensor:
        """(n, D) int8."""
        largest = rows.abs().amax(dim=1, keepdim=True)
        return (rows * (127 / torch.where(largest > 0, largest, 1.0))).round().to(torch.int8)

    def decode(self, kept: Tensor) -> Tensor:
        """To float32."""
        return kept.float()


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

    def decode(self, kept: Tensor) -> Tensor:
        """(n, D) of -1 and +1."""
        return from_bits(kept, self.dim)


@dataclass(frozen=True, eq=False)
class ProductQuantiser:
    """Rows cut into M equal parts, each named by its nearest of 256 words (Jégou et al., 2011). One byte a part."""

    dim: int
    words: npt.NDArray[np.float32]
    """(M, 256, ceil(D / M)). Where M does not divide D, rows are lengthened by zeros."""

    @classmethod
    def train(cls, rows: Matrix, parts: int, *, seed: int = 0) -> ProductQuantiser:
        """Learn the words by k-means (faiss, 25 iterations), part by part.

        Args:
            rows: (N, D) float, any length, N at least 256: images like those to be searched. Labels are not used.
            parts: M, from 1 to D: the bytes of a row.
            seed: of the first words.

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
        check_whole("seed", seed, least=0)
        wide = _lengthened(unit.rows.cpu(), parts).numpy()
        quantiser = faiss_for("product quantisation").ProductQuantizer(wide.shape[1], parts, 8)
        quantiser.cp.seed = seed
        quantiser.cp.min_points_per_centroid = 1  # faiss warns below 39 rows a word
        quantiser.train(wide)
        words = faiss_for("product quantisation").vector_to_array(quantiser.centroids)
        return cls(unit.width, words.reshape(parts, _WORDS, -1).astype(np.float32))

    @property
    def bytes_per_row(self) -> int:
        """M. The words, 1024 D bytes, are kept once for all rows."""
        return len(self.words)

    def encode(self, rows: Tensor) -> Tensor:
        """(n, M) uint8."""
        faiss = faiss_for("product quantisation")
        parts = len(self.words)
        wide = _lengthened(rows.cpu(), parts).numpy()
        quantiser = faiss.ProductQuantizer(wide.shape[1], parts, 8)
        faiss.copy_array_to_vector(self.words.ravel(), quantiser.centroids)
        return torch.from_numpy(quantiser.compute_codes(wide)).to(rows.device)

    def decode(self, kept: Tensor) -> Tensor:
        """(n, D) the words, side by side."""
        words = torch.from_numpy(self.words).to(kept.device)
        part = torch.arange(len(words), device=kept.device)
        return words[part, kept.long()].flatten(1)[:, : self.dim]


def _lengthened(rows: Tensor, parts: int) -> Tensor:
    """(n, D) with zeros up to the next multiple of ``parts``."""
    missing = -rows.shape[1] % parts
    return torch.nn.functional.pad(rows, (0, missing)).contiguous()


@dataclass(frozen=True, eq=False)
class Stored:
    """N rows, kept by a storage."""

    storage: Storage
    kept: Tensor
    """(N, ...)"""

    @classmethod
    def of(cls, rows: UnitRows, storage: Storage) -> Stored:
        """Encode unit rows, some at a time."""
        step = max(1, _TILE_VALUES // rows.width)
        parts = [storage.encode(rows.rows[start : start + step]) for start in range(0, rows.size, step)]
        return cls(storage, torch.cat(parts))

    def __len__(self) -> int:
        """N."""
        return len(self.kept)

    def rows(self) -> Tensor:
        """(N, D) float32: all rows decoded, at a length of 1."""
        step = max(1, _TILE_VALUES // self.storage.dim)
        return torch.cat([self._unit(slice(at, at + step)) for at in range(0, len(self), step)])

    def _unit(self, here: slice) -> Tensor:
        return directions(self.storage.decode(self.kept[here])).unit


class StoredBlocks:
    """Cosines between queries and kept rows, which are decoded tile by tile for each block of queries.

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
    queries: UnitRows, gallery: Stored, k: int, exclude: Any | None = None, block_bytes: int = BLOCK_BYTES
) -> Neighbours:
    """The k kept rows nearest to each float query by cosine; equal ones by lower row. Bounded as exact search is."""
    check_widths(queries.width, gallery.storage.dim)
    return search_blocks(queries, len(gallery), lambda most: StoredBlocks(gallery, most), k, exclude, block_bytes)
