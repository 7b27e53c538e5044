"""Classes that may be given as integers or as names."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cosphere.errors import SizeError
from cosphere.rows import as_array


def class_column(labels: Any, count: int, name: str = "labels") -> npt.NDArray[Any]:
    """One class for each row, as an array of integers or of text.

    Fractions are refused: they are measurements, not classes, and NaN would be a class of its own.

    Raises:
        SizeError: not one for each row, or neither integers nor text.
    """
    values = as_array(labels)
    if values.shape != (count,):
        raise SizeError(
            f"want {name} ({count},), one for each row, got {values.shape}. Take both from the same images."
        )
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.tolist()):
        values = values.astype(np.str_)
    if values.dtype.kind not in "iubUS":
        raise SizeError(
            f"want {name} as integers or names, got {values.dtype}. Number the classes, such as with numpy.unique."
        )
    return values
