"""Equal-bytes table: scores of the same embeddings stored as floats, bits and reduced dimensions, with the bytes of each.

NormSoftmax (Zhai & Wu, "Classification is a Strong Baseline for Deep Metric Learning", 2019) claims that 2048 bits stay close to
2048 floats and far above 64 floats, which take the same number of bytes. This table measures it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere._types import Floats, Integers, Progress
from cosphere.checks import MOST_SAMPLES, check_seed, check_whole
from cosphere.codes import bytes_of, is_codes, to_bits
from cosphere.embeddings import Embeddings, Sides
from cosphere.errors import SettingsError, SizeError
from cosphere.evaluate._relevance import GroupRule, check_labels
from cosphere.evaluate._ties import Ties
from cosphere.evaluate.retrieval import RetrievalScores, retrieval
from cosphere.evaluate.statistics import Interval, bootstrap_all
from cosphere.rows import BLOCK_BYTES, Matrix, UnitRows, unit_rows
from cosphere.search import Index, Neighbours, Reduction, SelfCheck, check_search
from cosphere.search.asymmetric import SHORTLIST, rerank
from cosphere.search.hamming import BitRows, bit_rows, search_bits
from cosphere.search.reduction import first_dimensions, principal_dimensions
from cosphere.search.self_check import NEIGHBOURS
from cosphere.search.storage import FEWEST_ROWS

SCORES = ("recall@1", "map@r")
"""The scores of the table."""
TIMED_QUERIES = 1000
TIMED_NEIGHBOURS = 10
_LISTED_QUERIES = 1024
"""Queries whose lists are looked at together."""


@dataclass(frozen=True, eq=False)
class Form:
    """One way to store the gallery, and its scores."""

    name: str
    bytes_per_image: int
    """Stored for each image of the gallery."""
    per_query: Mapping[str, Floats] = field(repr=False)
    """(Q,) in [0, 1] each, by the names of :data:`SCORES`; the same queries for every form."""
    intervals: Mapping[str, Interval]
    """Over queries; empty without resamples."""
    seconds_per_1000: float
    """Wall-clock time to find 10 neighbours of 1000 queries on this machine, including the conversion of the queries."""
    check: SelfCheck
    """Share of the float32 ranking that it finds."""

    @property
    def values(self) -> dict[str, float]:
        """The means over queries, in [0, 1]."""
        return {name: float(values.mean()) for name, values in self.per_query.items()}

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        row: dict[str, Any] = {"name": self.name, "bytes_per_image": self.bytes_per_image}
        for name, value in self.values.items():
            low, high = self.intervals.get(name, (None, None))
            row[name] = {"value": value, "low": low, "high": high}
        return row | {"seconds_per_1000_queries": self.seconds_per_1000, "self_check": self.check.as_dict()}


@dataclass(frozen=True, eq=False)
class EqualBytes:
    """Result of :func:`equal_bytes`."""

    forms: tuple[Form, ...]
    dim: int
    gallery: int
    """Images that can be found."""
    queries: int
    """Queries that were scored."""
    skipped: int
    """Queries with nothing to find."""
    shortlist: int
    notes: tuple[str, ...]

    def form(self, name: str) -> Form:
        """One row of the table.

        Raises:
            SettingsError: there is none of this name.
        """
        for form in self.forms:
            if form.name == name:
                return form
        raise SettingsError(f"the table has no form {name!r}; it has {', '.join(form.name for form in self.forms)}.")

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for a file."""
        return {
            "dim": self.dim,
            "gallery": self.gallery,
            "queries": self.queries,
            "queries_skipped": self.skipped,
            "shortlist": self.shortlist,
            "forms": [form.as_dict() for form in self.forms],
            "notes": list(self.notes),
        }


def equal_bytes(
    embeddings: Embeddings | Matrix,
    labels: Any | None = None,
    *,
    shortlist: int = SHORTLIST,
    group_rule: GroupRule = "any_class",
    bootstrap_samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    block_bytes: int = BLOCK_BYTES,
    progress: Progress | None = None,
) -> EqualBytes:
    """Recall@1 and MAP@R of one set of embeddings, stored in fewer and fewer bytes.

    The forms, for D dimensions and B = ceil(D / 8) bytes: ``float32``, ``float16`` and ``int8`` rows; ``bits`` against bits by
    Hamming distance; ``bits, float query``; ``bits + re-rank``, whose shortlist the floats put in order; ``PQ`` of B bytes;
    ``first d dims`` and ``PCA to d dims``, float32 with d = B / 4. Except for bits against bits, queries stay floats: only the
    gallery has to be small. PQ and PCA learn from the gallery, without labels.

    Every form is scored by :func:`cosphere.evaluate.retrieval`: bits by distance, the others by the cosine between float queries
    and the decoded gallery. Equal similarities count at their expected value where codes are compared (bits and PQ) and
    optimistically for float and int8 rows (expected too where a query's first ranks are one large tie), as in every other table. Only
    re-ranked lists are scored as lists: what follows the shortlist stays in the order of the bits.

    Args:
        embeddings: what :meth:`Embeddings.load` gives, with its query and gallery flags and its groups; or (N, D) float rows, any
            length, each a query of all others.
        labels: (N,) integers, with rows.
        shortlist: codes that are re-ranked.
        group_rule: which images of its group a query does not rank; see :func:`retrieval`.
        bootstrap_samples: resamples behind each interval; 0 makes none.
        level: of the intervals, in (0, 1).
        seed: of intervals, PQ and self-checks.
        block_bytes: bound of the ranking's working memory. The embeddings, a decoded gallery and a unit copy of each come on top.
        progress: called with the number of finished forms.

    Raises:
        SizeError: shapes do not fit, or uint8 where floats are wanted.
        DataError: a row holds NaN or infinity, or no query has anything to find.
        SettingsError: a setting is out of range.
    """
    check_whole("bootstrap_samples", bootstrap_samples, least=0, most=MOST_SAMPLES)
    check_whole("shortlist", shortlist, least=1)
    check_seed(seed)
    sets = _sets(embeddings, labels, group_rule)
    floats = _ranked(sets, sets.queries, sets.gallery, None, block_bytes)
    plans, notes = _plans(sets, shortlist, seed)
    forms = []
    for done, plan in enumerate(plans, 1):
        gallery = plan.make()
        per_query = _scores(gallery, sets, floats, block_bytes)
        intervals = (
            bootstrap_all(per_query, samples=bootstrap_samples, level=level, seed=seed) if bootstrap_samples else {}
        )
        seconds, check = _seconds(gallery, sets), _check(gallery, sets, seed)
        forms.append(Form(plan.name, gallery.index.bytes_per_image, per_query, intervals, seconds, check))
        if progress is not None:
            progress(done, len(plans))
    return EqualBytes(
        forms=tuple(forms),
        dim=sets.queries.shape[1],
        gallery=len(sets.gallery),
        queries=floats.queries,
        skipped=floats.skipped,
        shortlist=shortlist,
        notes=tuple(notes),
    )


class _Sets(NamedTuple):
    queries: Matrix
    labels: Integers
    gallery: Matrix
    gallery_labels: Integers
    exclude: Integers
    """(Q,) the gallery row that is the query, -1 where there is none."""
    identities: Integers | None
    """(Q,) the picture of each query; None if all rows show different pictures."""
    gallery_identities: Integers | None
    groups: Integers | None
    """(Q,) group of each query; None without groups."""
    gallery_groups: Integers | None
    group_rule: GroupRule

    def left_out(self, query_rows: Integers, ids: Integers) -> npt.NDArray[np.bool_]:
        """(q,) queries, (q, k) gallery rows -> (q, k) the rows that the query does not rank: of its picture or its group."""
        out = np.zeros(ids.shape, dtype=bool)
        if self.identities is not None and self.gallery_identities is not None:
            out |= self.gallery_identities[ids] == self.identities[query_rows, None]
        if self.groups is not None and self.gallery_groups is not None:
            same = self.gallery_groups[ids] == self.groups[query_rows, None]
            if self.group_rule == "same_class":
                same &= self.gallery_labels[ids] == self.labels[query_rows, None]
            out |= same
        return out

    @property
    def most_left_out(self) -> int:
        """At least as many gallery rows as any query leaves out, besides its own row."""
        columns = (self.gallery_identities, self.gallery_groups)
        return sum(int(np.unique(column, return_counts=True)[1].max()) for column in columns if column is not None)


def _sets(embeddings: Embeddings | Matrix, labels: Any | None, group_rule: GroupRule) -> _Sets:
    rows: Matrix
    if isinstance(embeddings, Embeddings):
        if labels is not None:
            raise SettingsError("embeddings from a file have labels of their own. Leave labels out.")
        rows, classes, sides = embeddings.embeddings, embeddings.labels, embeddings.sides()
    else:
        if labels is None:
            raise SettingsError("rows came without labels. Give one label for each row.")
        rows, sides = embeddings, Sides.of_all(len(embeddings))
        classes = check_labels(labels, len(embeddings), "labels")
    if is_codes(rows):
        raise SizeError("embeddings are uint8, packed bits already. Give the floats that they were made from.")
    columns = sides.query_identities, sides.gallery_identities, sides.query_groups, sides.gallery_groups
    if sides.is_whole:
        return _Sets(rows, classes, rows, classes, sides.exclude, *columns, group_rule)
    queries, gallery = sides.query_rows, sides.gallery_rows
    return _Sets(rows[queries], classes[queries], rows[gallery], classes[gallery], sides.exclude, *columns, group_rule)


@dataclass(frozen=True, eq=False)
class _Gallery:
    """A gallery in one form."""

    index: Index
    prepare: Callable[[Matrix], Matrix]
    """Converts queries to the width of the index."""

    def search(self, queries: Tensor, k: int, exclude: Any) -> Neighbours:
        return self.index.search(self.prepare(queries), k, exclude)


class _Plan(NamedTuple):
    name: str
    make: Callable[[], _Gallery]
    """Builds the gallery. Called in turn, so that only one is in memory."""


def _plans(sets: _Sets, shortlist: int, seed: int) -> tuple[list[_Plan], list[str]]:
    width, notes = sets.gallery.shape[1], []

    def keep(kind: str, reduction: Reduction | None = None) -> _Gallery:
        rows = sets.gallery if reduction is None else reduction(sets.gallery)
        index = Index.build(rows, kind, shortlist=shortlist, check_queries=0, seed=seed)
        return _Gallery(index, (lambda queries: queries) if reduction is None else reduction)

    plans = [
        _Plan(name, partial(keep, kind))
        for name, kind in (
            ("float32", "exact"),
            ("float16", "float16"),
            ("int8", "int8"),
            ("bits", "bits"),
            ("bits, float query", "asymmetric"),
            ("bits + re-rank", "rerank"),
        )
    ]
    if len(sets.gallery) >= FEWEST_ROWS:
        plans.append(_Plan("PQ", partial(keep, "pq")))
    else:
        notes.append(
            f"PQ is left out: it learns from at least {FEWEST_ROWS} images, and the gallery has {len(sets.gallery)}."
        )
    fewer = bytes_of(width) // 4
    if not fewer:
        notes.append(f"Cut dimensions are left out: {width} bits take fewer bytes than one float.")
        return plans, notes
    word = "dim" if fewer == 1 else "dims"
    plans += [
        _Plan(f"first {fewer} {word}", lambda: keep("exact", first_dimensions(width, fewer))),
        _Plan(f"PCA to {fewer} {word}", lambda: keep("exact", principal_dimensions(sets.gallery, fewer))),
    ]
    return plans, notes


def _ranked(sets: _Sets, queries: Matrix, gallery: Matrix, ties: Ties | None, block_bytes: int) -> RetrievalScores:
    common: dict[str, Any] = {
        "groups": sets.groups,
        "group_rule": sets.group_rule,
        "identities": sets.identities,
        "ties": ties,
        "block_bytes": block_bytes,
    }
    if queries is gallery:  # the whole set: one unit copy instead of two
        return retrieval(queries, sets.labels, (1,), **common)
    return retrieval(
        queries,
        sets.labels,
        (1,),
        gallery=gallery,
        gallery_labels=sets.gallery_labels,
        exclude=sets.exclude,
        gallery_groups=sets.gallery_groups,
        gallery_identities=sets.gallery_identities,
        **common,
    )


def _scores(gallery: _Gallery, sets: _Sets, floats: RetrievalScores, block_bytes: int) -> dict[str, Floats]:
    """The scores of one form; ``floats`` are those of the embeddings as they came."""
    index = gallery.index
    if index.kind == "rerank":
        return _list_scores(index.shortlist, sets, floats, block_bytes)
    if index.kind == "bits":
        queries, rows = to_bits(sets.queries), to_bits(sets.gallery)  # type: ignore[type-var]  # rows of either kind
    elif index.dim < sets.queries.shape[1]:
        queries, rows = gallery.prepare(sets.queries), gallery.prepare(sets.gallery)
    elif index.kind == "exact":
        # Rows that are normalised twice may differ in the last bit from those of other tables.
        return {name: floats.per_query()[name] for name in SCORES}
    else:
        queries, rows = sets.queries, index.rows()
    ties: Ties | None = "expected" if index.kind in ("bits", "asymmetric", "pq") else None
    per_query = _ranked(sets, queries, rows, ties, block_bytes).per_query()
    return {name: per_query[name] for name in SCORES}


def _list_scores(shortlist: int, sets: _Sets, floats: RetrievalScores, block_bytes: int) -> dict[str, Floats]:
    """Scores of the re-ranked shortlist, followed by the order of the bits."""
    queries, gallery = unit_rows(sets.queries), unit_rows(sets.gallery)
    query_codes, codes = bit_rows(to_bits(queries.rows)), bit_rows(to_bits(gallery.rows))
    reach = len(sets.gallery) - 1 if (sets.exclude >= 0).any() else len(sets.gallery)
    listed, depth = min(shortlist, reach), int(floats.relevant.max())
    # Rows that a query leaves out are moved to the end afterwards, so look for that many more.
    wide = min(max(listed, depth) + sets.most_left_out, reach)
    recalls, precisions = [], []
    for start in range(0, floats.queries, _LISTED_QUERIES):
        here = floats.query_rows[start : start + _LISTED_QUERIES]
        some = torch.from_numpy(here)
        part = UnitRows(queries.rows[some.to(queries.device)], len(here))
        coded = BitRows(query_codes.rows[some.to(query_codes.device)], len(here))
        ids = search_bits(coded, codes, wide, sets.exclude[here], block_bytes=block_bytes).ids
        order = np.argsort(sets.left_out(here, ids.numpy()), axis=1, kind="stable")[:, : max(listed, depth)]
        ids = ids.gather(1, torch.from_numpy(order))
        reranked = rerank(part, gallery, ids[:, :listed], block_bytes=block_bytes)
        ids[:, :listed] = reranked.ids
        out, scores = sets.left_out(here, ids.numpy()), reranked.scores.numpy()
        right = (sets.gallery_labels[ids.numpy()] == sets.labels[here, None]) & ~out
        # Optimistic ties, as for floats: of equal cosines the relevant ones come first.
        order = np.lexsort((~right[:, :listed], -scores, out[:, :listed]))
        right[:, :listed] = np.take_along_axis(right[:, :listed], order, axis=1)
        recall = right[:, 0].astype(np.float64)
        precision = _average_precision(right, floats.relevant[start : start + _LISTED_QUERIES])
        # A query that ties with its whole shortlist, or with so many images that the floats score a mean over orders (an optimistic
        # hit is 0 or 1), is not put in order: it scores what the floats score.
        rows = slice(start, start + len(here))
        hits = floats.per_query()["recall@1"][rows]
        tied = (scores.max(axis=1) == scores.min(axis=1)) | ((hits > 0) & (hits < 1))
        recalls.append(np.where(tied, hits, recall))
        precisions.append(np.where(tied, floats.per_query()["map@r"][rows], precision))
    return {"recall@1": np.concatenate(recalls), "map@r": np.concatenate(precisions)}


def _average_precision(right: npt.NDArray[np.bool_], relevant: Integers) -> Floats:
    """(Q,) average precision at R of lists: (Q, at least R) whether each rank is relevant, (Q,) R."""
    rank = np.arange(1, right.shape[1] + 1)
    within = right & (rank <= relevant[:, None])
    precision: Floats = (within * np.cumsum(right, axis=1) / rank).sum(axis=1) / relevant
    return precision


def _seconds(gallery: _Gallery, sets: _Sets) -> float:
    """Time for 1000 queries: fewer are scaled up, of more the first 1000 are searched."""
    count = min(TIMED_QUERIES, len(sets.queries))
    queries, exclude = gallery.prepare(sets.queries[:count]), sets.exclude[:count]
    k = min(TIMED_NEIGHBOURS, max(1, len(sets.gallery) - 1), gallery.index.shortlist)
    gallery.index.search(queries[:32], k, exclude[:32])  # warm-up: libraries are loaded and buffers allocated
    times = []
    for _ in range(2):
        start = time.perf_counter()
        gallery.index.search(queries, k, exclude)
        times.append(time.perf_counter() - start)
    return min(times) * TIMED_QUERIES / count


def _check(gallery: _Gallery, sets: _Sets, seed: int) -> SelfCheck:
    k = min(NEIGHBOURS, gallery.index.shortlist)
    return check_search(gallery.search, sets.gallery, k=k, seed=seed)
