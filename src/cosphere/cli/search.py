"""`cosphere search`: the images of a collection that are nearest to one image, as a table and as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cosphere.cli.evaluate import embed_with_progress, load_model
from cosphere.cli.parsing import CommandParser
from cosphere.data import Catalogue, read_catalogue
from cosphere.errors import SettingsError
from cosphere.files import write_atomic
from cosphere.models import Embedder
from cosphere.report import StripItem, neighbour_strip
from cosphere.search import Index

_EXAMPLES = [
    "cosphere search runs/first photos/ query.jpg",
    "cosphere search runs/first photos/ query.jpg --k 12 --out found.png",
]


def run(arguments: list[str]) -> int:
    """Print the k nearest and write a picture strip."""
    parser = CommandParser("search", "Find the images nearest to one image: exact, by cosine.", _EXAMPLES)
    parser.add_argument("model", type=str, help="a run's folder or a model bundle")
    parser.add_argument("source", type=str, help="the images to search: folder, table or benchmark root")
    parser.add_argument("query", type=str, help="the image to search with")
    parser.add_argument("--k", type=int, default=8, help="how many to find")
    parser.add_argument("--out", type=str, default="search.png", help="the picture to write")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--split", type=str, default="all", help="split to search in")
    parser.add_argument("--layout", type=str, default="auto", help="layout of the source")
    given = parser.read(arguments)
    if Path(given.out).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise SettingsError(f"--out is a picture (.png, .jpg or .webp), got {given.out!r}.")
    catalogue = read_catalogue(given.source, layout=given.layout)
    if given.split != "all":
        catalogue = catalogue.select(given.split)
    find(load_model(given.model, given.device), catalogue, Path(given.query), k=given.k, out=Path(given.out))
    return 0


def find(embedder: Embedder, catalogue: Catalogue, query: Path, *, k: int, out: Path) -> None:
    """Search `catalogue` with one image; the query itself is left out of the answer when it is one of the images."""
    console = Console()
    asked = embedder.encode([query])
    found = embed_with_progress(embedder, catalogue)
    index = Index.build(found.embeddings)
    paths = list(found.paths)
    same = [row for row, path in enumerate(paths) if Path(path).resolve() == query.resolve()]
    neighbours = index.search(asked, k, exclude=np.array([same[0] if same else -1]))
    names = [found.class_names[label] for label in found.labels]
    items = [
        StripItem(
            path=paths[row], score=score, label=names[row], correct=names[row] == names[same[0]] if same else None
        )
        for row, score in zip(neighbours.ids[0].tolist(), neighbours.scores[0].tolist(), strict=True)
    ]
    table = Table(title=f"nearest to {escape(query.name)} among {len(paths):,} images")
    for column, justify in (("rank", "right"), ("cosine", "right"), ("label", "left"), ("image", "left")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for rank, item in enumerate(items, 1):
        table.add_row(str(rank), f"{item.score:.3f}", escape(item.label or ""), escape(str(item.path)))
    console.print(table)
    if same:
        console.print(
            f"{query.name} is one of the images, so it is left out; its label is {names[same[0]]!r}", highlight=False
        )
    picture = neighbour_strip(query, items)
    write_atomic(out, lambda part: picture.convert("RGB").save(part, format=_format(out)))
    console.print(f"picture: {out}", highlight=False, markup=False)


def _format(path: Path) -> str:
    return {".png": "PNG", ".webp": "WEBP"}.get(path.suffix.lower(), "JPEG")
