"""Queries and gallery of a ranking, and the similarities between them: cosines of floats, or Hamming distances of bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from cosphere.codes import is_codes
from cosphere.errors import SizeError
from cosphere.rows import CosineBlocks, Matrix, check_widths, cosine_product, unit_rows
from cosphere.search.hamming import HammingBlocks, bit_rows, negated_distances

NARROW_BITS = 2**15 - 1
"""Distances of shorter codes fit in 16 bits, with the lowest value free for excluded images."""


class Blocks(Protocol):
    """Computes the similarities of one block of queries after another."""

    def of(self, queries: Tensor, /) -> Tensor:
        """(b, D) rows -> (b, G) floats or signed integers, larger is nearer. The caller may overwrite them."""


class Sides(NamedTuple):
    """Q queries and G gallery rows of one kind."""

    rows: Tensor
    """(at least Q, D) the queries' rows."""
    queries: int
    gallery: int
    device: torch.device
    """The device of the gallery, which computes."""
    kind: torch.dtype
    """Of similarities: float32, float64 for rows of float64, or an integer type for the distances of short codes."""
    same: bool
    """Whether the queries are the gallery."""
    blocks: Callable[[int], Blocks]
    """Makes :class:`Blocks`, given the number of queries in the largest block."""
    product: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(n, D) and (m, D) rows, and a buffer of that many similarities, both sides rounded up to STEP -> (n, m), a view of it."""

    @property
    def value_bytes(self) -> int:
        """Of one similarity."""
        return self.kind.itemsize

    def similarities(self, blocks: Blocks, queries: Tensor) -> Tensor:
        """(b, G) of the queries with these numbers."""
        return blocks.of(self.rows[queries.to(self.rows.device)].to(self.device))


def both_sides(embeddings: Matrix, gallery: Matrix | None) -> Sides:
    """Queries and gallery, checked: floats compared by cosine, or packed bits by minus their Hamming distance.

    Raises:
        SizeError: shapes or types do not fit.
        DataError: a row holds NaN or infinity.
    """
    if is_codes(embeddings) and (gallery is None or is_codes(gallery)):
        return _sides_of_bits(embeddings, gallery)
    if gallery is not None and is_codes(embeddings) != is_codes(gallery):
        bits, floats = ("embeddings", "gallery") if is_codes(embeddings) else ("gallery", "embeddings")
        raise SizeError(f"{bits} are packed bits (uint8), but {floats} are not. Give both as floats or both as bits.")
    kind = torch.float64 if any(_is_double(side) for side in (embeddings, gallery)) else torch.float32
    queries = unit_rows(embeddings, dtype=kind)
    answers = queries if gallery is None else unit_rows(gallery, name="gallery", dtype=kind)
    check_widths(queries.width, answers.width)
    return Sides(
        queries.padded,
        queries.size,
        answers.size,
        answers.device,
        kind,
        gallery is None,
        lambda most: CosineBlocks(answers, most),
        cosine_product,
    )


def _is_double(rows: Any) -> bool:
    return getattr(rows, "dtype", None) in (torch.float64, np.float64)


def _sides_of_bits(embeddings: Matrix, gallery: Matrix | None) -> Sides:
    queries = bit_rows(embeddings, name="embeddings")
    answers = queries if gallery is None else bit_rows(gallery, name="gallery")
    check_widths(queries.width, answers.width, "bits")
    kind = torch.int16 if answers.width < NARROW_BITS else torch.float32
    return Sides(
        queries.padded,
        queries.size,
        answers.size,
        answers.device,
        kind,
        gallery is None,
        lambda most: HammingBlocks(answers, most, kind),
        negated_distances,
    )
