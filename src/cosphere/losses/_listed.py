"""Pairs and triplets that a miner chose, instead of those that the classes make."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cosphere.errors import SizeError
from cosphere.tensors import is_integral


@dataclass(eq=False)
class Listed:
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


def choose_listed(
    tuples: tuple[Tensor, ...], batch: int, others: int, kept: Tensor | None, kept_columns: Tensor | None
) -> Listed:
    """A miner's tuple, checked, each pair once and in order, without rows that were left out."""
    first, positive, second, negative = as_pairs(tuples, batch, others)

    def cleaned(anchors: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        anchors = anchors if kept is None else renumber(anchors, kept, batch)
        columns = columns if kept_columns is None else renumber(columns, kept_columns, others)
        alive = (anchors >= 0) & (columns >= 0)
        packed = torch.unique(anchors[alive] * max(others, 1) + columns[alive])
        return packed // max(others, 1), packed % max(others, 1)

    count = batch if kept is None else len(kept)
    return Listed(*cleaned(first, positive), *cleaned(second, negative), anchors=count)


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
        if not is_integral(indices):
            raise SizeError(f"want integer indices of {name}, got {indices.dtype}.")
        check_range(f"indices of {name}", indices, 0, end)
    if len(first) != len(positive) or len(second) != len(negative):
        raise SizeError("the parts of a miner's tuple must be of equal length, anchors with what they are paired with.")
    return first.long(), positive.long(), second.long(), negative.long()


def renumber(columns: Tensor, kept: Tensor, count: int) -> Tensor:
    """Indices into all rows as indices into the kept ones; -1 for rows that went."""
    new = torch.full((count + 1,), -1, dtype=torch.int64, device=kept.device)
    new[kept] = torch.arange(len(kept), device=kept.device)
    return new[columns]  # -1 finds the last entry, which stays -1


def check_range(name: str, indices: Tensor, low: int, end: int) -> None:
    """Raise a SizeError unless all indices are in [low, end)."""
    if indices.numel():
        least, most = (int(value) for value in indices.aminmax())
        if least < low or most >= end:
            raise SizeError(f"{name} run from {least} to {most}; want {low} to {end - 1}.")
