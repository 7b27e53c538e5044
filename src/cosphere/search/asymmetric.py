"""Asymmetric search (float queries, packed bits in the gallery), and re-ranking of a shortlist by floats.

Only the gallery has to be small. A query keeps its floats, so dimensions near zero, whose bits are least certain, count least.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cosphere.checks import check_whole
from cosphere.codes import bytes_of, to_bits
from cosphere.errors import SizeError, counted
from cosphere.rows import BLOCK_BYTES, Matrix, UnitRows, check_block_bytes, check_rows, check_widths, unit_rows
from cosphere.search.allowed import Allowed
from cosphere.search.exact import Neighbours
from cosphere.search.hamming import BitRows, bit_rows, search_bits
from cosphere.search.storage import Bits, Stored, search_stored

SHORTLIST = 100
"""Default number of codes that are re-ranked."""
_LISTED_BYTES = 2**23


def asymmetric_search(
    queries: Matrix,
    codes: Any,
    *,
    k: int,
    exclude: Any | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Neighbours:
    """Find the k codes nearest to each float query, by ``<q, 2b - 1> / sqrt(D)`` with q of length 1.

    The score is the cosine between the query and the +1/-1 vector of the code. Equal scores are ordered by row.

    Args:
        queries: (Q, D) float, torch or numpy, any length.
        codes: (G, ceil(D / 8)) uint8 of :func:`cosphere.codes.to_bits`. The search runs on their device.
        k: neighbours.
        exclude: (Q,) integers, a gallery row that each query must not return, -1 for none.
        block_bytes: bound of the working memory in bytes, besides the codes, a tile of 16 MiB of unpacked codes and the
            answer.

    Raises:
        SizeError: shapes or k do not fit; uint8 where floats are wanted.
        DataError: a query holds NaN or infinity.

    >>> codes = to_bits(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    >>> asymmetric_search(torch.tensor([[0.1, 0.9]]), codes, k=1).ids.tolist()
    [[1]]
    """
    rows = unit_rows(queries, name="queries")
    gallery = bit_rows(codes, name="gallery codes")
    check_widths(8 * bytes_of(rows.width), gallery.width, "bits")
    return search_stored(rows, Stored(Bits(rows.width), gallery.rows), k, exclude, block_bytes)


def reranked_search(
    queries: Matrix,
    gallery: Matrix,
    *,
    k: int,
    codes: Any | None = None,
    shortlist: int = SHORTLIST,
    exclude: Any | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Neighbours:
    """Hamming search for a shortlist, which is then re-ranked by the cosines of the floats.

    Args:
        queries: (Q, D) float.
        gallery: (G, D) float. Only the rows on a shortlist are read: they may be memory-mapped.
        k: neighbours, at most ``shortlist``.
        codes: (G, ceil(D / 8)) uint8, the gallery's codes; None makes them.
        shortlist: codes that are re-ranked; a larger gallery needs more. Lowered to the number of rows that can be returned.
        exclude: (Q,) integers, a gallery row that each query must not return, -1 for none.
        block_bytes: bound of the working memory in bytes, besides codes and answer; at least 1 query is re-ranked at a time.

    Returns:
        ids and scores (Q, k), cosines of the floats.

    Raises:
        SizeError: shapes, k or shortlist do not fit.
        DataError: a row holds NaN or infinity.
    """
    rows = unit_rows(queries, name="queries")
    check_rows(gallery, "gallery")
    check_widths(rows.width, gallery.shape[1])
    gallery_codes = bit_rows(to_bits(gallery) if codes is None else codes, name="gallery codes")  # type: ignore[type-var]
    check_widths(8 * bytes_of(rows.width), gallery_codes.width, "bits")
    if gallery_codes.size != len(gallery):
        raise SizeError(
            f"the gallery has {counted(len(gallery), 'row')} and {counted(gallery_codes.size, 'code')}. Make the codes from these rows."
        )
    return rerank_bits(rows, gallery_codes, gallery, k, shortlist, exclude, block_bytes)


@torch.no_grad()
def rerank_bits(
    queries: UnitRows,
    codes: BitRows,
    gallery: Matrix | UnitRows,
    k: int,
    shortlist: int = SHORTLIST,
    exclude: Any | None = None,
    block_bytes: int = BLOCK_BYTES,
    keep: Any | None = None,
) -> Neighbours:
    """:func:`reranked_search` for queries and codes that are checked already; ``keep`` (G,) bool names the rows to search."""
    check_whole("k", k, least=1)
    if k > shortlist:
        raise SizeError(f"k={k} neighbours want a shortlist of at least {k}, got {shortlist}. Raise shortlist.")
    check_block_bytes(block_bytes)
    allowed = Allowed.of(codes.size, queries.size, keep, exclude)
    query_codes = bit_rows(to_bits(queries.rows), name="queries")
    places = max(k, min(shortlist, allowed.count - allowed.excludes))
    listed = search_bits(query_codes, codes, places, exclude, queries.width, block_bytes, keep)
    return rerank(queries, gallery, listed.ids, k, block_bytes)


@torch.no_grad()
def rerank(
    queries: UnitRows, gallery: Matrix | UnitRows, ids: Tensor, k: int | None = None, block_bytes: int = BLOCK_BYTES
) -> Neighbours:
    """Order listed rows by their cosines; equal ones by row.

    Args:
        queries: Q unit rows.
        gallery: (G, D) float rows of any length, or unit rows, which are ten times faster.
        ids: (Q, L) gallery rows.
        k: how many of each list are returned; None returns all.
        block_bytes: bound of the rows read at a time.
    """
    places = ids.shape[1] if k is None else k
    ids = ids.sort(dim=1).values
    scores = torch.empty(ids.shape, dtype=torch.float32)
    # Rows are read, widened to float64 and multiplied; blocks that fit a cache are faster.
    step = max(1, min(block_bytes, _LISTED_BYTES) // (24 * ids.shape[1] * queries.width))
    for start in range(0, len(ids), step):
        here = ids[start : start + step]
        rows = _listed(gallery, here.flatten()).view(*here.shape, -1)
        # Not a matrix product, in which equal rows may round differently by position.
        block = queries.rows[start : start + step, None].to(rows.device)
        scores[start : start + step] = (rows * block).sum(dim=2)
    order = scores.sort(dim=1, descending=True, stable=True)
    return Neighbours(ids.gather(1, order.indices)[:, :places], order.values[:, :places])


def _listed(gallery: Matrix | UnitRows, ids: Tensor) -> Tensor:
    """(n, D) unit rows."""
    if isinstance(gallery, UnitRows):
        return gallery.rows.index_select(0, ids.to(gallery.device))
    return unit_rows(gallery[ids] if isinstance(gallery, Tensor) else gallery[ids.numpy()], name="gallery").rows
