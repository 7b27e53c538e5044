"""How sure a score is: intervals over queries, over seeds, and of a difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from cosphere.errors import DataError, SettingsError, SizeError

Floats = npt.NDArray[np.float64]

_CHUNK_VALUES = 2**22
"""Resampled counts held at a time: 32 MiB."""


class Interval(NamedTuple):
    """Where a score may lie, at the level that was asked for."""

    low: float
    high: float


def bootstrap(values: Any, *, samples: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap of a mean over queries (Efron 1979).

    It says how far the mean would move with other queries of the same kind. It knows nothing of training seeds, and it
    takes queries as independent; those of one class are not quite, so the true interval is somewhat wider.

    Args:
        values: (Q,) finite numbers, one a query.
        samples: resamples with replacement, at least 1. 1000 puts the ends of a 95 % interval within about a tenth of
            its width.
        level: in (0, 1).
        seed: one seed gives one interval.

    Raises:
        SizeError: not (Q,) with Q of at least 1.
        DataError: a value is NaN or infinite.
        SettingsError: a setting is out of range.
    """
    return bootstrap_all({"values": values}, samples=samples, level=level, seed=seed)["values"]


def bootstrap_all(
    values: Mapping[str, Any], *, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """:func:`bootstrap` of several scores of the same queries, by the same resamples. Takes each (Q,)."""
    _check_level(level)
    if samples < 1:
        raise SettingsError(f"bootstrap samples must be at least 1, got {samples}. Usual: 1000.")
    if not values:
        return {}
    columns = [_checked(column, name) for name, column in values.items()]
    count = len(columns[0])
    for name, column in zip(values, columns, strict=True):
        if len(column) != count:
            raise SizeError(f"{name} has {len(column)} values, others {count}. Take all from the same queries.")
    table = np.stack(columns, axis=1)  # (Q, scores)
    generator = np.random.default_rng(seed)
    means = np.empty((samples, len(columns)))
    step = max(1, _CHUNK_VALUES // count)
    for start in range(0, samples, step):
        size = min(step, samples - start)
        drawn = generator.integers(0, count, size=(size, count))
        drawn += np.arange(size)[:, None] * count
        # How often each query was drawn: one product then serves all scores.
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        means[start : start + size] = times.astype(np.float64) @ table / count
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return {name: Interval(float(a), float(b)) for name, a, b in zip(values, low, high, strict=True)}


class Summary(NamedTuple):
    """Mean of a few values, and how sure it is."""

    mean: float
    sd: float | None
    """Sample standard deviation (divided by n - 1); None for one value."""
    low: float | None
    """Student's t interval of the mean; None for one value."""
    high: float | None
    n: int
    """How many values."""


def seeds_summary(values: Sequence[float] | Floats, *, level: float = 0.95) -> Summary:
    """Mean, standard deviation and Student's t interval of one score over several seeds.

    Args:
        values: (n,) finite numbers, one a seed.
        level: in (0, 1).

    Raises:
        SizeError: not (n,) with n of at least 1.
        DataError: a value is NaN or infinite.
        SettingsError: the level is out of range.
    """
    _check_level(level)
    checked = _checked(values, "values")
    mean, count = float(checked.mean()), len(checked)
    if count == 1:
        return Summary(mean, None, None, None, 1)
    sd = float(checked.std(ddof=1))
    half = float(student.ppf((1 + level) / 2, count - 1)) * sd / math.sqrt(count)
    return Summary(mean, sd, mean - half, mean + half, count)


def paired_difference(
    first: Sequence[float] | Floats, second: Sequence[float] | Floats, *, level: float = 0.95
) -> Summary:
    """:func:`seeds_summary` of ``first - second``, pair by pair: what a change is worth.

    An interval that leaves out 0 is a difference at that level, before any correction for many comparisons.

    Args:
        first: (n,) finite numbers.
        second: (n,) finite numbers, the same seeds in the same order.
        level: in (0, 1).

    Raises:
        SizeError: the two are not equally long.
    """
    ours, theirs = _checked(first, "first"), _checked(second, "second")
    if len(ours) != len(theirs):
        raise SizeError(f"want pairs, got {len(ours)} and {len(theirs)} values. Give both arms the same seeds.")
    return seeds_summary(ours - theirs, level=level)


def _checked(values: Any, name: str) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found):
        raise SizeError(f"want {name} as a list of at least one number, got shape {found.shape}.")
    bad = int((~np.isfinite(found)).sum())
    if bad:
        raise DataError(f"{bad} of {len(found)} {name} are NaN or infinite. Leave them out.")
    return found


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise SettingsError(f"level must be between 0 and 1, got {level}. Usual: 0.95.")
