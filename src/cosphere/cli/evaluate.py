"""`cosphere evaluate`: what a run's model is worth on images it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cosphere.cli.class_tables import write_class_tables
from cosphere.cli.codes_table import score_codes
from cosphere.cli.images import HELD_OUT, OTHER_IMAGES, as_trained, choose_images, show_note
from cosphere.cli.parsing import CommandParser
from cosphere.cli.train import show_notes
from cosphere.data import Catalogue, read_catalogue
from cosphere.errors import SettingsError
from cosphere.evaluate import Embeddings, EvaluationSettings, Scores, embed_catalogue, evaluate
from cosphere.evaluate.metrics import metrics_help
from cosphere.files import read_json, write_json
from cosphere.models import Embedder
from cosphere.runs import RunFolder, provenance
from cosphere.train import TrainSettings, untrained_model
from cosphere.train.settings import read_about

_EXAMPLES = [
    "cosphere evaluate runs/first photos/ --split test",
    "cosphere evaluate runs/sop Stanford_Online_Products --ks '[1,10,100,1000]'",
    "cosphere evaluate runs/first --metrics '[mrr,ndcg]'",
    "cosphere evaluate runs/first --codes true",
    "cosphere evaluate runs/first --untrained true",
]
UNTRAINED = "scores-untrained.json"
"""The scores of the untrained backbone, in a run's folder."""


def run(arguments: list[str]) -> int:
    """Print a table and write `scores.json`."""
    parser = CommandParser(
        "evaluate", "Score a run's model: Recall@K, MAP@R, R-precision, NMI and F1, with intervals.", _EXAMPLES
    )
    parser.add_argument("run", type=str, help="a run's folder")
    parser.add_argument(
        "source", nargs="?", type=str, help="images to score on; by default what the run was trained from"
    )
    parser.add_argument(
        "--split",
        type=str | None,
        default=None,
        help="split to score on, or `all`; by default `test`, and without any split the classes held out of training",
    )
    parser.add_argument("--layout", type=str, default="auto", help="layout of the source")
    parser.add_argument("--ks", type=list[int], default=[1, 2, 4, 8], help="the K of Recall@K")
    parser.add_argument("--clustering", type=bool, default=True, help="NMI and F1 too")
    parser.add_argument(
        "--clustering_preset", type=str, default="default", help="whose k-means: default, sec or norm_softmax"
    )
    parser.add_argument(
        "--metrics",
        type=list[str],
        default=[],
        help=f"more scores, in brackets: {metrics_help()}",
    )
    parser.add_argument("--bits", type=bool, default=False, help="rank one bit a dimension, by Hamming distance")
    parser.add_argument(
        "--interval_over", type=str, default="queries", help="queries, or classes: how sure for classes yet unseen"
    )
    parser.add_argument(
        "--codes", type=bool, default=False, help="what bits and other smaller forms keep: a table, and codes.json"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of k-means and of the intervals")
    parser.add_argument("--batch_size", type=int, default=64, help="images in one forward pass")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument(
        "--untrained", type=bool, default=False, help="score the untrained backbone instead: the line to beat"
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or mps")
    given = parser.read(arguments)
    folder = RunFolder.open(given.run)
    settings, device = TrainSettings.read(folder.config), choose_device(given.device)
    catalogue = read_catalogue(given.source or settings.data.root, layout=given.layout)
    show_notes(catalogue)
    images, split = choose_images(catalogue, given.split, settings)
    embedder = untrained_model(settings).to(device) if given.untrained else Embedder.load(folder.model, device)
    if split == HELD_OUT and not given.untrained and not as_trained(embedder, catalogue, settings):
        show_note(OTHER_IMAGES)
    scores = score(
        embedder,
        images,
        EvaluationSettings(
            ks=tuple(given.ks),
            clustering=given.clustering,
            clustering_preset=given.clustering_preset,
            metrics=tuple(given.metrics),
            bits=given.bits,
            interval_over=given.interval_over,
            seed=given.seed,
        ),
        batch_size=given.batch_size,
        workers=given.workers,
    )
    save(folder, scores, split, untrained=given.untrained)
    show(scores, folder, split, untrained=given.untrained)
    if not given.untrained:
        write_class_tables(folder, scores)
    if given.codes:
        score_codes(folder, scores.embeddings, split, seed=given.seed, untrained=given.untrained)
    return 0


def choose_device(name: str) -> str:
    """Where a model runs: what was asked for, or the GPU if there is one.

    Raises:
        SettingsError: unknown, or not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, found in there.items() if found)
    if not there.get(name, False):
        raise SettingsError(
            f"there is no device {name!r} here; there is {', '.join(k for k, found in there.items() if found)}."
        )
    return name


def score(
    embedder: Embedder, catalogue: Catalogue, settings: EvaluationSettings | None = None, **embedding: Any
) -> Scores:
    """:func:`cosphere.evaluate.evaluate` with a progress bar."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("embedding", total=len(catalogue))
        return evaluate(
            embedder,
            catalogue,
            settings or EvaluationSettings(),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            **embedding,
        )


def embed_with_progress(embedder: Embedder, catalogue: Catalogue, **settings: Any) -> Embeddings:
    """:func:`cosphere.evaluate.embed_catalogue` with a progress bar."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("embedding", total=len(catalogue))
        return embed_catalogue(
            embedder, catalogue, progress=lambda done, total: bar.update(task, completed=done, total=total), **settings
        )


def save(folder: RunFolder, scores: Scores, split: str, *, untrained: bool = False) -> None:
    """Write the scores and, for the trained model, the embeddings that the report shows.

    The scores of the untrained backbone lie in `scores-untrained.json`; where both are of one split, `scores.json` holds them
    too, as `baseline_scores`, so that a report can show what training was worth.
    """
    content = {
        "split": split,
        **scores.as_dict(),
        "provenance": provenance(),
        "settings": TrainSettings.read(folder.config).as_dict(),
    }
    beside = folder.path / UNTRAINED
    if untrained:
        write_json(beside, content)
        if not folder.scores.exists():
            return
        content = read_json(folder.scores, what="a run's scores")
    else:
        scores.embeddings.save(folder.embeddings(split))
    if beside.exists():
        before = read_json(beside, what="a run's scores")
        if before["split"] == content["split"] and before["data"]["fingerprint"] == content["data"]["fingerprint"]:
            content["baseline_scores"] = before["scores"]
    write_json(folder.scores, content)


def show(scores: Scores, folder: RunFolder, split: str, *, untrained: bool = False) -> None:
    """The table: value, interval and, for a recipe of a published row, what was published."""
    console = Console()
    published = _published(folder) if not untrained else {}
    name, plural = "untrained backbone" if untrained else folder.path.name, "" if scores.classes == 1 else "es"
    title = f"{name}, {split}: {scores.images:,} images, {scores.classes:,} class{plural}"
    table = Table(title=title)
    table.add_column("score")
    table.add_column("%", justify="right")
    over = "" if scores.interval_over == "queries" else f" over {scores.interval_over}"
    table.add_column(f"95 % interval{over}", justify="right")
    if published:
        table.add_column("published", justify="right")
    for name, found in scores.as_dict()["scores"].items():
        interval = f"{100 * found['low']:.1f} to {100 * found['high']:.1f}" if found.get("low") is not None else ""
        row = [name, f"{100 * found['value']:.2f}", interval]
        table.add_row(*row, *([f"{published[name]:.2f}" if name in published else ""] if published else []))
    console.print(table)
    if scores.retrieval is not None and "median_rank" in scores.retrieval.medians:
        console.print(f"median rank of the first relevant image: {scores.retrieval.median_rank:g}", highlight=False)
    for note in scores.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    for warning in scores.health.warnings if scores.health is not None else ():
        console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"written to {folder.path / UNTRAINED if untrained else folder.scores}", soft_wrap=True, highlight=False
    )


def _published(folder: RunFolder) -> dict[str, float]:
    """Published scores in percent, when the run came from a recipe that names them."""
    return dict(read_about(folder.config).get("published") or {})


def load_model(path: str | Path, device: str = "auto") -> Embedder:
    """The model of a run's folder, or a bundle by itself."""
    return Embedder.load(path, choose_device(device))
