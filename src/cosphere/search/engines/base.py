"""What every kind of index is to :class:`cosphere.search.Index`, and what approximate kinds share."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere._types import Integers
from cosphere.checks import FEW_KEPT
from cosphere.rows import check_widths
from cosphere.search.allowed import NOTHING, Allowed
from cosphere.search.exact import Neighbours
from cosphere.search.hamming import Rows, rows_at

Arrays = Mapping[str, npt.NDArray[Any]]


class Engine(Protocol):
    """The rows of a gallery, and the search in them."""

    @property
    def size(self) -> int:
        """G."""

    @property
    def dim(self) -> int:
        """D."""

    @property
    def bytes_per_row(self) -> int:
        """Bytes per row, without what all rows share."""

    def rows(self) -> Tensor:
        """(G, D) float32 unit vectors of the stored rows."""

    def search(self, queries: Rows, k: int, allowed: Allowed, block_bytes: int, /) -> Neighbours:
        """The k allowed rows nearest to each query, nearest first."""

    def add(self, rows: Rows, /) -> None:
        """Append rows of the same width."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What :data:`cosphere.search.engines.Kind.read` makes the engine from again: plain numbers."""


class Tunable(Protocol):
    """An engine that looks at a part of the gallery only: more effort finds more and takes longer."""

    effort: int
    """``ef_search``, ``nprobe`` or ``shortlist``."""

    @property
    def most_effort(self) -> int:
        """The effort beyond which nothing is gained."""


class Approximate(abc.ABC):
    """What graphs, lists and coarse-to-fine share.

    A filter that keeps less than :data:`FEW_KEPT` of the rows is answered exactly over them, and so is a query that finds fewer than k.
    """

    effort: int
    spread = 1.0
    """A filter that keeps a share s of the rows multiplies the effort by s to the power of minus this."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """G."""

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """D."""

    @property
    @abc.abstractmethod
    def most_effort(self) -> int:
        """The effort beyond which nothing is gained."""

    def effort_for(self, wide: int) -> int:
        """The effort of a search for ``wide`` rows: graphs and shortlists hold candidates, so they need as many of them."""
        return max(self.effort, wide)

    @abc.abstractmethod
    def look(self, queries: Rows, wide: int, effort: int, allowed: Allowed) -> tuple[Integers, npt.NDArray[Any]]:
        """Up to ``wide`` allowed rows near each query: ids (Q, wide), -1 for none, and scores (Q, wide), larger where nearer."""

    @abc.abstractmethod
    def look_exactly(self, queries: Rows, wide: int, allowed: Allowed) -> tuple[Integers, npt.NDArray[Any]]:
        """The ``wide`` nearest of the allowed rows, as :meth:`look` gives them."""

    def search(self, queries: Rows, k: int, allowed: Allowed, block_bytes: int) -> Neighbours:
        """The k allowed rows nearest to each query, of those that are looked at; equal scores are ordered by row."""
        check_widths(queries.width, self.dim)
        k = allowed.check_k(k)
        wide = k + allowed.excludes
        if allowed.share < FEW_KEPT or 2 * wide > allowed.count:
            return ranked(*self.look_exactly(queries, wide, allowed), k, allowed)
        # Rows that are not kept are passed through, not returned: look at more.
        effort = min(self.most_effort, int(self.effort_for(wide) * allowed.share**-self.spread))
        found = ranked(*self.look(queries, wide, effort, allowed), k, allowed)
        missing = found.ids.numpy() == NOTHING
        if missing.any():
            short = torch.from_numpy(np.flatnonzero(missing.any(axis=1)))
            again, others = rows_at(queries, short), allowed.of_queries(short)
            exact = ranked(*self.look_exactly(again, wide, others), k, others)
            found.ids[short], found.scores[short] = exact.ids, exact.scores
        return found


def ranked(ids: Integers, scores: npt.NDArray[Any], k: int, allowed: Allowed) -> Neighbours:
    """The k best of listed rows: largest score first, equal ones by row; excluded rows and places without a row last."""
    missing = ids == NOTHING
    if allowed.exclude is not None:
        missing |= ids == allowed.exclude.numpy()[:, None]
    scores = scores.astype(np.float32)
    if missing.any():
        scores, ids = np.where(missing, np.float32(-np.inf), scores), np.where(missing, NOTHING, ids)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    rows = np.arange(len(ids))[:, None]
    return Neighbours(torch.from_numpy(ids[rows, order]), torch.from_numpy(scores[rows, order]))


def array_of(arrays: Arrays, name: str, dtype: Any, width: int) -> npt.NDArray[Any]:
    """A (N, width) array of a file.

    Raises:
        KeyError, ValueError: it is missing, or of another type or shape, or holds NaN or infinity.
    """
    array = arrays[name]
    if array.ndim != 2 or array.dtype != dtype or not array.size or array.shape[1] != width:
        raise ValueError(f"{name} are {array.shape} {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} hold NaN or infinity")
    return np.ascontiguousarray(array)


def column_of(arrays: Arrays, name: str, size: int, least: int, most: int) -> Integers:
    """A (size,) array of whole numbers of a file.

    Raises:
        KeyError, ValueError: it is missing, of another shape or type, or a number is out of range.
    """
    array = arrays[name]
    if array.shape != (size,) or array.dtype.kind not in "iu":
        raise ValueError(f"{name} are {array.shape} {array.dtype}")
    column: Integers = array.astype(np.int64)
    if size and not (least <= int(column.min()) and int(column.max()) <= most):
        raise ValueError(f"{name} are not all from {least} to {most}")
    return column
