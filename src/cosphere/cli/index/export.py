"""`cosphere index export`: a gallery as a file for other programs."""

from __future__ import annotations

from pathlib import Path

from cosphere.cli import console
from cosphere.cli.index.options import add_gallery
from cosphere.cli.parsing import CommandParser
from cosphere.errors import counted
from cosphere.experiment.outputs import check_output
from cosphere.gallery.address import Server, place_of
from cosphere.search import open_gallery

_EXAMPLES = [
    "cosphere index export photos.gallery photos.parquet",
    "cosphere index export photos.gallery photos.npz",
    "cosphere index export photos.gallery photos.faiss",
]


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "index export",
        "Write all items to a file: .parquet with every column, .npz as `cosphere search` reads, or a .faiss index with its ids.",
        _EXAMPLES,
    )
    add_gallery(made)
    made.add_argument("out", type=str, help="the file to write; its suffix says which kind")
    return made


def run(arguments: list[str]) -> int:
    """Write it."""
    given = parser().read(arguments)
    place = place_of(given.gallery)
    check_output(given.out, source="" if isinstance(place, Server) else place, option="the file")
    with open_gallery(given.gallery) as gallery:
        gallery.export(given.out)
        console.line(f"{counted(len(gallery), 'item')} in {given.out}")
        if Path(given.out).suffix.lower() == ".faiss":
            console.line(f"their ids, in order: {given.out}.ids.json")
    return 0
