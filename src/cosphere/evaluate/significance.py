"""Significance: paired tests of two runs on the same queries, and the correction for several comparisons.

A p-value is the probability of a difference at least this large, in either direction, if there were none. Each test states
what it generalises to: other queries, other classes or other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binom
from scipy.stats import t as student

from cosphere._types import Floats
from cosphere.checks import MOST_SAMPLES, check_seed, check_whole
from cosphere.codes import bytes_of
from cosphere.errors import SettingsError
from cosphere.evaluate.statistics import check_values, class_sums, differences
from cosphere.rows import as_array

_CHUNK_SIGNS = 2**21
"""Signs held at a time: 16 MiB as float64."""
_ROUNDING = 1e-9
"""Relative; sums that differ by less are equal up to the order of addition."""


def mcnemar_test(first: Any, second: Any) -> float:
    """Exact McNemar test of two runs by hit and miss, such as Recall@1: the sign test of the queries that changed.

    Queries that both get right or both get wrong carry no information; of the others, each run would win half. It assumes
    independent queries of fixed classes: see :func:`sign_flip_test` with classes.

    Args:
        first: (Q,) 0 or 1, one per query.
        second: (Q,) 0 or 1 of the same queries in the same order.

    Returns:
        Two-sided p-value, in (0, 1]; 1 where no query changed.

    Raises:
        SizeError: the lengths differ.
        DataError: a value is NaN or infinite.
        SettingsError: a value is neither 0 nor 1.

    >>> mcnemar_test([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0])  # five won, none lost: 2 / 2^5
    0.0625
    """
    change = differences(first, second)
    if not (is_hit_or_miss(first) and is_hit_or_miss(second)):
        raise SettingsError("McNemar's test wants values that are 0 or 1, such as Recall@1. Use sign_flip_test.")
    won, lost = int((change > 0).sum()), int((change < 0).sum())
    return min(1.0, 2 * float(binom.cdf(min(won, lost), won + lost, 0.5))) if won + lost else 1.0


def is_hit_or_miss(values: Any) -> bool:
    """Whether all values are 0 or 1."""
    column = as_array(values)
    return bool(((column == 0) | (column == 1)).all())


def sign_flip_test(change: Any, *, classes: Any | None = None, samples: int = 10_000, seed: int = 0) -> float:
    """Permutation test of a mean difference: without a difference, each could as well have the other sign.

    It tests the reported mean itself, for any score, and assumes no normal distribution; Wilcoxon's signed ranks test
    another quantity and can disagree in sign with the mean. With ``classes`` all queries of a class flip together,
    so that queries of one class may depend on each other: the test to quote for classes without training images.

    With n queries or classes that changed, all 2^n sign patterns are counted if they are at most ``samples``. Otherwise
    ``samples`` patterns are drawn and the observed one is counted among them, so that the p-value is valid and never below 1
    / (samples + 1) (Phipson and Smyth 2010).

    Args:
        change: (Q,) finite differences, one per query.
        classes: (Q,) the class of each query; None flips each query by itself.
        samples: patterns, at least 1.
        seed: of the drawn patterns.

    Returns:
        Two-sided p-value, in (0, 1]; 1 where nothing changed.

    Raises:
        SizeError: not (Q,), or another number of classes.
        DataError: a value is NaN or infinite, or all queries are of one class.
        SettingsError: samples is below 1, or the seed below 0.

    >>> sign_flip_test([0.1, 0.2, 0.3])  # only +++ and --- of 8 patterns go as far
    0.25
    """
    check_whole("samples", samples, least=1, most=MOST_SAMPLES)
    check_seed(seed)
    sums = class_sums(check_values(change, "differences")[None], classes)[0][0]
    size = np.abs(sums).sum() / 2  # Half, because a pattern is identified by the sum of the parts that keep their sign.
    parts = sums[np.abs(sums) > _ROUNDING * size]
    if not len(parts):
        return 1.0
    least = abs(sums.sum()) / 2 - _ROUNDING * size
    whole = len(parts) < 63 and 2 ** len(parts) <= samples
    count = 2 ** len(parts) if whole else samples
    generator = np.random.default_rng(seed)
    reached, step = 0, max(1, _CHUNK_SIGNS // len(parts))
    for start in range(0, count, step):
        rows = min(step, count - start)
        signs = _patterns(start, rows, len(parts)) if whole else _drawn(generator, rows, len(parts))
        reached += int((np.abs(signs @ parts - parts.sum() / 2) >= least).sum())
    return reached / count if whole else (reached + 1) / (count + 1)


def _patterns(start: int, rows: int, width: int) -> Floats:
    """Rows of the table of all patterns: (rows, width) of 0 and 1, the binary digits of their number."""
    numbers = np.arange(start, start + rows)[:, None]
    return (numbers >> np.arange(width) & 1).astype(np.float64)


def _drawn(generator: np.random.Generator, rows: int, width: int) -> Floats:
    octets = generator.integers(0, 256, size=(rows, bytes_of(width)), dtype=np.uint8)
    return np.unpackbits(octets, axis=1, count=width).astype(np.float64)


def seeds_test(change: Sequence[float] | Floats) -> float | None:
    """Student's paired t-test over seeds: p-value of :func:`cosphere.evaluate.paired_difference`.

    It covers other seeds on the same images, and assumes normal differences.

    Args:
        change: (n,) finite differences, one per seed.

    Returns:
        Two-sided p-value, in [0, 1]; None for a single seed.
    """
    values = check_values(change, "differences")
    if len(values) == 1:
        return None
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    if error <= _ROUNDING * abs(mean):
        return 1.0 if mean == 0 else 0.0
    return 2 * float(student.sf(abs(mean) / error, len(values) - 1))


def holm(p_values: Sequence[float] | Floats) -> list[float]:
    """p-values corrected for several comparisons (Holm 1979).

    The smallest of m is multiplied by m, the next by m - 1, and so on, each at least as large as the one before. Calling
    all that stay below 0.05 differences makes even one false call with a probability of at most 5 %, however the tests
    depend on each other. Never less powerful than Bonferroni's correction, which multiplies all by m.

    Args:
        p_values: (m,) in [0, 1]; may be empty.

    Returns:
        m corrected p-values in the order that was given.

    Raises:
        DataError: a value is NaN or infinite.
        SettingsError: a value is outside [0, 1].

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    if not len(p_values):
        return []
    values = check_values(p_values, "p-values")
    if values.min() < 0 or values.max() > 1:
        raise SettingsError(f"p-values lie from 0 to 1, got {values.min():g} to {values.max():g}.")
    order = np.argsort(values, kind="stable")
    scaled = np.minimum(1.0, values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(scaled)
    return [float(p) for p in corrected]
