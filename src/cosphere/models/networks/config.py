"""What a network of ours tells about its pretrained weights: timm's fields and two more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from timm.models import PretrainedCfg


@dataclass
class NetworkCfg(PretrainedCfg):
    """timm's ``PretrainedCfg`` for networks that were not trained on RGB in [0, 1].

    Attributes:
        channels: order of the input's channels. ``mean`` and ``std`` stay in the order red, green, blue.
        scale: value of white before the mean is subtracted; the unit of ``mean`` and ``std``.
    """

    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0
