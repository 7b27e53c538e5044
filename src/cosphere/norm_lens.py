"""The norm lens: what the lengths of embeddings do to their gradients and to one optimiser step.

Source: Propositions 1 and 2 of Zhang, Li and Zhang, "Deep Metric Learning with Spherical Embedding", NeurIPS 2020.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cosphere.errors import SizeError
from cosphere.tensors import SHORTEST, check_embeddings, full_precision


class GradientLens(NamedTuple):
    """What lengths do to the gradients of a batch. A number that the batch does not define is None."""

    max_abs_cosine: float | None
    """Largest |cos| between a gradient and its embedding, in [0, 1]. 0 for a loss that sees directions only."""
    slope: float | None
    """Slope of log |gradient| on log length. -1 for a loss that sees directions only and treats all rows equally."""
    short_share: float | None
    """Share of the summed gradient lengths that the shortest tenth of the rows (rounded up) holds, in [0, 1]."""


@torch.no_grad()
def gradient_lens(embeddings: Tensor, gradient: Tensor) -> GradientLens:
    """Compare the gradient of a loss at each embedding with that embedding's length.

    Args:
        embeddings: (B, D) float, raw.
        gradient: (B, D) float, d loss / d embeddings.

    Returns:
        Plain floats, computed in float64. Rows that have no direction or are not finite are left out; rows without a
        gradient count only for the share. The slope needs two different lengths.

    Raises:
        SizeError: the two do not have one shape (B, D) of a floating type.
    """
    wide, slopes = _same_rows(embeddings, gradient, names=("embeddings", "gradient"))
    norms, sizes = wide.norm(dim=1), slopes.norm(dim=1)
    order = norms.argsort(stable=True)
    held = sizes[order[: math.ceil(len(order) / 10)]].sum()
    total = float(sizes.sum())
    moving = sizes > 0
    # Each factor has unit length before they meet, so that tiny gradients do not underflow.
    cosines = (wide[moving] / norms[moving, None] * (slopes[moving] / sizes[moving, None])).sum(dim=1)
    return GradientLens(
        max_abs_cosine=min(float(cosines.abs().max()), 1.0) if len(cosines) else None,
        slope=_log_slope(norms[moving], sizes[moving]),
        short_share=float(held) / total if total > 0 else None,
    )


class StepLens(NamedTuple):
    """What lengths do to one optimiser step. A number that the batch does not define is None."""

    slope: float | None
    """Slope of log angle on log length. For free embeddings -2 with SGD, -1 with Adam."""
    cv: float | None
    """Coefficient of variation of the angles, unitless. 0 when every row turns by the same angle."""
    mean_angle: float | None
    """Mean angle, in radians, in [0, pi]."""


@torch.no_grad()
def step_lens(before: Tensor, after: Tensor) -> StepLens:
    """The angle by which one optimiser step turned each embedding of a probe batch, against its length before.

    Args:
        before: (B, D) float, raw embeddings of the probe batch before the step, in evaluation mode.
        after: (B, D) float, of the same images after the step.

    Returns:
        Plain floats, computed in float64. Rows without a direction before or after, or not finite, are left out; rows
        that did not turn count for mean and cv, not for the slope. The slope needs two different lengths.

    Raises:
        SizeError: the two do not have one shape (B, D) of a floating type.
    """
    old, new = _same_rows(before, after, names=("before", "after"))
    alive = new.norm(dim=1) > SHORTEST
    old, new = old[alive], new[alive]
    norms = old.norm(dim=1)
    chords = (new / new.norm(dim=1, keepdim=True) - old / norms[:, None]).norm(dim=1)
    # acos of the cosine would lose every angle below 1e-8; the chord keeps them.
    angles = 2 * (chords / 2).clamp(max=1.0).asin()
    if not len(angles):
        return StepLens(None, None, None)
    mean = float(angles.mean())
    turned = angles > 0
    return StepLens(
        slope=_log_slope(norms[turned], angles[turned]),
        cv=float(angles.std(correction=0)) / mean if mean > 0 else None,
        mean_angle=mean,
    )


def _same_rows(first: Tensor, second: Tensor, *, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Both in float64, without the rows in which ``first`` has no direction or either is not finite."""
    check_embeddings(first, name=names[0])
    check_embeddings(second, name=names[1])
    if first.shape != second.shape:
        raise SizeError(
            f"want {names[0]} and {names[1]} of one shape, got {tuple(first.shape)} and {tuple(second.shape)}. "
            "Give the same rows in the same order."
        )
    left, right = full_precision(first).double().cpu(), full_precision(second).double().cpu()
    usable = (left.norm(dim=1) > SHORTEST) & left.isfinite().all(dim=1) & right.isfinite().all(dim=1)
    return left[usable], right[usable]


def _log_slope(lengths_: Tensor, sizes: Tensor) -> float | None:
    """Least-squares slope of log size on log length; None without two different lengths. (B,), (B,) -> number."""
    x, y = lengths_.log(), sizes.log()
    if len(x) < 2 or float(x.max() - x.min()) < 1e-9:
        return None
    centred = x - x.mean()
    return float((centred * (y - y.mean())).sum() / centred.square().sum())
