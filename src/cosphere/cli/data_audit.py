"""`cosphere data audit`: what is likely wrong with labelled images, as a page and as a patch."""

from __future__ import annotations

from rich.table import Table

from cosphere.cli import console
from cosphere.cli.options import add_embedding, add_source, add_split, embedding_options
from cosphere.cli.parsing import CommandParser
from cosphere.errors import counted
from cosphere.evaluate import AuditSettings
from cosphere.evaluate.audit import DUPLICATE, NEIGHBOURS
from cosphere.experiment import Audit, audit
from cosphere.experiment.auditing import FINDINGS, PATCH
from cosphere.report import write_audit

_EXAMPLES = [
    "cosphere data audit photos/",
    "cosphere data audit photos/ --model runs/first --out audits/photos",
    "cosphere data audit table.csv --split train --duplicate 0.9",
]
_SHOWN = 5


def parser() -> CommandParser:
    """The options of `data audit`."""
    made = CommandParser(
        "data audit",
        "Rank likely wrong labels, near duplicates, classes that look like one or two, and outliers; write a page and a patch.",
        _EXAMPLES,
    )
    add_source(made)
    made.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="a run's folder or a model bundle, best trained on other images; by default the pretrained backbone",
    )
    made.add_argument("--out", type=str, default="audit", help="folder for audit.html, patch.csv and audit.json")
    made.add_argument("--neighbours", type=int, default=NEIGHBOURS, help="nearest images to look at for each one")
    made.add_argument(
        "--duplicate",
        type=float,
        default=DUPLICATE,
        help="correlation of pixels from which two near images are near duplicates",
    )
    made.add_argument("--top", type=int, default=100, help="most findings of each list")
    add_split(made, default="all", without="by default all")
    add_embedding(made)
    return made


def run(arguments: list[str]) -> int:
    """Print the counts and the first suspects, and write the page, the patch and the findings."""
    given = parser().read(arguments)
    found = audit(
        given.source,
        given.model,
        out=given.out,
        settings=AuditSettings(**{name: given[name] for name in ("neighbours", "duplicate", "top")}),
        split=given.split,
        layout=given.layout,
        classes=given.classes,
        **embedding_options(given),
        listener=console.ConsoleListener(),
    )
    page = write_audit(found)
    show(found)
    console.line(f"page: {page}")
    console.line(f"findings: {found.folder / FINDINGS}")
    console.line(
        f"patch: {found.folder / PATCH}, {counted(found.proposed, 'change')} proposed; look at it, then: {found.patch_command}"
    )
    return 0


def show(found: Audit) -> None:
    """Print how much was found, and the first suspects."""
    console.line(f"{counted(len(found.images), 'image')} seen by {found.model}")
    table = Table()
    table.add_column("what")
    table.add_column("found", justify="right")
    for name, count in found.findings.counts().items():
        table.add_row(console.plain(name), f"{count:,}")
    console.show(table)
    suspects = found.findings.suspects.as_rows()[:_SHOWN]
    if not suspects:
        return
    first = Table(title="first suspects")
    for column in ("image", "label", "nearer to"):
        first.add_column(column, no_wrap=True)
    classes = found.images.class_names
    for one in suspects:
        cells = (found.names[int(one["row"])], classes[int(one["label"])], classes[int(one["suggested"])])
        first.add_row(*map(console.plain, cells))
    console.show_whole(first)
