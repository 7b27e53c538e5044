"""Query expansion: a query is replaced by the mean of itself and of what it finds first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cosphere._types import Flags
from cosphere.checks import check_number, check_whole
from cosphere.errors import SizeError
from cosphere.rows import BLOCK_BYTES, Matrix, UnitRows, exclusions, unit_rows
from cosphere.search.allowed import Allowed
from cosphere.search.exact import Neighbours, search_units

IMAGES = 5
ALPHA = 3.0
MOST_IMAGES = 1000
MOST_ALPHA = 100
_GATHERED_BYTES = 2**26


@torch.no_grad()
def expanded_queries(
    queries: Matrix,
    gallery: Matrix,
    *,
    images: int = IMAGES,
    alpha: float = ALPHA,
    exclude: Any | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Tensor:
    """Average each query with its nearest gallery rows, weighted by their cosines.

    ``q + sum_i max(<q, g_i>, 0)^alpha g_i``, scaled to length 1. With alpha 0 this is average query expansion (Chum et al., "Total
    recall", 2007); larger alphas trust near rows more (alpha-QE of Radenovic et al., "Fine-tuning CNN image retrieval with no human
    annotation", 2018, whose alpha is 3). It helps where the first hits are mostly right, and harms where they are not.

    Args:
        queries: (Q, D) float, any length.
        gallery: (G, D) float, any length.
        images: n, gallery rows that are averaged with each query.
        alpha: from 0 to 100.
        exclude: (Q,) integers, a gallery row that each query leaves out, -1 for none.
        block_bytes: bound of the working memory of the search.

    Returns:
        (Q, D) float32 unit rows, to search with.

    Raises:
        SizeError: shapes do not fit, or there are fewer than n rows.
        SettingsError: images or alpha out of range.

    >>> expanded_queries(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.6, 0.8]]), images=1, alpha=0).tolist()
    [[0.8944271802902222, 0.4472135901451111]]
    """
    ours, theirs = unit_rows(queries, name="queries"), unit_rows(gallery, name="gallery")
    left_out = exclusions(exclude, ours.size, theirs.size, torch.device("cpu"))
    own = None if left_out is None else [[row] * (row >= 0) for row in left_out.tolist()]
    return expanded_units(ours, theirs, images, alpha, own, block_bytes=block_bytes)


def expanded_units(
    queries: UnitRows,
    gallery: UnitRows,
    images: int,
    alpha: float,
    own: Sequence[Sequence[int]] | None = None,
    keep: Flags | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Tensor:
    """:func:`expanded_queries` for unit rows.

    Args:
        queries: Q rows.
        gallery: G rows.
        images: gallery rows that are averaged with each query.
        alpha: from 0 to 100.
        own: of each query, the gallery rows that it leaves out; None for none.
        keep: (G,) the gallery rows that may be averaged; None for all.
        block_bytes: bound of the working memory of the search.
    """
    check_whole("images", images, least=1, most=MOST_IMAGES)
    check_number("alpha", alpha, at_least=0, at_most=MOST_ALPHA)
    left_out = max((len(rows) for rows in own), default=0) if own is not None else 0
    available = Allowed.of(gallery.size, queries.size, keep).count - left_out
    if images > available:
        raise SizeError(
            f"{images} images are to be averaged with each query, and the gallery has {available} for it. "
            "Average fewer, or add images."
        )
    found = _without(search_units(queries, gallery, images + left_out, None, block_bytes, keep), own, images)
    weights = found.scores.clamp(min=0).double() ** alpha  # 0^0 is 1: alpha 0 gives every row the same weight
    sums = queries.rows.cpu().double()
    step = max(1, _GATHERED_BYTES // (12 * images * gallery.width))
    for start in range(0, queries.size, step):
        here = slice(start, start + step)
        rows = gallery.rows[found.ids[here].to(gallery.device)].cpu().double()
        sums[here] += (weights[here, :, None] * rows).sum(dim=1)
    return unit_rows(sums).rows


def _without(found: Neighbours, own: Sequence[Sequence[int]] | None, k: int) -> Neighbours:
    """The first k neighbours of each query that are not its own rows."""
    if own is None:
        return found
    hidden = torch.stack(
        [torch.isin(ids, torch.tensor(rows, dtype=torch.int64)) for ids, rows in zip(found.ids, own, strict=True)]
    )
    order = hidden.to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
    return Neighbours(found.ids.gather(1, order), found.scores.gather(1, order))
