"""A threshold that was chosen on data, and what it was worth there. `cosphere.evaluate.calibrate` makes one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cosphere.errors import SettingsError

Ends = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """From which cosine on two images count as the same, for a wanted false accept rate of pairs.

    It holds for whole float embeddings of the model it was chosen with. Other weights, truncated dimensions or bits have
    other cosines: choose anew. Intervals are (low, high) over classes; see :func:`cosphere.evaluate.calibrate`.

    Attributes:
        threshold: cosine; a pair above it counts as the same.
        wanted_far: the false accept rate that was asked for, in (0, 1).
        far: the one that the threshold has on the data it was chosen on, at most the wanted one.
        tar: true accept rate there, in [0, 1]; None where no class had two images.
        threshold_interval: where the threshold might have come to lie with other classes.
        far_interval: the rate that a threshold chosen in this way may really have.
        tar_interval: the true accept rate of this threshold with other classes.
        level: of the intervals.
        different_pairs: pairs of two classes, all of which were compared.
        same_pairs: pairs of one class.
        classes: how many.
        images: how many.
        data: fingerprint of the images, or None when only their embeddings were known.
    """

    threshold: float
    wanted_far: float
    far: float
    tar: float | None
    threshold_interval: Ends
    far_interval: Ends
    tar_interval: Ends | None
    level: float
    different_pairs: int
    same_pairs: int
    classes: int
    images: int
    data: str | None = None

    def __post_init__(self) -> None:
        for name in ("threshold_interval", "far_interval", "tar_interval"):  # JSON makes lists of them
            ends = getattr(self, name)
            if ends is not None:
                low, high = ends
                object.__setattr__(self, name, (float(low), float(high)))
        if not math.isfinite(self.threshold):
            raise SettingsError(f"a calibration's threshold is a cosine, got {self.threshold!r}. Calibrate again.")

    def same(self, cosines: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether each cosine lies above the threshold. Any shape -> bool of that shape."""
        return np.asarray(np.asarray(cosines) > self.threshold)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """What :meth:`as_dict` wrote."""
        return cls(**content)
