"""`cosphere search`: the images of a collection that are nearest to one image, as a table and as a picture."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from cosphere.cli import console
from cosphere.cli.options import add_embedding, add_source, add_split, embedding_options
from cosphere.cli.parsing import CommandParser
from cosphere.errors import SettingsError
from cosphere.experiment import search_images
from cosphere.files import write_atomic
from cosphere.report import StripItem, neighbour_strip
from cosphere.search import KINDS
from cosphere.search.answer import Answer, Hit

_EXAMPLES = [
    "cosphere search runs/first photos/ query.jpg",
    "cosphere search runs/first photos/ query.jpg --k 12 --out found.png",
    "cosphere search runs/first photos/ query.jpg --kind bits --wanted_recall 0.5",
]
_FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "search", "Find the images nearest to one image: by cosine, exactly or from smaller rows.", _EXAMPLES
    )
    made.add_argument("model", type=str, help="a run's folder or a model bundle")
    add_source(made)
    made.add_argument("query", type=str, help="the image to search with")
    made.add_argument("--k", type=int, default=8, help="number of images to find")
    made.add_argument("--kind", type=str, default="exact", help=f"how the index stores an image: {', '.join(KINDS)}")
    made.add_argument(
        "--wanted_recall",
        type=float | None,
        default=None,
        help="0 to 1: refuse an index that finds less of what exact search finds",
    )
    made.add_argument("--out", type=str, default="search.png", help="the picture to write")
    add_split(made, default="all", without="by default all")
    add_embedding(made)
    return made


def run(arguments: list[str]) -> int:
    """Print the k nearest and write a picture strip."""
    given = parser().read(arguments)
    if Path(given.out).suffix.lower() not in _FORMATS:
        raise SettingsError(f"--out is a picture (.png, .jpg or .webp), got {given.out!r}.")
    searched = search_images(
        given.model,
        given.source,
        [Path(given.query)],
        k=given.k,
        kind=given.kind,
        wanted_recall=given.wanted_recall,
        split=given.split,
        layout=given.layout,
        classes=given.classes,
        **embedding_options(given),
        listener=console.ConsoleListener(),
    )
    show(searched.answers[0], len(searched.images))
    write_picture(searched.answers[0], Path(given.out))
    return 0


def show(answer: Answer, images: int) -> None:
    """Print the hits and what to know about them."""
    table = Table(title=console.plain(f"nearest to {Path(answer.query).name} among {images:,} images"))
    for column, justify in (("rank", "right"), ("cosine", "right"), ("label", "left"), ("image", "left")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for rank, hit in enumerate(answer.hits, 1):
        table.add_row(str(rank), f"{hit.score:.3f}", console.plain(_label(hit)), console.plain(hit.path))
    console.show(table)
    for text in answer.notes:
        console.line(text)


def write_picture(answer: Answer, path: Path) -> None:
    """Write the query and its hits side by side, and say where."""
    items = [
        StripItem(
            path=hit.path,
            score=hit.score,
            label=_label(hit),
            correct=None if answer.own_label is None else hit.label == answer.own_label,
        )
        for hit in answer.hits
    ]
    picture = neighbour_strip(answer.query, items)
    write_atomic(path, lambda part: picture.convert("RGB").save(part, format=_FORMATS[path.suffix.lower()]))
    console.line(f"picture: {path}")


def _label(hit: Hit) -> str:
    """The class name; of a hit below the threshold, that it is unknown."""
    return f"unknown ({hit.label})" if hit.same is False else hit.label
