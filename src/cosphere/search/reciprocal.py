"""Re-ranking by k-reciprocal neighbours (Zhong et al., "Re-ranking person re-identification with k-reciprocal encoding", 2017).

Two images that are among each other's nearest are more likely the same than one that is merely near. Each image is encoded by its
reciprocal neighbours, and images whose encodings overlap are near. The numbers are those of the official code; it holds three N x N
matrices, here only lists and blocks are in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere._types import Integers
from cosphere.checks import check_number, check_whole
from cosphere.errors import SizeError
from cosphere.rows import BLOCK_BYTES, CosineBlocks, Matrix, UnitRows, check_widths, rows_within, unit_rows
from cosphere.search.allowed import Allowed
from cosphere.search.exact import Neighbours, nearest, search_blocks

K1, K2, WEIGHT = 20, 6, 0.3
"""Of the paper, for Market-1501."""
MOST_K1 = 1000
_PAIR_VALUES = 2**24

Sparse = Any
"""(N, N) of scipy, by row."""


@torch.no_grad()
def k_reciprocal_search(
    queries: Matrix,
    gallery: Matrix | None = None,
    *,
    k: int,
    exclude: Any | None = None,
    k1: int = K1,
    k2: int = K2,
    weight: float = WEIGHT,
    block_bytes: int = BLOCK_BYTES,
) -> Neighbours:
    """The k gallery rows nearest to each query by re-ranked distance.

    All N rows, queries and gallery together, are compared with all: time grows with N^2. For one query of a large gallery, re-rank a
    shortlist: give its rows as the gallery.

    Args:
        queries: (Q, D) float, any length.
        gallery: (G, D) float; None takes the queries themselves, each of which leaves itself out.
        k: neighbours, from 1 to G.
        exclude: (Q,) integers, with ``gallery``: a row that each query must not return, -1 for none.
        k1: neighbours that must be mutual, at least 2. Where fewer rows are there, fewer are used.
        k2: neighbours whose encodings are averaged, from 1 to ``k1``; 1 for no averaging.
        weight: of the plain distance, in [0, 1]; the rest is the overlap of the encodings. 1 ranks by cosine.
        block_bytes: bound of the working memory of one block.

    Returns:
        ids (Q, k), equal distances ordered by row, and scores (Q, k): 1 - distance, in [0, 1]. They are no cosines: a calibrated
        threshold does not apply.

    Raises:
        SizeError: shapes or k do not fit.
        SettingsError: k1, k2 or weight out of range.
    """
    check_whole("k1", k1, least=2, most=MOST_K1)
    check_whole("k2", k2, least=1, most=k1)
    check_number("weight", weight, at_least=0, at_most=1)
    ours = unit_rows(queries, name="queries")
    if gallery is None:
        if exclude is not None:
            raise SizeError(
                "exclude names gallery rows, and there is no gallery. Each query leaves itself out already."
            )
        everything, first, exclude = ours, 0, torch.arange(ours.size)
    else:
        theirs = unit_rows(gallery, name="gallery")
        check_widths(ours.width, theirs.width)
        everything, first = unit_rows(torch.cat([ours.rows, theirs.rows.to(ours.device)])), ours.size
    allowed = Allowed.of(everything.size - first, ours.size, None, exclude)
    k = allowed.check_k(k)
    encoding = _encode(everything, k1, k2, block_bytes)
    return _searched(everything, ours.size, first, k, allowed, encoding, weight, block_bytes)


def apart(cosines: Tensor, lowest: Tensor, weight: float = WEIGHT) -> Tensor:
    """Scores of rows that were not re-ranked: those of rows that share no neighbour with the query.

    Args:
        cosines: (L,) to the query.
        lowest: the smallest cosine of a re-ranked row to it.
        weight: of :func:`k_reciprocal_search`.

    Returns:
        (L,) float32, at most 0 for rows that are no nearer than the re-ranked ones, whose scores are at least 0.
    """
    plain, farthest = (2 - 2 * one for one in (cosines, lowest))
    return (weight * (1 - plain.clamp(min=0) / farthest.clamp(min=1e-12))).float()


@dataclass(frozen=True, eq=False)
class _Encoding:
    """What re-ranking knows of every row."""

    vectors: Sparse
    """(N, N) float64, each row of sum 1: how much a row is like each other one."""
    farthest: npt.NDArray[np.float32]
    """(N,) the largest squared distance of each row to any other; the official code divides by it."""


class _Farthest:
    """Blocks of cosines whose smallest are kept."""

    def __init__(self, gallery: UnitRows, most: int) -> None:
        self._blocks = CosineBlocks(gallery, most)
        self.lowest: list[Tensor] = []

    def of(self, queries: Tensor) -> Tensor:
        block = self._blocks.of(queries)
        self.lowest.append(block.amin(dim=1).cpu())
        return block


def _encode(rows: UnitRows, k1: int, k2: int, block_bytes: int) -> _Encoding:
    count = rows.size
    blocks: list[_Farthest] = []

    def blocks_of(most: int) -> _Farthest:
        blocks.append(_Farthest(rows, most))
        return blocks[-1]

    ranked = np.arange(count)[:, None]  # a row is its own first neighbour, whatever ties with it
    if count > 1:
        found = search_blocks(rows, count, blocks_of, min(k1, count - 1), torch.arange(count), block_bytes)
        ranked = np.concatenate([ranked, found.ids.numpy()], axis=1)
    lowest = torch.cat(blocks[0].lowest).numpy() if blocks else np.ones(1, dtype=np.float32)
    farthest = np.maximum(_squared(lowest), np.float32(1e-12))
    half = round(k1 / 2)
    mutual, near_mutual = _mutual(ranked), _mutual(ranked[:, : half + 1])
    # A neighbour's own mutual neighbours join where more than two thirds of them are mutual neighbours already.
    shared = mutual.multiply((mutual @ near_mutual.T).tocsr()).tocsr()
    sizes = np.asarray(near_mutual.sum(axis=1)).ravel()
    shared.data = (shared.data > 2 / 3 * sizes[shared.indices]).astype(np.float64)
    shared.eliminate_zeros()
    members = (mutual + shared @ near_mutual).tocsr()
    members.sum_duplicates()
    members.sort_indices()
    members.data = np.exp(-_pair_distances(rows, members, farthest))
    totals = np.asarray(members.sum(axis=1)).ravel()
    vectors = members.multiply(1 / totals[:, None]).tocsr()
    if k2 > 1:
        averaged = ranked[:, :k2]
        vectors = _listed(averaged, np.full(averaged.size, 1 / averaged.shape[1])) @ vectors
    return _Encoding(vectors.tocsr(), farthest)


def _squared(cosines: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Squared distances of unit rows."""
    distances: npt.NDArray[np.float32] = np.maximum(2 - 2 * cosines, 0)
    return distances


def _listed(ranked: Integers, values: npt.NDArray[np.float64]) -> Sparse:
    """Lists of rows (N, w) as a sparse matrix (N, N)."""
    from scipy import sparse  # late: it takes a moment, and few searches re-rank

    count, width = ranked.shape
    return sparse.csr_matrix((values, ranked.ravel(), np.arange(0, count * width + 1, width)), shape=(count, count))


def _mutual(ranked: Integers) -> Sparse:
    """(N, N) 1 where two rows are in each other's list."""
    listed = _listed(ranked, np.ones(ranked.size))
    return listed.multiply(listed.T).tocsr()


def _pair_distances(rows: UnitRows, members: Sparse, farthest: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The distance of each pair of a sparse matrix, divided by the largest of its row."""
    owners = np.repeat(np.arange(rows.size), np.diff(members.indptr))
    floats = rows.rows.cpu()
    cosines = np.empty(len(owners), dtype=np.float32)
    step = max(1, _PAIR_VALUES // rows.width)
    for start in range(0, len(owners), step):
        one, other = (torch.from_numpy(at[start : start + step].astype(np.int64)) for at in (owners, members.indices))
        cosines[start : start + step] = (floats[one] * floats[other]).sum(dim=1).numpy()
    return (_squared(cosines) / farthest[owners]).astype(np.float64)


def _searched(
    rows: UnitRows,
    queries: int,
    first: int,
    k: int,
    allowed: Allowed,
    encoding: _Encoding,
    weight: float,
    block_bytes: int,
) -> Neighbours:
    """Rank the rows from ``first`` on for the first ``queries`` rows."""
    galleries = encoding.vectors[first:].tocsc()
    size = rows.size - first
    wide = k + allowed.excludes
    ids, scores = torch.empty(queries, k, dtype=torch.int64), torch.empty(queries, k, dtype=torch.float32)
    # Cosines of all, the overlaps and what ranking needs.
    step = min(rows_within(block_bytes, 24 * rows.size), queries)
    cosines = CosineBlocks(rows, step)
    for start in range(0, queries, step):
        here = slice(start, min(queries, start + step))
        plain = _squared(cosines.of(rows.rows[here])[:, first:].cpu().numpy()) / encoding.farthest[here, None]
        shared = np.stack([_overlap(encoding.vectors, galleries, at, size) for at in range(here.start, here.stop)])
        distances = (1 - weight) * (1 - shared / (2 - shared)) + weight * plain
        best = _best(torch.from_numpy(-distances), wide, k, allowed.of_queries(here))
        ids[here], scores[here] = best.ids, 1 + best.scores
    return Neighbours(ids, scores)


def _overlap(vectors: Sparse, galleries: Sparse, query: int, size: int) -> npt.NDArray[np.float64]:
    """(G,) sum of the smaller of two encodings, of one query and every gallery row."""
    own = slice(vectors.indptr[query], vectors.indptr[query + 1])
    columns, values = vectors.indices[own], vectors.data[own]
    parts = [slice(galleries.indptr[column], galleries.indptr[column + 1]) for column in columns]
    rows = np.concatenate([galleries.indices[part] for part in parts])
    smaller = np.concatenate(
        [np.minimum(value, galleries.data[part]) for value, part in zip(values, parts, strict=True)]
    )
    overlap: npt.NDArray[np.float64] = np.bincount(rows, smaller, minlength=size).astype(np.float64)
    return overlap


def _best(similarities: Tensor, wide: int, k: int, allowed: Allowed) -> Neighbours:
    if allowed.exclude is not None:
        rows = (allowed.exclude >= 0).nonzero().flatten()
        similarities[rows, allowed.exclude[rows]] = -torch.inf
    found = nearest(similarities, min(wide, similarities.shape[1]))
    return Neighbours(found.ids[:, :k], found.scores[:, :k].float())
