"""Random numbers that are a function of one seed each, for many seeds at once: the same alone, in a batch and in any process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): whole numbers to whole numbers that look random. Any shape."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def uniforms(seeds: Sequence[int] | npt.NDArray[np.integer], count: int) -> npt.NDArray[np.float64]:
    """``count`` numbers in [0, 1) of each seed. Row i depends on seed i alone.

    Args:
        seeds: (B,) integers; beyond 64 bits only the lowest count.
        count: numbers of each.

    Returns:
        (B, count) float64.
    """
    lowest = (
        seeds if isinstance(seeds, np.ndarray) else np.array([int(seed) % 2**64 for seed in seeds], dtype=np.uint64)
    )
    start = mixed(lowest.astype(np.uint64) + _GOLDEN)
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    # The upper 53 bits: as many as a float64 holds.
    return (mixed(start[:, None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53
