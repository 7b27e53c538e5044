"""Layers by their formula, for references that share no module with the networks under test."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Written:
    """A network written out over the tensors of a published file.

    Args:
        tensors: by their published names.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def conv(self, name: str, x: Tensor, *, stride: int = 1, groups: int = 1, padding: int | None = None) -> Tensor:
        weight = self.tensors[f"{name}.weight"]
        side = weight.shape[2] // 2 if padding is None else padding
        return F.conv2d(x, weight, stride=stride, padding=side, groups=groups)

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, scale, shift = (
            self.tensors[f"{name}.{kind}"].reshape(1, -1, *[1] * (x.ndim - 2))
            for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def prelu(self, name: str, x: Tensor) -> Tensor:
        slope = self.tensors[f"{name}.weight"].reshape(1, -1, 1, 1)
        return x.clamp(min=0) + slope * x.clamp(max=0)


def filled(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Tensors of these names and shapes whose activations neither die nor explode."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            made[name] = 0.6 + noise.abs()
        elif name.endswith(("running_mean", "bias")):
            made[name] = 0.2 * noise
        elif name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(7)
        elif len(shape) == 1:  # of norms and PReLUs
            made[name] = 0.3 + 0.5 * noise.abs()
        else:
            made[name] = noise * (1.4 / noise[0].numel() ** 0.5)
    return made


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """The five tensors of a batch norm."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": (width,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}
