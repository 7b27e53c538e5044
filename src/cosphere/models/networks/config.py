"""What a network of ours tells about its pretrained weights: timm's fields and two more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from timm.models._pretrained import PretrainedCfg


@dataclass
class NetworkCfg(PretrainedCfg):
    """timm's ``PretrainedCfg`` for networks that were not trained on RGB in [0, 1].

    Attributes:
        channels: order of the input's channels. ``mean`` and ``std`` stay in the order red, green, blue.
        scale: value of white before the mean is subtracted; the unit of ``mean`` and ``std``.
    """

    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0


FACE_INPUT: dict[str, Any] = {
    "input_size": (3, 112, 112),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "pool_size": (7, 7),
}
"""Of face networks: (level - 127.5) / 127.5 of an aligned face of 112 px."""
