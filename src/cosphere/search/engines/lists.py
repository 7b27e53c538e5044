"""Inverted lists: rows in lists by their nearest centre; a query visits the lists of the centres nearest to it (Jégou et al., 2011)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere._types import Integers
from cosphere.codes import bytes_of
from cosphere.search._faiss import faiss_for, search_with
from cosphere.search.allowed import NOTHING, Allowed
from cosphere.search.engines.base import Approximate, Arrays, array_of, column_of
from cosphere.search.engines.coarse import exact_codes, packed
from cosphere.search.engines.faiss_rows import PURPOSE, Form, selector
from cosphere.search.engines.settings import IndexSettings
from cosphere.search.hamming import Rows, search_bits

_ROWS_PER_CENTRE = 64
"""Rows that each centre is trained on."""
_ITERATIONS = 10


class Lists(Approximate):
    """What both kinds of lists share: the centres and the list of each row."""

    def __init__(self, form: Form, centres: npt.NDArray[Any], assigned: Integers, settings: IndexSettings) -> None:
        self._form, self._centres, self._assigned = form, centres, assigned
        self.effort = min(len(centres), settings.nprobe or max(8, -(-len(centres) // 8)))

    @property
    def size(self) -> int:
        """G."""
        return len(self._assigned)

    @property
    def dim(self) -> int:
        """D."""
        return self._form.dim

    @property
    def most_effort(self) -> int:
        """All lists."""
        return len(self._centres)

    def effort_for(self, wide: int) -> int:
        """Lists, whatever the number of rows: a list holds many."""
        return self.effort

    @property
    def bytes_per_row(self) -> int:
        """Of the row, and of its place in a list."""
        return self._form.bytes_per_row + 8


class FloatLists(Lists):
    """Kind ``ivf``."""

    def __init__(
        self, rows: npt.NDArray[Any], centres: npt.NDArray[Any], assigned: Integers, settings: IndexSettings
    ) -> None:
        super().__init__(Form(rows.shape[1], bits=False), centres, assigned, settings)
        faiss = faiss_for(PURPOSE)
        self._quantiser = faiss.IndexFlatIP(self.dim)
        self._quantiser.add(centres)
        self._index = faiss.IndexIVFFlat(self._quantiser, self.dim, len(centres), faiss.METRIC_INNER_PRODUCT)
        self._index.is_trained = True
        self._append(rows, assigned)

    @classmethod
    def build(cls, rows: Rows, settings: IndexSettings, seed: int) -> FloatLists:
        """Train the centres by spherical k-means on a sample, then assign every row."""
        faiss, coded, count = faiss_for(PURPOSE), Form(rows.width, bits=False).encode(rows), settings.lists(rows.size)
        means = faiss.Kmeans(
            *(rows.width, count),
            **{"niter": _ITERATIONS, "seed": seed % 2**31, "spherical": True, "min_points_per_centroid": 1},
            max_points_per_centroid=_ROWS_PER_CENTRE,
        )
        means.train(coded)
        _, nearest = means.index.search(coded, 1)
        return cls(coded, np.ascontiguousarray(means.centroids), nearest[:, 0].clip(min=0), settings)

    @classmethod
    def read(cls, arrays: Arrays, settings: IndexSettings, device: str | torch.device) -> FloatLists:
        """From a file. Raises KeyError or ValueError where a part is missing or does not fit."""
        dim = int(arrays["dim"])
        rows = Form(dim, bits=False).read(arrays)
        centres = array_of(arrays, "centres", np.float32, dim)
        return cls(rows, centres, column_of(arrays, "assigned", len(rows), 0, len(centres) - 1), settings)

    def _append(self, rows: npt.NDArray[Any], assigned: Integers) -> None:
        swig_ptr = faiss_for(PURPOSE).swig_ptr
        assigned = np.ascontiguousarray(assigned)
        self._index.add_core(len(rows), swig_ptr(rows), None, swig_ptr(assigned))

    def add(self, rows: Rows) -> None:
        """Append rows to the lists of their nearest centres."""
        coded = self._form.encode(rows)
        _, nearest = self._quantiser.search(coded, 1)
        self._append(coded, nearest[:, 0])
        self._assigned = np.concatenate([self._assigned, nearest[:, 0]])

    def _encoded(self) -> npt.NDArray[np.float32]:
        """The rows in their order: faiss holds them by list."""
        faiss, lists = faiss_for(PURPOSE), self._index.invlists
        rows = np.empty((self.size, self.dim), dtype=np.float32)
        for number in range(len(self._centres)):
            count = lists.list_size(number)
            if count:
                ids = faiss.rev_swig_ptr(lists.get_ids(number), count)
                codes = faiss.rev_swig_ptr(lists.get_codes(number), 4 * count * self.dim)
                rows[ids] = codes.view(np.float32).reshape(count, self.dim)
        return rows

    def rows(self) -> Tensor:
        """(G, D)."""
        return torch.from_numpy(self._encoded())

    def look(self, queries: Rows, wide: int, effort: int, allowed: Allowed) -> tuple[Integers, npt.NDArray[Any]]:
        """Visit ``effort`` lists."""
        chosen = selector(allowed)
        how = faiss_for(PURPOSE).SearchParametersIVF(nprobe=effort, sel=chosen)
        found, ids = search_with(self._index, self._form.encode(queries), wide, how)
        return ids, found

    def look_exactly(self, queries: Rows, wide: int, allowed: Allowed) -> tuple[Integers, npt.NDArray[Any]]:
        """Visit all lists."""
        return self.look(queries, wide, self.most_effort, allowed)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Rows, centres and lists."""
        return {"rows": self._encoded(), "centres": self._centres, "assigned": self._assigned.astype(np.int32)}


class BitLists(Lists):
    """Kind ``ivf-bits``: centres are codes too. faiss's own takes no filter, so the codes lie here, in the order of the rows."""

    def __init__(
        self, codes: npt.NDArray[Any], dim: int, centres: npt.NDArray[Any], assigned: Integers, settings: IndexSettings
    ) -> None:
        super().__init__(Form(dim, bits=True), centres, assigned, settings)
        self._codes = codes
        self._listed()

    def _listed(self) -> None:
        """Where the rows of each list are in the list of all."""
        self._order = np.argsort(self._assigned, kind="stable")
        sizes = np.bincount(self._assigned, minlength=len(self._centres))
        self._starts = np.concatenate([[0], np.cumsum(sizes)])

    @classmethod
    def build(cls, rows: Rows, settings: IndexSettings, seed: int) -> BitLists:
        """Train the centres by k-means on the signs of a sample, made bits again, then assign every code."""
        faiss, form, count = faiss_for(PURPOSE), Form(rows.width, bits=True), settings.lists(rows.size)
        codes = form.encode(rows)
        sample = np.random.default_rng(seed).permutation(len(codes))[: _ROWS_PER_CENTRE * count]
        quantiser = faiss.IndexBinaryFlat(8 * codes.shape[1])
        lists = faiss.IndexBinaryIVF(quantiser, 8 * codes.shape[1], count)
        lists.cp.min_points_per_centroid, lists.cp.niter, lists.cp.seed = 1, _ITERATIONS, seed % 2**31
        lists.train(codes[sample])
        centres = faiss.vector_to_array(quantiser.xb).reshape(count, -1)
        return cls(codes, rows.width, centres, _nearest_centres(codes, centres), settings)

    @classmethod
    def read(cls, arrays: Arrays, settings: IndexSettings, device: str | torch.device) -> BitLists:
        """From a file. Raises KeyError or ValueError where a part is missing or does not fit."""
        dim = int(arrays["dim"])
        codes = Form(dim, bits=True).read(arrays)
        centres = array_of(arrays, "centres", np.uint8, bytes_of(dim))
        return cls(codes, dim, centres, column_of(arrays, "assigned", len(codes), 0, len(centres) - 1), settings)

    def add(self, rows: Rows) -> None:
        """Append rows to the lists of their nearest centres."""
        new = self._form.encode(rows)
        self._codes = np.concatenate([self._codes, new])
        self._assigned = np.concatenate([self._assigned, _nearest_centres(new, self._centres)])
        self._listed()

    def rows(self) -> Tensor:
        """(G, D)."""
        return self._form.decode(self._codes)

    def look(self, queries: Rows, wide: int, effort: int, allowed: Allowed) -> tuple[Integers, npt.NDArray[Any]]:
        """Visit ``effort`` lists, query by query."""
        codes = self._form.encode(queries)
        probes = search_bits(packed(codes), packed(self._centres), effort).ids.numpy()
        ids = np.full((len(codes), wide), NOTHING)
        scores = np.full(ids.shape, -np.inf, dtype=np.float32)
        for query, lists in enumerate(probes):
            rows = np.concatenate([self._order[self._starts[one] : self._starts[one + 1]] for one in lists])
            rows = np.sort(rows if allowed.keep is None else rows[allowed.keep[rows]])
            k = min(wide, len(rows))
            if k:
                found = search_bits(packed(codes[query : query + 1]), packed(self._codes[rows]), k, None, self.dim)
                ids[query, :k], scores[query, :k] = rows[found.ids[0].numpy()], found.scores[0].numpy()
        return ids, scores

    def look_exactly(self, queries: Rows, wide: int, allowed: Allowed) -> tuple[Integers, npt.NDArray[Any]]:
        """Compare with every allowed code."""
        return exact_codes(self._form.encode(queries), self._codes, wide, allowed, self.dim)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Codes, centres and lists."""
        return {"kept": self._codes, "centres": self._centres, "assigned": self._assigned.astype(np.int32)}


def _nearest_centres(codes: npt.NDArray[Any], centres: npt.NDArray[Any]) -> Integers:
    nearest: Integers = search_bits(packed(codes), packed(centres), 1).ids[:, 0].numpy()
    return nearest
