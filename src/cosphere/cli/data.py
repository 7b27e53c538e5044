"""`cosphere data check`: see what is wrong with the images before training on them."""

from __future__ import annotations

import json

from rich.console import Console
from rich.progress import Progress

from cosphere.cli.data_tables import render
from cosphere.cli.parsing import CommandParser
from cosphere.data import check
from cosphere.errors import SettingsError, did_you_mean

_EXAMPLES = [
    "cosphere data check photos/",
    "cosphere data check CUB_200_2011",
    "cosphere data check table.csv --json report.json",
]


def run(arguments: list[str]) -> int:
    """`check` is the one verb so far."""
    if arguments and not arguments[0].startswith("-") and arguments[0] != "check":
        raise SettingsError(f"there is no `cosphere data {arguments[0]}`. {did_you_mean(arguments[0], ['check'])}")
    return _check(arguments[1:] if arguments[:1] == ["check"] else arguments)


def _check(arguments: list[str]) -> int:
    parser = CommandParser(
        "data check",
        "Count images and classes, find unreadable files, duplicates and what differs from the published benchmark.",
        _EXAMPLES,
    )
    parser.add_argument("source", type=str, help="image folder, table or benchmark root")
    parser.add_argument("--layout", type=str, default="auto", help="layout of the source")
    parser.add_argument("--json", type=str | None, default=None, help="also write the findings to this file")
    given = parser.read(arguments)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading images", total=None)
        report = check(
            given.source,
            layout=given.layout,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    Console().print(render(report))
    if given.json:
        from pathlib import Path

        from cosphere.files import write_json

        write_json(Path(given.json), json.loads(json.dumps(report.as_dict())))
    return 0
