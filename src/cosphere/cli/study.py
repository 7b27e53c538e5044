"""`cosphere study`: run a study, or go on with it, and print its verdicts."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from rich.table import Table

from cosphere._types import Device
from cosphere.cli import console
from cosphere.cli.parsing import CommandParser
from cosphere.errors import SettingsError, duration
from cosphere.report import write_study_report
from cosphere.report.convergence import share_of_steps
from cosphere.report.study import costs_shown
from cosphere.studies import (
    StudyListener,
    StudyResult,
    parse_duration,
    read_study,
    shipped_studies,
)
from cosphere.studies import run as run_study
from cosphere.studies.convergence import Convergence
from cosphere.studies.results import ArmResult

_EXAMPLES = [
    "cosphere study",
    "cosphere study sec --data photos/ --seeds 5 --budget 30m",
    "cosphere study sec --data photos/ --mode full --jobs 2",
    "cosphere study question.yaml --data photos/ --set steps=500 --set images.size=160",
]


def run(arguments: list[str]) -> int:
    """Run a study; without a name, list those that come with Cosphere."""
    given = parser().read(arguments)
    if given.study is None:
        show_list()
        return 0
    if not given.data:
        raise SettingsError(f"what should be studied? Give images: cosphere study {given.study} --data photos/")
    study = read_study(given.study, mode=given.mode, changes=_changes(given.set or []))
    study = study.with_numbers(seeds=given.seeds, candidates=given.candidates)
    name = given.name or "-".join(part for part in (study.name, study.mode) if part)
    with ConsoleStudyListener() as listener:
        result = run_study(
            study,
            given.data,
            Path(given.runs) / name,
            budget=None if given.budget is None else parse_duration(given.budget),
            jobs=given.jobs,
            device=given.device,
            keep_models=given.keep_models,
            reuse=given.reuse,
            listener=listener,
        )
    page = write_study_report(result.folder.path)
    show(result)
    console.line(f"open {page}")
    return 0


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "study",
        "Answer a question about training methods on your own images: every arm is tuned equally on held-out training classes, "
        "trained with the same seeds, and compared with intervals. A study that is stopped goes on with the same command.",
        _EXAMPLES,
        usage="cosphere study NAME --data DATA [settings]",
    )
    made.add_argument("study", nargs="?", type=str, help="a study of ours, or a .yaml file; without it they are listed")
    made.add_argument("--data", type=str | None, default=None, help="image folder, table or benchmark root")
    made.add_argument("--mode", type=str | None, default=None, help="mode of the study, such as laptop or full")
    made.add_argument("--seeds", type=int | None, default=None, help="final runs of each arm; by default the study's")
    made.add_argument(
        "--candidates", type=int | None, default=None, help="settings tried for each arm; by default the study's"
    )
    made.add_argument(
        "--budget", type=str | None, default=None, help="time, such as 30m or 2h, within which runs may be started"
    )
    made.add_argument("--jobs", type=int, default=1, help="runs at once, each in a process and on a GPU of its own")
    made.add_argument(
        "--set",
        action="append",
        type=str,
        help="NAME=VALUE: a setting of all runs, whatever the study says; final.NAME=VALUE: of the final runs alone; repeatable",
    )
    made.add_argument("--name", type=str | None, default=None, help="folder of the study; by default study and mode")
    made.add_argument("--runs", type=str, default="runs", help="folder that holds the study")
    made.add_argument("--device", type=Device, default="auto", help="auto, cpu, cuda or mps")
    made.add_argument("--keep_models", type=bool, default=False, help="keep the models of the final runs")
    made.add_argument(
        "--reuse",
        type=str,
        default="same",
        help="runs of other studies in the same folder to take over where settings, seed and images are equal: same (those of this "
        "commit and machine), any, or none",
    )
    return made


def _changes(words: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE, each value as YAML, by its name."""
    changes = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise SettingsError(f"--set {word!r} gives no value; wanted NAME=VALUE, such as steps=500.")
        try:
            changes[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            changes[name] = value  # Text, which the setting takes or refuses.
    return changes


class ConsoleStudyListener(console.ConsoleListener, StudyListener):
    """Prints a line for each finished run on stderr, and one every minute in which none ends.

    A context manager; the lines of the minutes end with it.

    Args:
        every: seconds without a line after which one is printed.
    """

    def __init__(self, *, every: float = 60.0) -> None:
        super().__init__()
        self._every, self._ended = every, threading.Event()
        self._running: dict[tuple[str, str], float] = {}
        self._spoken, self._done = time.monotonic(), ""

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._every / 20):
            now, running = time.monotonic(), sorted(self._running.items())
            if running and now - self._spoken >= self._every:
                self._spoken = now
                runs = ", ".join(f"{arm} {run} for {duration(now - began)}" for (arm, run), began in running)
                console.aside(f"{self._done}running: {runs}")

    def started(self, arm: str, run: str) -> None:
        """Remember it."""
        now = time.monotonic()
        if not self._running:
            self._spoken = now  # What came before the first run has spoken for itself.
        self._running[arm, run] = now

    def ended(self, record: Mapping[str, Any], done: int, total: int, left: float | None) -> None:
        """Print it."""
        self._running.pop((record["arm"], record["run"]), None)
        self._spoken, self._done = time.monotonic(), f"{done}/{total} done, "
        scores = "  ".join(f"{name} {100 * value:.1f} %" for name, value in record["scores"].items())
        outcome = scores if record["status"] == "ok" else record["status"]
        rest = "" if left is None or done == total else f"; about {duration(left)} left"
        console.aside(f"{done}/{total}  {record['arm']} {record['run']}  {outcome}  {record['seconds']:.1f} s{rest}")


def show_list() -> None:
    """The studies that come with Cosphere."""
    table = console.table_of("studies", "name", "question")
    table.columns[1].justify = "left"
    for name in shipped_studies():
        table.add_row(name, read_study(name).title)
    console.show(table)


def show(result: StudyResult) -> None:
    """Arms, verdicts and notes."""
    console.show(_arms(result))
    if result.comparisons:
        console.show(_verdicts(result))
    if result.convergence is not None and result.convergence.speeds:
        console.show(_speeds(result.convergence))
    for text in result.notes:
        console.note(text)
    console.line(f"written to {result.folder.path}: {result.folder.table.name}, {result.folder.results.name}")


def _arms(result: StudyResult) -> Table:
    """Final scores in percent, mean and standard deviation over seeds; time of a step and peak of memory."""
    study = result.study
    table = console.table_of(
        f"{study.title}  (test, % ± sd over seeds)", "arm", *study.scores, "ms/step", "MB", "seeds", "chosen"
    )
    table.columns[-1].justify = "left"
    for arm in result.arms:
        cells = []
        for name in study.scores:
            score = arm.scores.get(name)
            spread = "" if score is None or score.sd is None else f" ± {100 * score.sd:.1f}"
            cells.append("" if score is None else f"{100 * score.mean:.1f}{spread}")
        runs = max((score.n for score in arm.scores.values()), default=0)
        failed = "".join(f", {count} {kind}" for kind, count in _failures(arm).items() if count)
        chosen = ", ".join(f"{name.split('.', 1)[-1]} {value}" for name, value in (arm.chosen or {}).items())
        table.add_row(
            console.plain(arm.name), *cells, *costs_shown(arm.costs), f"{runs}{failed}", console.plain(chosen)
        )
    return table


def _failures(arm: ArmResult) -> dict[str, int]:
    return {"diverged": arm.diverged, "collapsed": arm.collapsed}


def _speeds(found: Convergence) -> Table:
    """Steps that each arm needs for what the other one ends with."""
    title = f"steps to the other arm's last validation {found.metric}  (interpolated; validations {found.every} steps apart)"
    table = console.table_of(title, "arm", "against", "% of the other's steps", "interval", "seeds that get there")
    table.columns[1].justify = "left"
    for one in found.speeds:
        mean, span = share_of_steps(one.share and one.share._asdict())
        table.add_row(console.plain(one.arm), console.plain(one.against), mean, span, f"{one.reached} of {one.seeds}")
    return table


def _verdicts(result: StudyResult) -> Table:
    """One row for each question."""
    level = f"{100 * result.study.level:g} %"
    table = console.table_of("verdicts", "question", "points", f"{level} over seeds", "answer", "reason")
    for column in table.columns[3:]:
        column.justify = "left"
    for one in result.comparisons:
        points = span = ""
        if one.verdict is not None:
            seeds = one.verdict.evidence.seeds
            points = f"{100 * seeds.mean:+.2f}"
            span = (
                "" if seeds.low is None or seeds.high is None else f"{100 * seeds.low:+.2f} to {100 * seeds.high:+.2f}"
            )
        table.add_row(console.plain(one.comparison.question), points, span, one.answer, console.plain(one.reason))
    return table
