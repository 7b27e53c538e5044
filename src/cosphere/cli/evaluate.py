"""`cosphere evaluate`: what a run's model is worth on images it has not seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cosphere.cli.parsing import CommandParser
from cosphere.cli.train import read_settings, show_notes
from cosphere.data import Catalogue, read_catalogue
from cosphere.errors import DataError
from cosphere.evaluate import Scores, evaluate
from cosphere.files import read_json, write_json
from cosphere.models import Embedder, build_embedder
from cosphere.runs import RunFolder, provenance

_EXAMPLES = [
    "cosphere evaluate runs/first photos/ --split test",
    "cosphere evaluate runs/sop Stanford_Online_Products --ks '[1,10,100,1000]'",
    "cosphere evaluate runs/first photos/ --untrained true",
]


def run(arguments: list[str]) -> int:
    """Print a table and write `scores.json`."""
    parser = CommandParser("evaluate", "Score a run's model: Recall@K, MAP@R, R-precision, NMI and F1, with intervals.", _EXAMPLES)
    parser.add_argument("run", type=str, help="a run's folder")
    parser.add_argument("source", nargs="?", type=str, help="images to score on; by default what the run was trained from")
    parser.add_argument("--split", type=str, default="test", help="split to score on; `all` takes every image")
    parser.add_argument("--layout", type=str, default="auto", help="layout of the source")
    parser.add_argument("--ks", type=list[int], default=[1, 2, 4, 8], help="K of Recall@K")
    parser.add_argument("--clustering", type=bool, default=True, help="NMI and F1 too")
    parser.add_argument("--seed", type=int, default=0, help="seed of k-means and of the intervals")
    parser.add_argument("--batch_size", type=int, default=64, help="images in one forward pass")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument("--untrained", type=bool, default=False, help="score the untrained backbone instead, as the line to beat")
    given = parser.read(arguments)
    folder = RunFolder.open(given.run)
    catalogue = open_split(given.source or read_settings(folder).data.root, given.split, layout=given.layout)
    embedder = untrained(folder) if given.untrained else Embedder.load(folder.model)
    scores = score(
        embedder,
        catalogue,
        ks=tuple(given.ks),
        clustering=given.clustering,
        seed=given.seed,
        batch_size=given.batch_size,
        workers=given.workers,
    )
    write_scores(folder, scores, given.split, untrained=given.untrained)
    show(scores, folder, given.split, untrained=given.untrained)
    return 0
