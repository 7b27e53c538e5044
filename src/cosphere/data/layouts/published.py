"""What a layout of a published data set is, and the comparison of what was found with what was published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cosphere.data.catalogue import LayoutCheck
from cosphere.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a published data set, with the counts that its makers state."""

    name: str
    """``train``, ``test``, or ``query`` and ``gallery``, which together are the split ``test``."""
    images: int
    classes: int
    per_class: tuple[int, int] | None = None
    """Fewest and most images of a class; None where that is not known."""
    labels: tuple[int, int] | None = None
    """First and last label; None where labels are no numbers."""


class Contents(NamedTuple):
    """What a layout's reader makes of a folder."""

    table: pd.DataFrame
    """The rows of a catalogue, as the files list them."""
    root: Path
    """Where the paths in the table start."""
    folders: tuple[str, ...]
    """The folders below ``root`` that should hold the listed images only; empty where images are no files."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one published data set lies on the disk."""

    name: str
    title: str
    wants: str
    """What the folder must hold, for the error."""
    parts: tuple[Part, ...]
    recognise: Callable[[Path], bool]
    """Cheap: called on every folder that a user names."""
    read: Callable[[Path], Contents]


def compare(table: pd.DataFrame, parts: Sequence[Part]) -> tuple[LayoutCheck, ...]:
    """Expected against found, a few lines for each part."""
    checks = []
    for part in parts:
        labels = rows_of(table, part.name)["label"]
        counts = labels.value_counts()
        checks.append(LayoutCheck(f"{part.name} images", str(part.images), str(len(labels))))
        checks.append(LayoutCheck(f"{part.name} classes", str(part.classes), str(len(counts))))
        if part.per_class:
            found = _range((counts.min(), counts.max())) if len(counts) else "none"
            checks.append(LayoutCheck(f"{part.name} images per class", _range(part.per_class), found))
        if part.labels:
            numbers = labels.astype(int)
            found = _range((numbers.min(), numbers.max())) if len(numbers) else "none"
            checks.append(LayoutCheck(f"{part.name} labels", _range(part.labels), found))
    return tuple(checks)


def rows_of(table: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows of ``train``, ``test``, ``query`` or ``gallery``."""
    if part in ("query", "gallery"):
        return table[table[f"is_{part}"]]
    return table[table["split"] == part]


def _range(ends: tuple[int, int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}-{ends[1]}"


def read_lines(path: Path) -> list[str]:
    """The lines of a list file that hold something.

    Raises:
        DataError: it is missing, may not be read or is no text.
    """
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise DataError(f"{path} is missing. Unpack the whole archive of the data set.") from None
    except PermissionError:
        raise DataError(f"{path} may not be read: permission denied. Change its rights.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}. Unpack the archive again.") from error


def read_columns(path: Path, columns: int, *, skip: int = 0) -> list[list[str]]:
    """A list file whose columns are separated by spaces; the last column may hold spaces itself.

    Args:
        path: the file.
        columns: how many columns each line must have.
        skip: header lines.

    Raises:
        DataError: a line has fewer columns; the error names it.
    """
    rows = []
    for number, line in enumerate(read_lines(path)[skip:], start=1 + skip):
        cells = line.split(maxsplit=columns - 1)
        if len(cells) < columns:
            raise DataError(
                f"{path.name} wants {columns} columns, line {number} is {line!r}. Unpack the archive again."
            )
        rows.append([cell.strip() for cell in cells])
    if not rows:
        raise DataError(f"{path} lists no images. Unpack the archive again.")
    return rows


def whole_number(text: str, path: Path) -> int:
    """A class number from a list file.

    Raises:
        DataError: it is none.
    """
    try:
        return int(text)
    except ValueError:
        raise DataError(
            f"{path.name} should hold a number where it holds {text!r}. Unpack the archive again."
        ) from None
