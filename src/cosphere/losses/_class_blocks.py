"""Classes in blocks: which classes a block holds, their directions, and where its gradient goes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cosphere.losses._blocks import block_length
from cosphere.losses._ends import OnlyOnce
from cosphere.tensors import SHORTEST


class Block(NamedTuple):
    """Some classes, and the images that belong to them."""

    classes: slice | Tensor
    """The classes."""
    weights: slice | Tensor
    """Rows of the class weights."""
    images: Tensor
    """(n,) images whose own class is in this block."""
    places: Tensor
    """(n,) its place in the block."""


def class_blocks(places: Tensor, weights: int, centres: int, sampled: Tensor | None = None) -> Iterator[Block]:
    """Walk the classes, or the sampled ones.

    Args:
        places: (A,) where each image's class stands among the classes that are walked.
        weights: C * centres, rows of the class weights.
        centres: centres of each class.
        sampled: (S,) the classes to walk; all by default.
    """
    count = weights // centres if sampled is None else len(sampled)
    # A quarter of a pair loss's block still fills a GPU, and is 64 MB.
    share = 4 if places.device.type == "cuda" else 1
    step = block_length(places.device, share * len(places) * centres, count)
    for first in range(0, count, step):
        end = min(first + step, count)
        inside = ((places >= first) & (places < end)).nonzero().squeeze(1)
        chosen = slice(first, end) if sampled is None else sampled[first:end]
        yield Block(chosen, _weights_of(chosen, centres), inside, places[inside] - first)


def _weights_of(classes: slice | Tensor, centres: int) -> slice | Tensor:
    if isinstance(classes, slice):
        return slice(classes.start * centres, classes.stop * centres)
    return (classes[:, None] * centres + torch.arange(centres, device=classes.device)).flatten()


class UnitWeights(NamedTuple):
    """Class weights of a block."""

    raw: Tensor
    """(k, D) of any length."""
    inverse: Tensor
    """(k,) 1 / length; 0 for a weight without a direction, whose cosine is then 0 and whose gradient is none."""

    @classmethod
    def of(cls, class_weight: Tensor, which: slice | Tensor, dtype: torch.dtype) -> UnitWeights:
        """Those rows, in another type."""
        raw = class_weight.detach()[which].to(dtype)
        norms = torch.linalg.vector_norm(raw, dim=1)
        norms.masked_fill_(norms == torch.inf, torch.nan)  # 1 / inf would make it a weight without a direction, unseen
        return cls(raw, torch.where(norms <= SHORTEST, 0.0, 1 / norms))

    def cosines(self, rows: Tensor, factor: float, space: Workspace) -> Tensor:
        """(A, k) ``factor`` times the cosines of the rows, if they are of unit length."""
        found = space.take("cosines", rows, (len(rows), len(self.raw)))
        return torch.mm(rows, self.raw.T, out=found).mul_(self.inverse * factor)


class Workspace:
    """Tensors of one block that the next block uses again: in fresh ones the system has to clear every page first."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, shape: tuple[int, ...] | torch.Size | None = None) -> Tensor:
        """A tensor of that shape, or of ``like``'s, with the numbers that its last user left."""
        wanted = like.shape if shape is None else shape
        count = math.prod(wanted)
        if name not in self._kept or len(self._kept[name]) < count:
            self._kept[name] = torch.empty(count, dtype=like.dtype, device=like.device)
        return self._kept[name][:count].view(wanted)


class Gradients:
    """Where the blocks' gradients go.

    Args:
        rows: (A, D) what is multiplied with the class directions.
        class_weight: (C, D).
        wanted: whether rows and class weights want a gradient.
    """

    def __init__(self, rows: Tensor, class_weight: Tensor, wanted: tuple[bool, ...]) -> None:
        self._left = rows.detach()
        self._rows = torch.zeros_like(self._left) if wanted[0] else None
        shape, device = class_weight.shape, class_weight.device
        self._weights = torch.zeros(shape, dtype=self._left.dtype, device=device) if wanted[1] else None

    def add(self, which: slice | Tensor, weights: UnitWeights, slopes: Tensor) -> None:
        """``slopes`` (A, k) d loss / d cosine of this block; it is overwritten."""
        slopes.mul_(weights.inverse)
        if self._rows is not None:
            self._rows.addmm_(slopes, weights.raw)
        if self._weights is None:
            return
        # d cosine / d w = (u - cosine * w / |w|) / |w|: what points along w is taken out.
        to_weights = self._weights[which] if isinstance(which, slice) else torch.empty_like(weights.raw)
        torch.mm(slopes.T, self._left, out=to_weights)
        along = torch.linalg.vecdot(to_weights, weights.raw) * weights.inverse.square()
        to_weights.addcmul_(weights.raw, along[:, None], value=-1)
        if not isinstance(which, slice):
            self._weights[which] = to_weights

    def outcome(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """To the rows, and to the class weights in their own type."""
        return self._rows, None if self._weights is None else self._weights.to(dtype)


def only_once(gradients: tuple[Tensor | None, ...], *inputs: Tensor) -> tuple[Tensor | None, ...]:
    """``gradients`` as a backward returns them: where a graph of it is being made, differentiating that raises."""
    if not torch.is_grad_enabled():
        return gradients
    return tuple(None if gradient is None else OnlyOnce.apply(gradient, *inputs) for gradient in gradients)
