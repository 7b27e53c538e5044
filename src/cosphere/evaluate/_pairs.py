"""All pairs of a set of images by their cosine: exact counts and order statistics, never N x N in memory.

Rows are sorted by class and compared in blocks of the upper triangle. Pairs of one class are then near the diagonal, so a
pass over those alone is cheap.

The cosine of a given rank comes from a radix selection: count pairs by the upper 16 bits of the float, then, in a second
pass, by the lower 16 bits of those that share the upper ones. It is exact for any rate, and its counts take 1 MiB for any
number of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere._types import Floats, Progress
from cosphere.errors import DataError, agreeing, counted
from cosphere.evaluate._names import class_column
from cosphere.rows import (
    EQUAL_COSINE,
    Matrix,
    UnitRows,
    check_block_bytes,
    full_float32,
    rounded_up,
    rows_within,
    unit_rows,
)

Counts = npt.NDArray[np.int64]

_PAIR_BYTES = 64
"""Working memory of a pair: its cosine, masks and keys, and its indices when a whole block is selected."""
_HALF = 2**16
"""Values that 16 bits can have."""


class ClassedRows(NamedTuple):
    """Unit rows in the order of their classes."""

    rows: UnitRows
    labels: Tensor
    """(N,) int64, ascending, in [0, C)."""
    counts: Counts
    """(C,) images of each class."""

    @property
    def same_pairs(self) -> Counts:
        """(C,) pairs inside each class."""
        return self.counts * (self.counts - 1) // 2

    @property
    def different_pairs(self) -> int:
        """Pairs of two classes."""
        count = self.rows.size
        return count * (count - 1) // 2 - int(self.same_pairs.sum())


def classed_rows(embeddings: Matrix, labels: Any) -> ClassedRows:
    """Sort unit rows and class numbers by class, keeping the order inside a class.

    Raises:
        SizeError: not (N, D) with labels (N,).
        DataError: a row holds NaN or infinity, or there are not two classes.
    """
    rows = unit_rows(embeddings)
    names = class_column(labels, rows.size)
    classes, numbers, counts = np.unique(names, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        images = f"{'all ' * (rows.size > 1)}{counted(rows.size, 'image')} {agreeing(rows.size, 'are')}"
        raise DataError(f"{images} of one class, so no pair is of two. Give at least two classes.")
    order = torch.from_numpy(np.argsort(numbers, kind="stable")).to(rows.device)
    padded = torch.zeros_like(rows.padded)
    padded[: rows.size] = rows.rows[order]
    return ClassedRows(
        UnitRows(padded, rows.size), torch.from_numpy(numbers.astype(np.int64)).to(rows.device)[order], counts
    )


class _Block(NamedTuple):
    """Cosines of some rows, from ``first`` on, with all rows from ``first`` on."""

    first: int
    cosines: Tensor
    """(b, w) float32."""
    labels: Tensor
    """(b,)"""
    others: Tensor
    """(w,)"""

    def pairs(self, *, same: bool) -> Tensor:
        """(b, w) bool: each pair of one class, or of two classes, once."""
        mask = self.labels[:, None] == self.others[None] if same else self.labels[:, None] != self.others[None]
        square = mask[:, : len(mask)]
        square.copy_(square.triu(1))
        return mask


def _blocks(data: ClassedRows, block_bytes: int, *, same_only: bool = False) -> Iterator[_Block]:
    """Blocks of the upper triangle; with ``same_only``, each ends with its last row's class."""
    check_block_bytes(block_bytes)
    padded, size = data.rows.padded, data.rows.size
    ends = np.cumsum(data.counts)
    step = min(rows_within(block_bytes, _PAIR_BYTES * size), len(padded))
    buffer = torch.empty(step * len(padded), dtype=torch.float32, device=padded.device)
    for first in range(0, size, step):
        last = min(first + step, size)
        stop = int(ends[int(data.labels[last - 1])]) if same_only else size
        block, others = padded[first : rounded_up(last)], padded[first : rounded_up(stop)]
        cosines = buffer[: len(block) * len(others)].view(len(block), len(others))
        with full_float32(padded.device):
            torch.mm(block, others.T, out=cosines)
        cosines.add_(0.0)  # -0.0 becomes 0.0: they are equal, but their bits are not
        if float(cosines.max()) > 1 - EQUAL_COSINE:
            # Equal vectors have one cosine: otherwise rounding decides which of them lie above a threshold near 1.
            cosines.masked_fill_(cosines > 1 - EQUAL_COSINE, 1.0)
        yield _Block(first, cosines[: last - first, : stop - first], data.labels[first:last], data.labels[first:stop])


def _keys(cosines: Tensor) -> Tensor:
    """float32 -> int32 in [0, 2^32) less 2^31, in the same order."""
    bits = cosines.view(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _cosine(upper: int, lower: int) -> float:
    """The float32 with these halves of its key."""
    key = np.array((upper - _HALF // 2) * _HALF + lower, dtype=np.int32)
    return float(np.where(key < 0, key ^ np.int32(0x7FFFFFFF), key).astype(np.int32).view(np.float32))


class Tail(NamedTuple):
    """The most similar pairs of two classes."""

    cosines: Floats
    """(m,) descending."""
    first: Counts
    """(m,) the class of one image."""
    second: Counts
    """(m,) the class of the other."""
    each: float
    """Pairs that each represents: 1 unless only a share was kept."""


class RankedCosine(NamedTuple):
    """The cosine of one rank among all pairs of two classes."""

    cosine: float
    above: int
    """Pairs of two classes above it."""
    tail: Tail


def cosine_of_rank(
    data: ClassedRows,
    rank: int,
    *,
    keep: int,
    most: int,
    block_bytes: int,
    progress: Progress | None = None,
) -> RankedCosine:
    """The cosine of a rank among the pairs of two classes, the most similar first, and the most similar pairs.

    Args:
        data: the images.
        rank: from 0 (the most similar pair) to the number of pairs minus one.
        keep: number of the most similar pairs that the tail represents at least, or all.
        most: approximate size limit of the tail; of more pairs, it holds a share that is even over the order of rows.
        block_bytes: bound of the working memory, beside the rows and the tail.
        progress: called after each block of the two passes.
    """
    size = data.rows.size
    counts = torch.zeros(_HALF, dtype=torch.int64, device=data.rows.device)
    for block in _blocks(data, block_bytes):
        keys = _keys(block.cosines[block.pairs(same=False)])
        counts += torch.bincount((keys >> 16) + _HALF // 2, minlength=_HALF)
        if progress is not None:
            progress(block.first + len(block.labels), 2 * size)
    upper, before = _descend(counts, rank)
    floor, covered = _descend(counts, min(keep, data.different_pairs) - 1)
    covered += int(counts[floor])
    share = min(1.0, most / covered)
    fine = torch.zeros(_HALF, dtype=torch.int64, device=data.rows.device)
    parts, passed = [], 0
    for block in _blocks(data, block_bytes):
        different = block.pairs(same=False)
        keys = _keys(block.cosines)
        uppers = (keys >> 16) + _HALF // 2
        fine += torch.bincount(keys[different & (uppers == upper)] & (_HALF - 1), minlength=_HALF)
        high = (different & (uppers >= floor)).nonzero()
        sample = high[_even_share(passed, len(high), share).to(high.device)] if share < 1 else high
        passed += len(high)
        row, column = sample.unbind(1)
        parts.append((block.cosines[row, column], block.labels[row], block.others[column]))
        if progress is not None:
            progress(size + block.first + len(block.labels), 2 * size)
    lower, inside = _descend(fine, rank - before)
    cosines, first, second = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    order = np.argsort(-cosines, kind="stable")
    tail = Tail(cosines[order].astype(np.float64), first[order], second[order], passed / len(order))
    return RankedCosine(_cosine(upper, lower), before + inside, tail)


def _even_share(start: int, count: int, share: float) -> Tensor:
    """(count,) bool, about that share of them true and evenly distributed."""
    # A golden-ratio sequence: every n-th pair could fall in step with the classes, since rows are sorted by class.
    steps = torch.arange(start, start + count, dtype=torch.int64) * 2654435769  # 2^32 / golden ratio
    return (steps & (2**32 - 1)) < int(share * 2**32)


def _descend(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin of a rank counted from the top, and the number of pairs in the bins above it."""
    from_top = counts.flip(0).cumsum(0)
    passed = int(torch.searchsorted(from_top, rank, right=True))
    return len(counts) - 1 - passed, int(from_top[passed - 1]) if passed else 0


def same_above(data: ClassedRows, threshold: float, *, block_bytes: int) -> Counts:
    """(C,) pairs inside each class whose cosine is above the threshold."""
    totals = torch.zeros(len(data.counts), dtype=torch.int64, device=data.rows.device)
    for block in _blocks(data, block_bytes, same_only=True):
        above = (block.pairs(same=True) & (block.cosines > threshold)).sum(dim=1)
        totals.index_add_(0, block.labels, above)
    return totals.cpu().numpy()


def different_above(data: ClassedRows, threshold: float, *, block_bytes: int, progress: Progress | None = None) -> int:
    """Number of pairs of two classes whose cosine is above the threshold."""
    total = 0
    for block in _blocks(data, block_bytes):
        total += int((block.pairs(same=False) & (block.cosines > threshold)).sum())
        if progress is not None:
            progress(block.first + len(block.labels), data.rows.size)
    return total
