"""The K of Recall@K and of the other metrics at K."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cosphere.errors import SizeError


def check_ks(ks: Any) -> list[int]:
    """Each K once, ascending. Raise unless all are whole numbers from 1 on."""
    if not isinstance(ks, Iterable):
        raise SizeError(f"want ks as a list of whole numbers, got {ks!r}. Write ks=({ks},).")
    depths = list(ks)
    if not depths:
        raise SizeError("ks is empty. Give at least one K, such as ks=(1,).")
    for k in depths:
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise SizeError(f"Recall@{k} wants K to be a whole number from 1 on. Usual: 1, 2, 4, 8.")
    return sorted({int(k) for k in depths})


def check_reach(ks: Sequence[int], available: int) -> None:
    """Raise if the largest K, the last, is larger than the number of images that a query ranks."""
    if ks[-1] > available:
        range_of_k = f"from 1 to {available}, the images that a query ranks"
        raise SizeError(f"Recall@{ks[-1]} wants K to be {range_of_k}. Lower K or add images.")
