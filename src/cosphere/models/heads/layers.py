"""Layers that heads are built from: pooling, normalisation, the linear layer."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from cosphere.checks import check_choice
from cosphere.errors import SettingsError, SizeError
from cosphere.tensors import SHORTEST, directions, lengths, mean_everywhere

PoolingName = Literal["avg", "max", "avg+max", "concat", "gem", "token", "flatten", "depthwise"]
NormName = Literal["batch", "layer", "none"]
OutputName = Literal["none", "batch", "batch-shift", "layer", "unit", "fixed"]


class Pooled(NamedTuple):
    """Features that are pooled already, which :class:`Pooling` passes on."""

    rows: Tensor
    """(B, parts C)"""


class Pooling(nn.Module):
    """One vector per image from a feature map (B, C, H, W) or from tokens (B, N, C). -> (B, ``parts`` C).

    - ``avg``, ``max``: over all positions. ``avg+max``: their sum. ``concat``: average and maximum side by side, in that
      order.
    - ``gem``: generalised mean (mean x^p)^(1/p) with a learned p, shared by all channels, starting at 3 (Radenovic 2018).
      Values below 1e-6 count as 1e-6. Always computed in float32, because x^p exceeds the range of float16.
    - ``token``: the class token of a transformer.
    - ``flatten``: all positions side by side, row by row, C numbers each (ArcFace's iResNet).
    - ``depthwise``: a learned weight for each channel and position, summed over positions, then batch norm (MobileFaceNet's
      global depth-wise convolution).

    The last two fit images of one size only, such as aligned faces. All but ``token`` skip prefix tokens (class and register
    tokens), which belong to no position in the image. The official code of both SEC and NormSoftmax pools by ``avg``.
    """

    def __init__(
        self,
        kind: PoolingName,
        *,
        prefix_tokens: int = 0,
        class_token: bool = False,
        channels: int | None = None,
        positions: int | None = None,
    ) -> None:
        """Create the pooling.

        Args:
            kind: see the class.
            prefix_tokens: number of tokens before that of the first position; 0 for a feature map.
            class_token: whether the first token is a class token.
            channels: C, for ``depthwise``.
            positions: number of positions, for ``flatten`` and ``depthwise``.

        Raises:
            SettingsError: an unknown kind, ``token`` for a backbone without a class token, or no number of positions where
                the kind depends on it.
        """
        super().__init__()
        check_choice("pooling", kind, get_args(PoolingName))
        if kind == "token" and not class_token:
            raise SettingsError(
                "pooling 'token' wants a backbone with a class token, and this one has none. Use 'avg'."
            )
        self.kind = kind
        self.prefix_tokens = prefix_tokens
        self.parts = 2 if kind == "concat" else 1
        self.positions: int | None = None
        if kind == "gem":
            self.power = nn.Parameter(torch.tensor(3.0))
        if kind in ("flatten", "depthwise"):
            self._fix(channels, positions)

    def _fix(self, channels: int | None, positions: int | None) -> None:
        """Prepare a kind that fits one number of positions."""
        if channels is None or positions is None:
            raise SettingsError(
                f"pooling {self.kind!r} is for the last level of a backbone (-1), whose number of positions is known. Use 'avg'."
            )
        self.positions = positions
        if self.kind == "flatten":
            self.parts = positions
            return
        # As torch initialises a depth-wise convolution by kaiming_normal with fan_out, which the published code uses.
        self.weight = nn.Parameter(torch.randn(channels, positions) * (2 / (channels * positions)) ** 0.5)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, features: Tensor | Pooled) -> Tensor:
        """(B, C, H, W) or (B, N, C) float, or what is pooled already -> (B, ``parts`` C)."""
        if isinstance(features, Pooled):
            return features.rows
        if features.ndim not in (3, 4):
            raise SizeError(f"want a feature map (B, C, H, W) or tokens (B, N, C), got {tuple(features.shape)}.")
        if self.kind == "token":
            return features[:, 0]
        places = (
            features.flatten(2) if features.ndim == 4 else features[:, self.prefix_tokens :].mT
        )  # (B, C, positions)
        if self.positions not in (None, places.shape[2]):
            raise SizeError(
                f"pooling {self.kind!r} was built for {self.positions} positions, got {places.shape[2]}. Give images of the size "
                "that the model was made for."
            )
        if self.kind == "flatten":
            return places.mT.flatten(1)
        if self.kind == "depthwise":
            summed: Tensor = self.norm((places * self.weight).sum(2))
            return summed
        if self.kind == "avg":
            return places.mean(2)
        if self.kind == "max":
            return places.amax(2)
        if self.kind == "avg+max":
            return places.mean(2) + places.amax(2)
        if self.kind == "concat":
            return torch.cat([places.mean(2), places.amax(2)], dim=1)
        with torch.autocast(places.device.type, enabled=False):
            power = self.power.float()
            values = places.float().clamp(min=1e-6)
            # Dividing by the maximum first changes neither value nor gradient, and keeps every power within float32.
            largest = values.amax(2, keepdim=True).detach()
            return (values / largest).pow(power).mean(2).pow(1 / power) * largest.squeeze(2)

    def extra_repr(self) -> str:
        """The kind, shown by ``print``."""
        return self.kind


def make_norm(kind: NormName, width: int) -> nn.Module:
    """Create the normalisation between pooling and linear layer. (B, width) -> (B, width).

    Args:
        kind: ``batch`` is SEC's (BatchNorm, eps 1e-5, affine); ``layer`` is NormSoftmax's (LayerNorm without affine, which
            centres each image at zero and so makes zero a good threshold for bits); ``none`` is the identity.
        width: number of channels.

    Raises:
        SettingsError: an unknown kind.
    """
    if kind == "batch":
        return nn.BatchNorm1d(width, eps=1e-5)
    if kind == "layer":
        return nn.LayerNorm(width, eps=1e-5, elementwise_affine=False)
    check_choice("norm", kind, get_args(NormName))
    return nn.Identity()


def make_linear(width: int, dim: int, *, bias: bool) -> nn.Module:
    """Create the last layer, (B, width) -> (B, dim), with torch's default initialisation; ``dim`` 0 gives the identity."""
    return nn.Linear(width, dim, bias=bias) if dim else nn.Identity()


class UnitLength(nn.Module):
    """Scales every embedding to length 1; a zero row stays zero. Its gradient still carries 1 / length."""

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, D) -> (B, D) of at least float32."""
        return directions(embedding).unit


class FixedLength(nn.Module):
    """Scales every embedding to the mean length of its batch, by a factor that passes no gradient; as it is outside of training.

    The batch is that of all processes, which take each step of training together.
    """

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        if not self.training:
            return embedding
        norms = lengths(embedding.detach())
        factor = torch.where(norms > SHORTEST, mean_everywhere(norms) / norms.clamp(min=SHORTEST), 1.0)
        return embedding * factor[:, None].to(embedding.dtype)


def make_output(kind: OutputName, dim: int) -> nn.Module:
    """Create what stands after the linear layer. (B, dim) -> (B, dim).

    Args:
        kind: ``none`` is SEC's and NormSoftmax's: nothing. ``batch`` and ``layer`` normalise as :func:`make_norm`; ``batch-shift`` is
            batch norm whose weight stays 1, InsightFace's; ``unit`` scales to length 1; ``fixed`` scales to the batch's mean length
            while training.
        dim: width of the embedding.

    Raises:
        SettingsError: an unknown kind.
    """
    check_choice("model.head_settings.after", kind, get_args(OutputName))
    if kind in ("batch", "layer"):
        return make_norm(cast(NormName, kind), dim)
    if kind == "batch-shift":
        norm = nn.BatchNorm1d(dim, eps=1e-5)
        norm.weight.requires_grad_(False)
        return norm
    return {"unit": UnitLength, "fixed": FixedLength}.get(kind, nn.Identity)()
