"""An embedding in parts, each trained as an embedding of its own: HDC, A-BIER."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cosphere.checks import check_choice, check_whole
from cosphere.errors import SettingsError
from cosphere.models.heads.base import LAST, Features, Head, HeadSettings, ShapeOf, register_head
from cosphere.models.heads.linear import LinearHead
from cosphere.tensors import directions

Weights = Literal["equal", "size"]


@register_head("groups")
class GroupsHead(Head):
    """K parts side by side; at test time each is normalised, weighted, and the result concatenated.

    In training the parts have raw length: a loss takes its own as ``embeddings.split(head.parts, dim=1)[k]``.

    - HDC (Yuan et al., ICCV 2017): ``parts=[128, 128, 128], levels=[-3, -2, -1]``, a linear head at each of three depths.
    - A-BIER (Opitz et al., PAMI 2018): ``parts=[96, 160, 256], weights="size"``, slices of one linear layer. The cosine of
      two combined embeddings then weights the cosine of their parts k by (D_k / D)^2.

    Attributes:
        parts: D_k, the width of each part; their sum is D.
        stems: the linear heads: one for all parts, or one for each.
        weights: length of each part at test time.
    """

    def __init__(
        self,
        shape_of: ShapeOf,
        settings: HeadSettings,
        *,
        parts: int | Sequence[int] = 3,
        levels: Sequence[int] = (LAST,),
        weights: Weights = "equal",
    ) -> None:
        """Create the head.

        Args:
            shape_of: shape of each level of the backbone.
            settings: what all heads share; ``dim`` is the sum of the parts.
            parts: width of each part, or how many parts of (nearly) equal width.
            levels: the backbone level of each part; a single one serves all parts with one linear layer.
            weights: "equal" scales each part to length 1, "size" to length D_k / D.

        Raises:
            SettingsError: the parts do not add up to ``dim``, or there is not one level for each.
        """
        check_choice("model.head_settings.weights", weights, get_args(Weights))
        check_whole("model.dim with head 'groups'", settings.dim, least=1)
        super().__init__(settings.dim)
        self.parts = _widths(parts, settings.dim)
        self.wants = tuple(check_whole("model.head_settings.levels", level) for level in levels)
        if len(self.wants) not in (1, len(self.parts)):
            raise SettingsError(
                f"model.head_settings.levels has {len(self.wants)} levels for {len(self.parts)} parts. "
                "Give one for each part, or one for all."
            )
        widths = [settings.dim] if len(self.wants) == 1 else self.parts
        self.stems = nn.ModuleList(
            LinearHead(shape_of, replace(settings, dim=width), level=level)
            for width, level in zip(widths, self.wants, strict=True)
        )
        self.weights = [1.0 if weights == "equal" else part / settings.dim for part in self.parts]

    def forward(self, features: Sequence[Features]) -> Tensor:
        """Features of each level -> (B, D), the parts side by side."""
        return torch.cat([stem([level]) for stem, level in zip(self.stems, features, strict=True)], dim=1)

    def combine(self, embedding: Tensor) -> Tensor:
        """Normalise and weight each part. (B, D) -> (B, D) of at least float32; a zero part stays zero."""
        parts = torch.split(embedding, self.parts, dim=1)
        scaled = [directions(part).unit * weight for part, weight in zip(parts, self.weights, strict=True)]
        return torch.cat(scaled, dim=1)


def _widths(parts: int | Sequence[int], dim: int) -> list[int]:
    """The width of each part; a number of parts shares ``dim`` out, the first parts taking the remainder."""
    if isinstance(parts, (list, tuple)):
        widths = [check_whole("model.head_settings.parts", part, least=1) for part in parts]
        if sum(widths) != dim:
            raise SettingsError(
                f"model.head_settings.parts {widths} add up to {sum(widths)}, but model.dim is {dim}. Make both the same."
            )
        return widths
    count = check_whole("model.head_settings.parts", parts, least=1, most=dim)
    return [dim // count + (k < dim % count) for k in range(count)]
