"""What can be done to the answer of a query beyond the nearest rows: expansion, re-ranking, one hit per class or per picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosphere._types import Flags, Float32s
from cosphere.checks import check_number, check_switch, check_whole
from cosphere.rows import unit_rows
from cosphere.search.exact import Neighbours
from cosphere.search.expansion import ALPHA, MOST_ALPHA, MOST_IMAGES, expanded_units
from cosphere.search.reciprocal import apart, k_reciprocal_search

SHORTLIST = 500
"""Nearest rows that are re-ranked for each query."""


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """What is done beyond taking the nearest rows. As it is: nothing.

    Raises:
        SettingsError: a value is out of range.
    """

    expand: int = 0
    """Nearest images that are averaged with the query before it is searched again; 0 for none. See :func:`expanded_queries`."""
    alpha: float = ALPHA
    """Of the expansion: the weight of an image is its cosine to this power; 0 gives all the same weight."""
    reciprocal: bool = False
    """Re-rank the 500 nearest by k-reciprocal neighbours, see :func:`k_reciprocal_search`; others follow by cosine."""
    per_label: int | None = None
    """Show at most this many images of each class; None for no bound."""
    collapse: float | None = None
    """Show one of those images whose cosine to each other is at least this, in (0, 1]; None shows all."""

    def __post_init__(self) -> None:
        check_whole("expand", self.expand, least=0, most=MOST_IMAGES)
        check_number("alpha", self.alpha, at_least=0, at_most=MOST_ALPHA)
        check_switch("reciprocal", self.reciprocal)
        if self.per_label is not None:
            check_whole("per_label", self.per_label, least=1)
        if self.collapse is not None:
            check_number("collapse", self.collapse, above=0, at_most=1)

    @property
    def thins(self) -> bool:
        """Whether hits may be dropped, so that more must be looked for."""
        return self.per_label is not None or self.collapse is not None

    @property
    def changes_scores(self) -> bool:
        """Whether scores are other than the cosine of query and image."""
        return self.reciprocal or self.expand > 0

    def query_rows(
        self, rows: Float32s, gallery: Float32s, own: Sequence[tuple[int, ...]], dead: Flags
    ) -> Float32s | Tensor:
        """The rows to search with: expanded, or as they are.

        Args:
            rows: (Q, D) of the queries.
            gallery: (G, D).
            own: of each query, gallery rows that show its own file, which are not averaged with it.
            dead: (G,) gallery rows that are deleted, likewise.
        """
        if not self.expand:
            return rows
        living = [[row for row in shown if not dead[row]] for shown in own]
        images = min(self.expand, int((~dead).sum()) - max(map(len, living), default=0))
        if images < 1:
            return rows
        return expanded_units(unit_rows(rows), unit_rows(gallery), images, self.alpha, living, ~dead)

    def order(self, rows: Float32s | Tensor, gallery: Float32s, found: Neighbours) -> Neighbours:
        """Re-rank the first :data:`SHORTLIST` of the found rows, or leave them: (Q, L) -> (Q, L)."""
        if not self.reciprocal:
            return found
        ids, scores = torch.empty_like(found.ids), torch.empty_like(found.scores)
        for query, listed in enumerate(found.ids):
            ids[query], scores[query] = _reranked(rows[query : query + 1], gallery, listed)
        return Neighbours(ids, scores)

    def thinned(self, hits: Sequence[int], labels: Sequence[Any], gallery: Float32s, k: int) -> list[Shown]:
        """The first k hits to show, of one query.

        Args:
            hits: gallery rows, nearest first.
            labels: of each hit.
            gallery: (G, D).
            k: at most this many.
        """
        unit = unit_rows(gallery[list(hits)]).rows if self.collapse is not None and hits else None
        shown: list[int] = []
        alike: Counter[int] = Counter()
        of_label: Counter[Any] = Counter()
        for place, label in enumerate(labels):
            same = _first_alike(unit, shown, place, self.collapse)
            if same is not None:
                alike[same] += 1
            elif len(shown) < k and (self.per_label is None or of_label[label] < self.per_label):
                shown.append(place)
                of_label[label] += 1
        return [Shown(place, alike[place]) for place in shown]


def _reranked(query: Float32s | Tensor, gallery: Float32s, listed: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (L,) in their new order, and their scores: time grows with the square of those that are re-ranked."""
    first, rest = listed[:SHORTLIST], listed[SHORTLIST:]
    best = k_reciprocal_search(query, gallery[first.numpy()], k=len(first))
    ids, scores = first[best.ids[0]], best.scores[0]
    if len(rest):
        unit = unit_rows(query).rows[0].cpu()
        near, far = (unit_rows(gallery[part.numpy()]).rows @ unit for part in (first, rest))
        ids, scores = torch.cat([ids, rest]), torch.cat([scores, apart(far, near.min())])
        scores, order = scores.sort(descending=True, stable=True)
        ids = ids[order]
    return ids, scores


class Shown(NamedTuple):
    """One hit that is shown."""

    place: int
    """Among the hits."""
    alike: int
    """Later hits that are near duplicates of it, which are not shown."""


def _first_alike(unit: Tensor | None, shown: list[int], place: int, threshold: float | None) -> int | None:
    """The first shown hit whose cosine to this one reaches the threshold."""
    if unit is None or threshold is None or not shown:
        return None
    cosines = unit[shown] @ unit[place]
    near = (cosines >= threshold - 1e-6).nonzero().flatten().tolist()
    return shown[near[0]] if near else None
