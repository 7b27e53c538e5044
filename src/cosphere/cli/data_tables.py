"""Tables for the terminal: the findings of `cosphere data check`, and expected against found for published data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosphere.errors import counted, escaped

if TYPE_CHECKING:
    from cosphere.data import DataReport, Remarks

_SHOWN = 5
"""Lines of a list that :func:`render` prints before it says how many more there are."""


def render(report: DataReport) -> RenderableType:
    """The report as tables for a terminal; prints well at 80 columns."""
    head = Text(f"{counted(report.images, 'image')}, {counted(report.classes, 'class')}", style="bold")
    kind = Text(escaped(f"layout {report.layout}; {_PROTOCOLS[report.protocol]}"))
    size = Text(
        f"width {report.widths}, height {report.heights} pixels (min / median / max)" if report.widths else "no sizes"
    )
    histogram = [_histogram_table(report)] if report.histogram else []
    parts: list[RenderableType] = [head, kind, size, Text(), _splits_table(report), *histogram, _findings_table(report)]
    if report.checks:
        parts.append(differences_table(report))
    parts += [Text(escaped(f"note: {note}"), style="dim") for note in report.notes]
    return Group(*parts)


_PROTOCOLS = {
    "zero-shot": "zero-shot: no class is in two splits",
    "closed-set": "closed-set: every class is in every split",
    "mixed": "mixed: some classes are in several splits",
    "one split": "one split",
    "no splits": "no splits",
}


def _table(title: str, *columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _splits_table(report: DataReport) -> Table:
    numbers = ["images", "classes", "images per class\nmin / median / max", "one-image\nclasses"]
    table = _table("Splits", "split", *numbers, "query /\ngallery", right=numbers)
    for split in report.splits:
        roles = "" if split.queries is None else f"{split.queries} / {split.gallery}"
        numbers = [str(number) for number in (split.images, split.classes, split.per_class, split.one_image)]
        table.add_row(Text(escaped(split.name)), *numbers, roles)
    return table


def _histogram_table(report: DataReport) -> Table:
    table = _table("Images per class", "images", "classes", "", right=("images", "classes"))
    most = max(one.classes for one in report.histogram)
    for low, high, classes in report.histogram:
        bar = "█" * (round(40 * classes / most) or (1 if classes else 0))
        table.add_row(str(low) if low == high else f"{low}-{high}", str(classes), bar)
    return table


def _findings_table(report: DataReport) -> Table:
    table = _table("Findings", "what", "number", "first", right=("number",))
    groups = [
        ("exact duplicates", report.duplicates),
        ("  across splits", report.duplicates_across_splits),
        ("  across classes", report.duplicates_across_classes),
    ]
    rows: list[tuple[str, Sequence[str]]] = [
        ("unreadable files", [bad.reason for bad in report.unreadable]),
        *((what, [" = ".join(group) for group in found]) for what, found in groups),
        ("one-image classes", report.one_image_classes),
        ("classes in two splits", [f"{pair.classes} in {pair.one} and {pair.other}" for pair in report.shared_classes]),
    ]
    for what, found in rows:
        number = sum(pair.classes for pair in report.shared_classes) if what == "classes in two splits" else len(found)
        lines = list(found[:_SHOWN]) + ([f"... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else [])
        table.add_row(
            what, Text(str(number), style="yellow" if number else "green"), Text("\n".join(map(escaped, lines)))
        )
    return table


def differences_table(data: Remarks | DataReport) -> Table:
    """Expected against found, for data in the layout of a published set; no rows for other data."""
    wrong = sum(not line.agrees for line in data.checks)
    title = f"Against the published {data.layout}: " + (f"{wrong} differences" if wrong else "all as published")
    table = _table(title, "what", "expected", "found", "", right=("expected", "found"))
    for line in data.checks:
        cells = [Text(escaped(cell)) for cell in (line.what, line.expected, line.found)]
        table.add_row(*cells, "" if line.agrees else "[yellow]differs[/yellow]")
    return table
