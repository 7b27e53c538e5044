"""`cosphere data convert`: copy a data set into another form."""

from __future__ import annotations

from cosphere.cli import console
from cosphere.cli.options import add_source
from cosphere.cli.parsing import CommandParser
from cosphere.data import Conversion, convert
from cosphere.errors import counted

_EXAMPLES = [
    "cosphere data convert faces_emore/train.rec faces/",
    "cosphere data convert faces/ train.rec",
    "cosphere data convert lfw.bin lfw/",
    "cosphere data convert photos.zip photos.parquet",
]


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "data convert",
        "Copy images and their table into another form: a folder, a RecordIO file, a zip archive or a table with images. "
        "After a kill, the same command goes on.",
        _EXAMPLES,
    )
    add_source(made, also="a .rec, .zip or .bin file")
    made.add_argument("target", type=str, help="a folder, or a name that ends with .rec, .zip, .csv, .tsv or .parquet")
    made.add_argument("--overwrite", type=bool, default=False, help="replace what is there")
    made.add_argument(
        "--max_unreadable",
        type=float,
        default=0.01,
        help="tolerated share of unreadable images, 0 to 1; they are left out",
    )
    return made


def run(arguments: list[str]) -> int:
    """Convert, and say what was written."""
    given = parser().read(arguments)
    with console.progress_bar("converting") as progress:
        result = convert(
            given.source,
            given.target,
            layout=given.layout,
            classes=given.classes or "top",
            overwrite=given.overwrite,
            max_unreadable=given.max_unreadable,
            progress=progress,
        )
    show(result)
    return 0


def show(result: Conversion) -> None:
    """Print what was written and what was left out."""
    for text in result.notes:
        console.note(text)
    if result.resumed:
        console.note(f"went on after {counted(result.resumed, 'image')} that an earlier process was through with")
    for image in result.skipped[:3]:
        console.note(f"left out: {image.reason}")
    if len(result.skipped) > 3:
        console.note(f"left out: {counted(len(result.skipped) - 3, 'more image')}")
    console.line(f"{counted(result.images, 'image')} in {result.target}, their table in {result.table}")
    if result.pairs is not None:
        console.line(f"pairs in {result.pairs}")
