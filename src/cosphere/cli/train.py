"""`cosphere train`: from a folder, a table, a benchmark's root or a recipe to a run's folder."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cosphere.cli.data_tables import differences_table
from cosphere.cli.parsing import CommandParser
from cosphere.data import Catalogue, read_catalogue
from cosphere.errors import SettingsError
from cosphere.evaluate import EvaluationSettings, evaluate
from cosphere.images import PixelCache
from cosphere.models import Embedder
from cosphere.runs import RunFolder
from cosphere.train import Evaluate, TrainResult, TrainSettings, Validation, decoding_workers, reporter, train

_EXAMPLES = [
    "cosphere train photos/ --name first",
    "cosphere train photos/ --name sec --loss.name multi_similarity --sec.weight 0.02 --images.size 160",
    "cosphere train table.csv --name parts --batch.size 80 --batch.images_per_class 4 --steps 2000",
    "cosphere train CUB_200_2011 --config recipes/sec/cub-triplet-sec.yaml",
    "cosphere train photos/ --loss.name triplet --loss.settings.margin 0.5",
    "cosphere train --resume runs/first",
]


def run(arguments: list[str]) -> int:
    """Train, and say what to do next."""
    parser = CommandParser(
        "train",
        "Train an embedding and leave it in a run's folder.",
        _EXAMPLES,
        usage="cosphere train DATA [--config RECIPE] [--name NAME] [--SETTING VALUE ...]\n       cosphere train --resume RUN",
    )
    parser.add_argument(
        "source", nargs="?", type=str, help="image folder, table or benchmark root; the same as --data.root"
    )
    parser.add_argument("--config", action="config", help="a recipe (YAML) with any of the settings below")
    parser.add_argument(
        "--name", type=str | None, default=None, help="name of the run; by default the date and the loss"
    )
    parser.add_argument("--runs", type=str, default="runs", help="folder that holds the runs")
    parser.add_argument(
        "--resume", type=str | None, default=None, help="a run's folder to go on with, exactly where it stopped"
    )
    parser.add_argument(
        "--about", type=dict[str, Any], default={}, help="what a recipe says of itself: paper, published row, unknowns"
    )
    parser.add_class_arguments(TrainSettings, None)
    given = parser.read(arguments)
    if given.resume:
        if len(arguments) != (1 if any(word.startswith("--resume=") for word in arguments) else 2):
            raise SettingsError(
                "--resume goes on with a run as it was, so it takes no other setting. Leave the rest out."
            )
        return _resume(Path(given.resume))
    settings = TrainSettings(
        **{key: value for key, value in vars(given).items() if key in TrainSettings.__dataclass_fields__}
    )
    if given.source:
        settings = replace(settings, data=replace(settings.data, root=given.source))
    if not settings.data.root:
        raise SettingsError(
            "what should be trained on? Give a folder, a table or a benchmark's root: cosphere train photos/"
        )
    catalogue = read_catalogue(settings.data.root, layout=settings.data.layout)
    name = given.name or f"{time.strftime('%Y%m%d-%H%M%S')}-{settings.loss.name}"
    if re.search(r"[/\\]|^\.", name):
        raise SettingsError(f"a run's name is one folder name, got {name!r}. Use --runs for the folder that holds it.")
    folder = RunFolder.create(Path(given.runs) / name)
    absolute = settings.with_absolute_paths()
    absolute.write(folder.config, about=given.about)
    show_notes(catalogue)
    return _train(absolute, catalogue, folder, resume=False)


def _resume(path: Path) -> int:
    folder = RunFolder.open(path)
    settings = TrainSettings.read(folder.config)
    catalogue = read_catalogue(settings.data.root, layout=settings.data.layout)
    return _train(settings, catalogue, folder, resume=True)


def validation_scores(settings: TrainSettings) -> Evaluate:
    """What the training loop calls to score a model: Recall@1, MAP@R and R-precision, no clustering, no intervals."""

    def score(embedder: Embedder, catalogue: Catalogue) -> Validation:
        cache = PixelCache(settings.data.cache, rule=embedder.preprocessing.rule) if settings.data.cache else None
        found = evaluate(
            embedder,
            catalogue,
            EvaluationSettings(ks=(1,), clustering=False, bootstrap_samples=0),
            workers=decoding_workers(settings, next(embedder.parameters()).device),
            cache=cache,
            max_unreadable=settings.data.max_unreadable,
        )
        return Validation({name: found.value(name) for name in ("recall@1", "map@r", "r_precision")}, found.health)

    return score


def _train(settings: TrainSettings, catalogue: Catalogue, folder: RunFolder, *, resume: bool) -> int:
    try:
        result = train(
            settings,
            catalogue,
            folder,
            reporter=reporter(settings.steps),
            evaluate=validation_scores(settings),
            resume=resume,
        )
    except KeyboardInterrupt:
        if (folder.checkpoints / "last.pt").exists():
            Console(stderr=True).print(
                f"go on with: cosphere train --resume {folder.path}", soft_wrap=True, highlight=False, markup=False
            )
        raise
    show_result(result, folder, settings)
    return 0


def show_notes(catalogue: Catalogue) -> None:
    """What was noticed while the data was read."""
    console = Console(stderr=True)
    for note in catalogue.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if catalogue.differences:
        console.print(differences_table(catalogue))


def show_result(result: TrainResult, folder: RunFolder, settings: TrainSettings) -> None:
    """The table at the end of a run, and the next commands."""
    console = Console()
    if result.best_scores:
        table = Table(title="validation")
        table.add_column("")
        for name in result.best_scores:
            table.add_column(name, justify="right")
        if result.before:
            table.add_row("untrained", *(f"{100 * result.before[name]:.1f} %" for name in result.best_scores))
        table.add_row(
            f"best, step {result.best_step}", *(f"{100 * value:.1f} %" for value in result.best_scores.values())
        )
        console.print(table)
    if result.unreadable:
        console.print(
            f"{len(result.unreadable)} unreadable image(s) left out, first: {result.unreadable[0]}", soft_wrap=True
        )
    console.print(
        f"{result.steps} steps in {result.seconds:.0f} s; the model is in {folder.model}",
        soft_wrap=True,
        highlight=False,
    )
    root = settings.data.root
    console.print(
        f"next: cosphere evaluate {folder.path} {root}    cosphere search {folder.path} {root} QUERY.jpg",
        soft_wrap=True,
        highlight=False,
    )
