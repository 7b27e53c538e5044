"""The equal-bytes table of `cosphere evaluate --codes`."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from cosphere.cli import console
from cosphere.errors import counted
from cosphere.evaluate.equal_bytes import EqualBytes, Form
from cosphere.experiment import Evaluation
from cosphere.experiment.evaluation import CODES, CODES_UNTRAINED


def show(evaluation: Evaluation, table: EqualBytes) -> None:
    """Print the table of an evaluation, and where it was written."""
    show_codes(table, f"{evaluation.name}, {evaluation.split}: what smaller forms keep")
    console.line(f"written to {evaluation.folder.path / (CODES_UNTRAINED if evaluation.untrained else CODES)}")


def show_codes(table: EqualBytes, title: str, out: Console | None = None) -> None:
    """Print the table; it fits 80 columns."""
    out = out or console.Output()
    shown = Table(
        title=console.plain(title),
        box=box.SIMPLE,
        padding=(0, 1),
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )
    shown.add_column("form", no_wrap=True)
    for name in ("bytes", "recall@1 %", "map@r %", "s/1000", "finds"):
        shown.add_column(name, justify="right", no_wrap=True)
    for form in table.forms:
        shown.add_row(
            form.name,
            f"{form.bytes_per_image:,}",
            _cell(form, "recall@1"),
            _cell(form, "map@r"),
            f"{form.seconds_per_1000:.2g}" if form.seconds_per_1000 < 100 else f"{form.seconds_per_1000:.0f}",
            f"{100 * form.check.recall:.0f}",
        )
    out.print(shown)
    check = table.forms[0].check
    out.print(
        f"bytes: kept for each of {table.gallery:,} images. s/1000: seconds to search with 1,000 queries, here. "
        f"finds: self-check, percent of the {check.k} nearest by float32 that are found ({counted(check.queries, 'query')}). "
        f"bits + re-rank: a shortlist of {table.shortlist} by bits, then floats. In brackets: 95 % intervals over queries.",
        highlight=False,
    )
    for note in table.notes:
        console.note(note)


def _cell(form: Form, name: str) -> str:
    value = f"{100 * form.values[name]:.1f}"
    if name not in form.intervals:
        return value
    low, high = form.intervals[name]
    return f"{value} ({100 * low:.1f}-{100 * high:.1f})"
