"""Engine of the pair losses: blocks of similarities, used for value and gradient and then discarded.

A pair loss is a function of one anchor's row of similarities. :func:`compare` prepares a batch; :func:`sum_over_rows` sums a
function of the rows over all blocks and keeps only its gradient with respect to the embeddings. Memory is O(B D) and one
block, never O(B^2). Only first derivatives exist: differentiating twice raises.
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
    """A block of similarities: b anchors against all R references."""

    def __init__(self, pairs: Pairs, rows: slice, similarities: Tensor) -> None:
        self.pairs = pairs
        self.rows = rows
        """The anchors of this block."""
        self.similarities = similarities
        """(b, R) cosines, or inner products where the loss works on raw embeddings. Differentiable in :func:`sum_over_rows`."""

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
        """(b, P) int64 columns of the positives, padded to the largest class; see :attr:`positive_real`."""
        return self._positives[0]

    @property
    def positive_real(self) -> Tensor:
        """(b, P) bool: the entries of :attr:`positive_columns` that are positives and not padding."""
        return self._positives[1]

    def positives(self, filling: float) -> Tensor:
        """(b, P) similarities of the positives, ``filling`` in the padding."""
        return torch.where(self.positive_real, self.similarities.gather(1, self.positive_columns), filling)

    def negatives(self, filling: float) -> Tensor:
        """(b, R) similarities of the negatives, ``filling`` elsewhere."""
        return torch.where(self.negative, self.similarities, filling)


def blocks(pairs: Pairs) -> Iterator[Block]:
    """Iterate over all blocks without gradients, for statistics that a loss needs before :func:`sum_over_rows`.

    Gradients and autocast are off until the iteration ends, so do not interleave two batches.
    """
    with torch.no_grad(), outside_autocast(pairs.anchors):
        for rows, products in _products(pairs):
            yield Block(pairs, rows, products)


def _products(pairs: Pairs) -> Iterator[tuple[slice, Tensor]]:
    """The products (b, R) of each block of anchors with all references."""
    anchors, columns = pairs.anchors.detach(), pairs.columns.detach()
    count = len(anchors)
    if not count or not len(columns):
        return
    # Blocks are whole rows: a loss may need all similarities of an anchor at once.
    step = block_length(anchors.device, len(columns), count)
    if step == count:
        # One block is the whole matrix: keep it, so that a second pass does not compute it again.
        if pairs.products is None:
            pairs.products = anchors @ columns.T
        yield slice(0, count), pairs.products
        return
    for first in range(0, count, step):
        rows = slice(first, min(first + step, count))
        yield rows, anchors[rows] @ columns.T


class Sums(NamedTuple):
    """Result of :func:`sum_over_rows`."""

    total: Tensor
    """() differentiable."""
    counts: Tensor
    """(n,) float: the counts returned by the row function, summed over blocks; not differentiable."""


RowFunction = Callable[..., "Tensor | tuple[Tensor, Tensor]"]


@outside_compile
def sum_over_rows(pairs: Pairs, value: RowFunction, *parameters: Tensor) -> Sums:
    """Sum a function of the rows, with its gradient with respect to the embeddings, in bounded memory.

    Args:
        pairs: the prepared batch.
        value: ``value(rows, *parameters)`` of one block returns a () total, differentiable in ``rows.similarities`` and
            the parameters, or (total, (n,) counts). It must not capture tensors that require a gradient: pass those as
            parameters. It is called once per block.
        parameters: further tensors to differentiate with respect to.

    Returns:
        The sums over all blocks. Without any rows the total is a connected 0 and there are no counts.
    """
    with outside_autocast(pairs.anchors):
        total, counts = _SumOverRows.apply(pairs, value, pairs.anchors, pairs.references, *parameters)
    return Sums(total, counts)


class _SumOverRows(torch.autograd.Function):
    """Value and gradient in one pass; backward only scales the stored gradients."""

    @staticmethod
    def forward(
        ctx: Any, pairs: Pairs, value: RowFunction, anchors: Tensor, references: Tensor | None, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        sums = _Pass(pairs, value, parameters, ctx.needs_input_grad[2:])
        for rows, products in _products(pairs):
            sums.add(rows, products)
        # Free the matrix: only the gradients are needed from here on.
        pairs.products = None
        gradients = sums.gradients()
        ctx.held = [gradient is not None for gradient in gradients]
        ctx.save_for_backward(anchors, references, *(gradient for gradient in gradients if gradient is not None))
        total = sums.total.to(anchors.dtype)
        counts = anchors.new_zeros(0) if sums.counts is None else sums.counts
        ctx.mark_non_differentiable(counts)
        return total, counts

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        anchors, references, *gradients = ctx.saved_tensors
        saved = iter(gradients)
        scaled = [grad_total.detach() * next(saved) if held else None for held in ctx.held]
        # Under create_graph autograd would silently treat the stored gradients as constants.
        if torch.is_grad_enabled():
            inputs = (anchors, grad_total) if references is None else (anchors, references, grad_total)
            scaled = [None if gradient is None else OnlyOnce.apply(gradient, *inputs) for gradient in scaled]
        return None, None, *scaled


class _Pass:
    """Sums of value and gradients over the blocks."""

    def __init__(
        self, pairs: Pairs, value: RowFunction, parameters: tuple[Tensor, ...], needed: tuple[bool, ...]
    ) -> None:
        self.pairs, self.value = pairs, value
        self.anchors, self.columns = pairs.anchors.detach(), pairs.columns.detach()
        # In float64, because a float32 sum over many blocks loses digits.
        self.total = torch.zeros((), dtype=torch.float64, device=self.anchors.device)
        self.counts: Tensor | None = None
        own = pairs.references is None
        self.to_anchors = torch.zeros_like(self.anchors) if needed[0] else None
        # Both sides of a pair are rows of the same batch, so they share one gradient.
        wants_columns = needed[0] if own else needed[1]
        self.to_columns = self.to_anchors if own else torch.zeros_like(self.columns) if wants_columns else None
        self.leaves = [p.detach().requires_grad_(needs) for p, needs in zip(parameters, needed[2:], strict=True)]
        self.to_leaves = [
            torch.zeros_like(p) if needs else None for p, needs in zip(parameters, needed[2:], strict=True)
        ]

    def add(self, rows: slice, products: Tensor) -> None:
        wants_products = self.to_anchors is not None or self.to_columns is not None
        leaves = [leaf for leaf in self.leaves if leaf.requires_grad]
        with torch.set_grad_enabled(wants_products or bool(leaves)):
            # The graph starts at the similarities, so it lives for one block only.
            similarities = products.detach().requires_grad_(wants_products)
            outcome = self.value(Block(self.pairs, rows, similarities), *self.leaves)
            total, counts = outcome if isinstance(outcome, tuple) else (outcome, None)
        self.total += total.detach()
        if counts is not None:
            self.counts = counts.detach() if self.counts is None else self.counts + counts.detach()
        if not total.requires_grad:
            return
        inputs = [similarities, *leaves] if wants_products else leaves
        gradients = list(torch.autograd.grad(total, inputs, allow_unused=True))
        if wants_products:
            self._add_products(rows, gradients.pop(0))
        for to_leaf, gradient in zip((leaf for leaf in self.to_leaves if leaf is not None), gradients, strict=True):
            if gradient is not None:
                to_leaf += gradient

    def _add_products(self, rows: slice, to_products: Tensor | None) -> None:
        if to_products is None:
            return
        # A block of the whole batch: its rows and columns are the same tensor, so both terms share a factor.
        if self.pairs.references is None and len(to_products) == len(self.columns):
            assert self.to_anchors is not None
            self.to_anchors.addmm_(to_products + to_products.T, self.columns)  # one matrix product instead of two
            return
        if self.to_anchors is not None:
            self.to_anchors[rows].addmm_(to_products, self.columns)
        if self.to_columns is not None:
            self.to_columns.addmm_(to_products.T, self.anchors[rows])

    def gradients(self) -> list[Tensor | None]:
        own = self.pairs.references is None
        return [self.to_anchors, None if own else self.to_columns, *self.to_leaves]


def each_positive_against_negatives(block: Block, scale: float) -> Tensor:
    """Cross-entropy of ``scale * similarity`` of each positive against all negatives of its anchor, summed. ().

    Other positives of the anchor are not in the denominator. An anchor without negatives contributes nothing.
    """
    # Both fillings make the difference -inf, so padding and missing negatives add log(1 + 0) = 0.
    others = log_sum_exp(scale * block.negatives(-torch.inf))
    return log_one_plus_exp(others[:, None] - scale * block.positives(torch.inf)).sum()
