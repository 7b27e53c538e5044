"""NormSoftmax: classification by the cosine to one learned direction per class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosphere.errors import SizeError
from cosphere.losses._about import Loss, check_count, check_number, describe
from cosphere.losses._pairs import as_int64, connected_zero
from cosphere.tensors import check_labelled, directions, outside_autocast


def norm_softmax_loss(embeddings: Tensor, labels: Tensor, class_weight: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy over the cosines to one learned direction per class.

    Args:
        embeddings: (B, D) float. Any length; only the direction counts.
        labels: (B,) integers in [0, C).
        class_weight: (C, D) float. Any length; only the direction counts.
        temperature: unitless, > 0. Smaller is sharper.

    Returns:
        (B,) loss per sample, in nats. Rows without a direction give a connected 0.

    Raises:
        SizeError: shapes, types or devices that do not fit, or a label outside [0, C).

    >>> axes = torch.eye(2)
    >>> norm_softmax_loss(axes, torch.tensor([0, 1]), axes, temperature=1.0)
    tensor([0.3133, 0.3133])
    """
    check_labelled(embeddings, labels)
    targets = check_class_labels(embeddings, as_int64(labels), class_weight)
    with outside_autocast(embeddings):
        unit, alive = directions(embeddings)
        centres = directions(class_weight).unit
        wide = torch.promote_types(unit.dtype, centres.dtype)
        logits = unit.to(wide) @ centres.to(wide).T / temperature  # (B, C)
        losses = functional.cross_entropy(logits, targets, reduction="none")
        return torch.where(alive, losses, 0.0) + connected_zero(embeddings) + connected_zero(class_weight)


def check_class_labels(embeddings: Tensor, labels: Tensor, class_weight: Tensor) -> Tensor:
    """``labels`` if they fit the class weights, or a SizeError: an index out of range would end a CUDA process."""
    if class_weight.ndim != 2 or class_weight.shape[1] != embeddings.shape[1]:
        raise SizeError(
            f"want class weights (C, {embeddings.shape[1]}) for embeddings {tuple(embeddings.shape)}, "
            f"got {tuple(class_weight.shape)}. Build the loss with embedding_dim={embeddings.shape[1]}."
        )
    if class_weight.device != embeddings.device:
        raise SizeError(
            f"the loss is on {class_weight.device}, embeddings on {embeddings.device}. Call loss.to(device)."
        )
    if len(labels):
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= len(class_weight):
            raise SizeError(
                f"labels run from {low} to {high}, but the loss has {len(class_weight)} classes: want 0 to "
                f"{len(class_weight) - 1}. Number the training classes from 0, or build the loss with more num_classes."
            )
    return labels


@describe(
    name="norm_softmax",
    paper="Zhai, Wu: Classification is a Strong Baseline for Deep Metric Learning, BMVC 2019",
    batch="any; balanced classes help (25 or 5 images per class)",
    normalises="embeddings and class weights",
    defaults_source="paper and official code: temperature 0.05, weights uniform in +-1/sqrt(D), no bias",
    cost="O(B C D) time, O(B C + C D) memory",
    choose_when="classes are known and not too many, or bits are wanted: with a LayerNorm head its codes lose little",
)
class NormSoftmaxLoss(Loss):
    """The class directions of :func:`norm_softmax_loss`, and its mean over the rows that have a direction.

    Args:
        num_classes: C, training classes.
        embedding_dim: D, width of the embedding.
        temperature: unitless, > 0. Smaller is sharper.

    Raises:
        SettingsError: a value out of range.
    """

    def __init__(self, num_classes: int, embedding_dim: int, *, temperature: float = 0.05) -> None:
        super().__init__()
        self.temperature = check_number("temperature", temperature, above=0)
        bound = 1 / math.sqrt(check_count("embedding_dim", embedding_dim))
        weight = torch.empty(check_count("num_classes", num_classes), embedding_dim).uniform_(-bound, bound)
        self.class_weight = nn.Parameter(weight)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B, D), (B,) in [0, C) -> (), in nats."""
        losses = norm_softmax_loss(embeddings, labels, self.class_weight, temperature=self.temperature)
        return losses.sum() / directions(embeddings.detach()).alive.sum().clamp(min=1)
