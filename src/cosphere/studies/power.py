"""How many paired seeds a comparison needs, from the noncentral t distribution."""

from __future__ import annotations

import math

from scipy.stats import nct, norm
from scipy.stats import t as student

from cosphere.checks import check_number, check_switches

MOST_SEEDS = 1000
"""Larger numbers are not worked out: nobody trains so many runs of one arm."""
_CERTAIN = 8.0
"""Standard errors beyond the test's limit at which its power counts as 1: the noncentral t distribution overflows there."""


def power_of(effect: float, seeds: int, *, alpha: float = 0.05, two_sided: bool = True) -> float:
    """Probability that a t-test over paired seeds finds an effect of this size, in its direction.

    Args:
        effect: d of Cohen: true mean difference over the standard deviation of the differences, >= 0.
        seeds: number of pairs, at least 2.
        alpha: level of the test, in (0, 1).
        two_sided: whether ``alpha`` is shared by both directions.

    Raises:
        SettingsError: a number is out of range.

    >>> round(power_of(1.0, 10), 3)
    0.803
    """
    check_switches(two_sided=two_sided)
    check_number("effect", effect, at_least=0)
    check_number("alpha", alpha, above=0, below=1)
    check_number("seeds", seeds, at_least=2)
    tail = alpha / 2 if two_sided else alpha
    limit = float(student.isf(tail, seeds - 1))
    if effect * math.sqrt(seeds) > 2 * limit + _CERTAIN:
        return 1.0
    return float(nct.sf(limit, seeds - 1, effect * math.sqrt(seeds)))


def seeds_for(effect: float, *, power: float = 0.8, alpha: float = 0.05, two_sided: bool = True) -> int | None:
    """Smallest number of paired seeds at which the test has this power; None for more than :data:`MOST_SEEDS`.

    Args:
        effect: d of Cohen, >= 0.
        power: wanted probability of finding the effect, in (0, 1).
        alpha: level of the test, in (0, 1).
        two_sided: whether ``alpha`` is shared by both directions.

    Raises:
        SettingsError: a number is out of range.

    >>> seeds_for(0.5), seeds_for(1.0), seeds_for(0.01)
    (34, 10, None)
    """
    check_switches(two_sided=two_sided)
    check_number("effect", effect, at_least=0)
    check_number("power", power, above=0, below=1)
    check_number("alpha", alpha, above=0, below=1)
    tail = alpha / 2 if two_sided else alpha
    limit = float(norm.isf(tail))
    # Guenther (1981): the normal approximation and half the squared limit, a little below the exact number.
    start = ((limit + float(norm.ppf(power))) / effect) ** 2 + limit**2 / 2 if effect else math.inf
    if start > MOST_SEEDS:
        return None
    seeds = max(2, math.floor(start) - 1)
    while power_of(effect, seeds, alpha=alpha, two_sided=two_sided) < power:
        seeds += 1
    return seeds
