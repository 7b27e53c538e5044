"""`cosphere demo`: the whole path in a few minutes, on stamps that it draws itself."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cosphere.cli.evaluate import choose_device, save, score
from cosphere.cli.images import open_split
from cosphere.cli.parsing import CommandParser
from cosphere.cli.search import find
from cosphere.cli.train import validation_scores
from cosphere.data import read_catalogue
from cosphere.errors import RunError
from cosphere.evaluate import Scores
from cosphere.models import Embedder, EmbedderSettings
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
    reporter,
    train,
    untrained_model,
)


def run(arguments: list[str]) -> int:
    """Draw, train, score before and after, report, search."""
    parser = CommandParser(
        "demo",
        "Draw stamp impressions, train EfficientNet-Lite0 on them with multi-similarity and SEC, and show what it was worth "
        "on designs that it has not seen. Needs no download.",
        ["cosphere demo", "cosphere demo --out elsewhere --steps 200"],
    )
    parser.add_argument("--out", type=str, default="demo", help="folder for the stamps and the run")
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing and of the training")
    parser.add_argument("--weights", type=str, default="imagenet", help="as --model.weights of `cosphere train`")
    given = parser.read(arguments)
    show(Path(given.out), steps=given.steps, seed=given.seed, weights=given.weights)
    return 0


def demo_settings(stamps: Path, *, steps: int, seed: int, weights: str = "imagenet") -> TrainSettings:
    """What the demo trains with: a mirrored stamp is another stamp, so nothing is flipped."""
    return TrainSettings(
        steps=steps,
        seed=seed,
        precision="bf16",
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
    console, began = Console(), time.monotonic()
    if is_broken_off(folder):
        shutil.rmtree(folder / "run")
    if (folder / "run").exists():
        raise RunError(
            f"{folder / 'run'} is there already. Look at {folder / 'run' / 'report.html'}, or use --out for another folder."
        )
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("drawing stamps", total=None)
        stamps = draw_stamps(
            folder / "stamps", seed=seed, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    settings = demo_settings(stamps, steps=steps, seed=seed, weights=weights)
    run_folder = RunFolder.create(folder / "run")
    settings.write(run_folder.config)
    test = open_split(stamps, "test")
    device = choose_device("auto")
    before = score(untrained_model(settings).to(device), test)
    save(run_folder, before, "test", untrained=True)
    train(settings, read_catalogue(stamps), run_folder, reporter=reporter(steps), evaluate=validation_scores(settings))
    embedder = Embedder.load(run_folder.model, device)
    after = score(embedder, test)
    save(run_folder, after, "test")
    console.print(_table(before, after))
    page = write_report(run_folder.path)
    find(embedder, test, Path(test.paths[0]), k=6, out=folder / "search.png")
    console.print(f"\n{time.monotonic() - began:.0f} s in all. Open these:", highlight=False)
    console.print(f"  {page}\n  {folder / 'search.png'}", soft_wrap=True, highlight=False)
    console.print(
        f"Then your own: cosphere train PHOTOS/ --name first --sec.weight {settings.sec.weight}",
        soft_wrap=True,
        highlight=False,
    )


def is_broken_off(folder: Path) -> bool:
    """Whether `folder` holds a demo that did not come to its report. A run on anything but the demo's own stamps is not one."""
    run_folder = RunFolder(folder / "run")
    if not run_folder.config.exists() or run_folder.report.exists():
        return False
    return TrainSettings.read(run_folder.config).data.root == str((folder / "stamps").absolute())


def _table(before: Scores, after: Scores) -> Table:
    table = Table(title=f"stamp designs not trained on: {after.images} impressions of {after.classes} designs")
    for column in ("score, %", "untrained", "trained", "95 % interval"):
        table.add_column(column, justify="left" if column == "score, %" else "right")
    first, second = before.as_dict()["scores"], after.as_dict()["scores"]
    for name, found in second.items():
        interval = f"{100 * found['low']:.1f} to {100 * found['high']:.1f}" if found.get("low") is not None else ""
        table.add_row(name, f"{100 * first[name]['value']:.1f}", f"{100 * found['value']:.1f}", interval)
    return table
