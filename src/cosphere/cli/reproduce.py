"""`cosphere reproduce`: train and score a published row, and say whether its scores were reached."""

from __future__ import annotations

from typing import Any

from cosphere._types import Device
from cosphere.cli import console
from cosphere.cli.parsing import CommandParser
from cosphere.experiment import Reproduction, published_recipes, reproduce
from cosphere.train import reporter

_EXAMPLES = [
    "cosphere reproduce",
    "cosphere reproduce sec/cub/multi_similarity+sec --data CUB_200_2011 --weights bn_inception-52deb4733.pth",
    "cosphere reproduce normsoftmax/cars196 --data cars196 --seeds 3",
]


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "reproduce",
        "Train the recipe of a published row, score it by the paper's protocol, and compare. Without a name: list the rows.",
        _EXAMPLES,
    )
    made.add_argument("name", nargs="?", type=str, help="paper, data set and row")
    made.add_argument("--data", type=str | None, default=None, help="root of the published data set")
    made.add_argument("--weights", type=str | None, default=None, help="file of the pretrained backbone's weights")
    made.add_argument("--seeds", type=int, default=1, help="number of runs, with seeds 0, 1, ...")
    made.add_argument(
        "--set",
        type=dict[str, Any],
        default={},
        help="settings that differ from the recipe, for a trial: '{steps: 20}'. The published row is then not compared",
    )
    made.add_argument("--runs", type=str, default="runs", help="folder for the runs and the comparison")
    made.add_argument("--device", type=Device, default="auto", help="auto, cpu, cuda or mps")
    return made


def run(arguments: list[str]) -> int:
    """Print the row beside our scores, or all rows."""
    given = parser().read(arguments)
    if given.name is None:
        show_rows()
        return 0
    weights = {} if given.weights is None else {"model.weights": given.weights}
    show(
        reproduce(
            given.name,
            given.data,
            seeds=range(given.seeds),
            runs=given.runs,
            values={**weights, **given.set},
            device=given.device,
            reporter=lambda settings: reporter(settings.steps),
            listener=console.ConsoleListener(),
        )
    )
    return 0


def show_rows() -> None:
    """One line for each published row."""
    table = console.table_of("published rows", "name", "Recall@1, %", "of")
    for column in table.columns[:2]:
        column.no_wrap = True  # a name is there to be copied
    table.columns[2].justify = "left"
    for recipe in published_recipes():
        row = f"{recipe.about['row']}, {recipe.about['dataset']}"
        table.add_row(recipe.name, f"{100 * recipe.published['recall@1']:.2f}", console.plain(row))
    console.show(table)


def show(result: Reproduction) -> None:
    """Published and own scores, and what to believe."""
    seeds = len(result.runs)
    over = f"over {seeds} seeds" if seeds > 1 else "over test images"
    table = console.table_of(result.recipe.name, "score", "published, %", "ours, %", f"95 % interval {over}", "verdict")
    for score in result.scores:
        ends = "" if score.interval is None else " to ".join(f"{100 * end:.2f}" for end in score.interval)
        table.add_row(
            score.name,
            f"{100 * score.published:.2f}",
            f"{100 * score.value:.2f}",
            ends,
            score.verdict or "not compared",
        )
    console.show(table)
    for text in result.notes:
        console.note(text)
    console.line(f"written to {result.path}; runs: {', '.join(str(path) for path in result.runs)}")
