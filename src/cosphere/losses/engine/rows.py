"""The one engine of pair losses: rows of similarities are made in blocks, used for value and gradient, and dropped.

A pair loss is a function of one anchor's row of similarities. :func:`compare` prepares a batch (directions, classes, who
is left out), :func:`sum_over_rows` adds a function of the rows over all blocks and keeps only its gradient with respect to
the embeddings, so memory is O(B D) and one block, never O(B^2). Only first derivatives exist: differentiating twice raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosphere.losses.engine.maths import OnlyOnce, block_length, log_one_plus_exp, log_sum_exp
from cosphere.losses.engine.pairs import Pairs
from cosphere.tensors import outside_autocast, outside_compile


class Block:
    """One block: b anchors against all R references."""

    def __init__(self, pairs: Pairs, rows: slice, similarities: Tensor) -> None:
        self.pairs = pairs
        self.rows = rows
        """The anchors of this block."""
        self.similarities = similarities
        """(b, R) cosines, or inner products where the loss works on raw embeddings. Differentiable in the main walk."""

    @cached_property
    def negative(self) -> Tensor:
        """(b, R) bool: another class."""
        if self.pairs.listed is not None:
            return self.pairs.listed.negative_mask(self.rows, len(self.pairs.reference_class_ids))
        return self.pairs.class_ids[self.rows, None] != self.pairs.reference_class_ids[None, :]

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
            own = self.pairs.own_columns[self.rows]
            present = (own >= 0).nonzero().squeeze(1)
            same[present, own[present]] = False
        return same

    @cached_property
    def _positives(self) -> tuple[Tensor, Tensor]:
        return self.pairs.positives_of(self.rows)

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


def blocks(pairs: Pairs) -> Iterator[Block]:
    """All rows, block by block, without gradients: for what a loss must know before its main walk.

    Gradients and autocast are off until the walk has ended, so walk one batch after another and not two at once.
    """
    with torch.no_grad(), outside_autocast(pairs.anchors):
        for rows, products in _walk(pairs):
            yield Block(pairs, rows, products)


def _walk(pairs: Pairs) -> Iterator[tuple[slice, Tensor]]:
    """The products (b, R) of each block of anchors with all references."""
    anchors, columns = pairs.anchors.detach(), pairs.columns.detach()
    count = len(anchors)
    if not count or not len(columns):
        return
    step = block_length(anchors.device, len(columns), count)
    if step == count:
        # One block is the whole matrix, so a loss that walks twice finds it made.
        if pairs.products is None:
            pairs.products = anchors @ columns.T
        yield slice(0, count), pairs.products
        return
    for first in range(0, count, step):
        rows = slice(first, min(first + step, count))
        yield rows, anchors[rows] @ columns.T


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
        for rows, products in _walk(pairs):
            walk.add(rows, products)
        pairs.products = None
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
            outcome = self.value(Block(self.pairs, rows, similarities), *self.leaves)
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


def each_positive_against_negatives(block: Block, scale: float) -> Tensor:
    """Cross-entropy of ``scale * similarity`` of each positive against all negatives of its anchor, summed. ().

    Other positives of the anchor are not in the denominator. Without negatives an anchor costs nothing.
    """
    others = log_sum_exp(scale * block.negatives(-torch.inf))
    return log_one_plus_exp(others[:, None] - scale * block.positives(torch.inf)).sum()
