"""`cosphere index build`: an approximate index over a gallery's rows, kept in its folder."""

from __future__ import annotations

from typing import Literal

from cosphere.cli import console
from cosphere.cli.index.options import add_gallery
from cosphere.cli.parsing import CommandParser
from cosphere.errors import counted
from cosphere.experiment import build_index
from cosphere.gallery import open_store
from cosphere.gallery.address import place_of
from cosphere.search import AUTO, KINDS

_EXAMPLES = [
    "cosphere index build photos.gallery",
    "cosphere index build photos.gallery --kind hnsw --wanted_recall 0.98",
    "cosphere index build photos.gallery --most_bytes 2e9",
    "cosphere index build photos.gallery --kind hnsw-bits --precision codes",
]


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "index build",
        "Build an approximate index, so that a search looks at a part of the rows. Later searches use it and catch up with additions; "
        "a deletion removes it, because it holds copies of rows. Fewer than 1000 items need none. "
        "On a server, every column gets an HNSW index that the server keeps up.",
        _EXAMPLES,
    )
    add_gallery(made)
    kinds = ", ".join(kind for kind in KINDS if kind != "exact")
    made.add_argument("--kind", type=str, default=AUTO, help=f"{AUTO} (measures and chooses), {kinds}")
    made.add_argument(
        "--precision",
        type=Literal["floats", "codes"] | None,
        default=None,
        help="index floats or codes, where the gallery holds both; by default floats",
    )
    made.add_argument(
        "--wanted_recall",
        type=float | None,
        default=None,
        help="0 to 1: share of what exact search finds that the index must find; of kind auto 0.95",
    )
    made.add_argument(
        "--most_bytes", type=float | None, default=None, help="of kind auto: bound of the index in memory"
    )
    return made


def run(arguments: list[str]) -> int:
    """Build it, and say what was built and how much it finds."""
    given = parser().read(arguments)
    with console.progress_bar("building the index"):
        index = build_index(
            given.gallery,
            kind=given.kind,
            precision=given.precision,
            wanted_recall=given.wanted_recall,
            most_bytes=given.most_bytes,
        )
    place = place_of(given.gallery)
    if index is None:
        console.line(f"{place}: the server has an HNSW index of every column")
        return 0
    with open_store(given.gallery) as store:
        of_codes = given.precision == "codes" or not store.space().has_floats
    whole = index.kind == ("bits" if of_codes else "exact")  # bits of float rows are an index
    if whole:
        console.line(f"{place}: no index is needed, all {counted(len(index), 'row')} are compared")
    else:
        console.line(f"{place}: index of kind {index.kind} over {counted(len(index), 'row')}")
    if index.check is not None and not whole:
        console.line(
            f"finds {100 * index.check.recall:.1f} % of what exact search finds, {index.check.k} neighbours of "
            f"{counted(index.check.queries, 'row')} measured"
        )
    if index.reason:
        console.note(index.reason)
    return 0
