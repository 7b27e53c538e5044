"""Checks of single settings, one for each kind of value: each returns the value as a plain Python object or raises a SettingsError.

Every message has one form, "NAME must be WHAT; got VALUE.", so a caller gives the dotted name that the user typed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeGuard

import numpy as np

from cosphere.errors import SettingsError, did_you_mean

MOST_SAMPLES = 10**6
"""Most resamples behind an interval."""
MOST_DIM = 2**16
"""Widest layer and embedding."""
MOST_IMAGES = 10**6
"""Most images in a batch."""
MOST_WORKERS = 256
"""Most processes that decode."""
SHORTEST = 1e-6
"""Embeddings shorter than this have no direction: they are left out of pair losses and rank as zero vectors.

1e-12, the usual choice, turns a zero row into gradients of order 1e12.
"""
FEW_KEPT = 0.05
"""A filter that keeps less than this share of a gallery's rows is answered exactly over them, in memory as on a server."""
_LARGEST_SEED = 2**63 - 1
"""The largest that torch takes."""


def check_seed(seed: object, name: str = "seed") -> int:
    """Return ``seed`` as an int.

    Raises:
        SettingsError: it is no integer from 0 to 2^63 - 1.
    """
    return check_whole(name, seed, least=0, most=_LARGEST_SEED)


def check_whole(name: str, value: object, *, least: int | None = None, most: int | None = None) -> int:
    """Return ``value`` as an int.

    Args:
        name: what the value is called, for the error.
        value: a Python or numpy integer; a bool is refused.
        least: smallest allowed value; None for no bound.
        most: largest allowed value; None for no bound.

    Raises:
        SettingsError: the value is not an integer, or out of range.

    >>> check_whole("k", 3, least=1)
    3
    """
    if is_whole(value) and (least is None or value >= least) and (most is None or value <= most):
        return int(value)
    raise SettingsError(f"{name} must be a whole number{_bounds(least, most)}; got {value!r}.")


def _bounds(least: int | None, most: int | None) -> str:
    if least is not None and most is not None:
        return f" from {least} to {most}"
    return f" >= {least}" if least is not None else f" <= {most}" if most is not None else ""


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """Return ``value`` as a finite float.

    Args:
        name: what the value is called, for the error.
        value: a Python or numpy number; a bool is refused.
        above: exclusive lower bound; at most one of ``above`` and ``at_least`` is given.
        at_least: inclusive lower bound.
        below: exclusive upper bound; at most one of ``below`` and ``at_most`` is given.
        at_most: inclusive upper bound.

    Raises:
        SettingsError: the value is not a number, not finite, or out of range.

    >>> check_number("margin", 1, above=0)
    1.0
    """
    number = _as_float(value) if is_number(value) else math.nan
    fits = (
        math.isfinite(number)
        and (above is None or number > above)
        and (at_least is None or number >= at_least)
        and (below is None or number < below)
        and (at_most is None or number <= at_most)
    )
    if fits:
        return number
    lower = f"above {above:g}" if above is not None else f">= {at_least:g}" if at_least is not None else ""
    upper = f"below {below:g}" if below is not None else f"at most {at_most:g}" if at_most is not None else ""
    bounds = " and ".join(bound for bound in (lower, upper) if bound)
    raise SettingsError(f"{name} must be a number{' ' if bounds else ''}{bounds}, finite; got {value!r}.")


def check_numbers(name: str, values: object, **bounds: float) -> tuple[float, ...]:
    """Return ``values`` as finite floats.

    Args:
        name: what each value is called, for the error, such as "far"; the argument is called ``name`` + "s".
        values: a list of numbers.
        **bounds: of each, as :func:`check_number` takes them.

    Raises:
        SettingsError: it is no list, or a value is not a number, not finite, or out of range.
    """
    if not isinstance(values, Iterable) or isinstance(values, str) or getattr(values, "ndim", 1) == 0:
        raise SettingsError(f"want {name}s as a list of numbers, got {values!r}. Write {name}s=[{values}].")
    return tuple(check_number(name, value, **bounds) for value in values)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a Python or numpy number, which a bool is not."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a Python or numpy integer, which a bool is not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """The same value in Python's own types, which JSON takes: numpy's numbers and arrays become numbers and lists, also inside."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufUS":
        return value.tolist()
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


def _as_float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:  # an int beyond the range of a float
        return math.inf


def check_share(name: str, value: object) -> float:
    """Return ``value`` as a float above 0 and at most 1.

    Raises:
        SettingsError: the value is not a number, or out of range.
    """
    share = check_number(name, value, above=0)
    if share > 1:
        raise SettingsError(f"{name} is a share, above 0 and at most 1; got {value!r}.")
    return share


def allowed(share: float, count: int) -> int:
    """The largest number out of ``count`` whose share is at most ``share``, in [0, count].

    >>> allowed(0.29, 100), allowed(0.5, 3)
    (29, 1)
    """
    return math.floor(share * count + 1e-9)  # 0.29 * 100 is 28.999999999999996


def check_choice(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``allowed``.

    Raises:
        SettingsError: it is not; the error names the nearest, or all.
    """
    options = list(allowed)
    if isinstance(value, str) and value in options:
        return value
    if len(options) <= 4:
        raise SettingsError(f"{name} must be {' or '.join(map(repr, options))}; got {value!r}.")
    raise SettingsError(f"there is no {name} {value!r}. {did_you_mean(str(value), options)}")


def check_switch(name: str, value: object) -> bool:
    """Return ``value`` if it is True or False, which NumPy's are too.

    Raises:
        SettingsError: it is anything else. A text such as "no" would count as true.
    """
    if not isinstance(value, bool | np.bool_):
        raise SettingsError(f"{name} must be true or false; got {value!r}.")
    return bool(value)


def check_made(name: str, value: object, kind: type, write: str) -> None:
    """Raise unless an argument is an object of this class.

    Args:
        name: of the argument.
        value: what was given for it.
        kind: the class.
        write: an expression that makes one.

    Raises:
        SettingsError: it is something else, such as a dict, a name or the class itself; the error says what to write.
    """
    if not isinstance(value, kind):
        given = f"the class {value.__name__}" if isinstance(value, type) else f"{value!r:.60} ({type(value).__name__})"
        raise SettingsError(f"want {name} as {kind.__name__}, got {given}. Write {write}.")


def check_switches(**values: object) -> None:
    """:func:`check_switch` of several arguments of a function, each by its name.

    Raises:
        SettingsError: one of them is neither True nor False.
    """
    for name, value in values.items():
        check_switch(name, value)
