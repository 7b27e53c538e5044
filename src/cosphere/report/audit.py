"""The page of an audit: what is likely wrong with the images, with pictures; opens offline and runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosphere._types import Integers
from cosphere.checks import check_whole
from cosphere.errors import counted
from cosphere.evaluate.audit import AlikeClasses, DividedClass, DuplicatePair
from cosphere.experiment.auditing import PAGE, PATCH, Audit
from cosphere.files import check_writable, path_of, write_text
from cosphere.report.document import document
from cosphere.report.markup import paragraph, safe, section, shown, table
from cosphere.report.pictures import Thumbnails
from cosphere.rows import UnitRows, unit_rows

LINKS = {
    "labels": "Labels",
    "duplicates": "Duplicates",
    "alike": "Alike",
    "divided": "Divided",
    "outliers": "Outliers",
    "skipped": "Skipped",
}
_TITLES = {
    "labels": "Likely wrong labels",
    "duplicates": "Near duplicates",
    "alike": "Classes that look like one",
    "divided": "Classes that look like two",
    "outliers": "Outliers",
    "skipped": "Skipped images",
}
_AT_ONCE = 8
_EXAMPLES = 3


def write_audit(found: Audit, target: str | Path | None = None, *, most: int = 40, thumbnail: int = 112) -> Path:
    """Write the page of an audit as one HTML file.

    Args:
        found: the audit.
        target: the file; None writes ``audit.html`` beside the patch.
        most: findings of each list that are shown; the patch and the JSON have all.
        thumbnail: longer side of an embedded picture, pixels.

    Returns:
        the file.

    Raises:
        RunError: the page cannot be written.
        SettingsError: a number is out of range.
    """
    check_whole("most", most, least=1, most=1000)
    check_whole("thumbnail", thumbnail, least=16, most=512)
    path = found.folder / PAGE if target is None else path_of(target)
    check_writable(path)
    write_text(path, _page(found, most, thumbnail))
    return path


def _page(found: Audit, most: int, thumbnail: int) -> str:
    pictures = Thumbnails(thumbnail)
    drawing = _Drawing(found, pictures, unit_rows(found.images.embeddings))
    body = [
        _labels(drawing, most),
        _duplicates(drawing, most),
        _alike(drawing, most),
        _divided(drawing, most),
        _outliers(drawing, most),
        _skipped(found, pictures),
    ]
    return document(
        f"Audit of {Path(found.source).name or found.source}",
        header=_header(found),
        links=LINKS,
        body=body,
        footer="<footer>Written by Cosphere. This file needs no network.</footer>",
        css=pictures.css(),
    )


def _header(found: Audit) -> str:
    tiles = "".join(
        f'<div class="tile"><span>{safe(name.strip().capitalize())}</span><strong>{shown(count)}</strong></div>'
        for name, count in found.findings.counts().items()
        if not name.startswith(" ")
    )
    lead = (
        f"{counted(len(found.images), 'image')} of {counted(len(found.labels), 'class')}, seen by {found.model}. Every list is "
        "ranked, the most striking first. None is a verdict: the model may misread what it flags. Look, edit the patch "
        f"({PATCH}), then apply it; it can be undone."
    )
    title = safe(Path(found.source).name or found.source)
    return (
        f'<header>\n<p class="eyebrow">Cosphere audit</p>\n<h1>{title}</h1>\n'
        f'<p class="lead">{safe(lead)}</p>\n<div class="tiles">{tiles}</div>\n</header>'
    )


class _Drawing:
    """Pictures of rows, and the nearest of a class."""

    def __init__(self, found: Audit, pictures: Thumbnails, rows: UnitRows) -> None:
        self.found, self.pictures, self.rows = found, pictures, rows
        self.labels: Integers = found.images.labels

    def class_name(self, label: int) -> str:
        """For display."""
        return self.found.images.class_names[label]

    def picture(self, row: int) -> str:
        """A thumbnail, or a grey square that says so."""
        images = self.found.images
        box = None if images.boxes is None or images.boxes[row].min() < 0 else tuple(images.boxes[row].tolist())
        name = self.pictures.name(images.paths[row], box)
        title = safe(self.found.names[row])
        if name is None:
            return f'<span class="pic none" title="{title}">no picture</span>'
        label = safe(self.class_name(int(self.labels[row])))
        return f'<span class="pic {name}" role="img" aria-label="{label}" title="{title}"></span>'

    def caption(self, row: int) -> str:
        """The class and split of a row."""
        return safe(self.class_name(int(self.labels[row]))) + self.split(row)

    def asked(self, row: int, caption: str | None = None) -> str:
        """The image that a card is about."""
        words = self.caption(row) if caption is None else caption
        return f'<figure class="shot asked">{self.picture(row)}<figcaption>{words}</figcaption></figure>'

    def item(self, row: int, text: str, kind: str = "") -> str:
        """One image beside it."""
        return f'<li class="shot {kind}">{self.picture(row)}<span class="text">{text}</span></li>'

    def nearest_of(self, row: int, label: int, count: int = _EXAMPLES) -> list[tuple[int, float]]:
        """The images of a class that are nearest to a row, and their cosines."""
        members = np.flatnonzero((self.labels == label) & (np.arange(len(self.labels)) != row))
        cosines = (self.rows.rows[members] @ self.rows.rows[row]).cpu().numpy()
        order = np.argsort(-cosines, kind="stable")[:count]
        return [(int(members[at]), float(cosines[at])) for at in order]

    def split(self, row: int) -> str:
        """The split of a row, where there are several."""
        several = len(np.unique(self.found.splits)) > 1
        return f" · {safe(self.found.splits[row])}" if several else ""


def _card(asked: str, items: Sequence[str], words: str = "") -> str:
    listed = f'<ol class="neighbours">{"".join(items)}</ol>'
    return f'<article class="query">{asked}{listed}{paragraph(words, "outcome")}</article>'


def _ranked(anchor: str, none: str, intro: str, cards: Sequence[str]) -> str:
    """One list of the page: an introduction and its cards, the later ones folded away; or the sentence that there is none."""
    title = _TITLES[anchor]
    if not cards:
        return section(anchor, title, paragraph(none))
    first, rest = "".join(cards[:_AT_ONCE]), "".join(cards[_AT_ONCE:])
    more = f'<details class="more"><summary>Show {len(cards) - _AT_ONCE} more</summary>{rest}</details>' if rest else ""
    return section(anchor, title, paragraph(intro), first + more)


def _labels(drawing: _Drawing, most: int) -> str:
    def card(one: dict[str, Any]) -> str:
        row, own, other = int(one["row"]), int(one["label"]), int(one["suggested"])
        items = [
            drawing.item(near, f"<b>{cosine:.3f}</b> {safe(drawing.class_name(label))}", kind)
            for label, kind in ((other, "right"), (own, "wrong"))
            for near, cosine in drawing.nearest_of(row, label)
        ]
        words = (
            f"Suggested: {drawing.class_name(other)}, which {100 * one['agreement']:.0f} % of its neighbours carry. "
            f"{drawing.found.names[row]}"
        )
        caption = f"<b>{safe(drawing.class_name(own))}</b>{drawing.split(row)}"
        return _card(drawing.asked(row, caption), items, words)

    return _ranked(
        "labels",
        "None: no image lies nearer to another class.",
        "Images that lie nearer to another class than to their own. Green frames are the nearest images of the suggested class, red ones "
        "the nearest of the class that the label says. Small classes have less evidence, which is taken into account.",
        [card(one) for one in drawing.found.findings.suspects.as_rows()[:most]],
    )


def _duplicates(drawing: _Drawing, most: int) -> str:
    def card(pair: DuplicatePair) -> str:
        flags = {"across splits": pair.across_splits, "across classes": pair.across_classes}
        marks = ", ".join(name for name, flag in flags.items() if flag)
        items = [drawing.item(pair.second, f"<b>{pair.likeness:.4f}</b> {drawing.caption(pair.second)}")]
        names = drawing.found.names
        where = f"{marks.capitalize()}. " if marks else ""
        return _card(drawing.asked(pair.first), items, f"{where}{names[pair.first]} and {names[pair.second]}")

    return _ranked(
        "duplicates",
        "None at this threshold.",
        "Pairs of near images whose pixels correlate: copies, scaled or compressed. Across splits they let a model score on what it was "
        "trained on; across classes at most one label is right. Exact copies are found by: cosphere data check.",
        [card(pair) for pair in drawing.found.findings.duplicates[:most]],
    )


def _alike(drawing: _Drawing, most: int) -> str:
    def card(pair: AlikeClasses) -> str:
        first, *others = (row for example in pair.examples for row in example)
        names = f"{drawing.class_name(pair.first)} and {drawing.class_name(pair.second)}"
        items = [drawing.item(row, drawing.caption(row)) for row in others]
        return _card(drawing.asked(first), items, f"{names}: mixing {pair.mixing:.2f}")

    return _ranked(
        "alike",
        "None: no two classes are mixed by half or more.",
        "Mixing 1 means that neighbours of images of one class are as often of the other as if both were one class. The pictures are "
        "the nearest pairs.",
        [card(pair) for pair in drawing.found.findings.alike[:most] if pair.examples],
    )


def _divided(drawing: _Drawing, most: int) -> str:
    def card(one: DividedClass) -> str:
        first, second = (part[: _EXAMPLES + 1] for part in one.parts)
        items = [drawing.item(row, "", "right") for row in first[1:]] + [
            drawing.item(row, "", "wrong") for row in second
        ]
        sizes = f"{len(one.parts[0])} and {len(one.parts[1])} images"
        words = f"{drawing.class_name(one.label)}: {sizes}, gap {one.gap:.1f} deviations"
        return _card(drawing.asked(first[0]), items, words)

    return _ranked(
        "divided",
        "None stands out among the classes.",
        "Each class was cut in two. These have the widest gap between the parts, against all classes. The first pictures are typical of "
        "one part (green), the others of the other part (red).",
        [card(one) for one in drawing.found.findings.divided[:most]],
    )


def _outliers(drawing: _Drawing, most: int) -> str:
    outliers = drawing.found.findings.outliers[:most]
    items = [drawing.item(one.row, f"<b>{one.cosine:.3f}</b> {drawing.caption(one.row)}") for one in outliers]
    return _ranked(
        "outliers",
        "None: no image is far from all others.",
        "Images that are far from all others, such as broken files, drawings or pages among photos.",
        [f'<ol class="neighbours">{"".join(items)}</ol>'] if items else [],
    )


def _skipped(found: Audit, pictures: Thumbnails) -> str:
    lost = {one.path: one.reason for one in found.images.skipped} | dict(pictures.unreadable)
    if not lost:
        return section("skipped", _TITLES["skipped"], paragraph("None: every image could be read."))
    return section("skipped", _TITLES["skipped"], table(["image", "reason"], list(lost.items())[:100], kind="words"))
