"""`cosphere report`: one page with the scores, curves and answers of a run."""

from __future__ import annotations

from pathlib import Path

from cosphere.cli import console
from cosphere.cli.parsing import CommandParser
from cosphere.experiment.outputs import check_output
from cosphere.report import write_report
from cosphere.runs import RunFolder

_EXAMPLES = ["cosphere report runs/first", "cosphere report runs/first --queries 48 --out page.html"]


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        "report", "Write one page, which opens offline: scores, curves, lengths, right and wrong answers.", _EXAMPLES
    )
    made.add_argument("run", type=str, help="a run's folder; evaluate it first")
    made.add_argument("--split", type=str | None, default=None, help="evaluated split to show; by default the last one")
    made.add_argument("--queries", type=int, default=24, help="queries in the gallery")
    made.add_argument("--neighbours", type=int, default=6, help="neighbours of each")
    made.add_argument("--out", type=str | None, default=None, help="file to write; by default the run's report.html")
    return made


def run(arguments: list[str]) -> int:
    """Write `report.html`."""
    given = parser().read(arguments)
    if given.out:
        check_output(given.out, model=given.run, replaces=(".html", ".htm"))
    page = write_report(
        RunFolder.open(given.run).path,
        Path(given.out) if given.out else None,
        split=given.split,
        queries=given.queries,
        neighbours=given.neighbours,
    )
    console.line(f"open {page}")
    return 0
