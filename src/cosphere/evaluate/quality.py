"""Lengths of raw embeddings as quality: whether long embeddings are judged right more often, and what rejecting short ones gains.

Losses on directions leave the length free, and it tends to grow with how recognisable an image is. SEC pulls all lengths to one radius
and so takes that information away. Source of the error-versus-reject curve: Grother and Tabassi, "Performance of Biometric Quality
Measures", TPAMI 2007.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosphere._types import Floats
from cosphere.checks import allowed, check_numbers
from cosphere.errors import DataError, SizeError
from cosphere.evaluate.verification import as_truth
from cosphere.rows import as_array

SHARES = tuple(step / 20 for step in range(11))
"""0, 5, ..., 50 %: the shares of pairs that are rejected."""


@dataclass(frozen=True, kw_only=True)
class LengthQuality:
    """Result of :func:`length_quality`."""

    correlation: float | None
    """Pearson's r between the quality of a pair and whether it is judged right (point-biserial); None where either is constant."""
    shares: tuple[float, ...]
    """Shares of the pairs that are rejected, those of lowest quality first."""
    errors: tuple[float, ...]
    """Share of the other pairs that are judged wrong, a fraction for each of ``shares``."""
    gain: float | None
    """Area between the curve and its start, over that of a quality that rejects exactly the wrong pairs first: 1 is as good as that
    one, 0 as rejecting at random. None where no pair is judged wrong."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "correlation": self.correlation,
            "gain": self.gain,
            "shares": list(self.shares),
            "errors": list(self.errors),
        }


def length_quality(lengths: Any, right: Any, *, shares: Sequence[float] = SHARES) -> LengthQuality:
    """How well the length of embeddings tells which pairs are judged right. The quality of a pair is its shorter length.

    Args:
        lengths: (n, 2) float, >= 0: raw lengths of the two embeddings of each pair.
        right: (n,) bool: whether the pair is judged right.
        shares: of the pairs to reject, each in [0, 1).

    Raises:
        SizeError: shapes that do not fit, or no pair.
        DataError: a length that is not finite or negative, or ``right`` that holds anything but true and false.
        SettingsError: a share is out of range.

    >>> found = length_quality([[9, 9], [8, 7], [1, 5], [2, 9]], [True, True, False, True], shares=(0, 0.25))
    >>> found.errors, found.gain
    ((0.25, 0.0), 1.0)
    """
    values, truth = as_array(lengths).astype(np.float64), as_truth(right, "right", "whether each pair is judged right")
    if values.ndim != 2 or values.shape[1:] != (2,) or truth.shape != values.shape[:1] or not len(truth):
        raise SizeError(
            f"want lengths (n, 2) and right (n,), got {values.shape} and {truth.shape}. Give both of the same pairs."
        )
    if not np.isfinite(values).all() or (values < 0).any():
        raise DataError("lengths must be finite and >= 0. Take the norms of raw embeddings.")
    parts = check_numbers("share", shares, at_least=0, below=1)
    quality = values.min(axis=1)
    errors = _errors(quality, truth, parts)
    best = _errors(truth.astype(np.float64), truth, parts)
    possible = float(np.trapezoid(errors[0] - best, parts)) if len(parts) > 1 else 0.0
    reached = float(np.trapezoid(errors[0] - errors, parts)) if len(parts) > 1 else 0.0
    return LengthQuality(
        correlation=_correlation(quality, truth),
        shares=parts,
        errors=tuple(errors.tolist()),
        gain=reached / possible if possible > 0 else None,
    )


def _errors(quality: Floats, right: Any, shares: Sequence[float]) -> Floats:
    """(m,) share of wrong pairs among those that are left; equal qualities are rejected in proportion, whatever their order."""
    order = np.argsort(quality, kind="stable")
    _, places, counts = np.unique(quality[order], return_inverse=True, return_counts=True)
    wrong = (~right[order]).astype(np.float64)
    even = (np.bincount(places, weights=wrong) / counts)[places]  # the expected value over random orders of equal ones
    left = np.concatenate([np.cumsum(even[::-1])[::-1], [0.0]])
    rejected = [allowed(share, len(right)) for share in shares]
    return np.array([left[count] / (len(right) - count) for count in rejected])


def _correlation(quality: Floats, right: Any) -> float | None:
    if right.all() or not right.any() or quality.std() <= 1e-6 * abs(quality.mean()):
        return None
    return float(np.corrcoef(quality, right)[0, 1])
