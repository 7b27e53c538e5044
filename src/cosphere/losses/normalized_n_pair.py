"""Normalised N-pair loss: pick the own positive out of one positive per class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cosphere.losses._about import Loss, check_number, describe
from cosphere.losses._pairs import as_int64, check_inputs, connected_zero
from cosphere.tensors import directions, outside_autocast


def normalized_n_pair_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    scale: float,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over ``scale * cosine`` between the first image of a class and the second images of all classes.

    One direction only, as in the official SEC code: anchors are first images in batch order, candidates second images.
    Classes with fewer than two images, and images beyond the second, are not used.

    Args:
        embeddings: (B, D) float. Any length; only the direction counts.
        labels: (B,) integers.
        scale: of the logits, > 0. The official code multiplies each unit vector by 5, which is 25 here.
        references: (R, D) float, other images: the candidates are then the first reference of each class that has both
            an image in the batch and a reference.
        reference_labels: (R,) integers.

    Returns:
        () >= 0, mean over the N classes used; a connected 0 when N is 0 or 1.

    Raises:
        SizeError: shapes, types or devices that do not fit.
    """
    candidates, candidate_labels = check_inputs(embeddings, labels, references, reference_labels)
    with outside_autocast(embeddings):
        unit, alive = directions(embeddings)
        zero = connected_zero(embeddings)
        if references is None:
            others = unit
            anchors, positives = _first_and_second(as_int64(labels), alive)
        else:
            others, others_alive = directions(candidates)
            zero = zero + connected_zero(candidates)
            anchors, positives = _first_of_both(as_int64(labels), alive, as_int64(candidate_labels), others_alive)
        wide = torch.promote_types(unit.dtype, others.dtype)
        logits = scale * (unit[anchors].to(wide) @ others[positives].to(wide).T)  # (N, N)
        targets = torch.arange(len(anchors), device=logits.device)
        return functional.cross_entropy(logits, targets, reduction="sum") / max(len(anchors), 1) + zero


def _first_and_second(labels: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the first and the second image of every class that has two. (B,), (B,) -> (N,), (N,)."""
    rows, starts = _grouped(labels, alive)
    paired = starts[:-1] & ~starts[1:]
    return rows[:-1][paired], rows[1:][paired]


def _first_of_both(labels: Tensor, alive: Tensor, others: Tensor, others_alive: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the first image of every class on either side. (B,), (B,), (R,), (R,) -> (N,), (N,)."""
    rows, starts = _grouped(labels, alive)
    other_rows, other_starts = _grouped(others, others_alive)
    first, other_first = rows[starts], other_rows[other_starts]
    here, there = (labels[first][:, None] == others[other_first][None, :]).nonzero(as_tuple=True)
    return first[here], other_first[there]


def _grouped(labels: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with a direction, class by class and in batch order within a class; True where a class begins."""
    rows = alive.nonzero().squeeze(1)
    rows = rows[labels[rows].argsort(stable=True)]
    ordered = labels[rows]
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    return rows, starts


@describe(
    name="normalized_n_pair",
    paper="Sohn: Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NeurIPS 2016; "
    "normalised form: Zhang et al., Deep Metric Learning with Spherical Embedding, NeurIPS 2020",
    batch="exactly 2 images per class; further ones are not used",
    normalises="embeddings",
    defaults_source="official SEC code: unit vectors times 5 on either side",
    cost="O(B^2 D / 4) time, O(B^2 / 4) memory",
    choose_when="many classes with few images each: every batch holds B/2 classes",
)
class NormalizedNPairLoss(Loss):
    """The settings of :func:`normalized_n_pair_loss`.

    >>> points = torch.tensor([[2.0, 0.0], [1.2, 1.6], [0.0, 1.0], [-3.0, 0.0]])
    >>> NormalizedNPairLoss()(points, torch.tensor([0, 0, 1, 1]))
    tensor(10.)
    """

    def __init__(self, *, scale: float = 25.0) -> None:
        super().__init__()
        self.scale = check_number("scale", scale, above=0)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Tensor:
        """(B, D), (B,) -> (); see :func:`normalized_n_pair_loss`."""
        return normalized_n_pair_loss(
            embeddings, labels, scale=self.scale, references=references, reference_labels=reference_labels
        )
