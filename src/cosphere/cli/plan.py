"""`cosphere plan`: what the data is, what each choice costs on this machine, and three runs to start with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from cosphere._types import Device
from cosphere.cli import console
from cosphere.cli.parsing import CommandParser
from cosphere.errors import counted, duration
from cosphere.experiment import Choice, Plan, Race, plan, race
from cosphere.experiment.racing import Lap
from cosphere.files import check_writable
from cosphere.train import reporter

_EXAMPLES = [
    "cosphere plan photos/",
    "cosphere plan photos/ --race true --runs runs",
    "cosphere plan CUB_200_2011 --measure false",
]


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "plan",
        "Propose three training runs for these images, with the time and memory that each takes on this machine.",
        _EXAMPLES,
    )
    made.add_argument("source", type=str, help="image folder, table or benchmark root")
    made.add_argument("--layout", type=str, default="auto", help="layout of the source")
    made.add_argument(
        "--classes",
        type=Literal["top", "leaf"],
        default="top",
        help="class of an image in nested folders: top, or leaf",
    )
    made.add_argument("--device", type=Device, default="auto", help="auto, cpu, cuda or mps")
    made.add_argument(
        "--measure", type=bool, default=True, help="time a few steps of each; false only lists the settings"
    )
    made.add_argument("--race", type=bool, default=False, help="also train them, dropping the worse half each round")
    made.add_argument("--runs", type=str, default="runs", help="folder of runs; a race trains in its subfolder race/")
    return made


def run(arguments: list[str]) -> int:
    """Print the plan, and with ``--race`` who won."""
    given = parser().read(arguments)
    listener = console.ConsoleListener()
    folder = Path(given.runs) / "race"  # the printed commands train runs of the same names in the folder of runs
    if given.race:
        check_writable(folder / "quick" / "run.json")  # before the measuring, which takes minutes
    made = plan(
        given.source,
        layout=given.layout,
        classes=given.classes,
        device=given.device,
        measure=given.measure,
        listener=listener,
    )
    show(made)
    if given.race:
        show_race(race(made, folder, reporter=lambda settings: reporter(settings.steps), listener=listener))
    return 0


def show(made: Plan) -> None:
    """The data in one line, a table of costs, and the reason and command of each choice."""
    least, median, most = made.summary.per_class
    each = f"{least} each" if least == most else f"{least} to {most} each, median {median}"
    console.line(
        f"{counted(made.summary.train_images, 'training image')} of {counted(made.summary.classes, 'class')} "
        f"({each}), {counted(made.summary.val_images, 'validation image')}, "
        f"shorter side {made.summary.side} px"
    )
    if any(choice.cost is not None for choice in made.choices):
        machine = "on this machine" + ("" if made.memory is None else f" ({made.memory / 1e9:.0f} GB of memory)")
        table = console.table_of(machine, "run", "time", "memory", "ms a step", "images/s")
        for choice in made.choices:
            table.add_row(*_costs(choice))
        console.show(table)
    for choice in made.choices:
        if choice.too_large(made.memory):
            half = choice.settings.batch.size // 2
            console.note(
                f"{choice.name} would fill this machine's memory; a smaller batch takes less, such as --batch.size {half}"
            )
        console.line(f"{choice.name}: {choice.reason}")
        console.line(f"  {choice.command(made.source)}")


def _costs(choice: Choice) -> tuple[str, ...]:
    cost = choice.cost
    if cost is None or choice.seconds is None:
        return (choice.name, "", "", "", "")
    memory = f"{cost.memory / 1e9:.1f} GB"
    if cost.device_memory:
        memory += f" + {cost.device_memory / 1e9:.1f} GB GPU"
    return (choice.name, duration(choice.seconds), memory, f"{1000 * cost.step:.0f}", f"{cost.embedded:.0f}")


def show_race(raced: Race) -> None:
    """Each lap, and the winner's folder."""
    table = console.table_of("race on the validation classes", "run", "round", "steps", f"{raced.metric}, %", "")
    last = max((lap.round for lap in raced.laps), default=0)
    for lap in raced.laps:
        ending = ("wins" if lap.round == last else "goes on") if lap.kept else "out"
        table.add_row(lap.name, str(lap.round), f"{lap.steps:,}", f"{100 * lap.score:.1f}", ending)
    console.show(table)
    if any(not lap.kept and _equals_one_that_stays(lap, raced) for lap in raced.laps):
        console.note("of runs with equal scores the cheaper one stays in the race")
    console.line(f"winner: {raced.winner.name}, in {raced.folder}")
    console.line(f"next: cosphere evaluate {shlex.quote(str(raced.folder))}")


def _equals_one_that_stays(lap: Lap, raced: Race) -> bool:
    return any(one.kept and (one.round, one.score) == (lap.round, lap.score) for one in raced.laps)
