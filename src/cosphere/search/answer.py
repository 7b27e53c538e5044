"""Answering image queries from a gallery of embeddings: encode, search, leave the query's own image out, apply the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosphere.checks import check_whole
from cosphere.embeddings import Embeddings
from cosphere.errors import SizeError, agreeing, counted
from cosphere.models import Calibration, Embedder
from cosphere.search.asymmetric import SHORTLIST
from cosphere.search.engines import COSINE, ENGINES
from cosphere.search.index import Index
from cosphere.search.kinds import check_kind
from cosphere.search.own import own_rows
from cosphere.search.refining import SHORTLIST as RECIPROCAL
from cosphere.search.refining import Refinement
from cosphere.search.self_check import check_wanted_recall

PLAIN = Refinement()
"""The nearest rows as they are."""
MEASURES = {name: kind.measure for name, kind in ENGINES.items()}
"""What the scores of each kind of index are."""
WHOLE_KINDS = tuple(name for name, measure in MEASURES.items() if measure == COSINE)
"""Kinds of index whose scores are cosines of whole embeddings, the only scores that a calibrated threshold applies to."""


@dataclass(frozen=True)
class Hit:
    """One gallery image in the answer to a query."""

    row: int
    """Row of the gallery."""
    path: str
    label: str
    """Name of its class."""
    score: float
    """In [-1, 1], larger is nearer: see :attr:`Answer.measure`."""
    same: bool | None
    """Whether the score is above the model's calibrated threshold; None where no threshold applies."""
    alike: int = 0
    """Near duplicates of it among the images found, which are not shown; 0 unless asked for by ``collapse``."""


@dataclass(frozen=True)
class Answer:
    """The nearest gallery images of one query."""

    query: Any
    """The picture as it was given."""
    hits: tuple[Hit, ...]
    """k images, nearest first."""
    own_rows: tuple[int, ...]
    """Gallery rows that show the query's own file; they are left out of the hits."""
    own_label: str | None
    """Class of the query's own file; None where the gallery does not have it."""
    measure: str
    """What the scores are."""
    notes: tuple[str, ...]
    """What a reader of the answer should know, one sentence each."""

    def by_label(self) -> dict[str, tuple[Hit, ...]]:
        """The hits of each class, the class with the nearest hit first."""
        groups: dict[str, list[Hit]] = {}
        for hit in self.hits:
            groups.setdefault(hit.label, []).append(hit)
        return {label: tuple(hits) for label, hits in groups.items()}


def answer(
    queries: Sequence[Any],
    embedder: Embedder,
    gallery: Embeddings,
    k: int = 8,
    *,
    kind: str = "exact",
    shortlist: int | None = None,
    wanted_recall: float | None = None,
    index: Index | None = None,
    refine: Refinement = PLAIN,
    batch_size: int = 64,
) -> list[Answer]:
    """Find the k gallery images nearest to each query image.

    A query that is a file of the gallery does not meet itself: rows that show the same file, also through a link, are left out.

    Args:
        queries: paths or pictures, see :meth:`Embedder.encode`. Only paths are recognised in the gallery.
        embedder: the model that the gallery was embedded with.
        gallery: G embeddings.
        k: images to find, from 1 to G less the query's own rows.
        kind: of the index, see :data:`cosphere.search.KINDS`, or "auto".
        shortlist: codes that kinds ``rerank`` and ``coarse-bits`` rank again; None takes 100 (or k where it is larger) and 2000.
        wanted_recall: in [0, 1]; refuse an index that finds less of what exact search finds.
        index: of the gallery's embeddings, to be used as it is; None builds one. ``kind``, ``shortlist`` and
            ``wanted_recall`` are then not looked at.
        refine: expansion of the query, re-ranking, and what is shown of the images found.
        batch_size: images that are read together, see :meth:`cosphere.models.Embedder.encode`.

    Returns:
        one answer for each query, in order; with fewer than k hits where ``refine``, or rows that ``index`` has deleted, leave no more.

    Raises:
        ImageError: a query cannot be read.
        SizeError: k does not fit the gallery.
        SettingsError: a setting is out of range, or the index finds too little.
    """
    check_whole("k", k, least=1)
    check_kind(kind, auto=True)
    check_wanted_recall(wanted_recall)
    own = [own_rows(query, gallery) for query in queries]
    most = max((len(rows) for rows in own), default=0)
    _check_reach(k, len(gallery), most)
    rows = embedder.encode(queries, batch_size=batch_size)
    if index is None:
        wide = max(k, SHORTLIST) if shortlist is None and kind == "rerank" else shortlist
        listed = {} if wide is None else {"shortlist": wide + most}
        checked = (
            {} if kind != "exact" or wanted_recall is not None else {"check_queries": 0}
        )  # exact is what it is compared with
        index = Index.build(gallery.embeddings, kind, wanted_recall=wanted_recall, **listed, **checked)
    found = _found(rows, gallery, index, k, most, own, refine)
    return [
        _answer(query, gallery, index, embedder.calibration, left_out, hits, refine, k)
        for query, left_out, hits in zip(queries, own, found, strict=True)
    ]


class _Found(NamedTuple):
    row: int
    score: float
    alike: int


def _found(
    rows: Any, gallery: Embeddings, index: Index, k: int, most: int, own: Sequence[tuple[int, ...]], refine: Refinement
) -> list[list[_Found]]:
    """Up to k hits of each query. Own rows are dropped afterwards, so look for as many more; for thinned hits, for ever more."""
    rows = refine.query_rows(rows, gallery.embeddings, own, index.dead)
    reach = len(index) - int(index.dead.sum())
    wide = min(reach, max(k + most, RECIPROCAL if refine.reciprocal else 0, 4 * k if refine.thins else 0))
    while True:
        neighbours = refine.order(rows, gallery.embeddings, index.search(rows, wide))
        found = [
            _shown(ids, scores, gallery, left_out, k, refine)
            for ids, scores, left_out in zip(neighbours.ids.tolist(), neighbours.scores.tolist(), own, strict=True)
        ]
        if not refine.thins or wide == reach or all(len(hits) == k for hits in found):
            return found
        wide = min(reach, 4 * wide)


def _shown(
    ids: Sequence[int],
    scores: Sequence[float],
    gallery: Embeddings,
    own: tuple[int, ...],
    k: int,
    refine: Refinement,
) -> list[_Found]:
    others = [(row, score) for row, score in zip(ids, scores, strict=True) if row not in own]
    if not refine.thins:
        return [_Found(row, score, 0) for row, score in others[:k]]
    rows = [row for row, _ in others]
    shown = refine.thinned(rows, gallery.labels[rows].tolist(), gallery.embeddings, k)
    return [_Found(others[one.place][0], others[one.place][1], one.alike) for one in shown]


def _check_reach(k: int, gallery: int, own: int) -> None:
    if gallery <= own:
        raise SizeError("the collection holds nothing but the query itself, so nothing can be found. Add images to it.")
    if k > gallery - own:
        without = ", itself left out" if own else ""
        raise SizeError(
            f"k={k}, but a query can have from 1 to {gallery - own} neighbours (gallery of {gallery}{without}). "
            f"Choose k as a whole number from 1 to {gallery - own}, or add images."
        )


def _answer(
    query: Any,
    gallery: Embeddings,
    index: Index,
    calibration: Calibration | None,
    own: tuple[int, ...],
    found: Sequence[_Found],
    refine: Refinement,
    k: int,
) -> Answer:
    threshold = calibration if index.kind in WHOLE_KINDS and not refine.changes_scores else None
    names = gallery.class_names
    hits = [
        Hit(
            row,
            gallery.paths[row],
            names[gallery.labels[row]],
            score,
            None if threshold is None else bool(threshold.same(score)),
            alike,
        )
        for row, score, alike in found
    ]
    label = names[gallery.labels[own[0]]] or None if own else None  # images without labels have the label ""
    notes = [] if threshold is None else [_verdict(threshold, [hit.score for hit in hits], len(gallery))]
    if index.kind != "exact":
        notes.append(f"index of kind {index.kind}, {counted(index.bytes_per_image, 'byte')} an image: {index.check}")
    if index.reason:
        notes.append(index.reason)
    if calibration is not None and threshold is None:
        notes.append(unmarked("a refined search" if refine.changes_scores else f"kind {index.kind}"))
    alike = sum(hit.alike for hit in hits)
    if alike:
        notes.append(f"{counted(alike, 'near duplicate')} of these {'is' if alike == 1 else 'are'} not shown")
    deleted = int(index.dead.sum())
    if len(hits) < k and deleted and not refine.thins:
        notes.append(
            f"{counted(len(hits), 'hit')} instead of {k}: {counted(deleted, 'row')} of the index {agreeing(deleted, 'are')} deleted"
        )
    if own:
        its_label = "" if label is None else f"; its label is {label!r}"
        notes.append(f"{Path(query).name} is one of the images, so it is left out{its_label}")
    measure = "re-ranked" if refine.reciprocal else MEASURES[index.kind]
    return Answer(query, tuple(hits), own, label, measure, tuple(notes))


def unmarked(by: str) -> str:
    """One sentence about a calibrated threshold that does not apply to a search."""
    return f"the model's threshold is one of whole embeddings: nothing is marked as unknown by {by}"


def _verdict(calibration: Calibration, scores: Sequence[float], gallery: int) -> str:
    """One sentence about the hits above the threshold, with what its rate means for a gallery of this size."""
    above = int(calibration.same(np.asarray(scores)).sum())
    (low, high), most = calibration.far_interval, calibration.unseen_far
    rate = calibration.tested_far
    if rate is None or (rate == 0 and most is None):  # an earlier version did not keep on how many pairs
        rate, basis = calibration.far, f"{_percent(low)} to {_percent(high)} % with other classes"
    elif most is not None:
        low, high = 0.0, most
        basis = f"none of {calibration.tested_pairs:,} on test images, which allows up to {_percent(most)} %"
    else:
        low = high = rate
        basis = "measured on test images"
    ends = "" if low == high else f" ({low * gallery:.2g} to {high * gallery:.2g})"
    rule = (
        f"cosine {calibration.threshold:.3f}, a false accept rate of {_percent(rate)} % of pairs, {basis}: about "
        f"{rate * gallery:.2g}{ends} wrong images for each query among {gallery:,}"
    )
    if not above:
        return f"none is above the threshold ({rule}): no known class matches the query"
    return f"{above} of {len(scores)} above the threshold ({rule}); hits below it are marked as unknown"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}" if share >= 0.1 else f"{100 * share:.2g}"
