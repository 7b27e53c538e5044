"""Graphs of near rows: hierarchical navigable small worlds, built and searched by faiss.

Malkov & Yashunin, "Efficient and robust approximate nearest neighbor search using hierarchical navigable small world graphs", 2018.

faiss cannot remove a row from a graph: rows that must not be returned are passed through, see :class:`Allowed`.

A file holds the rows and the links as plain numbers. Reading checks every link before faiss, which does not, follows it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere._types import Integers
from cosphere.search._faiss import faiss_for, search_with
from cosphere.search.allowed import Allowed
from cosphere.search.engines.base import Approximate, Arrays, column_of
from cosphere.search.engines.coarse import exact_codes
from cosphere.search.engines.faiss_rows import PURPOSE, Form, selector
from cosphere.search.engines.settings import IndexSettings
from cosphere.search.hamming import Rows

EF_SEARCH = 128
_MOST_EF = 4096
_SPREAD, _SPREAD_BITS = 0.2, 0.35
"""Kept rows are met along the way too: with a tenth kept, 1.6 times the candidates find what they found of all float rows, and
2.2 times of codes, many of which are equally near.
"""
_SLOTS = 2**22
"""Links checked at a time."""


class Graph(Approximate):
    """Kinds ``hnsw`` and ``hnsw-bits``."""

    def __init__(self, graph: Any, form: Form, settings: IndexSettings) -> None:
        self._graph, self._form, self._settings = graph, form, settings
        self.effort = settings.ef_search or EF_SEARCH
        self.spread = _SPREAD_BITS if form.bits else _SPREAD

    @classmethod
    def build(cls, rows: Rows, settings: IndexSettings, seed: int, *, bits: bool) -> Graph:
        """Link every row; with several threads, which links are made depends on their timing."""
        form = Form(rows.width, bits)
        graph = _empty(form, settings, seed)
        graph.add(form.encode(rows))
        return cls(graph, form, settings)

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle and copy, which faiss does not support for graphs of bits."""
        arrays = {**self.arrays(), "dim": np.array(self.dim)}
        return _made_again, (arrays, replace(self._settings, ef_search=self.effort), self._form.bits)

    @property
    def size(self) -> int:
        """G."""
        return int(self._graph.ntotal)

    @property
    def dim(self) -> int:
        """D."""
        return self._form.dim

    @property
    def most_effort(self) -> int:
        """Candidates beyond which an exact search is faster."""
        return max(self.effort, min(_MOST_EF, self.size))

    @property
    def bytes_per_row(self) -> int:
        """Of the row and of its links on the lowest level, 4 bytes each; higher levels add one part in M."""
        return self._form.bytes_per_row + 4 * int(self._graph.hnsw.nb_neighbors(0))

    def _encoded(self) -> npt.NDArray[Any]:
        """The rows that faiss holds, a view."""
        faiss = faiss_for(PURPOSE)
        if self._form.bits:
            flat, width = faiss.downcast_IndexBinary(self._graph.storage), self._form.bytes_per_row
            return faiss.rev_swig_ptr(flat.xb.data(), self.size * width).reshape(self.size, width)  # type: ignore[no-any-return]
        flat = faiss.downcast_index(self._graph.storage)
        return faiss.rev_swig_ptr(flat.get_xb(), self.size * self.dim).reshape(self.size, self.dim)  # type: ignore[no-any-return]

    def rows(self) -> Tensor:
        """(G, D)."""
        return self._form.decode(self._encoded().copy())

    def add(self, rows: Rows) -> None:
        """Link further rows."""
        self._graph.add(self._form.encode(rows))

    def look(self, queries: Rows, wide: int, effort: int, allowed: Allowed) -> tuple[Integers, npt.NDArray[Any]]:
        """Walk the graph."""
        chosen = selector(allowed)
        how = faiss_for(PURPOSE).SearchParametersHNSW(efSearch=effort, sel=chosen)
        found, ids = search_with(self._graph, self._form.encode(queries), wide, how)
        return ids, self._form.scores(found)

    def look_exactly(self, queries: Rows, wide: int, allowed: Allowed) -> tuple[Integers, npt.NDArray[Any]]:
        """Compare with every allowed row."""
        if self._form.bits:
            return exact_codes(self._form.encode(queries), self._encoded(), wide, allowed, self.dim)
        chosen = selector(allowed)
        how = faiss_for(PURPOSE).SearchParameters(sel=chosen)
        found, ids = search_with(self._graph.storage, self._form.encode(queries), wide, how)
        return ids, found

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The rows and the links."""
        faiss, hnsw = faiss_for(PURPOSE), self._graph.hnsw
        return {
            self._form.array: self._encoded(),
            "levels": faiss.vector_to_array(hnsw.levels).astype(np.uint8),
            "links": faiss.vector_to_array(hnsw.neighbors),
            "entry": np.array(hnsw.entry_point),
        }

    @classmethod
    def read(cls, arrays: Arrays, settings: IndexSettings, device: str | torch.device, *, bits: bool) -> Graph:
        """From a file, link by link checked.

        Raises:
            KeyError, ValueError: a part is missing or does not fit.
        """
        form = Form(int(arrays["dim"]), bits)
        rows = form.read(arrays)
        # With one seed for all, rows that are added one after each reading would all get the level that is drawn first.
        graph = _empty(form, settings, seed=len(rows))
        slots = faiss_for(PURPOSE).vector_to_array(graph.hnsw.cum_nneighbor_per_level).astype(np.int64)
        levels = column_of(arrays, "levels", len(rows), 1, len(slots) - 1)
        ends = np.cumsum(slots[levels])
        links = arrays["links"]
        if links.shape != (int(ends[-1]),) or links.dtype != np.int32:
            raise ValueError(f"links are {links.shape} {links.dtype}")
        _check_links(links, ends, levels, slots)
        (entry,) = column_of({"entry": arrays["entry"].reshape(-1)}, "entry", 1, 0, len(rows) - 1)
        if levels[entry] != levels.max():
            raise ValueError("the entry of the graph is not on its highest level")
        _fill(graph, rows, levels, ends, links, int(entry))
        return cls(graph, form, settings)


def _made_again(arrays: Arrays, settings: IndexSettings, bits: bool) -> Graph:
    return Graph.read(arrays, settings, "cpu", bits=bits)


def _empty(form: Form, settings: IndexSettings, seed: int) -> Any:
    """A graph without rows; the levels of rows to come are drawn from the seed."""
    faiss = faiss_for(PURPOSE)
    if form.bits:
        graph = faiss.IndexBinaryHNSW(8 * form.bytes_per_row, settings.m)
    else:
        graph = faiss.IndexHNSWFlat(form.dim, settings.m, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = settings.ef_construction
    graph.hnsw.rng = faiss.RandomGenerator(seed % 2**31)
    return graph


def _check_links(links: npt.NDArray[np.int32], ends: Integers, levels: Integers, slots: Integers) -> None:
    """Raise unless every link leads to a row that has the level of the link: faiss reads its links there.

    Args:
        links: (L,) all links, -1 where a slot is empty.
        ends: (G,) where the slots of each row end.
        levels: (G,) levels of each row.
        slots: slots of a row with 0, 1, 2, ... levels.

    Raises:
        ValueError: one does not.
    """
    for start in range(0, len(links), _SLOTS):
        part = links[start : start + _SLOTS]
        if not (int(part.min()) >= -1 and int(part.max()) < len(levels)):
            raise ValueError("a link leads to no row")
        places = np.arange(start, start + len(part))
        owner = np.searchsorted(ends, places, side="right")
        within = places - np.where(owner > 0, ends[owner - 1], 0)
        level = np.searchsorted(slots, within, side="right")  # 1 for the lowest
        if (levels[part[part >= 0]] < level[part >= 0]).any():
            raise ValueError("a link leads to a row without that level")


def _fill(
    graph: Any, rows: npt.NDArray[Any], levels: Integers, ends: Integers, links: npt.NDArray[np.int32], entry: int
) -> None:
    """Put checked parts into an empty graph."""
    faiss, hnsw = faiss_for(PURPOSE), graph.hnsw
    graph.storage.add(rows)
    graph.ntotal = len(rows)
    faiss.copy_array_to_vector(levels.astype(np.int32), hnsw.levels)
    faiss.copy_array_to_vector(np.concatenate([[0], ends]).astype(np.uint64), hnsw.offsets)
    hnsw.neighbors.resize(len(links))
    faiss.rev_swig_ptr(hnsw.neighbors.data(), len(links))[:] = links
    hnsw.entry_point = entry
    hnsw.max_level = int(levels.max()) - 1
