"""A match threshold, with the data it was chosen on and its error rates there. `cosphere.evaluate.calibrate` makes one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cosphere.errors import SettingsError
from cosphere.fields import Settings, build, metadata, setting
from cosphere.rows import EQUAL_COSINE

Ends = tuple[float, float]


def most_unseen(trials: int, level: float = 0.95) -> float:
    """How high the rate of an event may be that did not happen in ``trials`` trials: the upper end of its two-sided interval, in [0, 1].

    Source: Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934. Trials count as independent.

    >>> round(most_unseen(49), 4)
    0.0725
    """
    return -math.expm1(math.log((1 - level) / 2) / trials)


@dataclass(frozen=True, kw_only=True)
class Calibration(Settings):
    """Similarity threshold for a target false-accept rate.

    It is valid for the full float embeddings of the model it was chosen with. Other weights, truncated dimensions and bits
    have other cosines: calibrate again. Intervals are (low, high) over classes; see :func:`cosphere.evaluate.calibrate`.

    Attributes:
        threshold: cosine; a pair above it counts as the same.
        wanted_far: the target false-accept rate, in (0, 1).
        far: the false-accept rate on the calibration data, at most the target.
        tar: the true-accept rate on the calibration data, in [0, 1]; None if no class has two images.
        threshold_interval: confidence interval of the threshold under resampled classes.
        far_interval: confidence interval of the false-accept rate of a threshold chosen this way.
        tar_interval: confidence interval of the true-accept rate of this threshold.
        level: confidence level of the intervals, in (0, 1).
        different_pairs: number of pairs of two classes, all of which were compared.
        same_pairs: number of pairs of one class.
        classes: number of classes.
        images: number of images.
        data: fingerprint of the images, or None if only their embeddings were given.
        tested_far: the false-accept rate on test images, whose classes are neither trained on nor used to choose the
            threshold; None if it was not measured.
        tested_pairs: number of pairs of two classes that it was measured on; None if it was not, or by an earlier version.
    """

    SECTION: ClassVar[str] = "calibration."

    threshold: float
    wanted_far: float = field(metadata=metadata(above=0, below=1))
    far: float = field(metadata=metadata(at_least=0, at_most=1))
    tar: float | None = field(metadata=metadata(at_least=0, at_most=1))
    threshold_interval: Ends
    far_interval: Ends = field(metadata=metadata(at_least=0, at_most=1))
    tar_interval: Ends | None = field(metadata=metadata(at_least=0, at_most=1))
    level: float = field(metadata=metadata(above=0, below=1))
    different_pairs: int = field(metadata=metadata(at_least=0))
    same_pairs: int = field(metadata=metadata(at_least=0))
    classes: int = field(metadata=metadata(at_least=0))
    images: int = field(metadata=metadata(at_least=0))
    data: str | None = None
    tested_far: float | None = setting(None, at_least=0, at_most=1)
    tested_pairs: int | None = setting(None, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("threshold_interval", "far_interval", "tar_interval"):
            ends = getattr(self, name)
            if ends is not None and not (len(ends) == 2 and ends[0] <= ends[1]):
                raise SettingsError(f"calibration.{name} is {ends}; wanted a low and a high end. Calibrate again.")

    @property
    def unseen_far(self) -> float | None:
        """Where no pair of the test passed: how high the false-accept rate may be all the same, by their number; else None."""
        if self.tested_far != 0 or not self.tested_pairs:
            return None
        return most_unseen(self.tested_pairs, self.level)

    def same(self, cosines: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether each cosine lies above the threshold. Any shape -> bool of that shape."""
        values = np.asarray(cosines)
        # Cosines of equal vectors are 1 only up to rounding, and calibration takes them as 1.
        return np.asarray(np.where(values > 1 - EQUAL_COSINE, 1.0, values) > self.threshold)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """The inverse of :meth:`as_dict`.

        Raises:
            SettingsError: a value is missing, unknown or impossible; it is named.
        """
        for one in fields(cls):
            if one.default is MISSING and one.name not in content:
                raise SettingsError(f"{cls.SECTION}{one.name} is missing. Calibrate again.")
        return build(cls, content, section=cls.SECTION)
