"""Counting search of packed codes for few queries: the gallery is read once, and no distance is kept.

faiss's ``hammings_knn_mc`` counts candidates by distance, so the k nearest fall out without a heap or a sort; it is the fastest
exact search of one query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from cosphere.codes import Bytes
from cosphere.search._faiss import faiss_for
from cosphere.search.allowed import NOTHING, Allowed

_SHARED_BYTES = 2**20
"""Bytes of a gallery from which several threads share one query."""


def scan(
    queries: Bytes, gallery: Bytes, k: int, allowed: Allowed
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """The k allowed codes nearest to each query, by faiss's counting search: it reads the gallery once and keeps no distances.

    Args:
        queries: (Q, bytes).
        gallery: (G, bytes), contiguous.
        k: neighbours, checked.
        allowed: rows that may be returned.

    Returns:
        ids (Q, k), equal distances ordered by row, and distances (Q, k).
    """
    faiss = faiss_for("comparing codes")
    wide = k + allowed.excludes
    # One query is one thread to faiss, so share the gallery among threads; multiples of 8 rows keep bytes of the bitmap whole.
    threads = torch.get_num_threads() if len(queries) == 1 and gallery.nbytes > _SHARED_BYTES else 1
    share = -(-len(gallery) // threads)
    step = -(-share // 8) * 8
    starts = range(0, len(gallery), step)
    ids = np.empty((len(starts), len(queries), wide), dtype=np.int64)
    distances = np.empty(ids.shape, dtype=np.int32)
    queries = np.ascontiguousarray(queries)

    def look(start: int) -> None:
        part, place = gallery[start : start + step], start // step
        bitmap = None if allowed.bitmap is None else allowed.bitmap[start // 8 : (start + step) // 8]
        chosen = [] if bitmap is None else [faiss.IDSelectorBitmap(len(bitmap), faiss.swig_ptr(bitmap))]
        faiss.hammings_knn_mc(
            *(faiss.swig_ptr(queries), faiss.swig_ptr(part), len(queries), len(part), wide, gallery.shape[1]),
            *(faiss.swig_ptr(distances[place]), faiss.swig_ptr(ids[place]), *chosen),
        )
        found = ids[place]
        found[found != NOTHING] += start

    in_threads(look, starts)
    merged = np.concatenate(list(ids), axis=1), np.concatenate(list(distances), axis=1)
    return nearest_listed(*merged, k, allowed)


def nearest_listed(
    ids: npt.NDArray[np.int64], distances: npt.NDArray[np.int32], k: int, allowed: Allowed
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """The k nearest of listed rows, equal distances ordered by row. Places without a row and excluded rows come last.

    Args:
        ids: (Q, L), :data:`~cosphere.search.allowed.NOTHING` where there is no row.
        distances: (Q, L), at least 0.
        k: places to return, at most L.
        allowed: whose ``exclude`` is left out.
    """
    missing = ids == NOTHING
    if allowed.exclude is not None:
        missing |= ids == allowed.exclude.numpy()[:, None]
    keys = distances.astype(np.int64) * allowed.size + ids
    keys[missing] = np.iinfo(np.int64).max
    order = np.argsort(keys, axis=1, kind="stable")[:, :k]
    taken = np.take_along_axis(ids, order, axis=1)
    taken[np.take_along_axis(missing, order, axis=1)] = NOTHING
    return taken, np.take_along_axis(distances, order, axis=1)


def in_threads(work: Callable[[int], object], starts: Sequence[int]) -> None:
    """Call ``work`` with each start, in as many threads as torch uses: faiss and numpy release the GIL."""
    threads = min(torch.get_num_threads(), len(starts))
    if threads == 1:
        for start in starts:
            work(start)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, starts))
