"""`cosphere index compact`: deleted items out of a gallery's file."""

from __future__ import annotations

from cosphere.cli import console
from cosphere.cli.index.options import add_gallery
from cosphere.cli.parsing import CommandParser
from cosphere.gallery import compact, open_store
from cosphere.gallery.address import place_of

_EXAMPLES = ["cosphere index compact photos.gallery"]


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "index compact",
        "Take deleted items out of a gallery's blocks and rewrite its file without free space, which takes its size in the "
        "folder of temporary files (TMPDIR), and again in the gallery's.",
        _EXAMPLES,
    )
    add_gallery(made)
    return made


def run(arguments: list[str]) -> int:
    """Compact, and say how much was freed."""
    given = parser().read(arguments)
    with open_store(given.gallery) as store, console.progress_bar("compacting") as progress:
        done = compact(store, progress)
    console.line(f"{place_of(given.gallery)}: {done.before:,} bytes before, {done.after:,} after")
    return 0
