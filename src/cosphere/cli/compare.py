"""`cosphere compare`: differences between runs, with intervals and p-values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from cosphere.cli import console
from cosphere.cli.options import add_seed
from cosphere.cli.parsing import CommandParser
from cosphere.errors import SettingsError, counted
from cosphere.evaluate.comparison import EQUAL, Comparison, Difference
from cosphere.experiment import ComparedRuns, compare_runs
from cosphere.experiment.outputs import check_output_folder
from cosphere.files import path_of, write_json
from cosphere.report.comparison import write_comparison_figure

_EXAMPLES = [
    "cosphere compare runs/first runs/second",
    "cosphere compare runs/plain-seed* runs/sec-seed* --metric recall@1,map@r,r_precision",
    "cosphere compare --arm 'plain=runs/plain-*' --arm 'sec=runs/sec-*' --baseline plain",
]
WRITTEN = ("comparison.json", "comparison.png", "comparison.svg")
"""Files of a comparison, in the folder of ``--out``."""
SHOWN_CLASSES = 5
"""Number of largest gains and losses to print."""


def run(arguments: list[str]) -> int:
    """Print the table and write `comparison.json` and the picture."""
    given = parser().read(arguments)
    check_output_folder(given.out, WRITTEN)
    compared = compare_runs(
        given.runs,
        arms=_arms(given.arm or []),
        metrics=_metrics(given.metric, given.ks),
        baseline=given.baseline,
        split=given.split,
        shared_only=given.shared,
        over=given.over,
        level=given.level,
        samples=given.samples,
        seed=given.seed,
        listener=console.ConsoleListener(),
    )
    out = Path(given.out)
    write_json(out / "comparison.json", compared.as_dict())
    drawn = write_comparison_figure(compared.comparison, out)
    show(compared)
    console.line(f"written to {out}: {', '.join(path.name for path in (out / 'comparison.json', *drawn))}")
    return 0


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "compare",
        "Compare evaluated runs on the same images: differences with intervals and p-values, and who wins where. "
        "Runs that differ only in the seed form one arm.",
        _EXAMPLES,
        usage="cosphere compare RUN RUN ... [settings]",
    )
    made.add_argument("runs", nargs="*", type=str, help="folders of runs; the first is the baseline")
    made.add_argument("--arm", action="append", type=str, help="NAME=FOLDERS: runs forming one arm; repeatable")
    made.add_argument(
        "--baseline",
        type=str | None,
        default=None,
        help="arm or run that the others are compared with; by default the first",
    )
    made.add_argument(
        "--metric", type=str | None, default=None, help="comma-separated scores; by default recall@K and map@r"
    )
    made.add_argument("--ks", type=list[int], default=[1], help="the K of Recall@K, unless --metric names them")
    made.add_argument("--split", type=str | None, default=None, help="evaluated split; by default the last one")
    made.add_argument(
        "--over",
        type=str,
        default="classes",
        help="what intervals and p-values resample: `classes`, or `queries` of the same classes",
    )
    made.add_argument("--level", type=float, default=0.95, help="confidence level of the intervals, in (0, 1)")
    made.add_argument("--samples", type=int, default=2000, help="resamples behind the intervals")
    add_seed(made, "the resamples")
    made.add_argument(
        "--shared", type=bool, default=False, help="use only the shared images where runs were scored on different ones"
    )
    made.add_argument("--out", type=str, default="comparison", help="folder for the picture and comparison.json")
    return made


def _arms(arms: Sequence[str]) -> dict[str, list[Path]]:
    """NAME=FOLDERS, each by its name."""
    found: dict[str, list[Path]] = {}
    for text in arms:
        name, equals, pattern = text.partition("=")
        if not (name and equals and pattern):
            raise SettingsError(f"--arm {text!r} names no folders; wanted NAME=FOLDERS, such as 'sec=runs/sec-seed*'.")
        folders = [Path(path) for path in sorted(glob(str(path_of(pattern)))) if Path(path).is_dir()]  # noqa: PTH207
        if not folders:
            raise SettingsError(f"--arm {name}: no folder is called {pattern}. Give a folder, or a pattern with *.")
        found.setdefault(name, []).extend(folders)
    return found


def _metrics(names: str | None, ks: Sequence[int]) -> list[str]:
    if names is None:
        return [*(f"recall@{k}" for k in sorted(set(ks))), "map@r"]
    return list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))


def show(compared: ComparedRuns) -> None:
    """The table, the classes that gain and lose most, and the notes."""
    comparison, width = compared.comparison, console.Output().width
    console.Output().print(_table(compared, gap=2 if width >= 100 else 1), highlight=False)
    for arm in comparison.arms:
        if arm != comparison.baseline:
            console.Output().print(_classes(comparison, arm, width), highlight=False)
    for text in compared.notes:
        console.note(text)


def _table(compared: ComparedRuns, *, gap: int) -> Table:
    comparison, matched = compared.comparison, compared.matched
    titles = [
        f"{matched.split}: {counted(comparison.queries, 'query')}, {counted(len(comparison.class_names), 'class')}; "
        f"differences to {comparison.baseline}"
    ]
    several = [f"{arm} {count}" for arm, count in comparison.runs.items() if count > 1 and arm not in compared.mixed]
    if several:
        titles.append(f"runs that differ in the seed: {', '.join(several)}")
    title = Text("\n").join(map(console.plain, titles))
    table = Table(title=title, title_justify="left", box=None, padding=(0, gap, 0, 0), pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("%", "points", f"{100 * comparison.level:g} % interval", "p", "p Holm", "classes won\ntied, lost"):
        table.add_column(name, justify="right", no_wrap=True)
    differences = {(one.score, one.arm): one for one in comparison.differences}
    before = None
    for one in comparison.scores:
        if one.score != before:
            table.add_row(*([""] if before else []))
            table.add_row(f"[bold]{one.score}[/bold]")
            before = one.score
        difference = differences.get((one.score, one.arm))
        label = console.plain(f"  {one.arm}")
        if difference is None:
            table.add_row(label, f"{100 * one.value:.2f}", "", _span(one.interval, signed=False))
            continue
        table.add_row(label, f"{100 * one.value:.2f}", *_cells(difference))
        if difference.seeds is not None and difference.seeds.low is not None and difference.seeds.high is not None:
            ends = (difference.seeds.low, difference.seeds.high)
            table.add_row("    [dim]over seeds[/dim]", "", "", _span(ends), _p(difference.p_seeds))
    return table


def _cells(difference: Difference) -> Iterator[str]:
    yield f"{100 * difference.value:+.2f}"
    yield _span(difference.interval)
    yield _p(difference.p)
    yield _p(difference.p_holm)
    yield f"{difference.won}, {difference.tied}, {difference.lost}"


def _span(ends: tuple[float, float], *, signed: bool = True) -> str:
    sign = "+" if signed else ""
    return " to ".join(f"{100 * end:{sign}.2f}" for end in ends)


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _classes(comparison: Comparison, arm: str, width: int) -> Table:
    """Side by side, the classes in which the arm gains most and loses most, by the first score."""
    score = comparison.scores[0].score
    gains = comparison.gains(arm, score)
    order = np.argsort(-gains, kind="stable")
    up = [at for at in order if gains[at] > EQUAL][:SHOWN_CLASSES]
    down = [at for at in order[::-1] if gains[at] < -EQUAL][:SHOWN_CLASSES]
    table = Table(
        title=Text("\n").append_text(console.plain(f"{score}, points by class: {arm} against {comparison.baseline}")),
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    names = max(1, min(34, (width - 20) // 2))  # beside two numbers such as -100.0: those may not be cut
    for name in ("largest gains", "largest losses"):
        table.add_column("", justify="right")
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=names)
    for at in range(max(len(up), len(down))):
        row: list[str | Text] = []
        for side in (up, down):
            there = at < len(side)
            row += (
                [f"{100 * gains[side[at]]:+.1f}", console.plain(comparison.class_names[side[at]])]
                if there
                else ["", ""]
            )
        table.add_row(*row)
    return table
