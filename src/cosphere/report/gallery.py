"""The parts of the report that are pictures: queries with their neighbours, and classes taken for each other."""

from __future__ import annotations

from cosphere._types import Integers
from cosphere.report import figures
from cosphere.report.data import ReportData
from cosphere.report.markup import missing, paragraph, safe, section, shown
from cosphere.report.pictures import Thumbnails
from cosphere.report.queries import Confusion, Hit, Outcomes, choose, class_scores, confusions, neighbours

NO_QUERIES = "No embeddings to ask yet. Evaluate the run to see its queries: cosphere evaluate RUN DATA."
AT_ONCE = 8
"""Queries shown before the reader asks for more."""


def queries(
    data: ReportData, found: Outcomes | None, pictures: Thumbnails, *, count: int, neighbours: int, seed: int
) -> str:
    """Worst, random and best queries with their neighbours; the reader chooses which."""
    title = "Queries and their neighbours"
    if found is None:
        return section("queries", title, missing(NO_QUERIES))
    chosen = choose(found, count, seed=seed)
    if not len(chosen.worst):
        return section(
            "queries",
            title,
            missing("No query has both a right and a wrong image to find, so there is nothing to rank."),
        )
    choices = {"worst": chosen.worst, "random": chosen.random, "best": chosen.best}
    buttons = "".join(_button(name, checked=name == "worst") for name in choices)
    panels = "".join(
        f'<div class="panel {name}">{_panel(data, found, at, pictures, neighbours)}</div>'
        for name, at in choices.items()
    )
    return section("queries", title, _summary(found), _cosines(found), f'<div class="chooser">{buttons}{panels}</div>')


def _button(name: str, *, checked: bool) -> str:
    """One of the choices above the panels. The style sheet shows the panel of the checked one: no script is needed."""
    state = " checked" if checked else ""
    return (
        f'<input type="radio" name="which" id="show-{name}"{state}><label for="show-{name}">{name.capitalize()}</label>'
    )


def _summary(found: Outcomes) -> str:
    able = found.answerable
    wrong = int((found.rank[able] > 1).sum())
    alone = int((~able).sum())
    words = (
        f"Of {shown(int(able.sum()))} queries, {shown(wrong)} have a wrong image nearest. "
        "Worst first means: the largest gap between the cosine of the nearest wrong image "
        "and that of the nearest right one."
    )
    if alone:
        verb = "has" if alone == 1 else "have"
        words += f" {shown(alone)} more {verb} no other image of the same class and cannot be answered."
    return paragraph(words)


def _cosines(found: Outcomes) -> str:
    svg = figures.cosine_histogram(found.right_cosine, found.wrong_cosine)
    shape = figures.inline(svg, "cosines", "Cosines of queries to their nearest right and nearest wrong image")
    words = "The less the two hills overlap, the easier right and wrong are told apart by one threshold."
    return (
        '<details class="more"><summary>Cosines of nearest right and wrong</summary>'
        f'<figure class="chart">{shape}</figure>{paragraph(words, "note")}</details>'
    )


def _panel(data: ReportData, found: Outcomes, positions: Integers, pictures: Thumbnails, k: int) -> str:
    """Cards of some queries, the later ones folded away."""
    rows = found.rows[positions]
    cards = [
        _card(data, found, int(position), hits, pictures)
        for position, hits in zip(positions, neighbours(data, rows, k), strict=True)
    ]
    first, rest = "".join(cards[:AT_ONCE]), "".join(cards[AT_ONCE:])
    more = f'<details class="more"><summary>Show {len(cards) - AT_ONCE} more</summary>{rest}</details>' if rest else ""
    return first + more


def _card(data: ReportData, found: Outcomes, position: int, hits: list[Hit], pictures: Thumbnails) -> str:
    """One query, what was found, and the verdict in words."""
    row = int(found.rows[position])
    asked = f"<figcaption><b>query</b> {safe(_class(data, row))}</figcaption>"
    items = [_hit(data, row, place, hit, pictures) for place, hit in enumerate(hits, start=1)]
    if not any(_label(data, hit.row) == _label(data, row) for hit in hits):
        items.append(_missed(data, found, position, pictures))
    return (
        f'<article class="query"><figure class="shot asked">{_picture(data, row, pictures)}{asked}</figure>'
        f'<ol class="found">{"".join(items)}</ol>{_verdict(found, position)}</article>'
    )


def _hit(data: ReportData, asked: int, place: int, hit: Hit, pictures: Thumbnails) -> str:
    """One neighbour with rank, cosine, class and mark."""
    right = _label(data, hit.row) == _label(data, asked)
    return (
        f'<li class="shot {"right" if right else "wrong"}">{_picture(data, hit.row, pictures)}{_mark(right)}'
        f'<span class="text"><b>{place} · {hit.cosine:.3f}</b> {safe(_class(data, hit.row))}</span></li>'
    )


def _missed(data: ReportData, found: Outcomes, position: int, pictures: Thumbnails) -> str:
    """The nearest right image of a query that shows only wrong ones: what should have been found."""
    row, cosine = int(found.right[position]), found.right_cosine[position]
    return (
        f'<li class="shot right missed">{_picture(data, row, pictures)}{_mark(True)}'
        f'<span class="text"><b>{shown(int(found.rank[position]))} · {cosine:.3f}</b> nearest right one</span></li>'
    )


def _mark(right: bool) -> str:
    """Right or wrong as a shape, for eyes that see no colour, and as a word, for ears."""
    glyph, word = ("✓", "right") if right else ("✗", "wrong")
    return f'<span class="mark"><span aria-hidden="true">{glyph}</span><span class="heard">{word}</span></span>'


def _verdict(found: Outcomes, position: int) -> str:
    right, wrong = found.right_cosine[position], found.wrong_cosine[position]
    rank = int(found.rank[position])
    outcome = "Found at once" if rank == 1 else f"First right image at rank {shown(rank)}"
    return paragraph(
        f"{outcome}. Nearest right {right:.3f}, nearest wrong {wrong:.3f}, gap {wrong - right:+.3f}.", "verdict"
    )


def _label(data: ReportData, row: int) -> int:
    return -1 if data.labels is None else int(data.labels[row])


def _class(data: ReportData, row: int) -> str:
    return data.class_name(_label(data, row))


def _picture(data: ReportData, row: int, pictures: Thumbnails) -> str:
    """The thumbnail of a row, or a grey square that says so."""
    file = data.file(row)
    name = pictures.name(file, data.box(row)) if file else None
    if name is None:
        return f'<span class="pic none" title="{safe(file)}">no picture</span>'
    return f'<span class="pic {name}" role="img" aria-label="{safe(_class(data, row))}" title="{safe(file)}"></span>'


def classes(data: ReportData, found: Outcomes | None, pictures: Thumbnails, *, count: int = 12) -> str:
    """The classes found worst, and the pairs taken for each other."""
    if found is None or data.labels is None:
        return section("classes", "Classes", missing("Without embeddings and labels there are no classes to compare."))
    worst = class_scores(found, data.labels)[:count]
    names = [data.class_name(one.label) for one in worst]
    svg = figures.class_figure(names, [one.recall for one in worst], [one.queries for one in worst])
    shape = "" if svg is None else figures.inline(svg, "classes", "Recall at 1 of the classes found worst")
    chart = f'<figure class="chart">{shape}</figure>' if shape else ""
    pairs = "".join(_pair(data, found, one, pictures) for one in confusions(found, data.labels, count))
    none = missing("No class was taken for another: every query found its own class first.")
    listed = f'<ul class="pairs">{pairs}</ul>' if pairs else none
    left = f"<div><h3>Most often taken for each other</h3>{listed}</div>"
    return section("classes", "Classes", f'<div class="beside">{left}{chart}</div>')


def _pair(data: ReportData, found: Outcomes, pair: Confusion, pictures: Thumbnails) -> str:
    """Two classes with the worst example of their confusion."""
    first, second = data.class_name(pair.first), data.class_name(pair.second)
    total = pair.first_as_second + pair.second_as_first
    shots = "".join(_picture(data, int(row[pair.example]), pictures) for row in (found.rows, found.wrong))
    times = "once" if total == 1 else f"{total} times"
    ways = f"{times}: the first for the second {pair.first_as_second}, the second for the first {pair.second_as_first}"
    return (
        f'<li><span class="shots">{shots}</span><span class="text"><b>{safe(first)}</b><i> and </i>'
        f"<b>{safe(second)}</b><small>{safe(ways)}</small></span></li>"
    )
