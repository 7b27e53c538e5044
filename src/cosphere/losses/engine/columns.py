"""Engine of the losses whose terms are classes: a function of each class's column of cosines, in blocks of classes."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from cosphere.losses.engine.classes import (
    ClassBlock,
    Classified,
    Gradients,
    UnitWeights,
    Workspace,
    class_blocks,
    only_once,
)
from cosphere.tensors import outside_autocast, outside_compile


class Columns(Protocol):
    """Loss of a block of class columns and its hand-written derivative; an autograd graph would take twice the passes."""

    def value(self, cosines: Tensor, block: ClassBlock) -> Tensor:
        """(A, c) cosines, which may be overwritten -> () total of these classes."""

    def cosine_gradients(self, cosines: Tensor, block: ClassBlock) -> Tensor:
        """(A, c) cosines, which may be overwritten -> (A, c) derivative of :meth:`value`."""


@outside_compile
def sum_over_classes(batch: Classified, columns: Columns) -> Tensor:
    """Sum a function of each class's column of cosines.

    Args:
        batch: the prepared batch, with one centre per class.
        columns: the function. Any other tensor that it uses gets no gradient.

    Returns:
        () total, once differentiable with respect to embeddings and class weights.
    """
    with outside_autocast(batch.unit):
        total: Tensor = _SumOverClasses.apply(batch.targets, columns, batch.unit, batch.class_weight)
        return total


class _SumOverClasses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, targets: Tensor, columns: Columns, rows: Tensor, class_weight: Tensor) -> Tensor:
        # In float64, because a float32 sum over many blocks loses digits.
        total, space = torch.zeros((), dtype=torch.float64, device=rows.device), Workspace()
        ctx.blocks, ctx.columns = list(class_blocks(targets, len(class_weight), 1)), columns
        for block in ctx.blocks:
            weights = UnitWeights.of(class_weight, block.weights, rows.dtype)
            total += columns.value(weights.cosines(rows.detach(), 1.0, space), block)
        # Backward recomputes the cosines, because storing them would take O(B C) memory.
        ctx.save_for_backward(rows, class_weight)
        return total.to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, to_total: Tensor) -> tuple[Tensor | None, ...]:
        rows, class_weight = ctx.saved_tensors
        # Gradients are enabled here under create_graph, and a graph would hold the cosines of every block.
        with torch.no_grad(), outside_autocast(rows):
            gradients, space = Gradients(rows, class_weight, ctx.needs_input_grad[2:]), Workspace()
            for block in ctx.blocks:
                weights = UnitWeights.of(class_weight, block.weights, rows.dtype)
                to_cosines = ctx.columns.cosine_gradients(weights.cosines(rows.detach(), 1.0, space), block)
                gradients.add(block.weights, weights, to_cosines.mul_(to_total))
        return None, None, *only_once(gradients.outcome(class_weight.dtype), rows, class_weight, to_total)
