"""Exact search: every gallery row is compared with every query, in blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from cosphere.rows import (
    BLOCK_BYTES,
    CosineBlocks,
    Matrix,
    UnitRows,
    check_block_bytes,
    check_widths,
    hide_excluded,
    rows_within,
    unit_rows,
)
from cosphere.search.allowed import Allowed


class Neighbours(NamedTuple):
    """The neighbours of Q queries, on the CPU."""

    ids: Tensor
    """(Q, k) int64 gallery rows, nearest first; equal cosines are ordered by row."""
    scores: Tensor
    """(Q, k) float32 in [-1, 1] up to rounding, larger is nearer: cosines of the compared rows."""


def search(
    queries: Matrix, gallery: Matrix, *, k: int, exclude: Any | None = None, block_bytes: int = BLOCK_BYTES
) -> Neighbours:
    """Find the k gallery rows nearest to each query by cosine.

    The answer to a query does not depend on the other queries, the block size or the number of threads (on a CPU).
    A zero row has cosine 0 with everything.

    Args:
        queries: (Q, D) float, torch or numpy, any length.
        gallery: (G, D) float. The search runs on its device.
        k: neighbours, from 1 to G, or to G - 1 when each query excludes one.
        exclude: (Q,) integers, a gallery row that each query must not return, -1 for none; ``torch.arange(Q)`` when both
            sets are the same. Exclusion is by row, never by value: a duplicate of the query is a neighbour like any other.
        block_bytes: bound of the working memory in bytes, besides the unit rows and the answer; at least 32 queries are
            compared at a time.

    Raises:
        SizeError: shapes or k do not fit.
        DataError: a row holds NaN or infinity.

    >>> axes = torch.eye(3)
    >>> search(axes[:2], axes, k=1, exclude=torch.arange(2)).ids.tolist()  # all cosines are 0: ordered by row
    [[1], [0]]
    """
    return search_units(unit_rows(queries, name="queries"), unit_rows(gallery, name="gallery"), k, exclude, block_bytes)


@torch.no_grad()
def search_units(
    queries: UnitRows,
    gallery: UnitRows,
    k: int,
    exclude: Any | None = None,
    block_bytes: int = BLOCK_BYTES,
    keep: Any | None = None,
) -> Neighbours:
    """:func:`search` for rows of unit length; ``keep`` (G,) bool names the rows that may be returned."""
    check_widths(queries.width, gallery.width)
    return search_blocks(queries, gallery.size, lambda most: CosineBlocks(gallery, most), k, exclude, block_bytes, keep)


class Blocks(Protocol):
    """Similarities of one block of queries after another."""

    def of(self, queries: Tensor, /) -> Tensor:
        """(b, D) unit rows -> (b, G) float32, larger where nearer. The caller may overwrite them."""


@torch.no_grad()
def search_blocks(
    queries: UnitRows,
    gallery: int,
    blocks_of: Callable[[int], Blocks],
    k: int,
    exclude: Any | None,
    block_bytes: int,
    keep: Any | None = None,
) -> Neighbours:
    """Find the k largest similarities of each query, block by block.

    Args:
        queries: Q unit rows.
        gallery: G.
        blocks_of: called with the number of queries in the largest block; returns the source of similarities.
        k: neighbours.
        exclude: (Q,) or None.
        block_bytes: bound of the similarities and their temporaries.
        keep: (G,) bool, the rows that may be returned; None for all.
    """
    check_block_bytes(block_bytes)
    allowed = Allowed.of(gallery, queries.size, keep, exclude)
    k = allowed.check_k(k)
    hidden = allowed.exclude
    dropped = None if allowed.keep is None else torch.from_numpy(~allowed.keep)
    step = min(rows_within(block_bytes, 4 * gallery + 64 * k), queries.size)
    blocks = blocks_of(step)
    ids = torch.empty(queries.size, k, dtype=torch.int64)
    scores = torch.empty(queries.size, k, dtype=torch.float32)
    for start in range(0, queries.size, step):
        here = slice(start, start + step)
        similarities = blocks.of(queries.rows[here])
        hide_excluded(similarities, None if hidden is None else hidden[here].to(similarities.device))
        if dropped is not None:
            similarities.masked_fill_(dropped.to(similarities.device), -torch.inf)
        block = nearest(similarities, k)
        ids[here], scores[here] = block.ids, block.scores
    return Neighbours(ids, scores)


def nearest(cosines: Tensor, k: int) -> Neighbours:
    """The k largest of each row, largest first; equal ones are ordered by column. (b, G) -> (b, k)."""
    # One more than k shows whether the last rank is tied: topk would then pick any of the tied columns.
    more = min(k + 1, cosines.shape[1])
    scores, ids = cosines.topk(more, dim=1)
    shared = (scores[:, k - 1] == scores[:, k]).nonzero().flatten() if more > k else torch.empty(0, dtype=torch.int64)
    scores, ids = scores[:, :k], ids[:, :k]
    if bool((scores[:, 1:] == scores[:, :-1]).any()):
        ids, order = ids.sort(dim=1)
        scores, by_score = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
        ids = ids.gather(1, by_score)
    for row in shared.tolist():
        last = scores[row, -1]
        above = int((scores[row] > last).sum())
        ids[row, above:] = (cosines[row] == last).nonzero().flatten()[: k - above]
    return Neighbours(ids, scores)
