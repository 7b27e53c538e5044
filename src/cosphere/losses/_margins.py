"""Margins on the angle to an image's own class, and what else the softmax losses with margins share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cosphere.checks import check_number
from cosphere.errors import SettingsError
from cosphere.losses._classified import Classified
from cosphere.losses._ends import safe_sqrt
from cosphere.tensors import directions


def add_angle(cosine: Tensor, angle: float | Tensor, fallback: bool = True) -> Tensor:
    """cos(theta + angle) from cos(theta).

    The true slope is infinite at a cosine of 1 or -1, where one NaN would spread to the batch; here it is cos(angle).

    Args:
        cosine: (A,) in [-1, 1]; rounding beyond it does no harm.
        angle: radians, in [0, pi]; a number, or (A,) for an angle of its own for each.
        fallback: past theta = pi - angle, where cos(theta + angle) would rise again, take cos(theta) - angle sin(angle).

    Returns:
        (A,) differentiable in both.

    >>> add_angle(torch.tensor([1.0, 0.0]), math.pi / 3)
    tensor([ 0.5000, -0.8660])
    """
    # (1 - c)(1 + c) keeps the digits that 1 - c * c loses near 1.
    sine = safe_sqrt(((1 - cosine) * (1 + cosine)).clamp(min=0))
    turn = angle if isinstance(angle, Tensor) else torch.tensor(angle, dtype=cosine.dtype, device=cosine.device)
    further = cosine * turn.cos() - sine * turn.sin()
    if not fallback:
        return further
    return torch.where(cosine > -turn.cos(), further, cosine - turn * turn.sin())


@torch.no_grad()
def own_cosines(batch: Classified) -> Tensor:
    """(A,) cosine of each image to its own class, without a graph: for what must be known before the classes are walked."""
    own = directions(batch.class_weight.detach()[batch.targets]).unit.to(batch.unit.dtype)
    cosines: Tensor = torch.linalg.vecdot(batch.unit.detach(), own)
    return cosines


@torch.no_grad()
def running_mean(before: Tensor, new: Tensor, momentum: float) -> Tensor:
    """() ``before`` moved towards ``new``; left alone by a value that is not finite, or one bad batch would never leave."""
    return torch.where(new.isfinite(), torch.lerp(before, new.to(before), momentum), before)


def check_angle(name: str, value: object) -> float:
    """``value`` if it is in [0, pi], or a SettingsError."""
    angle = check_number(name, value, at_least=0)
    if angle > math.pi:
        raise SettingsError(f"{name} is in radians, at most pi; got {value!r}.")
    return angle


@torch.no_grad()
def start_as_directions(class_weight: Tensor) -> None:
    """Fill (C, D) with vectors uniform in a cube, brought to unit length: the start that AdaFace and MagFace share."""
    class_weight.uniform_(-1, 1)
    class_weight.copy_(directions(class_weight).unit)
