"""How many errors a rate allows."""

from __future__ import annotations

import math


def allowed(rate: float, count: int) -> int:
    """The largest number of errors among ``count`` trials whose share is at most ``rate``, in [0, count].

    >>> allowed(0.29, 100), allowed(0.5, 3)
    (29, 1)
    """
    return math.floor(rate * count + 1e-9)  # 0.29 * 100 is 28.999999999999996
