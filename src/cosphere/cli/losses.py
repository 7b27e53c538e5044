"""`cosphere losses`: what there is, what each wants, and when to choose it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

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
    from cosphere import losses

    console = Console()
    if settings.name:
        _show_one(console, losses.about(settings.name))
    else:
        _show_all(console, losses.table())
    return 0
