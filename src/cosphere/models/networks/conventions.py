"""What our networks share: timm's conventions over a list of steps, and the names of published heads."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn


class Stepwise(nn.Module, abc.ABC):
    """A network that applies its modules one after another, and gives its feature map before pooling.

    A subclass sets up its modules, calls :meth:`_describe`, and names the layers of its published head in ``HEAD``.

    Attributes:
        num_features: C of the feature map.
        feature_info: channels and stride of each stage, as timm's heads at several depths want them.
    """

    HEAD: Mapping[str, str]
    """Layers behind the feature map in a published file -> the layers of the linear head that they are."""

    num_features: int
    head_hidden_size: int
    feature_info: list[dict[str, Any]]

    @abc.abstractmethod
    def steps(self) -> dict[str, nn.Module]:
        """The modules by name, in the order in which they are applied."""

    @abc.abstractmethod
    def head_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published head by the names and in the shapes of the linear head; empty where a file holds none."""

    def own_names(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A published file's tensors by the names of this network; here unchanged."""
        return tensors

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, num_classes), or averaged features (B, C) without a classifier."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> feature map (B, C, H', W')."""
        features, _ = self.forward_intermediates(images, [])
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H', W') -> logits, or with ``pre_logits`` the average over positions (B, C)."""
        pooled = features.mean((2, 3))
        return pooled if pre_logits else cast("Tensor", self.classifier(pooled))

    def forward_intermediates(
        self, images: Tensor, indices: Sequence[int] | None = None, **_: Any
    ) -> tuple[Tensor, list[Tensor]]:
        """The feature map, and the maps of the chosen stages from shallow to deep.

        Args:
            images: (B, 3, H, W).
            indices: positions in ``feature_info``; None for all.
            **_: timm's further options; maps are (B, C, H', W') whatever they say.
        """
        chosen = range(len(self.feature_info)) if indices is None else indices
        names = {self.feature_info[index]["module"] for index in chosen}
        maps: list[Tensor] = []
        x = images
        for name, module in self.steps().items():
            x = module(x)
            if name in names:
                maps.append(x)
        return x, maps

    def get_classifier(self) -> nn.Module:
        """The classifier; the identity where there is none."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier; 0 classes take it away."""
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def _describe(self, stages: Sequence[tuple[str, int]], *, first: int, num_classes: int) -> None:
        """Fill in what timm asks for.

        Args:
            stages: step and channels of each stage, from shallow to deep; each halves the map of the one before.
            first: stride of the first stage, in pixels.
            num_classes: of the classifier.
        """
        self.feature_info = [
            {"num_chs": channels, "reduction": first * 2**position, "module": name}
            for position, (name, channels) in enumerate(stages)
        ]
        self.num_features = self.head_hidden_size = stages[-1][1]
        self.reset_classifier(num_classes)

    def _head(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the published head, by the names of the linear head's layers."""
        return {
            f"{ours}.{key.removeprefix(f'{theirs}.')}": value
            for theirs, ours in self.HEAD.items()
            for key, value in tensors.items()
            if key.startswith(f"{theirs}.")
        }
