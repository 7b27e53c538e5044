"""The page of an audit: what is likely wrong with the images, with pictures; opens offline and runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cosphere._types import Integers
from cosphere.checks import check_whole
from cosphere.errors import counted
from cosphere.experiment.auditing import PAGE, PATCH, Audit
from cosphere.files import check_writable, write_text
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
    path = found.folder / PAGE if target is None else Path(target)
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

    def asked(self, row: int, caption: str) -> str:
        """The image that a card is about."""
        return f'<figure class="shot asked">{self.picture(row)}<figcaption>{caption}</figcaption></figure>'

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


def _folded(cards: Sequence[str]) -> str:
    """Cards, the later ones folded away."""
    first, rest = "".join(cards[:_AT_ONCE]), "".join(cards[_AT_ONCE:])
    more = f'<details class="more"><summary>Show {len(cards) - _AT_ONCE} more</summary>{rest}</details>' if rest else ""
    return first + more


def _labels(drawing: _Drawing, most: int) -> str:
    suspects = drawing.found.findings.suspects
    if not len(suspects):
        return section("labels", "Likely wrong labels", paragraph("None: no image lies nearer to another class."))
    intro = paragraph(
        "Images that lie nearer to another class than to their own. Green frames are the nearest images of the suggested class, red ones "
        "the nearest of the class that the label says. Small classes have less evidence, which is taken into account."
    )
    cards = []
    for one in suspects.as_rows()[:most]:
        row, own, other = int(one["row"]), int(one["label"]), int(one["suggested"])
        caption = f"<b>{safe(drawing.class_name(own))}</b>{drawing.split(row)}"
        items = [
            drawing.item(near, f"<b>{cosine:.3f}</b> {safe(drawing.class_name(label))}", kind)
            for label, kind in ((other, "right"), (own, "wrong"))
            for near, cosine in drawing.nearest_of(row, label)
        ]
        words = (
            f"Suggested: {drawing.class_name(other)}, which {100 * one['agreement']:.0f} % of its neighbours carry. "
            f"{drawing.found.names[row]}"
        )
        cards.append(_card(drawing.asked(row, caption), items, words))
    return section("labels", "Likely wrong labels", intro, _folded(cards))


def _duplicates(drawing: _Drawing, most: int) -> str:
    pairs = drawing.found.findings.duplicates
    if not pairs:
        return section("duplicates", "Near duplicates", paragraph("None at this threshold."))
    intro = paragraph(
        "Pairs of near images whose pixels correlate: copies, scaled or compressed. Across splits they let a model score on what it was "
        "trained on; across classes at most one label is right. Exact copies are found by: cosphere data check."
    )
    cards = []
    for pair in pairs[:most]:
        marks = [
            name
            for name, flag in (("across splits", pair.across_splits), ("across classes", pair.across_classes))
            if flag
        ]
        asked = drawing.asked(pair.first, _caption(drawing, pair.first))
        items = [drawing.item(pair.second, f"<b>{pair.likeness:.4f}</b> {_caption(drawing, pair.second)}")]
        names = drawing.found.names
        where = f"{', '.join(marks).capitalize()}. " if marks else ""
        cards.append(_card(asked, items, f"{where}{names[pair.first]} and {names[pair.second]}"))
    return section("duplicates", "Near duplicates", intro, _folded(cards))


def _caption(drawing: _Drawing, row: int) -> str:
    return safe(drawing.class_name(int(drawing.labels[row]))) + drawing.split(row)


def _alike(drawing: _Drawing, most: int) -> str:
    pairs = drawing.found.findings.alike
    if not pairs:
        return section(
            "alike", "Classes that look like one", paragraph("None: no two classes are mixed by half or more.")
        )
    intro = paragraph(
        "Mixing 1 means that neighbours of images of one class are as often of the other as if both were one class. The pictures are "
        "the nearest pairs."
    )
    cards = []
    for pair in pairs[:most]:
        images = [row for example in pair.examples for row in example]
        if not images:
            continue
        asked = drawing.asked(images[0], _caption(drawing, images[0]))
        items = [drawing.item(row, _caption(drawing, row)) for row in images[1:]]
        names = f"{drawing.class_name(pair.first)} and {drawing.class_name(pair.second)}"
        cards.append(_card(asked, items, f"{names}: mixing {pair.mixing:.2f}"))
    return section("alike", "Classes that look like one", intro, _folded(cards))


def _divided(drawing: _Drawing, most: int) -> str:
    classes = drawing.found.findings.divided
    if not classes:
        return section("divided", "Classes that look like two", paragraph("None stands out among the classes."))
    intro = paragraph(
        "Each class was cut in two. These have the widest gap between the parts, against all classes. The first pictures are typical of "
        "one part (green), the others of the other part (red)."
    )
    cards = []
    for one in classes[:most]:
        first, second = (part[: _EXAMPLES + 1] for part in one.parts)
        asked = drawing.asked(first[0], _caption(drawing, first[0]))
        items = [drawing.item(row, "", "right") for row in first[1:]] + [
            drawing.item(row, "", "wrong") for row in second
        ]
        sizes = f"{len(one.parts[0])} and {len(one.parts[1])} images"
        cards.append(_card(asked, items, f"{drawing.class_name(one.label)}: {sizes}, gap {one.gap:.1f} deviations"))
    return section("divided", "Classes that look like two", intro, _folded(cards))


def _outliers(drawing: _Drawing, most: int) -> str:
    outliers = drawing.found.findings.outliers
    if not outliers:
        return section("outliers", "Outliers", paragraph("None: no image is far from all others."))
    intro = paragraph("Images that are far from all others, such as broken files, drawings or pages among photos.")
    items = [drawing.item(one.row, f"<b>{one.cosine:.3f}</b> {_caption(drawing, one.row)}") for one in outliers[:most]]
    return section("outliers", "Outliers", intro, f'<ol class="neighbours">{"".join(items)}</ol>')


def _skipped(found: Audit, pictures: Thumbnails) -> str:
    lost = {one.path: one.reason for one in found.images.skipped} | dict(pictures.unreadable)
    if not lost:
        return section("skipped", "Skipped images", paragraph("None: every image could be read."))
    return section("skipped", "Skipped images", table(["image", "reason"], list(lost.items())[:100], kind="words"))
