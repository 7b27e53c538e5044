"""`cosphere data patch`: apply the changes of a patch to a table or to class folders, or undo them."""

from __future__ import annotations

import shlex

from cosphere.cli import console
from cosphere.cli.options import add_source
from cosphere.cli.parsing import CommandParser
from cosphere.data.patches import apply_patch, undo_patch
from cosphere.errors import SettingsError, counted

_EXAMPLES = ["cosphere data patch audit/patch.csv photos/", "cosphere data patch audit/patch.csv --undo"]
_SHOWN = 5


def parser() -> CommandParser:
    """The options of `data patch`."""
    made = CommandParser(
        "data patch",
        "Apply a patch of labels to a table or to class folders, or undo it. Images are moved, never deleted or written.",
        _EXAMPLES,
    )
    made.add_argument("patch", type=str, help="a patch.csv of `cosphere data audit`, perhaps edited")
    add_source(made, optional="not needed with --undo")
    made.add_argument("--undo", type=bool, default=False, help="restore what the patch changed")
    return made


def run(arguments: list[str]) -> int:
    """Print what was changed."""
    given = parser().read(arguments)
    if given.undo:
        console.line(f"{counted(undo_patch(given.patch), 'file')} restored; the images are as before the patch")
        return 0
    if given.source is None:
        raise SettingsError("which images? Give the folder or table that the patch was made from, or --undo.")
    applied = apply_patch(given.patch, given.source, layout=given.layout, classes=given.classes or "top")
    console.line(
        f"{counted(applied.relabelled, 'image')} relabelled, {applied.removed} removed from the set; to undo: "
        f"cosphere data patch {shlex.quote(given.patch)} --undo"
    )
    for one in applied.skipped[:_SHOWN]:
        console.line(f"skipped {one.path}: {one.reason}")
    if len(applied.skipped) > _SHOWN:
        console.line(f"skipped {len(applied.skipped) - _SHOWN} more")
    return 0
