"""`cosphere train`: from a folder, a table, a benchmark's root or a recipe to a run's folder."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path
from typing import Any

from cosphere.cli import console
from cosphere.cli.parsing import CommandParser, settings_of
from cosphere.data import Catalogue
from cosphere.errors import SettingsError, counted
from cosphere.experiment import resume_run
from cosphere.experiment import run as run_experiment
from cosphere.experiment.images import has_unseen
from cosphere.experiment.protocols.probing import split_to_halve
from cosphere.files import path_of
from cosphere.runs import RunFolder
from cosphere.train import TrainResult, TrainSettings, reporter
from cosphere.train.setup import learns_from_labels

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
    given = parser().read(arguments)
    if given.resume:
        names = {word.split("=", 1)[0] for word in arguments if word.startswith("--")}
        expected = sum(1 if "=" in word else 2 for word in arguments if word.startswith("--"))
        if names - {"--resume", "--steps"} or len(arguments) != expected:
            raise SettingsError(
                "--resume goes on with a run as it was, so it takes no other setting than --steps. Leave the rest out."
            )
        return _finish(Path(given.resume), steps=given.steps if "--steps" in names else None)
    settings = settings_of(TrainSettings, given)
    if given.source:
        settings = settings.with_values({"data.root": given.source})
    name = given.name or f"{time.strftime('%Y%m%d-%H%M%S')}-{re.sub(r'[^a-z0-9_]', '-', settings.loss.name)}"
    if re.search(r"[/\\]|^\.", name):
        raise SettingsError(f"a run's name is one folder name, got {name!r}. Use --runs for the folder that holds it.")
    beside = {"about": given.about, "evaluation": given.evaluation, "numbered": given.name is None}
    return _finish(Path(given.runs) / name, settings, **beside)


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "train",
        "Train an embedding and leave it in a run's folder.",
        _EXAMPLES,
        usage="cosphere train DATA [--config RECIPE] [--name NAME] [--SETTING VALUE ...]\n       cosphere train --resume RUN",
    )
    made.add_argument(
        "source", nargs="?", type=str, help="image folder, table or benchmark root; the same as --data.root"
    )
    made.add_argument("--config", action="config", help="a recipe (YAML) with any of the settings below")
    made.add_argument("--name", type=str | None, default=None, help="name of the run; by default the date and the loss")
    made.add_argument("--runs", type=str, default="runs", help="folder that holds the runs")
    made.add_argument(
        "--resume", type=str | None, default=None, help="a run's folder to go on with, exactly where it stopped"
    )
    made.add_argument(
        "--about", type=dict[str, Any], default={}, help="what a recipe says of itself: paper, published row, unknowns"
    )
    made.add_argument(
        "--evaluation",
        type=dict[str, Any],
        default={},
        help="settings of `cosphere evaluate` for this run, unless its command line gives others",
    )
    made.add_class_arguments(TrainSettings, None)
    return made


def _finish(path: Path, settings: TrainSettings | None = None, **beside: Any) -> int:
    """Train a new run, or without settings go on with the one that is there, to its end."""
    listener = TrainListener()
    try:
        if settings is None:
            steps = beside.get("steps")
            settings = TrainSettings.read(RunFolder.open(path).config)
            result = resume_run(path, steps=steps, reporter=reporter(steps or settings.steps), listener=listener)
        else:
            result = run_experiment(settings, path, reporter=reporter(settings.steps), listener=listener, **beside)
    except KeyboardInterrupt:
        if listener.folder is not None and (listener.folder.checkpoints / "last.pt").exists():
            console.aside(f"go on with: cosphere train --resume {shlex.quote(str(listener.folder.path))}")
        raise
    show(result, listener.folder or RunFolder(path), settings, listener.images)
    return 0


class TrainListener(console.ConsoleListener):
    """Remembers the images of the run too."""

    images: Catalogue | None = None

    def training_on(self, images: Catalogue) -> None:
        """Remember them."""
        self.images = images


def show(result: TrainResult, folder: RunFolder, settings: TrainSettings, images: Catalogue | None) -> None:
    """The table at the end of a run, and the next commands."""
    if result.best_scores:
        table = console.table_of("validation", "", *result.best_scores)
        if result.before:
            table.add_row("untrained", *(f"{100 * result.before[name]:.1f} %" for name in result.best_scores))
        table.add_row(
            f"best, step {result.best_step}", *(f"{100 * value:.1f} %" for value in result.best_scores.values())
        )
        console.show(table)
    if result.unreadable:
        console.line(f"{counted(len(result.unreadable), 'unreadable image')} left out, first: {result.unreadable[0]}")
    console.line(f"{counted(result.steps, 'step')} in {result.seconds:.0f} s; the model is in {folder.model}")
    root = path_of(settings.data.root).absolute()
    place = shlex.quote(str(root)) + ("" if settings.data.layout == "auto" else f" --layout {settings.data.layout}")
    scored = place
    if not learns_from_labels(settings):  # judged as self-supervision is, on images with labels
        labelled = images is not None and images.labelled
        split = split_to_halve(images) if images is not None and labelled else None
        scored = f"{place if labelled else 'LABELLED_IMAGES'} --protocol knn" + (f" --split {split}" if split else "")
    elif images is not None and not has_unseen(images, settings):
        scored = f"{place} --split all"
    run = shlex.quote(str(folder.path))
    console.line(f"next: cosphere evaluate {run} {scored}    cosphere search {run} {place} QUERY.jpg")
