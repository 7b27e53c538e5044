"""One anchor and one candidate per class, for the N-pair losses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cosphere.losses.engine.maths import as_int64
from cosphere.losses.engine.pairs import Compared, Pairs, as_pairs, check_inputs, compare, own_columns
from cosphere.tensors import SHORTEST, full_precision, lengths, outside_autocast


class NPairs(NamedTuple):
    """Images used by an N-pair loss."""

    pairs: Pairs
    """N anchors against N candidates, one of each class; the positive of an anchor is the candidate of its class."""
    anchors: Tensor
    """(N, D) raw rows of the batch."""
    candidates: Tensor
    """(N, D) raw rows of the references, or of the batch."""
    zero: Tensor
    """() zero connected to the rows that are used; NaN if any row is not finite, used or not."""


def compare_n_pairs(embeddings: Tensor, labels: Tensor, compared: Compared, *, unit: bool) -> NPairs:
    """Choose anchors and candidates, and prepare them for comparison.

    The anchor of a class is its first image in batch order. Its candidate is the second image or, with references, the
    first reference of the class other than the anchor itself. Classes without an anchor or a candidate are skipped.
    With a miner's tuple, only the first anchor and positive of each class are used.

    Args:
        embeddings: (B, D) float.
        labels: (B,) integers.
        compared: see :func:`cosphere.losses.compare`.
        unit: compare unit vectors and ignore zero-norm rows. Otherwise compare raw embeddings.
    """
    references, tuples = compared.get("references"), compared.get("tuples")
    others, other_labels = check_inputs(embeddings, labels, references, compared.get("reference_labels"))
    own = own_columns(embeddings, others, compared.get("positions"), own=references is None)
    names, other_names = as_int64(labels), as_int64(other_labels)
    with outside_autocast(embeddings):
        alive, others_alive = (_usable(rows.detach(), unit=unit) for rows in (embeddings, others))
        zero = _not_finite(embeddings) if references is None else _not_finite(embeddings) + _not_finite(others)
    if tuples is None:
        anchors, candidates = _first_and_other(names, alive, other_names, others_alive, own)
    else:
        chosen, positives, _, _ = as_pairs(tuples, len(embeddings), len(others))
        listed = _first_of_each(names[chosen], alive[chosen] & others_alive[positives])
        anchors, candidates = chosen[listed], positives[listed]
    if references is None:
        # Use a single index operation: each one costs a pass over the batch in backward.
        both = embeddings.index_select(0, torch.cat([anchors, candidates]))
        left, right = both[: len(anchors)], both[len(anchors) :]
    else:
        left, right = embeddings.index_select(0, anchors), others.index_select(0, candidates)
    partners = torch.arange(len(anchors), device=names.device)
    pairs = compare(left, partners, unit=unit, references=right, reference_labels=partners)
    return NPairs(pairs, left, right, zero + pairs.zero)


def _not_finite(rows: Tensor) -> Tensor:
    """() 0 attached to the graph through the rows used; NaN if any row, used or not, is not finite."""
    return full_precision(rows.detach()).sum() * 0


def _usable(rows: Tensor, *, unit: bool) -> Tensor:
    """Mask of rows that can be compared. (B, D) -> (B,) bool."""
    return lengths(rows) > SHORTEST if unit else torch.ones(len(rows), dtype=torch.bool, device=rows.device)


def _first_and_other(
    labels: Tensor, alive: Tensor, other_labels: Tensor, others_alive: Tensor, own: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rows of the anchors (N,) and of their candidates (N,), by ascending label."""
    anchors = _first_of_each(labels, alive)
    if own is not None:
        itself = own[anchors]
        others_alive = others_alive.index_fill(0, itself[itself >= 0], False)
    candidates = _first_of_each(other_labels, others_alive)
    classes, other_classes = labels[anchors], other_labels[candidates]
    return anchors[torch.isin(classes, other_classes)], candidates[torch.isin(other_classes, classes)]


def _first_of_each(labels: Tensor, alive: Tensor) -> Tensor:
    """First valid row of each class, by ascending label. (B,), (B,) -> (N,)."""
    rows = alive.nonzero().squeeze(1)
    rows = rows[labels[rows].argsort(stable=True)]
    ordered = labels[rows]
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    return rows[starts]
