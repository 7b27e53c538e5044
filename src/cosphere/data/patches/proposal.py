"""A patch: a table of proposed changes, one line each, that a person edits in a spreadsheet before applying it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cosphere.data.table_files import load_table, texts
from cosphere.errors import DataError
from cosphere.files import path_of, write_text

RELABEL, REMOVE, KEEP = "relabel", "remove", "keep"
"""Actions. ``keep`` changes nothing: for lines that a person looked at and does not agree with."""
COLUMNS = ("action", "path", "label", "new_label", "score", "reason")
_FORMULA = ("=", "@", "+", "-", "\t", "\r")


class Change(NamedTuple):
    """One proposed change of one image."""

    action: str
    """:data:`RELABEL` or :data:`REMOVE`."""
    path: str
    """As in :attr:`Catalogue.table`."""
    label: str
    """That the image carries."""
    new_label: str = ""
    """That it should carry; empty for a removal."""
    score: float = 0.0
    """How sure, larger is surer; comparable within one reason only."""
    reason: str = ""
    """In words."""


def write_patch(path: str | Path, changes: Iterable[Change]) -> None:
    """Write a patch as CSV, atomically; see :func:`patch_text`.

    Raises:
        RunError: it cannot be written.
    """
    write_text(path_of(path), patch_text(changes))


def patch_text(changes: Iterable[Change]) -> str:
    """A patch as CSV. A cell that a spreadsheet would run as a formula gets a leading apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for change in changes:
        writer.writerow([_guarded(str(cell)) for cell in change._replace(score=round(change.score, 4))])
    return text.getvalue()


def read_patch(path: str | Path) -> list[Change]:
    """Read the changes of a patch, without the lines that are kept.

    Raises:
        DataError: it cannot be read, a column is missing, or a line has an unknown action or no new label.
    """
    file = load_table(path)
    missing = [name for name in COLUMNS[:4] if file.column(name) is None]
    if missing:
        raise DataError(
            f"{file.name} is not a patch: it has no column {', '.join(missing)}. `cosphere data audit` writes one."
        )
    cells = {name: [_plain(cell) for cell in texts(file.frame[file.column(name)])] for name in COLUMNS[:4]}
    changes = []
    for row, (action, image, label, new) in enumerate(zip(*cells.values(), strict=True)):
        where = f"{file.name}, line {row + 2 if file.lines is None else int(file.lines[row])}"
        if action.lower() not in (RELABEL, REMOVE, KEEP, ""):
            raise DataError(f"{where}: the action is {action!r}; wanted {RELABEL}, {REMOVE} or {KEEP}.")
        if action.lower() == RELABEL and not new:
            raise DataError(f"{where}: there is no new label. Fill in new_label, or write {KEEP}.")
        if action.lower() in (RELABEL, REMOVE):
            if not image:
                raise DataError(f"{where}: there is no path. Restore the line.")
            changes.append(Change(action.lower(), image, label, new if action.lower() == RELABEL else ""))
    lines = Counter((one.path, one.label) for one in changes)
    twice = [image for (image, _), count in lines.items() if count > 1]
    if twice:
        raise DataError(f"{file.name} changes {twice[0]} twice. Keep one of the lines.")
    return changes


def _guarded(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _plain(cell: str | None) -> str:
    text = cell or ""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text
