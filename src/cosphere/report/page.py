"""One page that shows what a run learned: opens offline, asks nobody for anything, runs no script."""

from __future__ import annotations

from pathlib import Path

from cosphere.errors import SettingsError
from cosphere.files import check_writable, path_of, write_text
from cosphere.report import gallery, health, protocols, sections
from cosphere.report.data import ReportData, report_data_from_run
from cosphere.report.document import document
from cosphere.report.drawing import printing
from cosphere.report.markup import safe
from cosphere.report.pictures import Thumbnails
from cosphere.runs import RunFolder

LINKS = {
    "scores": "Scores",
    "queries": "Queries",
    "classes": "Classes",
    "training": "Training",
    "lengths": "Lengths",
    "health": "Health",
    "skipped": "Skipped",
    "about": "Settings",
}
"""Sections in the order of the page."""


def write_report(
    source: ReportData | str | Path,
    target: str | Path | None = None,
    *,
    split: str | None = None,
    image_root: Path | None = None,
    queries: int = 24,
    neighbours: int = 6,
    thumbnail: int = 112,
    seed: int = 0,
) -> Path:
    """Write the report of a run as one HTML file, and its figures as SVG and PNG into the `figures/` of its folder.

    Args:
        source: a run's folder, or the data itself, which has no folder for figures.
        target: the file to write; None writes ``report.html`` into the run's folder.
        split: of a run's folder, which embeddings to show; None as :func:`report_data_from_run`.
        image_root: of a run's folder, where relative image paths start.
        queries: how many of the worst, of random and of the best queries to show, each.
        neighbours: shown for each query.
        thumbnail: longer side of an embedded picture, pixels, 16 to 512. The defaults keep the file below 5 MB.
        seed: of the random queries.

    Returns:
        The file.

    Raises:
        RunError: the folder is not a run, a file in it is broken, or the page cannot be written.
        SettingsError: a number is out of range, or data was given without ``target``.
    """
    _check(queries, neighbours, thumbnail)
    how = {"queries": queries, "neighbours": neighbours, "thumbnail": thumbnail, "seed": seed}
    if isinstance(source, ReportData):
        if target is None:
            raise SettingsError("a report from data needs a file to go to. Give target='report.html'.")
        file = path_of(target)
        check_writable(file)
        write_text(file, page(source, **how))
        return file
    folder = RunFolder.open(source)
    path = folder.report if target is None else path_of(target)
    check_writable(path)
    data = report_data_from_run(source, split=split, image_root=image_root)
    with printing(folder.path / "figures"):
        text = page(data, **how)
    write_text(path, text)
    return path


def _check(queries: int, neighbours: int, thumbnail: int) -> None:
    for name, value, low, high in (
        ("queries", queries, 0, 1000),
        ("neighbours", neighbours, 1, 50),
        ("thumbnail", thumbnail, 16, 512),
    ):
        if not low <= value <= high:
            raise SettingsError(f"{name}={value}, want {low} to {high}.")


def _links(data: ReportData) -> dict[str, str]:
    """The sections of this page: those of all pages, and one for each protocol after the scores."""
    (first, title), *rest = LINKS.items()
    return {
        first: title,
        **{f"protocol-{own}": safe(name) for name, own in protocols.section_ids(data).items()},
        **dict(rest),
    }


def page(data: ReportData, *, queries: int = 24, neighbours: int = 6, thumbnail: int = 112, seed: int = 0) -> str:
    """The page of :func:`write_report` as text."""
    pictures = Thumbnails(thumbnail)
    body = [
        sections.scores(data),
        protocols.protocols(data, pictures),
        gallery.queries(data, pictures, count=queries, neighbours=neighbours, seed=seed),
        gallery.classes(data, pictures),
        sections.training(data),
        sections.lengths(data),
        health.panel(data),
        # After the galleries: only drawing them shows which pictures cannot be read.
        sections.skipped(data, pictures.unreadable),
        sections.about(data),
    ]
    return document(
        data.name,
        header=sections.header(data),
        links=_links(data),
        body=body,
        footer=sections.footer(data),
        css=pictures.css(),
    )
