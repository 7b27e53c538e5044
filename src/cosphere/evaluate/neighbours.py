"""The images that an evaluation ranks first for a query, by the same rules as its scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from cosphere._types import Float32s, Integers
from cosphere.checks import check_whole
from cosphere.embeddings import Embeddings, Sides
from cosphere.errors import SizeError
from cosphere.evaluate._relevance import lowest
from cosphere.evaluate.retrieval import compared
from cosphere.evaluate.scores import ranking_arguments
from cosphere.evaluate.settings import EvaluationSettings
from cosphere.rows import rows_within
from cosphere.search.exact import nearest

DEFAULTS = EvaluationSettings()


class RankedImages(NamedTuple):
    """What an evaluation ranks first for each of Q queries."""

    rows: Integers
    """(Q, k) rows of the embeddings, nearest first, the lower row of equal ones first; -1 where the ranking is shorter."""
    similarities: Float32s
    """(Q, k) cosines, or minus the Hamming distances of bits; -inf where the ranking is shorter."""


@torch.no_grad()
def ranked_images(
    embeddings: Embeddings, queries: Any, k: int, settings: EvaluationSettings = DEFAULTS
) -> RankedImages:
    """The first images of the rankings that :func:`score_embeddings` scores.

    Images excluded for a query (itself and its group) are omitted, as in the scores.

    Args:
        embeddings: N rows.
        queries: (Q,) rows of the embeddings; each must be a query of theirs.
        k: number of images per query, at least 1.
        settings: of these, ``bits``, ``group_rule`` and ``block_bytes`` are used.

    Raises:
        SizeError: a row is not a query, or k is not a whole number from 1 on.
        DataError: no row is a query, none is in the gallery, or one holds NaN or infinity.
    """
    check_whole("k", k, least=1)
    sides = _with_queries(embeddings.sides(), np.asarray(queries, dtype=np.int64).reshape(-1))
    count = len(sides.query_rows)
    rows, similarities = np.full((count, k), -1, np.int64), np.full((count, k), -np.inf, np.float32)
    if not count:
        return RankedImages(rows, similarities)
    compared_sides, meetings, _ = compared(**ranking_arguments(embeddings, sides, settings))
    width = min(k, compared_sides.gallery)
    step = min(rows_within(settings.block_bytes, compared_sides.value_bytes * compared_sides.gallery), count)
    blocks = compared_sides.blocks(step)
    for here in torch.split(torch.arange(count, device=compared_sides.device), step):
        block = compared_sides.similarities(blocks, here)
        meetings.hide(block, here)
        best = nearest(block, width)
        met = (best.scores > lowest(block)).cpu().numpy()
        at = here.cpu().numpy()
        rows[at, :width] = np.where(met, sides.gallery_rows[best.ids.cpu().numpy()], -1)
        similarities[at, :width] = np.where(met, best.scores.float().cpu().numpy(), -np.inf)
    return RankedImages(rows, similarities)


def _with_queries(sides: Sides, chosen: Integers) -> Sides:
    """Restrict to a subset of the queries."""
    positions = np.searchsorted(sides.query_rows, chosen).clip(max=len(sides.query_rows) - 1)
    strangers = chosen[sides.query_rows[positions] != chosen]
    if len(strangers):
        raise SizeError(
            f"row {strangers[0]} is not a query of these embeddings. Choose rows of embeddings.sides().query_rows."
        )
    columns = {name: getattr(sides, name) for name in ("query_groups", "query_identities")}
    columns = {name: None if column is None else column[positions] for name, column in columns.items()}
    return replace(sides, query_rows=chosen, exclude=sides.exclude[positions], is_whole=False, **columns)
