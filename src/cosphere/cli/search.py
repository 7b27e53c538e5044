"""`cosphere search`: the images of a collection that are nearest to one image, as a table and as a picture."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rich.table import Table

from cosphere.cli import console
from cosphere.cli.options import add_embedding, add_source, add_split, embedding_options
from cosphere.cli.parsing import CommandParser
from cosphere.errors import SettingsError, counted
from cosphere.experiment import search_images
from cosphere.experiment.outputs import check_pictures
from cosphere.files import write_atomic
from cosphere.images.marks import picture_mark
from cosphere.report import StripItem, neighbour_strip
from cosphere.search import KINDS
from cosphere.search.answer import Answer, Hit
from cosphere.search.expansion import ALPHA
from cosphere.search.refining import Refinement

_EXAMPLES = [
    "cosphere search runs/first photos/ query.jpg",
    "cosphere search runs/first photos/ query.jpg --k 12 --out found.png",
    "cosphere search runs/first photos.npz query.jpg",
    "cosphere search runs/first photos/ one.jpg two.jpg --json",
    "cosphere search runs/first photos/ query.jpg --kind bits --wanted_recall 0.5",
    "cosphere search runs/first photos/ query.jpg --reciprocal --per_label 1 --collapse 0.98",
]
FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "search", "Find the images nearest to one image: by cosine, exactly or from smaller rows.", _EXAMPLES
    )
    made.add_argument("model", type=str, help="a run's folder or a model bundle")
    add_source(made, also="an .npz file of `cosphere embed` or a saved index")
    made.add_argument("query", nargs="+", type=str, help="the images to search with")
    made.add_argument("--k", type=int, default=8, help="number of images to find")
    made.add_argument(
        "--kind",
        type=str,
        default="exact",
        help=f"how the index stores an image: {', '.join(KINDS)}; auto measures and chooses",
    )
    made.add_argument(
        "--wanted_recall",
        type=float | None,
        default=None,
        help="0 to 1: refuse an index that finds less of what exact search finds",
    )
    made.add_argument(
        "--expand",
        type=int,
        default=0,
        help="average the query with this many of its nearest images first; measure it before you rely on it",
    )
    made.add_argument(
        "--alpha", type=float, default=ALPHA, help="weights of --expand: cosines to this power; 0 for equal ones"
    )
    made.add_argument(
        "--reciprocal", type=bool, default=False, help="re-rank the 500 nearest by k-reciprocal neighbours"
    )
    made.add_argument("--per_label", type=int | None, default=None, help="show at most this many images of each class")
    made.add_argument(
        "--collapse",
        type=float | None,
        default=None,
        help="show one of images whose cosine is at least this, such as 0.98",
    )
    made.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="the picture to write; of several queries, numbered; by default search.png, beside the images rather than among them",
    )
    made.add_argument("--json", type=bool, default=False, help="print the answers as JSON")
    add_split(made, default="all", without="by default all")
    add_embedding(made)
    return made


def run(arguments: list[str]) -> int:
    """Print the k nearest and write a picture strip."""
    given = parser().read(arguments)
    if given.out is not None and Path(given.out).suffix.lower() not in FORMATS:
        raise SettingsError(f"--out is a picture (.png, .jpg or .webp), got {given.out!r}.")
    refine = Refinement(**{name: given[name] for name in ("expand", "alpha", "reciprocal", "per_label", "collapse")})
    pictures = check_pictures(given.out, len(given.query), inputs=given.query, source=given.source, model=given.model)
    searched = search_images(
        given.model,
        given.source,
        [Path(query) for query in given.query],
        k=given.k,
        kind=given.kind,
        wanted_recall=given.wanted_recall,
        refine=refine,
        split=given.split,
        layout=given.layout,
        **embedding_options(given),
        listener=console.ConsoleListener(),
    )
    if given.json:
        print(json.dumps([as_dict(answer) for answer in searched.answers], indent=1))
    for answer, picture in zip(searched.answers, pictures, strict=True):
        if given.json:
            save_picture(answer, picture)
        else:
            show(answer, len(searched.images))
            write_picture(answer, picture)
    return 0


def as_dict(answer: Answer) -> dict[str, Any]:
    """Plain values of an answer for ``--json``."""
    return {
        "query": str(answer.query),
        "measure": answer.measure,
        "label": answer.own_label,
        "hits": [
            {"path": hit.path, "label": hit.label, "score": hit.score, "same": hit.same, "alike": hit.alike}
            for hit in answer.hits
        ],
        "notes": list(answer.notes),
    }


def show(answer: Answer, images: int) -> None:
    """Print the hits and what to know about them."""
    table = Table(title=console.plain(f"nearest to {Path(answer.query).name} among {counted(images, 'image')}"))
    for column, justify in (("rank", "right"), (answer.measure, "right"), ("label", "left"), ("image", "left")):
        table.add_column(column, justify=justify, no_wrap=column in ("rank", "image"))  # type: ignore[arg-type]
    root = common_folder([hit.path for hit in answer.hits])
    for rank, hit in enumerate(answer.hits, 1):
        shown = os.path.relpath(hit.path, root) if root else hit.path
        table.add_row(str(rank), f"{hit.score:.3f}", console.plain(_label(hit)), console.plain(shown))
    console.show_whole(table)
    if root:
        console.line(f"images lie in {root}")
    for text in answer.notes:
        console.line(text)


def common_folder(paths: list[str]) -> str:
    """The folder that holds all images; empty where there is none."""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    except ValueError:
        return ""


def write_picture(answer: Answer, path: Path) -> None:
    """Write the query and its hits side by side, and say where."""
    save_picture(answer, path)
    console.line(f"picture: {path}")


def save_picture(answer: Answer, path: Path) -> None:
    """Write the query and its hits side by side."""
    items = [
        StripItem(
            path=hit.path,
            score=hit.score,
            label=_label(hit),
            correct=None if answer.own_label is None else hit.label == answer.own_label,
        )
        for hit in answer.hits
    ]
    write_strip(answer.query, items, path)


def write_strip(query: Any, items: list[StripItem], path: Path) -> None:
    """Write a query and its neighbours as one picture."""
    picture = neighbour_strip(query, items)
    # Of a PNG's compression, level 3 takes half the time of Pillow's 6 and makes photos no larger; other formats ignore it.
    kind = FORMATS[path.suffix.lower()]
    rgb, mark = picture.convert("RGB"), picture_mark()
    write_atomic(path, lambda part: rgb.save(part, format=kind, compress_level=3, exif=mark))


def _label(hit: Hit) -> str:
    """The class name; of a hit below the threshold, that it is unknown; with the number of near duplicates that it stands for."""
    name = f"unknown ({hit.label})" if hit.same is False else hit.label
    return f"{name} +{counted(hit.alike, 'near duplicate')}" if hit.alike else name
