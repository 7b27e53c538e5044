"""`cosphere index search`: the items of a gallery that are nearest to one image, as a table and as a picture."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from cosphere._types import Device
from cosphere.cli import console
from cosphere.cli.index.options import add_gallery, add_where, note_columns, where_given
from cosphere.cli.parsing import CommandParser
from cosphere.cli.search import FORMATS, write_strip
from cosphere.errors import SettingsError, counted
from cosphere.experiment import search_index
from cosphere.experiment.indexing import IndexAnswer
from cosphere.experiment.outputs import check_pictures
from cosphere.gallery import open_store
from cosphere.gallery.address import Server, place_of
from cosphere.report import StripItem
from cosphere.search import GalleryHit
from cosphere.search.gallery_items import box_of

_EXAMPLES = [
    "cosphere index search photos.gallery query.jpg",
    "cosphere index search photos.gallery query.jpg --where label=mug --where 'year>=2024'",
    "cosphere index search photos.gallery --id /photos/mug/1.jpg --k 12 --out found.png",
    "cosphere index search photos.gallery query.jpg --precision codes --json",
]


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "index search", "Find the items of a gallery nearest to one image, or to one of its items.", _EXAMPLES
    )
    add_gallery(made)
    made.add_argument("query", nargs="*", type=str, help="the images to search with")
    made.add_argument("--id", action="append", type=str, help="search with this item of the gallery; repeatable")
    made.add_argument("--k", type=int, default=8, help="number of items to find")
    add_where(made, "which items may be found")
    made.add_argument(
        "--precision",
        type=Literal["floats", "codes"] | None,
        default=None,
        help="compare floats or codes, where the gallery holds both; by default floats",
    )
    made.add_argument("--exact", type=bool, default=False, help="compare all rows, also where there is an index")
    made.add_argument(
        "--model", type=str | None, default=None, help="the gallery's model, if it no longer lies where it did"
    )
    made.add_argument(
        "--out", type=str, default="search.png", help="the picture to write; of several queries, numbered"
    )
    made.add_argument("--json", type=bool, default=False, help="print the answers as JSON")
    made.add_argument("--device", type=Device, default="auto", help="auto, cpu, cuda or mps")
    return made


def run(arguments: list[str]) -> int:
    """Print the nearest items and write a strip of pictures for each query."""
    given = parser().read(arguments)
    if Path(given.out).suffix.lower() not in FORMATS:
        raise SettingsError(f"--out is a picture (.png, .jpg or .webp), got {given.out!r}.")
    place = place_of(given.gallery)
    count = len(given.query or []) + len(given.id or [])
    source = "" if isinstance(place, Server) else place
    pictures = check_pictures(given.out, count, inputs=given.query or [], source=source)
    answers = search_index(
        given.gallery,
        given.query or [],
        ids=given.id or [],
        model=given.model,
        k=given.k,
        where=where_given(given),
        precision=given.precision,
        exact=given.exact,
        device=given.device,
    )
    if given.where and not any(answer.hits for answer in answers):
        with open_store(given.gallery) as store:
            note_columns(store, where_given(given), 0)
    if given.json:
        print(json.dumps([as_dict(answer) for answer in answers], indent=1))
    for answer, picture in zip(answers, pictures, strict=True):
        if not given.json:
            show(answer)
        if answer.hits:
            write_strip(_query_picture(answer, given.query or []), [_tile(*one) for one in _shown(answer)], picture)
            if not given.json:
                console.line(f"picture: {picture}")
    return 0


def as_dict(answer: IndexAnswer) -> dict[str, Any]:
    """Plain values of an answer for ``--json``."""
    hits = [{"id": hit.id, "score": hit.score, "same": hit.same, "metadata": dict(hit.metadata)} for hit in answer.hits]
    return {
        "query": str(answer.query),
        "measure": answer.measure,
        "own": answer.own,
        "hits": hits,
        "notes": list(answer.notes),
    }


def show(answer: IndexAnswer) -> None:
    """Print the hits and what to know about them."""
    name = Path(answer.query).name or str(answer.query)
    if not answer.hits:
        console.line(f"nothing found for {name}: the gallery has no other item, or none that meets the filter")
        return
    table = console.table_of(f"nearest to {name} among {counted(answer.items, 'item')}", "rank", answer.measure)
    table.columns[0].justify = "right"
    labelled = any(_label(hit) for hit in answer.hits)
    for column in ("label", "id") if labelled else ("id",):
        table.add_column(column, no_wrap=column == "id")
    for rank, hit in enumerate(answer.hits, 1):
        texts = (_label(hit), hit.id) if labelled else (hit.id,)
        table.add_row(str(rank), f"{hit.score:.3f}", *map(console.plain, texts))
    console.show_whole(table)
    if answer.own:
        console.line(f"{name} is in the gallery, so it is left out")
    for text in answer.notes:
        console.line(text)


def _label(hit: GalleryHit) -> str:
    label = str(hit.metadata.get("label", ""))
    return f"unknown ({label})" if hit.same is False else label


def _query_picture(answer: IndexAnswer, queries: list[str]) -> Any:
    """The query's file; of an item, the file that it was added from, which may be its id."""
    return answer.query if answer.query in queries else str(answer.query).partition("@")[0]


def _shown(answer: IndexAnswer) -> list[tuple[GalleryHit, bytes | None]]:
    return list(zip(answer.hits, answer.thumbnails, strict=True))


def _tile(hit: GalleryHit, thumbnail: bytes | None) -> StripItem:
    """The picture of a hit: its file, or its thumbnail where the file is no longer there."""
    path, box = str(hit.metadata.get("path", hit.id)), box_of(hit.metadata)
    if thumbnail is not None and not Path(path.partition("#")[0]).exists():
        with Image.open(io.BytesIO(thumbnail)) as picture:
            return StripItem(np.asarray(picture.convert("RGB")), hit.score, _label(hit))
    return StripItem(path, hit.score, _label(hit), box=box)
