"""`cosphere data check`: find what is wrong with the images before training on them."""

from __future__ import annotations

import json
from pathlib import Path

from cosphere.cli import console
from cosphere.cli.data_tables import render
from cosphere.cli.options import add_source
from cosphere.cli.parsing import CommandParser
from cosphere.data import check
from cosphere.experiment.outputs import check_output
from cosphere.files import write_json

_EXAMPLES = [
    "cosphere data check photos/",
    "cosphere data check CUB_200_2011",
    "cosphere data check table.csv --json report.json",
]


def parser() -> CommandParser:
    """The options of `data check`."""
    made = CommandParser(
        "data check",
        "Count images and classes; find unreadable files, duplicates and differences from the published benchmark.",
        _EXAMPLES,
    )
    add_source(made)
    made.add_argument("--json", type=str | None, default=None, help="also write the findings to this file")
    return made


def run(arguments: list[str]) -> int:
    """Print the findings, and write them as JSON if asked to."""
    given = parser().read(arguments)
    if given.json:
        check_output(given.json, source=given.source, option="--json", replaces=(".json",))
    with console.progress_bar("reading images") as progress:
        report = check(given.source, layout=given.layout, classes=given.classes or "top", progress=progress)
    console.show(render(report))
    if given.json:
        write_json(Path(given.json), json.loads(json.dumps(report.as_dict())))
    return 0
