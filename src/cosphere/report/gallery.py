"""The sections made of pictures: queries with their neighbours, and classes that are mistaken for each other."""

from __future__ import annotations

import math

from cosphere._types import Integers
from cosphere.embeddings import Embeddings
from cosphere.evaluate import RetrievalScores, ranked_images
from cosphere.report import figures
from cosphere.report.data import ReportData
from cosphere.report.drawing import charts, inline
from cosphere.report.markup import missing, paragraph, safe, section, shown
from cosphere.report.pictures import Thumbnails
from cosphere.report.queries import Confusion, choose, confusions, failed, worst_classes
from cosphere.report.space import confusion_figure

NO_EMBEDDINGS = "No embeddings yet. Evaluate the run to see its queries: cosphere evaluate RUN DATA."
NO_RANKING = "No query has a right image to find, so nothing is ranked. That takes a class with two images."
AT_ONCE = 8
"""Queries shown before the reader asks for more."""


def queries(data: ReportData, pictures: Thumbnails, *, count: int, neighbours: int, seed: int) -> str:
    """Worst, random and best queries with their neighbours; the reader chooses which."""
    title = "Queries and their neighbours"
    ranking = data.ranking
    if data.embeddings is None or ranking is None:
        return section("queries", title, missing(NO_EMBEDDINGS if data.embeddings is None else NO_RANKING))
    chosen = choose(ranking, count, seed=seed)
    if not len(chosen.worst):
        return section("queries", title, missing("No query has a wrong image to find, so there is nothing to compare."))
    choices = {"worst": chosen.worst, "random": chosen.random, "best": chosen.best}
    buttons = "".join(_button(name, checked=name == "worst") for name in choices)
    gallery = _Gallery(data, data.embeddings, ranking, pictures)
    panels = "".join(
        f'<div class="panel {name}">{gallery.panel(positions, neighbours)}</div>' for name, positions in choices.items()
    )
    chooser = f'<div class="chooser">{buttons}{panels}</div>'
    return section("queries", title, _summary(ranking), _similarities(ranking, bits=gallery.bits), chooser)


def _button(name: str, *, checked: bool) -> str:
    """One of the choices above the panels. The style sheet shows the panel of the checked one: no script is needed."""
    state = " checked" if checked else ""
    return (
        f'<input type="radio" name="which" id="show-{name}"{state}><label for="show-{name}">{name.capitalize()}</label>'
    )


def _summary(ranking: RetrievalScores) -> str:
    words = (
        f"Of {shown(ranking.queries)} queries, {shown(int(failed(ranking).sum()))} have a wrong image nearest. "
        "“Worst” are the queries with the largest gap: similarity to the nearest wrong image minus similarity to the nearest "
        "right one."
    )
    if ranking.skipped:
        verb = "has" if ranking.skipped == 1 else "have"
        words += (
            f" {shown(ranking.skipped)} more {verb} no other image of the same class to find and cannot be answered."
        )
    return paragraph(words)


def _similarities(ranking: RetrievalScores, *, bits: bool) -> str:
    svg = figures.similarity_histogram(ranking.right_similarity, ranking.wrong_similarity, bits=bits)
    shape = inline(svg, "similarities", "Similarity of queries to their nearest right and nearest wrong image")
    words = "The less the two histograms overlap, the better one threshold separates right from wrong."
    return (
        '<details class="more"><summary>Similarity to the nearest right and wrong image</summary>'
        f'<figure class="chart">{shape}</figure>{paragraph(words, "note")}</details>'
    )


class _Gallery:
    """Draws the queries of one ranking."""

    def __init__(
        self, data: ReportData, embeddings: Embeddings, ranking: RetrievalScores, pictures: Thumbnails
    ) -> None:
        self.data, self.embeddings, self.ranking, self.pictures = data, embeddings, ranking, pictures
        self.bits = data.evaluation.bits

    def panel(self, positions: Integers, k: int) -> str:
        """Cards of some queries, the later ones folded away."""
        images = ranked_images(self.embeddings, self.ranking.query_rows[positions], k, self.data.evaluation)
        cards = [
            self.card(position, [(row, value) for row, value in zip(rows, values, strict=True) if row >= 0])
            for position, rows, values in zip(
                positions.tolist(), images.rows.tolist(), images.similarities.tolist(), strict=True
            )
        ]
        first, rest = "".join(cards[:AT_ONCE]), "".join(cards[AT_ONCE:])
        if not rest:
            return first
        return f'{first}<details class="more"><summary>Show {len(cards) - AT_ONCE} more</summary>{rest}</details>'

    def card(self, position: int, neighbours: list[tuple[int, float]]) -> str:
        """One query, its neighbours (row, similarity), and the outcome in words."""
        row = int(self.ranking.query_rows[position])
        caption = f"<figcaption><b>query</b> {safe(self.data.class_of(row))}</figcaption>"
        items = [self.neighbour(row, place, *neighbour) for place, neighbour in enumerate(neighbours, start=1)]
        if not any(self.is_right(row, neighbour) for neighbour, _ in neighbours):
            items.append(self.missed(position))
        picture = _picture(self.data, row, self.pictures)
        return (
            f'<article class="query"><figure class="shot asked">{picture}{caption}</figure>'
            f'<ol class="neighbours">{"".join(items)}</ol>{self.outcome(position)}</article>'
        )

    def is_right(self, query: int, row: int) -> bool:
        """Whether both are of one class."""
        return bool(self.embeddings.labels[query] == self.embeddings.labels[row])

    def neighbour(self, query: int, place: int, row: int, similarity: float) -> str:
        """One neighbour with rank, similarity, class and mark."""
        right = self.is_right(query, row)
        return (
            f'<li class="shot {"right" if right else "wrong"}">{_picture(self.data, row, self.pictures)}{_mark(right)}'
            f'<span class="text"><b>{place} · {self.similarity(similarity)}</b> {safe(self.data.class_of(row))}</span></li>'
        )

    def missed(self, position: int) -> str:
        """The nearest right image of a query whose neighbours are all wrong: what should have come first."""
        row, value = int(self.ranking.nearest_right[position]), float(self.ranking.right_similarity[position])
        return (
            f'<li class="shot right missed">{_picture(self.data, row, self.pictures)}{_mark(True)}'
            f'<span class="text"><b>{self.rank(position)} · {self.similarity(value)}</b> nearest right one</span></li>'
        )

    def outcome(self, position: int) -> str:
        """Rank and similarities of a query in words."""
        right, wrong = (float(one[position]) for one in (self.ranking.right_similarity, self.ranking.wrong_similarity))
        first = float(self.ranking.first_ranks[position]) == 1
        words = "Right image first" if first else f"First right image at rank {self.rank(position)}"
        gap = f"{wrong - right:+.0f} bits" if self.bits else f"{wrong - right:+.3f}"
        return paragraph(
            f"{words}. Nearest right {self.similarity(right)}, nearest wrong {self.similarity(wrong)}, gap {gap}.",
            "outcome",
        )

    def rank(self, position: int) -> str:
        """Of the nearest right image; with expected ties it may lie between two."""
        rank = float(self.ranking.first_ranks[position])
        return shown(int(rank)) if rank == math.floor(rank) else f"{rank:.1f}"

    def similarity(self, value: float) -> str:
        """A cosine, or a Hamming distance."""
        return f"{-value:.0f} bits apart" if self.bits else f"{value:.3f}"


def _mark(right: bool) -> str:
    """Right or wrong as a shape, for eyes that see no colour, and as a word, for ears."""
    glyph, word = ("✓", "right") if right else ("✗", "wrong")
    return f'<span class="mark"><span aria-hidden="true">{glyph}</span><span class="heard">{word}</span></span>'


def _picture(data: ReportData, row: int, pictures: Thumbnails) -> str:
    """The thumbnail of a row, or a grey square that says so."""
    file = data.file(row)
    name = pictures.name(file, data.box(row)) if file else None
    if name is None:
        return f'<span class="pic none" title="{safe(file)}">no picture</span>'
    return f'<span class="pic {name}" role="img" aria-label="{safe(data.class_of(row))}" title="{safe(file)}"></span>'


def classes(data: ReportData, pictures: Thumbnails, *, count: int = 12) -> str:
    """The classes with the lowest recall, and the pairs that are mistaken for each other."""
    ranking = data.ranking
    if data.embeddings is None or ranking is None:
        return section("classes", "Classes", missing(NO_EMBEDDINGS if data.embeddings is None else NO_RANKING))
    worst = worst_classes(ranking, count)
    names = [data.class_name(one.label) for one in worst]
    svg = figures.class_figure(names, [one.recall for one in worst], [one.queries for one in worst])
    confused = confusions(ranking, data.embeddings.labels, count)
    both = [(data.class_name(one.first), data.class_name(one.second)) for one in confused]
    chart = charts(
        [
            ("classes", svg, "Recall at 1 of the classes with the lowest recall"),
            ("confusions", confusion_figure(confused, both), "Queries of two classes that find the other class first"),
        ]
    )
    pairs = "".join(_pair(data, ranking, one, pictures) for one in confused)
    none = missing("No class is mistaken for another: every query finds its own class first.")
    listed = f'<ul class="pairs">{pairs}</ul>' if pairs else none
    left = f"<div><h3>Most often mistaken for each other</h3>{listed}</div>"
    return section("classes", "Classes", f'<div class="beside">{left}{chart}</div>')


def _pair(data: ReportData, ranking: RetrievalScores, pair: Confusion, pictures: Thumbnails) -> str:
    """Two classes with the worst example of their confusion."""
    first, second = data.class_name(pair.first), data.class_name(pair.second)
    total = pair.first_as_second + pair.second_as_first
    rows = (ranking.query_rows[pair.example], ranking.nearest_wrong[pair.example])
    shots = "".join(_picture(data, int(row), pictures) for row in rows)
    verb = "query finds" if total == 1 else "queries find"
    ways = f"{total} {verb} the other class first: {pair.first_as_second} of the first, {pair.second_as_first} of the second"
    return (
        f'<li><span class="shots">{shots}</span><span class="text"><b>{safe(first)}</b><i> and </i>'
        f"<b>{safe(second)}</b><small>{safe(ways)}</small></span></li>"
    )
