"""The equal-bytes table of `cosphere evaluate --codes true`: computed with a progress bar, printed, written."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cosphere.evaluate import Embeddings
from cosphere.evaluate.equal_bytes import EqualBytes, Form, equal_bytes
from cosphere.files import write_json
from cosphere.runs import RunFolder, provenance

FILE = "codes.json"
"""The table, in a run's folder."""
UNTRAINED = "codes-untrained.json"


def score_codes(
    folder: RunFolder, embeddings: Embeddings, split: str, *, seed: int, untrained: bool = False
) -> EqualBytes:
    """Make the table, write it into the run's folder and print it."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("smaller forms", total=None)
        table = equal_bytes(
            embeddings,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    path = folder.path / (UNTRAINED if untrained else FILE)
    write_json(path, {"split": split, "level": 0.95, **table.as_dict(), "provenance": provenance()})
    show_codes(table, f"{'untrained backbone' if untrained else folder.path.name}, {split}: what smaller forms keep")
    Console().print(f"written to {path}", soft_wrap=True, highlight=False, markup=False)
    return table


def show_codes(table: EqualBytes, title: str, console: Console | None = None) -> None:
    """Print the table; it fits 80 columns."""
    console = console or Console()
    shown = Table(title=title, box=box.SIMPLE, padding=(0, 1), pad_edge=False, show_edge=False, collapse_padding=True)
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
    console.print(shown)
    check = table.forms[0].check
    console.print(
        f"bytes: kept for each of {table.gallery:,} images. s/1000: seconds to search with 1,000 queries, here. "
        f"finds: self-check, percent of the {check.k} nearest by float32 that are found ({check.queries} queries). "
        f"bits + re-rank: a shortlist of {table.shortlist} by bits, then floats. In brackets: 95 % intervals over queries.",
        highlight=False,
    )
    for note in table.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _cell(form: Form, name: str) -> str:
    value = f"{100 * form.values[name]:.1f}"
    if name not in form.intervals:
        return value
    low, high = form.intervals[name]
    return f"{value} ({100 * low:.1f}-{100 * high:.1f})"
