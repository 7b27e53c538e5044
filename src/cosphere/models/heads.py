"""From a feature map to a vector, and from the vector to the embedding: pooling, normalisation, one linear layer."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cosphere.errors import SettingsError, SizeError, did_you_mean

PoolingName = Literal["avg", "max", "avg+max", "gem", "token"]
NormName = Literal["batch", "layer", "none"]


class Pooling(nn.Module):
    """One vector from a feature map (B, C, H, W) or from tokens (B, N, C). -> (B, C).

    - ``avg``, ``max``: over all places. ``avg+max``: their sum.
    - ``gem``: generalised mean (mean x^p)^(1/p) with a learned p, one for all channels, starting at 3 (Radenovic 2018).
      Values below 1e-6 count as 1e-6. Always computed in float32: x^p leaves the range of float16.
    - ``token``: the class token of a transformer.

    All but ``token`` leave out the tokens that stand for no place (class and register tokens).
    """

    def __init__(self, kind: PoolingName, *, prefix_tokens: int = 0, class_token: bool = False) -> None:
        """Make the pooling.

        Args:
            kind: see the class.
            prefix_tokens: how many tokens before the first place's; 0 for a feature map.
            class_token: whether the first token is a class token.

        Raises:
            SettingsError: an unknown kind, or ``token`` for a backbone without a class token.
        """
        super().__init__()
        if kind not in get_args(PoolingName):
            raise SettingsError(f"unknown pooling {kind!r}. {did_you_mean(str(kind), get_args(PoolingName))}")
        if kind == "token" and not class_token:
            raise SettingsError(
                "pooling 'token' wants a backbone with a class token, and this one has none. Use 'avg'."
            )
        self.kind = kind
        self.prefix_tokens = prefix_tokens
        if kind == "gem":
            self.power = nn.Parameter(torch.tensor(3.0))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) or (B, N, C) float -> (B, C)."""
        if features.ndim not in (3, 4):
            raise SizeError(f"want a feature map (B, C, H, W) or tokens (B, N, C), got {tuple(features.shape)}.")
        if self.kind == "token":
            return features[:, 0]
        places = features.flatten(2) if features.ndim == 4 else features[:, self.prefix_tokens :].mT  # (B, C, places)
        if self.kind == "avg":
            return places.mean(2)
        if self.kind == "max":
            return places.amax(2)
        if self.kind == "avg+max":
            return places.mean(2) + places.amax(2)
        with torch.autocast(places.device.type, enabled=False):
            power = self.power.float()
            values = places.float().clamp(min=1e-6)
            # Dividing by the largest first changes neither value nor gradient, and no power of a value leaves float32.
            largest = values.amax(2, keepdim=True).detach()
            return (values / largest).pow(power).mean(2).pow(1 / power) * largest.squeeze(2)

    def extra_repr(self) -> str:
        """What ``print`` shows in the brackets."""
        return self.kind


def make_norm(kind: NormName, width: int) -> nn.Module:
    """The normalisation between pooling and linear layer. (B, width) -> (B, width).

    Args:
        kind: ``batch`` is SEC's (BatchNorm, eps 1e-5, affine), ``layer`` NormSoftmax's (LayerNorm without affine, which
            centres each image at zero and so makes zero a good threshold for bits), ``none`` passes through.
        width: channels.

    Raises:
        SettingsError: an unknown kind.
    """
    if kind == "batch":
        return nn.BatchNorm1d(width, eps=1e-5)
    if kind == "layer":
        return nn.LayerNorm(width, eps=1e-5, elementwise_affine=False)
    if kind == "none":
        return nn.Identity()
    raise SettingsError(f"unknown norm {kind!r}. {did_you_mean(str(kind), get_args(NormName))}")


def make_linear(width: int, dim: int, *, bias: bool) -> nn.Module:
    """The last layer, (B, width) -> (B, dim), with torch's own initial values; ``dim`` 0 passes through."""
    return nn.Linear(width, dim, bias=bias) if dim else nn.Identity()
