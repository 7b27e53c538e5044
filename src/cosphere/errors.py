"""The exceptions that Cosphere raises, and helpers for their messages.

Every message says what came, what was wanted and what to do. The command line prints one of these as one line and exits
with status 2; anything else that escapes is a bug.

    CosphereError
    ├── SettingsError     a setting, argument or recipe is wrong
    ├── SizeError         a tensor, batch, k or image size does not fit
    ├── DataError         a folder, table or label is wrong
    │   └── ImageError    one image cannot be read
    ├── WeightsError      weights are not available, or do not fit the model
    ├── RunError          a run folder, bundle, checkpoint or gallery cannot be used or written
    │   └── DamagedError  a file of a gallery or a checkpoint was cut, or bits of it have changed
    ├── DivergenceError   a loss, weight or embedding is no longer finite
    ├── DerivativeError   a second derivative was requested of a loss that has only first derivatives
    └── MissingExtraError an optional package is not installed
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What moves the cursor, ends a line, or turns the direction of what follows."""


class CosphereError(Exception):
    """Base of every error that a user can cause and fix."""


class SettingsError(CosphereError, ValueError):
    """A setting, argument or recipe is wrong."""


class SizeError(CosphereError, ValueError):
    """A tensor, a batch, a k or an image size does not fit."""


class DataError(CosphereError):
    """A folder, a table or a label is wrong."""


class ImageError(DataError):
    """One image cannot be read."""


class WeightsError(CosphereError):
    """Weights are not available, or do not fit the model."""


class RunError(CosphereError):
    """A run folder, a bundle, a checkpoint or a gallery cannot be used or written."""


class DamagedError(RunError):
    """A file of a gallery or a checkpoint was cut, or bits of it have changed."""


class DivergenceError(CosphereError):
    """A loss, a weight or an embedding is no longer a finite number."""


class DerivativeError(CosphereError, RuntimeError):
    """A second derivative was requested of a loss that has only first derivatives."""


class MissingExtraError(CosphereError, ImportError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed. Run: pip install 'cosphere[{extra}]'"
        )


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The tail of an error about an unknown name: the nearest known one, or the whole list.

    Args:
        name: the unknown name.
        known: the known ones.
        cutoff: least similarity, in [0, 1], of a name that is suggested.

    >>> did_you_mean("multi_similarty", ["triplet", "multi_similarity"])
    "Did you mean 'multi_similarity'?"
    >>> did_you_mean("xyz", ["triplet", "contrastive"])
    'Known: contrastive, triplet.'
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(names)}."


def no_own_setting(owner: str, setting: str, known: Iterable[str]) -> str:
    """The error about a setting that a loss, a head or a protocol does not have.

    >>> no_own_setting("the loss triplet", "margn", ["margin", "squared"])
    "the loss triplet has no setting 'margn'. Did you mean 'margin'?"
    """
    names = list(known)
    hint = did_you_mean(setting, names) if names else "It has no settings of its own."
    return f"{owner} has no setting {setting!r}. {hint}"


def escaped(value: object) -> str:
    r"""Text of others for one line of a terminal: control characters become escapes, also those that end a line or turn its direction.

    >>> print(escaped("\x1b[31mred"), escaped("a\nb"), escaped("\u202egpj.exe"))
    \x1b[31mred a\x0ab \u202egpj.exe
    """
    text = str(value).encode("utf-8", "backslashreplace").decode("utf-8")  # bytes of a name that are not UTF-8
    return _CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural unless it is one; plurals are regular.

    >>> counted(1, "image"), counted(1200, "class"), counted(0, "query")
    ('1 image', '1,200 classes', '0 queries')
    """
    if number != 1:
        hissing = noun.endswith(("s", "x", "ch", "sh"))
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if hissing else f"{noun}s"
    return f"{number:,} {noun}"


def one_of(words: Iterable[str]) -> str:
    """Alternatives in words.

    >>> one_of(["top"]), one_of(["top", "leaf"]), one_of(["a number", "'low'", "'high'"])
    ('top', 'top or leaf', "a number, 'low' or 'high'")
    """
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def agreeing(number: int, verb: str) -> str:
    """A verb, given in the plural, in the form for a number of things.

    >>> agreeing(1, "are"), agreeing(2, "are"), agreeing(1, "hold"), agreeing(0, "hold")
    ('is', 'are', 'holds', 'hold')
    """
    singular = {"are": "is", "were": "was", "have": "has", "do": "does"}
    return verb if number != 1 else singular.get(verb, f"{verb}s")
