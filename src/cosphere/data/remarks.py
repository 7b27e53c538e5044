"""What there is to say about data that was read: images that were left out, notes, differences from what was published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MAX_UNREADABLE = 0.01
"""Largest tolerated share of unreadable images."""


class Skipped(NamedTuple):
    """An image that was left out."""

    path: str
    reason: str


class LayoutCheck(NamedTuple):
    """One line of the comparison between a published data set and the files at hand."""

    what: str
    """For example ``train images``."""
    expected: str
    found: str

    @property
    def agrees(self) -> bool:
        """Whether both are equal."""
        return self.expected == self.found


@dataclass(frozen=True, kw_only=True)
class Remarks:
    """What a user should know about how data was read, without the data.

    Attributes:
        root: folder that relative paths start from.
        layout: how the source was read: ``folder``, ``table``, ``container`` or the name of a published data set.
        notes: one sentence each.
        checks: expected and actual counts, for published data sets.
    """

    root: Path
    layout: str = "table"
    notes: tuple[str, ...] = ()
    checks: tuple[LayoutCheck, ...] = ()

    @property
    def differences(self) -> tuple[LayoutCheck, ...]:
        """The checks that failed: where the data differs from the published data set."""
        return tuple(check for check in self.checks if not check.agrees)
