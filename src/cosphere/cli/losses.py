"""`cosphere losses`: what there is, what each wants, and when to choose it."""

from __future__ import annotations

import dataclasses

from rich.console import Console
from rich.table import Table

from cosphere import losses
from cosphere.cli.parsing import CommandParser


def run(arguments: list[str]) -> int:
    """Print the loss table, or one loss in full."""
    parser = CommandParser(
        "losses",
        "List the losses, or show one in full.",
        ["cosphere losses", "cosphere losses multi_similarity"],
    )
    parser.add_argument("name", nargs="?", type=str, help="one loss to show in full")
    settings = parser.read(arguments)
    console = Console()
    if settings.name:
        _show_one(console, losses.about(settings.name))
    else:
        _show_all(console, losses.table())
    return 0


def _show_all(console: Console, entries: list[losses.About]) -> None:
    table = Table(title="losses", caption="cosphere losses NAME shows one in full")
    for column in ("name", "batch", "normalises", "when to choose it"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        table.add_row(entry.name, entry.batch, entry.normalises, entry.choose_when)
    console.print(table)


def _show_one(console: Console, entry: losses.About) -> None:
    table = Table(title=entry.title, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for field in dataclasses.fields(entry):
        value = getattr(entry, field.name)
        table.add_row(field.name.replace("_", " "), str(value))
    console.print(table)
