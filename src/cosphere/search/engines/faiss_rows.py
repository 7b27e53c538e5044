"""What faiss's graphs and lists hold: float rows by inner product, or packed codes by Hamming distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere.codes import bytes_of, from_bits
from cosphere.search._faiss import faiss_for
from cosphere.search.allowed import Allowed
from cosphere.search.engines.base import Arrays, array_of
from cosphere.search.hamming import Rows, float_rows, packed_signs
from cosphere.tensors import directions

PURPOSE = "an approximate index"


@dataclass(frozen=True)
class Form:
    """How rows of width ``dim`` are handed to faiss."""

    dim: int
    bits: bool
    """Packed signs instead of floats."""

    @property
    def bytes_per_row(self) -> int:
        """4 D, or ceil(D / 8)."""
        return bytes_of(self.dim) if self.bits else 4 * self.dim

    def encode(self, rows: Rows) -> npt.NDArray[Any]:
        """(N, D) float32 or (N, ceil(D / 8)) uint8, contiguous."""
        return packed_signs(rows) if self.bits else np.ascontiguousarray(float_rows(rows).rows.cpu().numpy())

    def decode(self, coded: npt.NDArray[Any]) -> Tensor:
        """The unit rows of encoded ones."""
        if self.bits:
            return directions(torch.from_numpy(from_bits(coded, self.dim))).unit
        return torch.from_numpy(coded)

    def scores(self, found: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Inner products as they are; Hamming distances as the cosines of the signs."""
        return 1 - 2 * found / self.dim if self.bits else found

    @property
    def array(self) -> str:
        """The name of the rows in a file."""
        return "kept" if self.bits else "rows"

    def read(self, arrays: Arrays) -> npt.NDArray[Any]:
        """The encoded rows of a file.

        Raises:
            KeyError, ValueError: they are missing or do not fit.
        """
        if self.bits:
            return array_of(arrays, "kept", np.uint8, bytes_of(self.dim))
        return array_of(arrays, "rows", np.float32, self.dim)


def selector(allowed: Allowed) -> Any | None:
    """The kept rows as faiss's selector; None for all. The bitmap belongs to ``allowed``, which must outlive it."""
    bitmap = allowed.bitmap
    if bitmap is None:
        return None
    faiss = faiss_for(PURPOSE)
    return faiss.IDSelectorBitmap(len(bitmap), faiss.swig_ptr(bitmap))
