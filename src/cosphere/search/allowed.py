"""Which gallery rows a search may return: one bitmap for all queries, and one row that each query leaves out.

Deleted rows and filters are the same thing to a search: rows that are not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere._types import Flags, Integers
from cosphere.errors import SizeError, counted
from cosphere.rows import exclusions

NOTHING = -1
"""The id of a place for which a search found no row."""


@dataclass(frozen=True, eq=False)
class Kept:
    """The rows of a gallery that may be returned, with what searches derive from them. Made once, it serves many searches."""

    flags: Flags
    """(G,) not changed afterwards."""

    @cached_property
    def count(self) -> int:
        """Rows that are kept."""
        return int(np.count_nonzero(self.flags))

    @cached_property
    def rows(self) -> Integers:
        """(count,) the rows that are kept, ascending."""
        return np.flatnonzero(self.flags)

    @cached_property
    def bitmap(self) -> npt.NDArray[np.uint8]:
        """(ceil(G / 8),) the kept rows as bits, the first in the lowest bit as faiss reads them."""
        return np.packbits(self.flags, bitorder="little")


@dataclass(frozen=True, eq=False)
class Allowed:
    """The rows of a gallery that Q queries may return."""

    size: int
    """G."""
    kept: Kept | None = None
    """The rows that may be returned; None for all."""
    exclude: Tensor | None = None
    """(Q,) int64 on the CPU, a row that each query must not return, -1 for none; None for no exclusion."""

    @classmethod
    def of(cls, size: int, queries: int, keep: Any | None = None, exclude: Any | None = None) -> Allowed:
        """Check what a caller gave.

        Args:
            size: G.
            queries: Q.
            keep: (G,) bool, numpy or torch, or :class:`Kept`; None for all rows.
            exclude: (Q,) integers, -1 for none; None for no exclusion.

        Raises:
            SizeError: a shape or type does not fit.
        """
        return cls(size, kept_of(keep, size), exclusions(exclude, queries, size, torch.device("cpu")))

    @property
    def keep(self) -> Flags | None:
        """(G,) rows that may be returned; None for all."""
        return None if self.kept is None else self.kept.flags

    @property
    def count(self) -> int:
        """Rows that are kept."""
        return self.size if self.kept is None else self.kept.count

    @property
    def share(self) -> float:
        """Rows that are kept, of all."""
        return self.count / self.size

    @cached_property
    def excludes(self) -> bool:
        """Whether any query leaves out a row that is kept."""
        if self.exclude is None:
            return False
        named = self.exclude[self.exclude >= 0].numpy()
        return bool(len(named) if self.keep is None else self.keep[named].any())

    def check_k(self, k: int) -> int:
        """Return k as an int if every query can have so many neighbours.

        Raises:
            SizeError: k is no whole number, or out of range.
        """
        available = self.count - self.excludes
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= available:
            kept = "" if self.keep is None else f", of which {self.count} may be returned"
            without = ", itself left out" if self.excludes else ""
            if not available:
                raise SizeError(
                    f"k={k}, but no row can be returned (gallery of {self.size}{kept}{without}). Keep more rows."
                )
            raise SizeError(
                f"k={k}, but a query can have from 1 to {available} neighbours (gallery of {self.size}{kept}{without}). "
                f"Choose k as a whole number from 1 to {available}, or add images."
            )
        return int(k)

    @property
    def rows(self) -> Integers:
        """(count,) the rows that are kept, ascending."""
        return np.arange(self.size) if self.kept is None else self.kept.rows

    @property
    def bitmap(self) -> npt.NDArray[np.uint8] | None:
        """The kept rows as bits, see :attr:`Kept.bitmap`; None for all."""
        return None if self.kept is None else self.kept.bitmap

    def within_kept(self) -> Allowed:
        """The same for a gallery of the kept rows alone."""
        if self.keep is None or self.exclude is None:
            return Allowed(self.count, None, self.exclude)
        place = np.full(self.size + 1, NOTHING)  # the last stands for an excluded row of -1
        place[self.rows] = np.arange(self.count)
        return Allowed(self.count, None, torch.from_numpy(place[self.exclude.numpy()]))

    def of_queries(self, selection: Any) -> Allowed:
        """The same for some of the queries."""
        return Allowed(self.size, self.kept, None if self.exclude is None else self.exclude[selection])


def kept_of(keep: Any | None, size: int) -> Kept | None:
    """Flags with what is derived from them; what was made before is taken as it is.

    Raises:
        SizeError: not (G,) bool.
    """
    if isinstance(keep, Kept):
        kept_rows(keep.flags, size)
        return keep
    flags = kept_rows(keep, size)
    return None if flags is None else Kept(flags)


def kept_rows(keep: Any | None, size: int, name: str = "keep") -> Flags | None:
    """Check a bitmap of rows.

    Raises:
        SizeError: not (G,) bool.
    """
    if keep is None:
        return None
    flags = keep.detach().cpu().numpy() if isinstance(keep, Tensor) else np.asarray(keep)
    if flags.shape != (size,) or flags.dtype != np.bool_:
        raise SizeError(
            f"want {name} ({size},) bool, one flag for each of {counted(size, 'row')} of the gallery, got {flags.shape} "
            f"{flags.dtype}. Make it with numpy: flags = np.zeros({size}, dtype=bool); flags[rows] = True."
        )
    return flags
