"""Generate the loss table of the documentation.

``make docs`` writes it; ``make test`` checks that it is up to date.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path

from cosphere.errors import DataError
from cosphere.losses.engine.base import About
from cosphere.losses.engine.registry import kind, table

BEGIN, END = "<!-- table -->", "<!-- /table -->"
"""Markers around the table in a page."""

GROUPS = {False: "Pair losses", True: "Losses with class weights"}


def loss_table_markdown() -> str:
    """All losses as Markdown: for each group how to choose, then settings and sources."""
    parts = []
    for weights, title in GROUPS.items():
        entries = [entry for entry in table() if entry.uses_class_weights is weights]
        parts += [
            f"### {title}",
            _rows(
                ["loss", "choose it when", "a batch needs", "brought to unit length", "cost"],
                ([f"`{e.name}`", e.choose_when, e.batch, e.normalises, e.cost] for e in entries),
            ),
            f"#### {title}: settings and sources",
            _rows(
                ["loss", "class and defaults", "source of the defaults", "paper"],
                ([f"`{e.name}`", f"`{_call(e)}`", e.defaults_source, e.paper] for e in entries),
            ),
        ]
    return "\n\n".join(parts)


def with_table(page: str) -> str:
    """Return the page with the table between its markers replaced.

    Raises:
        DataError: the page does not have both markers, once each and in order.
    """
    before, marker, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not marker or not closed or BEGIN in rest or END in before + after:
        raise DataError(f"want one {BEGIN} and after it one {END} in the page.")
    return f"{before}{BEGIN}\n\n{loss_table_markdown()}\n\n{END}{after}"


def _call(entry: About) -> str:
    """Constructor call: required arguments, then every setting with its default."""
    parameters = list(inspect.signature(kind(entry.name).__init__).parameters)[1:]
    given = [name for name in parameters if name not in entry.defaults]
    return f"{entry.title}({', '.join([*given, *(f'{key}={value!r}' for key, value in entry.defaults.items())])})"


def _rows(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main(arguments: list[str]) -> int:
    """Write the table into each page; with ``--check`` only report pages that are out of date."""
    stale = 0
    for name in (argument for argument in arguments if argument != "--check"):
        path = Path(name)
        before = path.read_text(encoding="utf-8")
        if (page := with_table(before)) == before:
            continue
        stale += 1
        if "--check" in arguments:
            print(f"{name} is out of date; run: make docs", file=sys.stderr)
        else:
            path.write_text(page, encoding="utf-8")
    return min(stale, 1) if "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
