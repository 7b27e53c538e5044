"""`cosphere demo`: the whole path in a few minutes, on stamps that it draws itself."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from rich.table import Table

from cosphere.cli import console
from cosphere.cli.options import add_seed
from cosphere.cli.parsing import CommandParser
from cosphere.cli.search import show as show_answer
from cosphere.cli.search import write_picture
from cosphere.data import read_catalogue
from cosphere.errors import RunError
from cosphere.evaluate import Scores
from cosphere.experiment import evaluate_run, search_images
from cosphere.experiment import run as run_experiment
from cosphere.models import EmbedderSettings
from cosphere.report import write_report
from cosphere.runs import RunFolder
from cosphere.stamps import draw_stamps
from cosphere.train import (
    BatchSettings,
    DataSettings,
    ImageSettings,
    LossSettings,
    OptimizerSettings,
    ScheduleSettings,
    SecSettings,
    TrainSettings,
    ValidationSettings,
    bfloat16_is_native,
    reporter,
)


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "demo",
        "Draw stamp impressions, train EfficientNet-Lite0 on them with multi-similarity and SEC, and show the improvement "
        "on designs that it has not seen. Needs no download.",
        ["cosphere demo", "cosphere demo --out elsewhere --steps 200"],
    )
    made.add_argument("--out", type=str, default="demo", help="folder for the stamps and the run")
    made.add_argument("--steps", type=int, default=100, help="optimiser steps")
    add_seed(made, "the drawing and of the training")
    made.add_argument("--weights", type=str, default="imagenet", help="as --model.weights of `cosphere train`")
    return made


def run(arguments: list[str]) -> int:
    """Draw, train, score before and after, report, search."""
    given = parser().read(arguments)
    show(Path(given.out), steps=given.steps, seed=given.seed, weights=given.weights)
    return 0


def demo_settings(stamps: Path, *, steps: int, seed: int, weights: str = "imagenet") -> TrainSettings:
    """What the demo trains with: a mirrored stamp is another stamp, so nothing is flipped."""
    return TrainSettings(
        steps=steps,
        seed=seed,
        precision="bf16" if bfloat16_is_native() else "float32",
        checkpoint_every=0,
        log_every=5,
        data=DataSettings(root=str(stamps.absolute())),
        images=ImageSettings(size=128, preset="normsoftmax", flip=0.0),
        model=EmbedderSettings(backbone="tf_efficientnet_lite0", weights=weights, dim=128),
        batch=BatchSettings(size=60, images_per_class=5),
        loss=LossSettings(name="multi_similarity"),
        sec=SecSettings(weight=0.02),
        optimizer=OptimizerSettings(backbone_rate=3e-4, head_rate=3e-4),
        schedule=ScheduleSettings(name="cosine"),
        validation=ValidationSettings(every=50, before=False, lens=True),
    )


def show(folder: Path, *, steps: int, seed: int, weights: str) -> None:
    """The demo itself."""
    began, listener, run_folder = time.monotonic(), console.ConsoleListener(), folder / "run"
    if is_broken_off(folder):
        shutil.rmtree(run_folder)
    if run_folder.exists():
        raise RunError(
            f"{run_folder} is there already. Look at {run_folder / 'report.html'}, or use --out for another folder."
        )
    # Before the drawing, so that a wrong number is refused at once.
    settings = demo_settings(folder / "stamps", steps=steps, seed=seed, weights=weights)
    with console.progress_bar("drawing stamps") as progress:
        stamps = draw_stamps(folder / "stamps", seed=seed, progress=progress)
    run_experiment(settings, run_folder, reporter=reporter(steps), listener=listener)
    before = evaluate_run(run_folder, split="test", untrained=True, listener=listener)
    after = evaluate_run(run_folder, split="test", listener=listener)
    console.show(_table(before.scores, after.scores))
    page = write_report(run_folder)
    query = read_catalogue(stamps).select("test").paths[0]
    searched = search_images(run_folder, stamps, [Path(query)], k=6, split="test", listener=listener)
    show_answer(searched.answers[0], len(searched.images))
    write_picture(searched.answers[0], folder / "search.png")
    console.line("")
    console.line(f"{time.monotonic() - began:.0f} s in all. Open these:")
    console.line(f"  {page}")
    console.line(f"  {folder / 'search.png'}")
    console.line(f"Then your own: cosphere train PHOTOS/ --name first --sec.weight {settings.sec.weight}")


def is_broken_off(folder: Path) -> bool:
    """Whether `folder` holds a demo that did not reach its report. A run on anything but the demo's own stamps is not one."""
    run_folder = RunFolder(folder / "run")
    if not run_folder.config.exists() or run_folder.report.exists() or run_folder.is_claimed:
        return False
    return TrainSettings.read(run_folder.config).data.root == str((folder / "stamps").absolute())


def _table(before: Scores, after: Scores) -> Table:
    table = console.table_of(
        f"stamp designs not trained on: {after.images} impressions of {after.classes} designs",
        "score, %",
        "untrained",
        "trained",
        "95 % interval",
    )
    untrained = before.values
    for name, trained in after.values.items():
        ends = "" if trained.interval is None else " to ".join(f"{100 * end:.1f}" for end in trained.interval)
        table.add_row(name, f"{100 * untrained[name].value:.1f}", f"{100 * trained.value:.1f}", ends)
    return table
