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
from cosphere.models import Calibration, Embedder
from cosphere.report import StripItem, neighbour_strip
from cosphere.search import KINDS, Index
from cosphere.search.asymmetric import SHORTLIST
from cosphere.search.index import check_kind
from cosphere.search.self_check import check_wanted_recall

_EXAMPLES = [
    "cosphere search runs/first photos/ query.jpg",
    "cosphere search runs/first photos/ query.jpg --k 12 --out found.png",
    "cosphere search runs/first photos/ query.jpg --kind bits --wanted_recall 0.5",
]
_WHOLE = ("exact", "rerank")
"""Kinds whose scores are the cosines of whole embeddings."""


def run(arguments: list[str]) -> int:
    """Print the k nearest and write a picture strip."""
    parser = CommandParser(
        "search", "Find the images nearest to one image: by cosine, exactly or from smaller rows.", _EXAMPLES
    )
    parser.add_argument("model", type=str, help="a run's folder or a model bundle")
    parser.add_argument("source", type=str, help="the images to search: folder, table or benchmark root")
    parser.add_argument("query", type=str, help="the image to search with")
    parser.add_argument("--k", type=int, default=8, help="how many to find")
    parser.add_argument("--kind", type=str, default="exact", help=f"what is kept of an image: {', '.join(KINDS)}")
    parser.add_argument(
        "--wanted_recall",
        type=float | None,
        default=None,
        help="0 to 1: refuse an index that finds less of what exact search finds",
    )
    parser.add_argument("--out", type=str, default="search.png", help="the picture to write")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--split", type=str, default="all", help="split to search in")
    parser.add_argument("--layout", type=str, default="auto", help="layout of the source")
    given = parser.read(arguments)
    if Path(given.out).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise SettingsError(f"--out is a picture (.png, .jpg or .webp), got {given.out!r}.")
    check_kind(given.kind)  # before minutes of embedding
    check_wanted_recall(given.wanted_recall)
    catalogue = read_catalogue(given.source, layout=given.layout)
    if given.split != "all":
        catalogue = catalogue.select(given.split)
    settings = {"kind": given.kind, "wanted_recall": given.wanted_recall}
    find(
        load_model(given.model, given.device), catalogue, Path(given.query), k=given.k, out=Path(given.out), **settings
    )
    return 0


def find(
    embedder: Embedder,
    catalogue: Catalogue,
    query: Path,
    *,
    k: int,
    out: Path,
    kind: str = "exact",
    wanted_recall: float | None = None,
) -> None:
    """Search `catalogue` with one image; the query itself is left out of the answer when it is one of the images.

    Answers that a calibrated model does not take for the same as the query are marked as unknown.
    """
    console = Console()
    asked = embedder.encode([query])
    found = embed_with_progress(embedder, catalogue)
    index = Index.build(found.embeddings, kind, shortlist=max(k, SHORTLIST), wanted_recall=wanted_recall)
    paths = list(found.paths)
    same = [row for row, path in enumerate(paths) if Path(path).resolve() == query.resolve()]
    neighbours = index.search(asked, k, exclude=np.array([same[0] if same else -1]))
    names = [found.class_names[label] for label in found.labels]
    # The threshold was chosen among cosines of whole embeddings; scores of smaller rows only come near them.
    chosen = embedder.calibration if kind in _WHOLE else None
    items = [
        StripItem(
            path=paths[row],
            score=score,
            label=names[row] if chosen is None or chosen.same(score) else f"unknown ({names[row]})",
            correct=names[row] == names[same[0]] if same else None,
        )
        for row, score in zip(neighbours.ids[0].tolist(), neighbours.scores[0].tolist(), strict=True)
    ]
    table = Table(title=f"nearest to {escape(query.name)} among {len(paths):,} images")
    for column, justify in (("rank", "right"), ("cosine", "right"), ("label", "left"), ("image", "left")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for rank, item in enumerate(items, 1):
        table.add_row(str(rank), f"{item.score:.3f}", escape(item.label or ""), escape(str(item.path)))
    console.print(table)
    said = [] if chosen is None else [_verdict(chosen, [item.score for item in items])]
    if kind != "exact":
        said.append(f"index of kind {kind}, {index.bytes_per_image:,} bytes an image: {index.check}")
    if chosen is None and embedder.calibration is not None:
        said.append(f"the model's threshold is one of whole embeddings: nothing is marked as unknown by kind {kind}")
    if same:
        said.append(f"{query.name} is one of the images, so it is left out; its label is {names[same[0]]!r}")
    for line in said:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    picture = neighbour_strip(query, items)
    write_atomic(out, lambda part: picture.convert("RGB").save(part, format=_format(out)))
    console.print(f"picture: {out}", highlight=False, markup=False, soft_wrap=True)


def _verdict(chosen: Calibration, scores: list[float]) -> str:
    """One sentence about what lies above the threshold."""
    above = int(chosen.same(scores).sum())
    rule = f"cosine {chosen.threshold:.3f}, for a false accept rate of {100 * chosen.wanted_far:g} % of pairs"
    if not above:
        return f"none is above the threshold ({rule}): the query counts as of no class that is here"
    return f"{above} of {len(scores)} above the threshold ({rule}); what lies below is marked as unknown"


def _format(path: Path) -> str:
    return {".png": "PNG", ".webp": "WEBP"}.get(path.suffix.lower(), "JPEG")
