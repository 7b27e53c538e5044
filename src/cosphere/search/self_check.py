"""Recall of an approximate search against exact search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cosphere.checks import check_number, check_seed, check_whole
from cosphere.codes import hamming
from cosphere.errors import SettingsError, SizeError, counted
from cosphere.rows import Matrix, UnitRows, unit_rows
from cosphere.search.exact import Neighbours, search_units
from cosphere.search.hamming import BitRows, Rows, SignRows, rows_at, rows_given, search_bits

QUERIES = 100
"""Default number of queries; the standard error of the recall of 10 neighbours is then about 0.02."""
NEIGHBOURS = 10
_SAME = 1e-6
"""Cosines closer than this are equal: float32 rounds differently on different processors."""

Search = Callable[[Tensor, int, Tensor | None], Neighbours]
"""Called with (q, D) unit rows or (q, ceil(D / 8)) codes, k, and (q,) gallery rows to exclude or None."""


@dataclass(frozen=True)
class SelfCheck:
    """Recall of a search against exact search."""

    recall: float
    """In [0, 1]: mean share of the k returned rows that are among the k nearest by exact float32 cosine, or of codes by Hamming
    distance."""
    k: int
    queries: int

    def as_dict(self) -> dict[str, float | int]:
        """Plain numbers."""
        return {"recall": self.recall, "k": self.k, "queries": self.queries}

    def __str__(self) -> str:
        """One readable line."""
        places = f"{self.k} nearest" if self.k > 1 else "nearest"
        return f"{100 * self.recall:.1f} % of the {places} of exact search found ({counted(self.queries, 'query')})"

    def require(self, wanted: float, what: str = "this search") -> SelfCheck:
        """Return self if the recall is at least ``wanted``.

        Raises:
            SettingsError: it is below, or ``wanted`` is not in [0, 1].
        """
        check_wanted_recall(wanted)
        if self.recall < wanted:
            raise SettingsError(
                f"{what} finds {self.recall:.3f} of the {self.k} nearest rows of exact search "
                f"({counted(self.queries, 'query')}), below the wanted {wanted}. Take kind 'exact', or one with more bytes an image."
            )
        return self


def check_wanted_recall(recall: float | None) -> None:
    """Raise unless it is in [0, 1] or None."""
    if recall is not None:
        check_number("wanted_recall", recall, at_least=0, at_most=1)


@torch.no_grad()
def check_search(
    answer: Search,
    gallery: Matrix | Rows,
    queries: Matrix | None = None,
    *,
    k: int = NEIGHBOURS,
    count: int = QUERIES,
    seed: int = 0,
    living: Tensor | None = None,
) -> SelfCheck:
    """Compare a search with the exact one on the CPU.

    A returned row counts if its cosine, recomputed from the floats, reaches that of the k-th exact neighbour, so tied rows are
    equally good. A row that is returned twice counts once.

    Args:
        answer: the search to check.
        gallery: (G, D) float, or packed codes, the rows that it searches.
        queries: (q, D) float, or codes; None draws ``count`` rows of the gallery, each of which excludes itself.
        k: neighbours; at most the size of the gallery.
        count: number of rows to draw, at least 1.
        seed: of the draw.
        living: (n,) int64, the rows that may be drawn and found, ascending; None for all.

    Raises:
        SizeError: shapes do not fit.
        SettingsError: k or count below 1.
    """
    check_whole("k", k, least=1)
    check_whole("count", count, least=1)
    check_seed(seed)
    rows = _on_cpu(gallery if isinstance(gallery, UnitRows | SignRows) else rows_given(gallery, "gallery"))
    if living is not None:
        return check_search(_among(answer, living), _padded(rows, living), queries, k=k, count=count, seed=seed)
    exclude = None
    if queries is None:
        drawn = np.sort(np.random.default_rng(seed).choice(rows.size, min(count, rows.size), replace=False))
        unit = _padded(rows, torch.from_numpy(drawn))
        exclude = torch.from_numpy(drawn) if rows.size > 1 else None
    else:
        unit = rows_given(queries, "queries", rows.dim if isinstance(rows, SignRows) else None)
    places = min(k, rows.size - (exclude is not None))
    exact = _nearest(unit, rows, places, exclude)
    ids = answer(unit.rows, places, exclude).ids
    if ids.shape != exact.ids.shape:
        raise SizeError(f"the search gave {tuple(ids.shape)} ids where {tuple(exact.ids.shape)} were wanted.")
    return SelfCheck(_recall(unit, rows, exact, ids, exclude), places, unit.size)


def _among(answer: Search, living: Tensor) -> Search:
    """A search whose rows are numbered among the living ones."""

    def found(queries: Tensor, k: int, exclude: Tensor | None) -> Neighbours:
        named = None if exclude is None else living[exclude]
        ids, scores = answer(queries, k, named)
        return Neighbours(torch.searchsorted(living, ids.contiguous()), scores)

    return found


def _on_cpu(rows: Rows) -> Rows:
    if isinstance(rows, SignRows):
        return SignRows(BitRows(rows.bits.padded.cpu(), rows.size), rows.dim)
    return UnitRows(rows.padded.cpu(), rows.size)


def _padded(rows: Rows, places: Tensor) -> Rows:
    """Some of the rows, ready to be searched."""
    some = rows_at(rows, places)
    return some if isinstance(some, SignRows) else unit_rows(some.rows)


def _nearest(queries: Rows, gallery: Rows, k: int, exclude: Tensor | None) -> Neighbours:
    """Exact search."""
    if isinstance(gallery, SignRows) and isinstance(queries, SignRows):
        return search_bits(queries.bits, gallery.bits, k, exclude, gallery.dim)
    if isinstance(gallery, SignRows) or isinstance(queries, SignRows):
        raise SizeError("queries and gallery must both be floats or both be packed codes. Give both in one form.")
    return search_units(queries, gallery, k, exclude)


def _cosines(queries: Rows, gallery: Rows, ids: Tensor) -> Tensor:
    """(q,) float64 cosines of each query with one row; of codes those of the signs."""
    rows = gallery.rows[ids]
    if isinstance(gallery, SignRows):
        return 1 - 2 * torch.as_tensor(hamming(queries.rows, rows)).double() / gallery.dim
    return (rows.double() * queries.rows.cpu().double()).sum(dim=1)


def _recall(queries: Rows, gallery: Rows, exact: Neighbours, ids: Tensor, exclude: Any | None) -> float:
    ids = ids.cpu().sort(dim=1).values
    right = torch.empty(ids.shape, dtype=torch.bool)
    for place in range(ids.shape[1]):  # one column at a time: no (q, k, D) array
        right[:, place] = _cosines(queries, gallery, ids[:, place]) >= exact.scores[:, -1].double() - _SAME
    right[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    if exclude is not None:
        right &= ids != exclude[:, None]
    return float(right.double().mean())
