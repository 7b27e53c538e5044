"""Prepare a batch for a pair loss: unit vectors, class ids and the pairs to use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypedDict

import torch
from torch import Tensor

from cosphere.checks import check_switches
from cosphere.errors import SizeError, counted
from cosphere.losses.engine.maths import as_int64, connected_zero
from cosphere.tensors import (
    check_labelled,
    check_tensor,
    directions,
    full_precision,
    is_integral,
    outside_autocast,
    outside_compile,
)


@dataclass(eq=False)
class Listed:
    """Chosen pairs, sorted by anchor and then by column, without duplicates."""

    positive_anchors: Tensor
    positive_columns: Tensor
    negative_anchors: Tensor
    negative_columns: Tensor
    anchors: int

    @property
    def positives_per_row(self) -> Tensor:
        """(A,) int64."""
        return torch.bincount(self.positive_anchors, minlength=self.anchors)

    @property
    def negatives_per_row(self) -> Tensor:
        """(A,) int64."""
        return torch.bincount(self.negative_anchors, minlength=self.anchors)

    def positives_of(self, rows: slice, most: int) -> tuple[Tensor, Tensor]:
        """Columns (b, most) int64 of the positives of some anchors, and a mask (b, most) of the entries that are not padding."""
        ask = torch.arange(rows.start, rows.stop, device=self.positive_anchors.device)
        starts = torch.searchsorted(self.positive_anchors, ask)
        ends = torch.searchsorted(self.positive_anchors, ask, right=True)
        slots = starts[:, None] + torch.arange(most, device=ask.device)
        # Slots past the last pair may hold any valid column, because the mask excludes them.
        last = max(len(self.positive_columns) - 1, 0)
        return self.positive_columns[slots.clamp(max=last)], slots < ends[:, None]

    def negative_mask(self, rows: slice, width: int) -> Tensor:
        """(b, width) bool: the negatives of some anchors."""
        # The pairs are sorted by anchor, so those of a block are one slice and only they are read.
        edges = torch.tensor([rows.start, rows.stop], device=self.negative_anchors.device)
        first, end = torch.searchsorted(self.negative_anchors, edges).tolist()
        mask = torch.zeros(rows.stop - rows.start, width, dtype=torch.bool, device=self.negative_anchors.device)
        mask[self.negative_anchors[first:end] - rows.start, self.negative_columns[first:end]] = True
        return mask


def choose_listed(
    tuples: tuple[Tensor, ...], batch: int, others: int, kept: Tensor | None, kept_columns: Tensor | None
) -> Listed:
    """Check a miner's tuple and return its pairs sorted, without duplicates and without pairs of removed rows."""
    first, positive, second, negative = as_pairs(tuples, batch, others)

    def cleaned(anchors: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        anchors = anchors if kept is None else renumber(anchors, kept, batch)
        columns = columns if kept_columns is None else renumber(columns, kept_columns, others)
        alive = (anchors >= 0) & (columns >= 0)
        # One integer per pair: unique then sorts by anchor and by column, as the binary searches above need.
        packed = torch.unique(anchors[alive] * max(others, 1) + columns[alive])
        return packed // max(others, 1), packed % max(others, 1)

    count = batch if kept is None else len(kept)
    return Listed(*cleaned(first, positive), *cleaned(second, negative), anchors=count)


def as_pairs(tuples: tuple[Tensor, ...], batch: int, others: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Convert a miner's tuple to (anchors, positives, anchors, negatives), all in range, or raise a SizeError."""
    if len(tuples) not in (3, 4) or any(not isinstance(part, Tensor) or part.ndim != 1 for part in tuples):
        came = ", ".join(
            f"a tensor {tuple(part.shape)}" if isinstance(part, Tensor) else f"a {type(part).__name__}"
            for part in tuples
        )
        raise SizeError(
            "want a miner's tuple: (anchors, positives, negatives) or (anchors, positives, anchors, negatives), "
            f"each a vector of indices as a tensor; got {counted(len(tuples), 'part')}: {came}."
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
        # A negative index would wrap around or drop its pair silently; one past the end would abort a CUDA process.
        check_range(f"indices of {name}", indices, 0, end)
    if len(first) != len(positive) or len(second) != len(negative):
        raise SizeError("the parts of a miner's tuple must be of equal length, anchors with what they are paired with.")
    return first.long(), positive.long(), second.long(), negative.long()


def renumber(columns: Tensor, kept: Tensor, count: int) -> Tensor:
    """Convert indices into all rows to indices into the remaining rows; -1 for removed rows."""
    new = torch.full((count + 1,), -1, dtype=torch.int64, device=kept.device)
    new[kept] = torch.arange(len(kept), device=kept.device)
    return new[columns]  # -1 selects the last entry, which is -1


def check_range(name: str, indices: Tensor, low: int, end: int) -> None:
    """Raise a SizeError unless all indices are in [low, end)."""
    if indices.numel():
        least, most = (int(value) for value in indices.aminmax())
        if least < low or most >= end:
            raise SizeError(f"{name} run from {least} to {most}; want {low} to {end - 1}.")


class Compared(TypedDict, total=False):
    """Keyword arguments of every pair loss besides the batch; see :func:`compare`."""

    references: Tensor | None
    reference_labels: Tensor | None
    positions: Tensor | None
    tuples: tuple[Tensor, ...] | None


@dataclass(eq=False, kw_only=True)
class Pairs:
    """A prepared batch: every anchor against every reference (the batch itself, or separate rows).

    Rows without a direction have been removed, because they have no pairs.
    """

    anchors: Tensor
    """(A, D) float32 or float64, unit length unless the loss works on raw embeddings. Differentiable."""
    references: Tensor | None
    """(R, D) of the same dtype; None when the anchors are compared with themselves."""
    class_ids: Tensor
    """(A,) int32 class of each anchor, 0, 1, ..."""
    reference_class_ids: Tensor
    """(R,) int32 class of each reference, in the same numbering."""
    classes: int
    """Number of classes over anchors and references."""
    own_columns: Tensor | None
    """(A,) int64 column of the anchor itself, -1 for none; None when no anchor is among the references."""
    size: int
    """B, rows of the batch, those without a direction included."""
    kept: Tensor | None
    """(A,) int64 batch row of each anchor; None when all rows are anchors."""
    zero: Tensor
    """() value of an empty loss, connected to all inputs; NaN if any input is not finite. Every loss adds it."""
    listed: Listed | None = None
    """The pairs chosen by a miner; only these count. None without a miner."""
    products: Tensor | None = field(default=None, repr=False)
    """(A, R) all products, kept between passes over the rows if one block holds them all."""

    @property
    def columns(self) -> Tensor:
        """(R, D) the references, or the anchors when they are compared with themselves."""
        return self.anchors if self.references is None else self.references

    @cached_property
    def _by_class(self) -> tuple[Tensor, Tensor, Tensor]:
        """References sorted by class, and for each anchor the start and size of its class."""
        # Sorted by class, the positives of any anchor are one contiguous run.
        order = self.reference_class_ids.argsort(stable=True)
        sizes = torch.bincount(self.reference_class_ids, minlength=self.classes)
        starts = sizes.cumsum(0) - sizes
        return order, starts[self.class_ids], sizes[self.class_ids]

    @cached_property
    def positives_per_anchor(self) -> Tensor:
        """(A,) int64."""
        if self.listed is not None:
            return self.listed.positives_per_row
        # The class size includes the anchor itself wherever the anchor is among the references.
        same = self._by_class[2]
        return same if self.own_columns is None else same - (self.own_columns >= 0).to(same.dtype)

    @cached_property
    def negatives_per_anchor(self) -> Tensor:
        """(A,) int64."""
        if self.listed is not None:
            return self.listed.negatives_per_row
        return len(self.reference_class_ids) - self._by_class[2]

    @cached_property
    def most_positives(self) -> int:
        """Width of :attr:`Block.positive_columns`: the largest class, the anchor itself included."""
        # Read from the device once per batch, not once per block.
        counts = self.positives_per_anchor if self.listed is not None else self._by_class[2]
        return int(counts.max()) if len(counts) else 0

    def positives_of(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Columns (b, P) int64 of the positives of some anchors, and a mask (b, P) of the entries that are not padding."""
        if self.listed is not None:
            return self.listed.positives_of(rows, self.most_positives)
        order, starts, counts = self._by_class
        slots = torch.arange(self.most_positives, device=order.device)
        where = (starts[rows, None] + slots).clamp(max=max(len(order) - 1, 0))
        columns = order[where]
        real = slots < counts[rows, None]
        # Exclude self by column: a similarity of 1 may also belong to a duplicate image, which is a positive.
        return columns, real if self.own_columns is None else real & (columns != self.own_columns[rows, None])


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
    """Prepare a batch for comparison with itself or with references.

    Args:
        embeddings: (B, D) float.
        labels: (B,) integers of any type; only equality counts.
        unit: compare unit vectors and remove rows without a direction; otherwise compare raw embeddings.
        references: (R, D) float, rows to take positives and negatives from instead of the batch: a memory bank, or the
            batches of all processes.
        reference_labels: (R,) integers.
        positions: (B,) integers, the row of ``references`` that is the embedding itself, -1 for none. Without it no
            reference counts as self. Self is excluded by index, never by value.
        tuples: the only pairs to use, as returned by pytorch-metric-learning's miners: ``(anchors, positives,
            anchors, negatives)`` or ``(anchors, positives, negatives)``, int64 indices into the batch and the references.

    Raises:
        SizeError: shapes, types, widths, devices or indices that do not fit.
    """
    check_switches(unit=unit)
    own = references is None
    others, other_labels = check_inputs(embeddings, labels, references, reference_labels)
    own_places = own_columns(embeddings, others, positions, own=own)
    class_ids, other_codes, classes = _class_ids(labels, None if own else other_labels)
    with outside_autocast(embeddings):
        # Taken from all rows: a row of NaN has no direction and is removed, so only this zero makes the loss NaN.
        zero = connected_zero(embeddings) if own else connected_zero(embeddings) + connected_zero(others)
        anchors, kept = _usable(embeddings, unit=unit)
        columns, kept_columns = (anchors, kept) if own else _usable(others, unit=unit)
        wide = torch.promote_types(anchors.dtype, columns.dtype)
    # Tuples and positions count all rows, so both are renumbered once rows have been removed.
    chosen = choose_listed(tuples, len(embeddings), len(others), kept, kept_columns) if tuples is not None else None
    if kept_columns is not None:
        own_places = None if own_places is None else renumber(own_places, kept_columns, len(others))
        other_codes = other_codes[kept_columns]
    if kept is not None:
        own_places = None if own_places is None else own_places[kept]
        class_ids = class_ids[kept]
    return Pairs(
        anchors=anchors.to(wide),
        references=None if own else columns.to(wide),
        class_ids=class_ids,
        reference_class_ids=other_codes,
        classes=classes,
        own_columns=own_places,
        size=len(embeddings),
        kept=kept,
        zero=zero.to(wide),
        listed=chosen,
    )


def compare_groups(
    embeddings: Tensor,
    labels: Tensor,
    widths: Callable[[int], Sequence[int]],
    compared: Compared,
    *,
    same_rows: bool,
) -> list[Pairs]:
    """:func:`compare` for several learners that share one embedding, each a slice of it.

    Args:
        embeddings: (B, D) float, the learners side by side.
        labels: (B,) integers.
        widths: returns the widths of the learners for a given D; see :func:`check_widths`.
        compared: see :func:`compare`.
        same_rows: remove a row without a direction in one slice from all, so that all learners see the same pairs.

    Raises:
        SizeError: as :func:`compare`, or from ``widths``.
    """
    references = compared.get("references")
    # Before the split, so that an error states the shapes that the caller passed, not those of a slice.
    check_inputs(embeddings, labels, references, compared.get("reference_labels"))

    def split(rows: Tensor) -> list[Tensor]:
        parts = list(torch.split(rows, list(widths(rows.shape[1])), dim=1))
        return with_same_rows(parts) if same_rows else parts

    own = split(embeddings)
    others: Sequence[Tensor | None] = [None] * len(own) if references is None else split(references)
    groups: list[Pairs] = []
    for part, other in zip(own, others, strict=True):
        of_group: Compared = {**compared, "references": other}
        groups.append(compare(part, labels, **of_group))
    return groups


def check_widths(sizes: Sequence[int], dim: int) -> Sequence[int]:
    """``sizes`` if they are the widths of learners that share ``dim`` columns, or a SizeError."""
    if sum(sizes) != dim or any(size < 1 for size in sizes):
        raise SizeError(f"want sizes >= 1 that add up to the {dim} of the embeddings, got {tuple(sizes)}.")
    return sizes


def with_same_rows(parts: list[Tensor]) -> list[Tensor]:
    """Zero each row in all slices if it has no direction in one of them, so that all learners see the same pairs."""
    alive = torch.stack([directions(part).alive for part in parts]).all(dim=0)
    # Multiply by 0 instead of assigning 0, so that a non-finite value still makes the loss NaN.
    return parts if bool(alive.all()) else [torch.where(alive[:, None], part, part * 0) for part in parts]


def _usable(embeddings: Tensor, *, unit: bool) -> tuple[Tensor, Tensor | None]:
    """Unit vectors and the indices of the rows that have a direction (None: all); or the raw rows in at least float32."""
    if not unit:
        return full_precision(embeddings), None
    rows, alive = directions(embeddings)
    if bool(alive.all()):
        return rows, None
    kept = alive.nonzero().squeeze(1)
    return rows[kept], kept


def own_columns(embeddings: Tensor, others: Tensor, positions: Tensor | None, *, own: bool) -> Tensor | None:
    """(B,) column of each batch row among the others, -1 for none; None where no row is among them."""
    if own:
        if positions is not None:
            raise SizeError("positions say where the batch stands among references=; give those too, or neither.")
        return torch.arange(len(embeddings), device=embeddings.device)
    if positions is None:
        return None
    check_tensor("positions", positions)
    if positions.shape != embeddings.shape[:1] or not is_integral(positions) or positions.device != others.device:
        raise SizeError(
            f"want positions (B,) = ({len(embeddings)},) integers on {others.device}, got {tuple(positions.shape)} "
            f"{positions.dtype} on {positions.device}."
        )
    check_range("positions", positions, -1, len(others))
    return positions.to(torch.int64)


def _class_ids(labels: Tensor, other_labels: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Class ids 0, 1, ... as int32, which halves the bytes to compare, and the number of classes."""
    # One numbering for both sides, so that equal ids are equal classes.
    together = as_int64(labels) if other_labels is None else torch.cat([as_int64(labels), as_int64(other_labels)])
    names, class_ids = torch.unique(together, return_inverse=True)
    class_ids = class_ids.to(torch.int32)
    if other_labels is None:
        return class_ids, class_ids, len(names)
    return class_ids[: len(labels)], class_ids[len(labels) :], len(names)


def check_inputs(
    embeddings: Tensor, labels: Tensor, references: Tensor | None, reference_labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the rows and labels to compare with: the references, or the batch. Raises a SizeError if anything does not fit."""
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
