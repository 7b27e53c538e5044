"""Coarse to fine: the first bits of each code make a shortlist, the whole codes rank it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere._types import Integers
from cosphere.checks import FEW_KEPT
from cosphere.codes import Bytes, bytes_of, from_bits
from cosphere.rows import BLOCK_BYTES
from cosphere.search.allowed import Allowed
from cosphere.search.counting import nearest_listed
from cosphere.search.engines.base import Approximate, Arrays, array_of
from cosphere.search.engines.settings import COARSE_SHORTLIST, IndexSettings
from cosphere.search.hamming import BitRows, Rows, packed_signs, search_bits
from cosphere.tensors import directions

_LISTED_BYTES = 2**25
"""Codes of a shortlist that are compared at a time."""
_MOST_QUERIES = 32
"""Queries at a time: the counting search takes as many."""


class CoarseBits(Approximate):
    """Kind ``coarse-bits``. The first bits lie in a block of their own: a query reads a quarter of 2048-bit codes, then its shortlist."""

    def __init__(self, codes: Bytes, dim: int, settings: IndexSettings) -> None:
        self._codes, self._dim = codes, dim
        self._coarse = np.ascontiguousarray(codes[:, : settings.coarse_bytes(codes.shape[1])])
        self.effort = settings.shortlist or COARSE_SHORTLIST

    @classmethod
    def build(cls, rows: Rows, settings: IndexSettings, seed: int) -> CoarseBits:
        """From unit rows or codes; nothing is drawn."""
        return cls(packed_signs(rows), rows.width, settings)

    @classmethod
    def read(cls, arrays: Arrays, settings: IndexSettings, device: str | torch.device) -> CoarseBits:
        """From a file."""
        dim = int(arrays["dim"])
        return cls(array_of(arrays, "kept", np.uint8, bytes_of(dim)), dim, settings)

    @property
    def size(self) -> int:
        """G."""
        return len(self._codes)

    @property
    def dim(self) -> int:
        """D."""
        return self._dim

    @property
    def most_effort(self) -> int:
        """All rows."""
        return self.size

    @property
    def bytes_per_row(self) -> int:
        """Of the code, and of its first bits again."""
        return int(self._codes.shape[1] + self._coarse.shape[1])

    def rows(self) -> Tensor:
        """(G, D)."""
        return directions(torch.from_numpy(from_bits(self._codes, self._dim))).unit

    def add(self, rows: Rows) -> None:
        """Append rows."""
        new = packed_signs(rows)
        self._codes = np.concatenate([self._codes, new])
        self._coarse = np.concatenate([self._coarse, new[:, : self._coarse.shape[1]]])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """``kept``."""
        return {"kept": self._codes}

    def look(self, queries: Rows, wide: int, effort: int, allowed: Allowed) -> tuple[Integers, npt.NDArray[Any]]:
        """A shortlist by the first bits, ranked by all."""
        # A filter hides no row of the shortlist, so it needs no more of them.
        places = min(max(self.effort, wide), allowed.count)
        codes = packed_signs(queries)
        counters = 8 * places * (8 * self._coarse.shape[1] + 1)  # of the counting search
        step = max(1, min(_MOST_QUERIES, _LISTED_BYTES // (places * codes.shape[1]), BLOCK_BYTES // counters))
        parts = [self._ranked(codes[at : at + step], wide, places, allowed) for at in range(0, len(codes), step)]
        return _joined(parts)

    def _ranked(self, codes: Bytes, wide: int, places: int, allowed: Allowed) -> tuple[Integers, npt.NDArray[Any]]:
        listed = search_bits(
            packed(codes[:, : self._coarse.shape[1]]), packed(self._coarse), places, keep=allowed.kept
        ).ids.numpy()
        distances = differing_bits(codes, self._codes[listed])
        ids, nearest = nearest_listed(listed, distances, wide, Allowed(allowed.size))
        return ids, 1 - 2 * nearest / self._dim

    def look_exactly(self, queries: Rows, wide: int, allowed: Allowed) -> tuple[Integers, npt.NDArray[Any]]:
        """Every allowed row by its whole code."""
        return exact_codes(packed_signs(queries), self._codes, wide, allowed, self._dim)


def differing_bits(codes: Bytes, listed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Hamming distances (Q, L) of codes (Q, bytes) to the codes listed for each (Q, L, bytes)."""
    words: Any = np.uint64 if codes.shape[1] % 8 == 0 else np.uint8  # eight bytes at a time where they fit
    ours: npt.NDArray[Any] = np.ascontiguousarray(codes).view(words)
    theirs: npt.NDArray[Any] = np.ascontiguousarray(listed).view(words)
    apart = theirs ^ ours[:, None]
    distances: npt.NDArray[np.int32] = np.bitwise_count(apart).sum(axis=2, dtype=np.int32)
    return distances


def exact_codes(
    queries: Bytes, codes: Bytes, wide: int, allowed: Allowed, dim: int
) -> tuple[Integers, npt.NDArray[Any]]:
    """The ``wide`` nearest of the allowed codes, by Hamming distance: ids and scores. Few allowed ones are copied first."""
    if allowed.keep is None or allowed.share >= FEW_KEPT:
        found = search_bits(packed(queries), packed(codes), wide, None, dim, keep=allowed.kept)
        return found.ids.numpy(), found.scores.numpy()
    found = search_bits(packed(queries), packed(codes[allowed.rows]), wide, None, dim)
    return allowed.rows[found.ids.numpy()], found.scores.numpy()


def packed(codes: Bytes) -> BitRows:
    """Codes in numpy as checked codes."""
    return BitRows(torch.from_numpy(np.ascontiguousarray(codes)), len(codes))


def _joined(parts: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    return np.concatenate([one[0] for one in parts]), np.concatenate([one[1] for one in parts])
