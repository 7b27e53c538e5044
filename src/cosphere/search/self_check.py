"""How much of exact search an approximate one finds: asked before it is trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cosphere.checks import check_number, check_whole
from cosphere.errors import SettingsError, SizeError
from cosphere.rows import Matrix, UnitRows, unit_rows
from cosphere.search.exact import Neighbours, search_units

QUERIES = 100
"""Default number of queries; the recall of 10 neighbours each is then known to about 0.02."""
NEIGHBOURS = 10
_SAME = 1e-6
"""Cosines this near are one: float32 rounds differently from one processor to another."""

Search = Callable[[Tensor, int, Tensor | None], Neighbours]
"""Called with (q, D) unit rows, k and (q,) gallery rows to leave out, or None."""


@dataclass(frozen=True)
class SelfCheck:
    """What a search found of the truly nearest rows."""

    recall: float
    """In [0, 1]: of the k rows found, the share that belongs to the k of exact search by float32 cosine; means over queries."""
    k: int
    queries: int

    def as_dict(self) -> dict[str, float | int]:
        """Plain numbers."""
        return {"recall": self.recall, "k": self.k, "queries": self.queries}

    def __str__(self) -> str:
        """One line for a person."""
        places = f"{self.k} nearest" if self.k > 1 else "nearest"
        return f"{100 * self.recall:.1f} % of the {places} of exact search found ({self.queries} queries)"

    def require(self, wanted: float, what: str = "this search") -> SelfCheck:
        """Itself, where the recall is at least ``wanted``.

        Raises:
            SettingsError: it is below, or ``wanted`` is not in [0, 1].
        """
        check_wanted_recall(wanted)
        if self.recall < wanted:
            raise SettingsError(
                f"{what} finds {self.recall:.3f} of the {self.k} nearest rows of exact search "
                f"({self.queries} queries), below the wanted {wanted}. Take kind 'exact', or one with more bytes an image."
            )
        return self


def check_wanted_recall(wanted: float | None) -> None:
    """Raise unless it is in [0, 1], or None for no demand."""
    if wanted is not None:
        check_number("wanted_recall", wanted, at_least=0, at_most=1)


@torch.no_grad()
def check_search(
    answer: Search,
    gallery: Matrix | UnitRows,
    queries: Matrix | None = None,
    *,
    k: int = NEIGHBOURS,
    count: int = QUERIES,
    seed: int = 0,
) -> SelfCheck:
    """Compare a search with the exact one on the CPU.

    A row found counts if its cosine, taken again from the floats, reaches that of the k-th exact neighbour: rows that tie are
    as good as each other. A row found twice counts once.

    Args:
        answer: the search to be checked.
        gallery: (G, D) float, the rows that it searches.
        queries: (q, D) float; None draws ``count`` rows of the gallery, each of which leaves itself out.
        k: neighbours; lowered to what the gallery has.
        count: how many rows to draw, at least 1.
        seed: of the draw.

    Raises:
        SizeError: shapes do not fit.
        SettingsError: k or count below 1.
    """
    check_whole("k", k, least=1)
    check_whole("count", count, least=1)
    check_whole("seed", seed, least=0)
    known = gallery if isinstance(gallery, UnitRows) else unit_rows(gallery, name="gallery")
    known = UnitRows(known.padded.cpu(), known.size)
    exclude = None
    if queries is None:
        drawn = np.sort(np.random.default_rng(seed).choice(known.size, min(count, known.size), replace=False))
        asked = unit_rows(known.rows[torch.from_numpy(drawn)])
        exclude = torch.from_numpy(drawn) if known.size > 1 else None
    else:
        asked = unit_rows(queries, name="queries")
    places = min(k, known.size - (exclude is not None))
    exact = search_units(asked, known, places, exclude)
    found = answer(asked.rows, places, exclude).ids
    if found.shape != exact.ids.shape:
        raise SizeError(f"the search gave {tuple(found.shape)} ids where {tuple(exact.ids.shape)} were wanted.")
    return SelfCheck(_recall(asked, known, exact, found, exclude), places, asked.size)


def _recall(queries: UnitRows, gallery: UnitRows, exact: Neighbours, found: Tensor, exclude: Any | None) -> float:
    found = found.cpu().sort(dim=1).values
    right = torch.empty(found.shape, dtype=torch.bool)
    for place in range(found.shape[1]):  # one column at a time: no (q, k, D) array
        rows = gallery.rows[found[:, place]].double()
        cosines = (rows * queries.rows.cpu().double()).sum(dim=1)
        right[:, place] = cosines >= exact.scores[:, -1].double() - _SAME
    right[:, 1:] &= found[:, 1:] != found[:, :-1]
    if exclude is not None:
        right &= found != exclude[:, None]
    return float(right.double().mean())
