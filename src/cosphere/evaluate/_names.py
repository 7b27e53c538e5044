"""Classes that may be given as integers or as names."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cosphere.errors import SizeError
from cosphere.rows import as_array


def class_column(labels: Any, count: int | None = None, name: str = "labels") -> npt.NDArray[Any]:
    """One class for each row, as an array of integers or of text; of any number of rows where ``count`` is None.

    Fractions are refused: they are measurements, not classes, and NaN would be a class of its own.

    Raises:
        SizeError: not one for each row, or neither integers nor text.
    """
    values = as_array(labels)
    if values.ndim != 1 or count not in (None, len(values)):
        raise SizeError(
            f"want {name} ({'N' if count is None else count},), one for each row, got {values.shape}. Take both from the same images."
        )
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.tolist()):
        values = values.astype(np.str_)
    if values.dtype.kind not in "iubUS":
        raise SizeError(
            f"want {name} as integers or names, got {values.dtype}. Number the classes, such as with numpy.unique."
        )
    return values
