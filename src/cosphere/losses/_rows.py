"""The one engine of pair losses: rows of similarities are made in blocks, used for value and gradient, and dropped.

A pair loss is a function of one anchor's row of similarities. :func:`compare` prepares a batch (directions, classes, who
is left out), :func:`sum_over_rows` adds a function of the rows over all blocks and keeps only its gradient with respect to
the embeddings, so memory is O(B D) and one block, never O(B^2). Only first derivatives exist: differentiating twice raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from cosphere.errors import DerivativeError, SettingsError, SizeError
from cosphere.tensors import check_labelled, directions, full_precision, outside_autocast, outside_compile

SIMILARITIES_HELD = {"cpu": 2**20, "cuda": 2**26}
"""Similarities in one block. On a CPU a block should stay in the cache; on a GPU one should fill the device."""
_held: int | None = None


@contextmanager
def similarities_held(count: int) -> Iterator[None]:
    """A block in which pair losses hold at most ``count`` similarities at once, but never less than one row.

    A loss keeps about ten such blocks while it works. Results do not depend on it beyond rounding.

    >>> with similarities_held(2**24):
    ...     pass
    """
    global _held
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise SettingsError(f"want a whole number of similarities >= 1, got {count!r}.")
    before, _held = _held, count
    try:
        yield
    finally:
        _held = before


def block_length(device: torch.device, width: int, count: int) -> int:
    """How many of ``count`` lines of ``width`` similarities make one block; at least 1, and blocks are about equal."""
    held = _held or SIMILARITIES_HELD.get(device.type, SIMILARITIES_HELD["cpu"])
    pieces = -(-count // max(1, held // max(width, 1)))
    return max(1, -(-count // max(pieces, 1)))


class Compared(TypedDict, total=False):
    """What every pair loss takes beside the batch; see :func:`compare`."""

    references: Tensor | None
    reference_labels: Tensor | None
    positions: Tensor | None
    tuples: tuple[Tensor, ...] | None


@dataclass(eq=False, kw_only=True)
class Pairs:
    """A batch, ready to be walked: every anchor against every reference (the batch itself, or rows given apart).

    Rows without a direction are already gone: they have no pair.
    """

    anchors: Tensor
    """(A, D) float32 or float64, unit length unless the loss works on raw embeddings. Differentiable."""
    references: Tensor | None
    """(R, D) likewise; None when the anchors are compared with themselves."""
    codes: Tensor
    """(A,) int32 class of each anchor, 0, 1, ..."""
    reference_codes: Tensor
    """(R,) int32 class of each reference, in the same numbering."""
    classes: int
    """Classes there are, over anchors and references."""
    own_columns: Tensor | None
    """(A,) int64 column of each anchor itself, -1 for none; None when no anchor is among the references."""
    size: int
    """B, rows of the batch, those without a direction included."""
    kept: Tensor | None
    """(A,) int64 row of the batch each anchor came from; None when all rows are anchors."""
    zero: Tensor
    """() the value of an empty loss, connected to all inputs; NaN if any input is not finite. Every loss adds it."""
    listed: _Listed | None = None
    """The only pairs that count, where a miner chose some."""
    _products: Tensor | None = field(default=None, repr=False)

    @property
    def columns(self) -> Tensor:
        """(R, D) the references, or the anchors when they are their own."""
        return self.anchors if self.references is None else self.references

    @cached_property
    def _by_class(self) -> tuple[Tensor, Tensor, Tensor]:
        """References sorted by class, and where each anchor's class starts and how many it has."""
        order = self.reference_codes.argsort(stable=True)
        sizes = torch.bincount(self.reference_codes, minlength=self.classes)
        starts = sizes.cumsum(0) - sizes
        return order, starts[self.codes], sizes[self.codes]

    @cached_property
    def positives_per_anchor(self) -> Tensor:
        """(A,) int64."""
        if self.listed is not None:
            return self.listed.positives_per_row
        same = self._by_class[2]
        return same if self.own_columns is None else same - (self.own_columns >= 0).to(same.dtype)

    @cached_property
    def negatives_per_anchor(self) -> Tensor:
        """(A,) int64."""
        if self.listed is not None:
            return self.listed.negatives_per_row
        return len(self.reference_codes) - self._by_class[2]

    @cached_property
    def most_positives(self) -> int:
        """Width of :attr:`Rows.positive_columns`: the largest class, the anchor itself included."""
        counts = self.positives_per_anchor if self.listed is not None else self._by_class[2]
        return int(counts.max()) if len(counts) else 0

    def positives_of(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Columns (b, P) int64 of the positives of some anchors, and which of them are real (b, P) bool."""
        if self.listed is not None:
            return self.listed.positives_of(rows, self.most_positives)
        order, starts, counts = self._by_class
        slots = torch.arange(self.most_positives, device=order.device)
        where = (starts[rows, None] + slots).clamp(max=max(len(order) - 1, 0))
        columns = order[where]
        real = slots < counts[rows, None]
        return columns, real if self.own_columns is None else real & (columns != self.own_columns[rows, None])

    def blocks(self) -> Iterator[Rows]:
        """All rows, block by block, without gradients: for what a loss must know before its main walk.

        Gradients and autocast are off until the walk has ended, so walk one batch after another and not two at once.
        """
        with torch.no_grad(), outside_autocast(self.anchors):
            for rows, products in self._walk():
                yield Rows(self, rows, products)

    def _walk(self) -> Iterator[tuple[slice, Tensor]]:
        """The products (b, R) of each block of anchors with all references."""
        anchors, columns = self.anchors.detach(), self.columns.detach()
        count = len(anchors)
        if not count or not len(columns):
            return
        step = block_length(anchors.device, len(columns), count)
        if step == count:
            # One block is the whole matrix, so a loss that walks twice finds it made.
            if self._products is None:
                self._products = anchors @ columns.T
            yield slice(0, count), self._products
            return
        for first in range(0, count, step):
            rows = slice(first, min(first + step, count))
            yield rows, anchors[rows] @ columns.T


class Rows:
    """One block: b anchors against all R references."""

    def __init__(self, pairs: Pairs, rows: slice, similarities: Tensor) -> None:
        self.pairs = pairs
        self.slice = rows
        """The anchors of this block."""
        self.similarities = similarities
        """(b, R) cosines, or inner products where the loss works on raw embeddings. Differentiable in the main walk."""

    @cached_property
    def negative(self) -> Tensor:
        """(b, R) bool: another class."""
        if self.pairs.listed is not None:
            return self.pairs.listed.negative_mask(self.slice, len(self.pairs.reference_codes))
        return self.pairs.codes[self.slice, None] != self.pairs.reference_codes[None, :]

    @cached_property
    def positive(self) -> Tensor:
        """(b, R) bool: same class and not the anchor itself. A duplicate image is a real positive."""
        if self.pairs.listed is not None:
            columns, real = self.positive_columns, self.positive_real
            mask = torch.zeros(self.similarities.shape, dtype=torch.bool, device=columns.device)
            rows = torch.arange(len(mask), device=mask.device)[:, None].expand_as(columns)
            mask[rows[real], columns[real]] = True
            return mask
        same = ~self.negative
        if self.pairs.own_columns is not None:
            own = self.pairs.own_columns[self.slice]
            present = (own >= 0).nonzero().squeeze(1)
            same[present, own[present]] = False
        return same

    @cached_property
    def _positives(self) -> tuple[Tensor, Tensor]:
        return self.pairs.positives_of(self.slice)

    @property
    def positive_columns(self) -> Tensor:
        """(b, P) int64 columns of the positives, P that of the largest class; see :attr:`positive_real`."""
        return self._positives[0]

    @property
    def positive_real(self) -> Tensor:
        """(b, P) bool: which entries of :attr:`positive_columns` are positives and not filling."""
        return self._positives[1]

    def positives(self, filling: float) -> Tensor:
        """(b, P) similarities of the positives, ``filling`` where there is none."""
        return torch.where(self.positive_real, self.similarities.gather(1, self.positive_columns), filling)

    def negatives(self, filling: float) -> Tensor:
        """(b, R) similarities of the negatives, ``filling`` elsewhere."""
        return torch.where(self.negative, self.similarities, filling)


@outside_compile
def compare(
    embeddings: Tensor,
    labels: Tensor,
    *,
    unit: bool = True,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
    positions: Tensor | None = None,
    tuples: tuple[Tensor, ...] | None = None,
) -> Pairs:
    """Prepare a batch to be compared with itself, or with references.

    Args:
        embeddings: (B, D) float.
        labels: (B,) integers of any type; only equality counts.
        unit: compare directions, and leave rows without one out; otherwise raw embeddings.
        references: (R, D) float, rows to take positives and negatives from instead of the batch: a memory bank, or the
            batches of all processes.
        reference_labels: (R,) integers.
        positions: (B,) integers, the row of ``references`` that each embedding itself is, -1 for none. Without it no
            reference is taken for self. Self is left out by index, never by value.
        tuples: the only pairs that count, as pytorch-metric-learning's miners return them: ``(anchors, positives,
            anchors, negatives)`` or ``(anchors, positives, negatives)``, int64 indices into the batch and the references.

    Raises:
        SizeError: shapes, types, widths, devices or indices that do not fit.
    """
    own = references is None
    others, other_labels = check_inputs(embeddings, labels, references, reference_labels)
    own_columns = _own_columns(embeddings, others, positions, own=own)
    codes, other_codes, classes = _class_codes(labels, None if own else other_labels)
    with outside_autocast(embeddings):
        zero = connected_zero(embeddings) if own else connected_zero(embeddings) + connected_zero(others)
        anchors, kept = _usable(embeddings, unit=unit)
        columns, kept_columns = (anchors, kept) if own else _usable(others, unit=unit)
        wide = torch.promote_types(anchors.dtype, columns.dtype)
    listed = _listed(tuples, len(embeddings), len(others), kept, kept_columns) if tuples is not None else None
    if kept_columns is not None:
        own_columns = None if own_columns is None else _renumber(own_columns, kept_columns, len(others))
        other_codes = other_codes[kept_columns]
    if kept is not None:
        own_columns = None if own_columns is None else own_columns[kept]
        codes = codes[kept]
    return Pairs(
        anchors=anchors.to(wide),
        references=None if own else columns.to(wide),
        codes=codes,
        reference_codes=other_codes,
        classes=classes,
        own_columns=own_columns,
        size=len(embeddings),
        kept=kept,
        zero=zero.to(wide),
        listed=listed,
    )


def _usable(embeddings: Tensor, *, unit: bool) -> tuple[Tensor, Tensor | None]:
    """Directions and the rows that have one (None: all); or the raw rows in at least float32."""
    if not unit:
        return full_precision(embeddings), None
    rows, alive = directions(embeddings)
    if bool(alive.all()):
        return rows, None
    kept = alive.nonzero().squeeze(1)
    return rows[kept], kept


def _renumber(columns: Tensor, kept: Tensor, count: int) -> Tensor:
    """Indices into all rows as indices into the kept ones; -1 for rows that went."""
    new = torch.full((count + 1,), -1, dtype=torch.int64, device=kept.device)
    new[kept] = torch.arange(len(kept), device=kept.device)
    return new[columns]  # -1 finds the last entry, which stays -1


def _own_columns(embeddings: Tensor, others: Tensor, positions: Tensor | None, *, own: bool) -> Tensor | None:
    if own:
        if positions is not None:
            raise SizeError("positions say where the batch stands among references=; give those too, or neither.")
        return torch.arange(len(embeddings), device=embeddings.device)
    if positions is None:
        return None
    if positions.shape != embeddings.shape[:1] or positions.is_floating_point() or positions.device != others.device:
        raise SizeError(
            f"want positions (B,) = ({len(embeddings)},) integers on {others.device}, got {tuple(positions.shape)} "
            f"{positions.dtype} on {positions.device}."
        )
    _check_range("positions", positions, -1, len(others))
    return positions.to(torch.int64)


def _check_range(name: str, indices: Tensor, low: int, end: int) -> None:
    if indices.numel():
        least, most = (int(value) for value in indices.aminmax())
        if least < low or most >= end:
            raise SizeError(f"{name} run from {least} to {most}; want {low} to {end - 1}.")


def _class_codes(labels: Tensor, other_labels: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Classes numbered 0, 1, ... as int32: half the bytes to compare, whatever the labels were. And how many there are."""
    together = as_int64(labels) if other_labels is None else torch.cat([as_int64(labels), as_int64(other_labels)])
    names, codes = torch.unique(together, return_inverse=True)
    codes = codes.to(torch.int32)
    if other_labels is None:
        return codes, codes, len(names)
    return codes[: len(labels)], codes[len(labels) :], len(names)


@dataclass(eq=False)
class _Listed:
    """Chosen pairs, each sorted by anchor and then by column, none twice."""

    positive_anchors: Tensor
    positive_columns: Tensor
    negative_anchors: Tensor
    negative_columns: Tensor
    anchors: int

    @property
    def positives_per_row(self) -> Tensor:
        return torch.bincount(self.positive_anchors, minlength=self.anchors)

    @property
    def negatives_per_row(self) -> Tensor:
        return torch.bincount(self.negative_anchors, minlength=self.anchors)

    def positives_of(self, rows: slice, most: int) -> tuple[Tensor, Tensor]:
        ask = torch.arange(rows.start, rows.stop, device=self.positive_anchors.device)
        starts = torch.searchsorted(self.positive_anchors, ask)
        ends = torch.searchsorted(self.positive_anchors, ask, right=True)
        slots = starts[:, None] + torch.arange(most, device=ask.device)
        last = max(len(self.positive_columns) - 1, 0)
        return self.positive_columns[slots.clamp(max=last)], slots < ends[:, None]

    def negative_mask(self, rows: slice, width: int) -> Tensor:
        edges = torch.tensor([rows.start, rows.stop], device=self.negative_anchors.device)
        first, end = torch.searchsorted(self.negative_anchors, edges).tolist()
        mask = torch.zeros(rows.stop - rows.start, width, dtype=torch.bool, device=self.negative_anchors.device)
        mask[self.negative_anchors[first:end] - rows.start, self.negative_columns[first:end]] = True
        return mask


def _listed(
    tuples: tuple[Tensor, ...], batch: int, others: int, kept: Tensor | None, kept_columns: Tensor | None
) -> _Listed:
    first, positive, second, negative = as_pairs(tuples, batch, others)

    def cleaned(anchors: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        anchors = anchors if kept is None else _renumber(anchors, kept, batch)
        columns = columns if kept_columns is None else _renumber(columns, kept_columns, others)
        alive = (anchors >= 0) & (columns >= 0)
        packed = torch.unique(anchors[alive] * max(others, 1) + columns[alive])
        return packed // max(others, 1), packed % max(others, 1)

    count = batch if kept is None else len(kept)
    return _Listed(*cleaned(first, positive), *cleaned(second, negative), anchors=count)


def as_pairs(tuples: tuple[Tensor, ...], batch: int, others: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A miner's tuple as (anchors, positives, anchors, negatives), all in range, or a SizeError."""
    if len(tuples) not in (3, 4) or any(not isinstance(part, Tensor) or part.ndim != 1 for part in tuples):
        raise SizeError(
            "want a miner's tuple: (anchors, positives, negatives) or (anchors, positives, anchors, negatives), "
            f"each a vector of indices; got {len(tuples)} parts."
        )
    first, positive, second, negative = tuples if len(tuples) == 4 else (tuples[0], tuples[1], tuples[0], tuples[2])
    for name, indices, end in (
        ("anchors", first, batch),
        ("positives", positive, others),
        ("anchors", second, batch),
        ("negatives", negative, others),
    ):
        if indices.is_floating_point():
            raise SizeError(f"want integer indices of {name}, got {indices.dtype}.")
        _check_range(f"indices of {name}", indices, 0, end)
    if len(first) != len(positive) or len(second) != len(negative):
        raise SizeError("the parts of a miner's tuple must be of equal length, anchors with what they are paired with.")
    return first.long(), positive.long(), second.long(), negative.long()


class Sums(NamedTuple):
    """What :func:`sum_over_rows` brings back."""

    total: Tensor
    """() differentiable."""
    counts: Tensor
    """(n,) float: whatever the row function counted beside, summed; not differentiable."""


RowFunction = Callable[..., "Tensor | tuple[Tensor, Tensor]"]


@outside_compile
def sum_over_rows(pairs: Pairs, value: RowFunction, *parameters: Tensor) -> Sums:
    """Sum of a function of the rows, and with it the gradient to the embeddings, in bounded memory.

    Args:
        pairs: the prepared batch.
        value: ``value(rows, *parameters)`` of one block returns a () total, differentiable in ``rows.similarities`` and
            the parameters, or (total, (n,) counts). It must not capture tensors that want a gradient: those go in as
            parameters. It is called once a block.
        parameters: tensors that the function differentiates too.

    Returns:
        The sums over all blocks. Without any row the total is a connected 0 and there are no counts.
    """
    with outside_autocast(pairs.anchors):
        total, counts = _SumOverRows.apply(pairs, value, pairs.anchors, pairs.references, *parameters)
    return Sums(total, counts)


class _SumOverRows(torch.autograd.Function):
    """Value and gradient in one walk; backward only scales what the walk kept."""

    @staticmethod
    def forward(
        ctx: Any, pairs: Pairs, value: RowFunction, anchors: Tensor, references: Tensor | None, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        walk = _Walk(pairs, value, parameters, ctx.needs_input_grad[2:])
        for rows, products in pairs._walk():
            walk.add(rows, products)
        pairs._products = None
        gradients = walk.gradients()
        ctx.held = [gradient is not None for gradient in gradients]
        ctx.save_for_backward(anchors, references, *(gradient for gradient in gradients if gradient is not None))
        total = walk.total.to(anchors.dtype)
        counts = anchors.new_zeros(0) if walk.counts is None else walk.counts
        ctx.mark_non_differentiable(counts)
        return total, counts

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        anchors, references, *gradients = ctx.saved_tensors
        saved = iter(gradients)
        scaled = [grad_total.detach() * next(saved) if held else None for held in ctx.held]
        if torch.is_grad_enabled():
            inputs = (anchors, grad_total) if references is None else (anchors, references, grad_total)
            scaled = [None if slope is None else OnlyOnce.apply(slope, *inputs) for slope in scaled]
        return None, None, *scaled


class OnlyOnce(torch.autograd.Function):
    """A gradient that cannot be differentiated again: it would come out silently wrong, so it raises.

    It is tied to the inputs it came from, or a walk from them back to themselves would pass it by.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise DerivativeError(
            "Cosphere's losses have first derivatives only, and this would need a second one. For gradient penalties or "
            "meta-learning, write the loss with plain tensor operations."
        )


class _Walk:
    """Sums of value and gradients over the blocks."""

    def __init__(
        self, pairs: Pairs, value: RowFunction, parameters: tuple[Tensor, ...], wanted: tuple[bool, ...]
    ) -> None:
        self.pairs, self.value = pairs, value
        self.anchors, self.columns = pairs.anchors.detach(), pairs.columns.detach()
        self.total = torch.zeros((), dtype=torch.float64, device=self.anchors.device)
        self.counts: Tensor | None = None
        own = pairs.references is None
        self.to_anchors = torch.zeros_like(self.anchors) if wanted[0] else None
        # The batch against itself: both sides of a pair are the same rows, and share one gradient.
        wants_columns = wanted[0] if own else wanted[1]
        self.to_columns = self.to_anchors if own else torch.zeros_like(self.columns) if wants_columns else None
        self.leaves = [p.detach().requires_grad_(needs) for p, needs in zip(parameters, wanted[2:], strict=True)]
        self.to_leaves = [
            torch.zeros_like(p) if needs else None for p, needs in zip(parameters, wanted[2:], strict=True)
        ]

    def add(self, rows: slice, products: Tensor) -> None:
        wants_products = self.to_anchors is not None or self.to_columns is not None
        leaves = [leaf for leaf in self.leaves if leaf.requires_grad]
        with torch.set_grad_enabled(wants_products or bool(leaves)):
            similarities = products.detach().requires_grad_(wants_products)
            outcome = self.value(Rows(self.pairs, rows, similarities), *self.leaves)
            total, counts = outcome if isinstance(outcome, tuple) else (outcome, None)
        self.total += total.detach()
        if counts is not None:
            self.counts = counts.detach() if self.counts is None else self.counts + counts.detach()
        if not total.requires_grad:
            return
        inputs = [similarities, *leaves] if wants_products else leaves
        slopes = list(torch.autograd.grad(total, inputs, allow_unused=True))
        if wants_products:
            self._add_products(rows, slopes.pop(0))
        for kept, slope in zip((kept for kept in self.to_leaves if kept is not None), slopes, strict=True):
            if slope is not None:
                kept += slope

    def _add_products(self, rows: slice, slope: Tensor | None) -> None:
        if slope is None:
            return
        if self.pairs.references is None and len(slope) == len(self.columns):
            assert self.to_anchors is not None
            self.to_anchors.addmm_(slope + slope.T, self.columns)  # one product instead of two
            return
        if self.to_anchors is not None:
            self.to_anchors[rows].addmm_(slope, self.columns)
        if self.to_columns is not None:
            self.to_columns.addmm_(slope.T, self.anchors[rows])

    def gradients(self) -> list[Tensor | None]:
        own = self.pairs.references is None
        return [self.to_anchors, None if own else self.to_columns, *self.to_leaves]


def check_inputs(
    embeddings: Tensor, labels: Tensor, references: Tensor | None, reference_labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The rows and labels to compare with: the references, or the batch itself. SizeError if anything does not fit."""
    check_labelled(embeddings, labels)
    if references is None and reference_labels is None:
        return embeddings, labels
    if references is None or reference_labels is None:
        missing = "references" if references is None else "reference_labels"
        raise SizeError(f"{missing} is missing. Give references= and reference_labels= together, or neither.")
    check_labelled(references, reference_labels, name="references")
    if references.shape[1] != embeddings.shape[1]:
        raise SizeError(
            f"references are {references.shape[1]} wide, embeddings {embeddings.shape[1]}. "
            "Both must come from the same network."
        )
    if references.device != embeddings.device:
        raise SizeError(
            f"references are on {references.device}, embeddings on {embeddings.device}. Move one with .to()."
        )
    return references, reference_labels


def as_int64(labels: Tensor) -> Tensor:
    """Labels of any integer type as int64. uint64 from 2^63 on wraps around, which keeps different labels different."""
    return labels.to(torch.int64)


def connected_zero(embeddings: Tensor) -> Tensor:
    """() zero that keeps the graph connected; NaN if any entry is not finite."""
    zero: Tensor = _Zero.apply(embeddings)
    return zero


class _Zero(torch.autograd.Function):
    """``(embeddings * 0).sum()`` without its passes over the embeddings."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor) -> Tensor:
        ctx.save_for_backward(embeddings)
        return full_precision(embeddings.detach()).sum() * 0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        embeddings: Tensor = ctx.saved_tensors[0]
        return embeddings.new_zeros(()).expand(embeddings.shape)


def chord(cosines: Tensor, *, squared: bool) -> Tensor:
    """Distance between unit vectors from their cosine: sqrt(2 - 2 cos), or its square. Gradient 0 at zero distance."""
    square = (2 - 2 * cosines).clamp(min=0)
    return square if squared else safe_sqrt(square)


def safe_sqrt(square: Tensor) -> Tensor:
    """Square root of numbers >= 0 whose gradient at 0 is 0: the true one is infinite, and one NaN spreads to the batch."""
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)


def mean_or_zero(total: Tensor, count: Tensor | int) -> Tensor:
    """``total / count``; ``total``, which is then a zero, where ``count`` is 0."""
    return total / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))
