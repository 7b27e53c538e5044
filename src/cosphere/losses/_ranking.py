"""Exact k-th largest element of a stream of blocks too large for memory, in several passes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FEW = 2**16
"""Up to this many values are sorted to find the cut; more are first narrowed down with a histogram."""
BINS = 2**16


class Cut(NamedTuple):
    """The largest of many values: those above ``value``, and those equal to it up to index ``last`` in row order."""

    value: float
    last: int = -1

    def kept(self, values: Tensor, first_row: int) -> Tensor:
        """(b, n) bool of one block, given the index of its first row."""
        start = first_row * values.shape[1]
        if self.last < start:
            return values > self.value
        mask = values >= self.value
        mask.view(-1)[self.last + 1 - start :] &= values.view(-1)[self.last + 1 - start :] > self.value
        return mask


class Ranking:
    """Find the threshold that keeps the top fraction of a blockwise stream of values in few passes.

    Floats are compared through their bit patterns as integers, so the cut lies in an integer interval. Each pass
    narrows the interval with a histogram until few values remain inside; these are sorted. If many values remain when
    the interval has shrunk to a single integer, they are all equal.

    Call :meth:`look` on each block of a pass, then :meth:`conclude`; repeat until :attr:`cut` is set.
    """

    def __init__(
        self, share: float, dtype: torch.dtype, *, most: int, count: int | None = None, low: float = -torch.inf
    ) -> None:
        """Keep ``int(count * share)`` values; ``count`` defaults to the number of values other than -inf.

        Args:
            share: in (0, 1].
            dtype: float32 or float64.
            most: upper bound of the number of values.
            count: see above.
            low: values up to this bound are counted but never kept. Requires ``count``.
        """
        self.share, self.dtype, self.count, self.low = share, dtype, count, low
        self.cut = Cut(low) if share == 1 else None
        # All values are cosines or negated cosines. A negative zero would rank below zero.
        self._start, self._stop = _order(max(low, -2.0), dtype) + 1, _order(2.0, dtype)
        self._above, self._inside = 0, most  # count above the interval, upper bound of the count inside
        self._histogram: Tensor | None = None
        self._found: tuple[Tensor, Tensor] | None = None  # values inside the interval, and their indices
        self._count_found = self._ties = 0

    @property
    def kept(self) -> int:
        """Number of values that the cut keeps, including those up to ``low``."""
        return int((self.count or 0) * self.share)

    def look(self, values: Tensor, first_row: int) -> None:
        """Process one block (b, n) whose first row has this index."""
        if self.cut is not None:
            return
        if self._inside > FEW and self._stop - self._start > 1:
            counts = self._counts(values)
            self._histogram = counts if self._histogram is None else self._histogram.add_(counts)
            return
        low, high = _float(self._start, self.dtype), _float(self._stop - 1, self.dtype)
        places = ((values >= low) & (values <= high)).flatten().nonzero().squeeze(1)
        if self._inside > FEW:
            missing = self.kept - self._above - self._ties
            self._ties += len(places)
            places = places[missing - 1 : missing] if 0 < missing <= len(places) else places[:0]
        self._note(values.flatten()[places], places + first_row * values.shape[1])

    def conclude(self) -> None:
        """End a pass."""
        if self.cut is not None:
            return
        if self._histogram is not None:
            self._narrow(self._histogram.tolist())
            self._histogram = None
        elif self._found is not None:
            self._sort(*(found[: self._count_found] for found in self._found))
        else:
            self.cut = Cut(torch.inf)

    def _note(self, values: Tensor, places: Tensor) -> None:
        # Preallocate: small tensors that outlive a block would fragment the heap between large short-lived ones.
        if self._found is None:
            room = min(self._inside, max(FEW, 1))
            self._found = values.new_empty(room), places.new_empty(room)
        end = self._count_found + len(values)
        for found, new in zip(self._found, (values, places), strict=True):
            found[self._count_found : end] = new
        self._count_found = end

    @property
    def _shift(self) -> int:
        """A bin of the histogram holds 2^shift neighbouring floats."""
        return max(0, (self._stop - self._start - 1).bit_length() - (BINS - 1).bit_length())

    def _counts(self, values: Tensor) -> Tensor:
        """Number of values below the interval, in each bin of it, and above."""
        order = values.view(torch.int32 if self.dtype == torch.float32 else torch.int64)
        if self._start < 0:  # otherwise the order of negative floats does not matter
            bits = torch.iinfo(order.dtype)
            order = order ^ ((order >> (bits.bits - 1)) & bits.max)
        bins = order.clamp(self._start - 1, self._stop).sub_(self._start).bitwise_right_shift_(self._shift).add_(1)
        most = ((self._stop - 1 - self._start) >> self._shift) + 2
        return torch.bincount(bins.flatten().clamp_(max=most), minlength=most + 1)

    def _narrow(self, counts: list[int]) -> None:
        inside = counts[1:-1]
        if self.count is None:
            self.count = sum(inside)
        missing = self.kept - self._above
        if missing < 1 or missing > sum(inside):
            self.cut = Cut(torch.inf if missing < 1 else self.low)
            return
        bin = len(inside) - 1
        while inside[bin] < missing:
            missing -= inside[bin]
            bin -= 1
        self._above, self._inside = self.kept - missing, inside[bin]
        width = 1 << self._shift
        self._start = self._start + bin * width
        self._stop = min(self._stop, self._start + width)

    def _sort(self, values: Tensor, places: Tensor) -> None:
        if self._inside > FEW:  # the interval is one integer: this is the last of the equal values to keep
            self.cut = Cut(_float(self._start, self.dtype), int(places[0]))
            return
        if self.count is None:
            self.count = len(values)
        missing = self.kept - self._above
        if missing < 1 or missing > len(values):
            self.cut = Cut(torch.inf if missing < 1 else self.low)
            return
        ordered, order = values.sort(descending=True, stable=True)
        self.cut = Cut(float(ordered[missing - 1]), int(places[order[missing - 1]]))


def _order(value: float, dtype: torch.dtype) -> int:
    """Rank of a float among all floats of its type, 0 for 0."""
    bits = int(torch.tensor(value, dtype=dtype).view(torch.int32 if dtype == torch.float32 else torch.int64))
    return bits if bits >= 0 else bits ^ torch.iinfo(torch.int32 if dtype == torch.float32 else torch.int64).max


def _float(order: int, dtype: torch.dtype) -> float:
    """The float at a rank; inverse of :func:`_order`."""
    kind = torch.int32 if dtype == torch.float32 else torch.int64
    bits = order if order >= 0 else order ^ torch.iinfo(kind).max
    return float(torch.tensor(bits, dtype=kind).view(dtype))
