"""A batch and its class weights, checked: what every loss with class weights starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cosphere.checks import check_choice, check_share
from cosphere.errors import SizeError
from cosphere.losses._ends import as_int64, connected_zero
from cosphere.tensors import check_labelled, directions, full_precision, lengths, outside_autocast, outside_compile


@dataclass(eq=False, kw_only=True)
class Classified:
    """A batch and its class weights, checked. Rows without a direction are already gone."""

    unit: Tensor
    """(A, D) float32 or float64 directions. Differentiable."""
    raw: Tensor
    """(A, D) the same rows with their lengths. Differentiable."""
    targets: Tensor
    """(A,) int64 in [0, C)."""
    class_weight: Tensor
    """(C, D), or (C * centres, D) class by class; of any length, only directions count. Differentiable."""
    size: int
    """B, rows of the batch, those without a direction included."""
    kept: Tensor | None
    """(A,) int64 row of the batch each came from; None when all rows are here."""
    zero: Tensor
    """() connected zero; NaN if any embedding is not finite. Class weights that are not finite show by themselves."""

    def lengths(self) -> Tensor:
        """(A,) Euclidean lengths of the raw rows. Differentiable."""
        return lengths(self.raw)

    def spread(self, values: Tensor) -> Tensor:
        """(A,) -> (B,): a connected 0 for rows without a direction."""
        if self.kept is None:
            return values + self.zero
        return values.new_zeros(self.size).index_copy(0, self.kept, values) + self.zero


@outside_compile
def classify(embeddings: Tensor, labels: Tensor, class_weight: Tensor, *, centres: int = 1) -> Classified:
    """Prepare a batch to be compared with class weights.

    Args:
        embeddings: (B, D) float.
        labels: (B,) integers in [0, C).
        class_weight: (C * centres, D) float, the centres of a class one after another.
        centres: centres of each class.

    Raises:
        SizeError: shapes, types or devices that do not fit, or a label outside [0, C).
    """
    check_labelled(embeddings, labels)
    targets = check_class_labels(embeddings, as_int64(labels), class_weight, centres=centres)
    with outside_autocast(embeddings):
        unit, alive = directions(embeddings)
        raw, kept = full_precision(embeddings), None
        wide = torch.promote_types(unit.dtype, full_precision(class_weight).dtype)
        zero = connected_zero(embeddings).to(wide)
        if not bool(alive.all()):
            kept = alive.nonzero().squeeze(1)
            unit, raw, targets = unit[kept], raw[kept], targets[kept]
    return Classified(
        unit=unit.to(wide),
        raw=raw.to(wide),
        targets=targets,
        class_weight=class_weight,
        size=len(embeddings),
        kept=kept,
        zero=zero,
    )


def check_class_labels(embeddings: Tensor, labels: Tensor, class_weight: Tensor, *, centres: int = 1) -> Tensor:
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
    classes = len(class_weight) // centres
    if len(labels):
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= classes:
            raise SizeError(
                f"labels run from {low} to {high}, but the loss has {classes} classes: want 0 to "
                f"{classes - 1}. Number the training classes from 0, or build the loss with more num_classes."
            )
    return labels


@torch.no_grad()
def sample_classes(
    targets: Tensor,
    num_classes: int,
    rate: float,
    *,
    rule: Literal["partial_fc", "norm_softmax"] = "partial_fc",
    generator: torch.Generator | None = None,
) -> Tensor | None:
    """The classes that one step's softmax runs over: all classes of the batch, and a random part of the others.

    Args:
        targets: (B,) int64 in [0, num_classes).
        num_classes: C.
        rate: in (0, 1]. 1 means all.
        rule: "partial_fc" (An et al., ICCV 2021 and its code): ``int(rate * C)`` classes in all, the batch's own first; if
            they are more than that, just they. "norm_softmax" (Zhai and Wu, BMVC 2019): the batch's own, and
            ``round(rate * others)`` of the others.
        generator: where the draw comes from; torch's global one by default.

    Returns:
        (S,) int64 ascending, or None for all classes. The sampled softmax has no importance correction, so its value is
        lower than the full one's, as in both sources.

    Raises:
        SizeError: a target outside [0, num_classes).
        SettingsError: a rate or rule that there is not.
    """
    check_choice("rule", rule, ["partial_fc", "norm_softmax"])
    if check_share("rate", rate) == 1:
        return None
    own: Tensor = torch.unique(targets)
    if len(own) and (int(own[0]) < 0 or int(own[-1]) >= num_classes):
        raise SizeError(
            f"targets run from {int(own[0])} to {int(own[-1])}, but there are {num_classes} classes: want 0 to "
            f"{num_classes - 1}. Number the training classes from 0."
        )
    quota = int(rate * num_classes) if rule == "partial_fc" else len(own) + round(rate * (num_classes - len(own)))
    if quota <= len(own):
        return own
    device = targets.device if generator is None else generator.device
    scores = torch.rand(num_classes, generator=generator, device=device).to(targets.device)
    scores[own] = 2.0
    chosen: Tensor = scores.topk(quota).indices.sort().values
    return chosen
