"""Type aliases that rooms share: arrays by their dtype, and the progress callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Float32s: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]
"""What a setting ``device`` may be; this machine may lack one."""
Precision: TypeAlias = Literal["float32", "bf16"]
"""Number format that a network computes embeddings in."""
Progress: TypeAlias = Callable[[int, int], object]
"""Called with how much is done and how much there is in all: queries, rows, images or steps."""
