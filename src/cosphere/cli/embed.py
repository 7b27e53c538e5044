"""`cosphere embed`: the embeddings of a folder of images, in a file that numpy, pandas or faiss reads."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cosphere.cli.evaluate import embed_with_progress, load_model
from cosphere.cli.parsing import CommandParser
from cosphere.data import read_catalogue

_EXAMPLES = [
    "cosphere embed runs/first photos/ --out photos.npz",
    "cosphere embed runs/first/model photos/ --split test --out test.npz",
]


def run(arguments: list[str]) -> int:
    """Write one .npz with raw embeddings, labels, paths and class names."""
    parser = CommandParser(
        "embed",
        "Write the raw embeddings of images to an .npz file: embeddings (N, D) float32, labels, paths, class_names.",
        _EXAMPLES,
    )
    parser.add_argument("model", type=str, help="a run's folder or a model bundle")
    parser.add_argument("source", type=str, help="image folder, table or benchmark root")
    parser.add_argument("--out", type=str, required=True, help="the .npz file to write")
    parser.add_argument("--split", type=str, default="all", help="split to embed; `all` takes every image")
    parser.add_argument("--layout", type=str, default="auto", help="layout of the source")
    parser.add_argument("--batch_size", type=int, default=64, help="images in one forward pass")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    given = parser.read(arguments)
    catalogue = read_catalogue(given.source, layout=given.layout)
    if given.split != "all":
        catalogue = catalogue.select(given.split)
    found = embed_with_progress(
        load_model(given.model, given.device), catalogue, batch_size=given.batch_size, workers=given.workers
    )
    found.save(Path(given.out))
    console = Console()
    console.print(
        f"{len(found.embeddings):,} embeddings of width {found.embeddings.shape[1]} in {given.out}",
        highlight=False,
        markup=False,
    )
    for _, reason in found.skipped[:3]:
        console.print(f"left out: {reason}", markup=False, highlight=False)
    return 0
