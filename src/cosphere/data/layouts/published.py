"""The description of a published data set's layout, and the comparison of files at hand with what was published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cosphere.data.remarks import LayoutCheck


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a published data set, with the counts that its authors state."""

    name: str
    """``train``, ``test``, or ``query`` and ``gallery``, which together form the split ``test``."""
    images: int
    classes: int
    per_class: tuple[int, int] | None = None
    """Smallest and largest number of images of a class; None if not published."""
    labels: tuple[int, int] | None = None
    """First and last label; None if labels are not numbers."""


class Contents(NamedTuple):
    """What the reader of a layout returns for a folder."""

    table: pd.DataFrame
    """The rows of a catalogue, as the files list them."""
    root: Path
    """Folder that the paths in the table start from."""
    folders: tuple[str, ...]
    """Folders below ``root`` that should contain the listed images only, ``""`` for the root; empty if images are items of
    containers."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The files and counts of one published data set."""

    name: str
    title: str
    wants: str
    """What the folder must contain, for the error message."""
    parts: tuple[Part, ...]
    recognise: Callable[[Path], bool]
    """Whether a folder has this layout. Must be cheap: called for every folder that a user names."""
    read: Callable[[Path], Contents]


def compare(table: pd.DataFrame, parts: Sequence[Part]) -> tuple[LayoutCheck, ...]:
    """Compare expected and actual counts, a few lines for each part."""
    checks = []
    for part in parts:
        labels = rows_of(table, part.name)["label"]
        counts = labels.value_counts()
        checks.append(LayoutCheck(f"{part.name} images", str(part.images), str(len(labels))))
        checks.append(LayoutCheck(f"{part.name} classes", str(part.classes), str(len(counts))))
        if part.per_class:
            sizes = _range((counts.min(), counts.max())) if len(counts) else "none"
            checks.append(LayoutCheck(f"{part.name} images per class", _range(part.per_class), sizes))
        if part.labels:
            numbers = labels.astype(int)
            ends = _range((numbers.min(), numbers.max())) if len(numbers) else "none"
            checks.append(LayoutCheck(f"{part.name} labels", _range(part.labels), ends))
    return tuple(checks)


def rows_of(table: pd.DataFrame, part: str) -> pd.DataFrame:
    """Select the rows of ``train``, ``test``, ``query`` or ``gallery``."""
    if part in ("query", "gallery"):
        return table[table[f"is_{part}"]]
    return table[table["split"] == part]


def _range(ends: tuple[int, int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}-{ends[1]}"
