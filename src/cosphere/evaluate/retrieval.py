"""Retrieval scores, all from one pass over blocks of similarities in bounded memory.

Recall@K (CMC), precision@K, MAP@K, MAP@R, R-precision, MRR, nDCG@K and median rank, of floats by cosine or of packed
bits by Hamming distance.

Ranks are counted, not sorted: the best relevant image has rank 1 + the number of images with a larger similarity,
whatever K is. Ties follow a rule, never the order of the gallery.

Sources: Recall@K of Song et al., "Deep metric learning via lifted structured feature embedding" (2016); MAP@R and
R-precision of Musgrave et al., "A metric learning reality check" (2020); CMC and the exclusion by camera of Zheng et
al., "Scalable person re-identification: a benchmark" (2015); nDCG of Jarvelin and Kekalainen, "Cumulated gain-based
evaluation of IR techniques" (2002).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import torch

from cosphere._types import Floats, Integers, Progress
from cosphere.checks import check_switches
from cosphere.codes import is_codes
from cosphere.errors import DataError, SettingsError, SizeError, counted, did_you_mean
from cosphere.evaluate._depths import check_ks, check_reach
from cosphere.evaluate._pass import PassResult, Request, rank_all
from cosphere.evaluate._relevance import (
    Candidates,
    Column,
    GroupRule,
    Keys,
    candidates_of,
    check_group_rule,
    check_pairing,
    integer_column,
    joint,
    numbered,
)
from cosphere.evaluate._sides import Sides, both_sides
from cosphere.evaluate._ties import Ties
from cosphere.evaluate.by_group import GroupScores, group_scores
from cosphere.evaluate.metrics import check_metrics
from cosphere.rows import BLOCK_BYTES, Matrix, check_block_bytes, exclusions


@dataclass(frozen=True, eq=False)
class RetrievalScores:
    """Means over the queries that have something to find, and the value of each such query.

    All arrays have one entry for each of the Q scored queries, in the order of ``query_rows``.
    """

    scores: Mapping[str, Floats]
    """The (Q,) values behind each mean, by the key of the mean in :meth:`as_dict`, such as ``recall@1``."""
    first_ranks: Floats
    """(Q,) >= 1: rank of the best relevant image. Whole except with expected ties."""
    nearest_right: Integers
    """(Q,) gallery row of the nearest relevant image; of several at the same similarity, the lowest row."""
    nearest_wrong: Integers
    """(Q,) gallery row of the nearest irrelevant image, the lowest of several; -1 where all are relevant."""
    right_similarity: Floats
    """(Q,) similarity to ``nearest_right``: the cosine, or minus the Hamming distance."""
    wrong_similarity: Floats
    """(Q,) similarity to ``nearest_wrong``; -inf where there is none."""
    relevant: Integers
    """(Q,) >= 1: R, the number of relevant images."""
    query_rows: Integers
    """(Q,) rows of the embeddings that were scored."""
    skipped: int
    """Queries left out because no gallery image is relevant to them."""
    ties: Ties
    """The rule for equal similarities."""
    labels: Column = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """(Q,) class of each query, in its original type."""
    medians: Mapping[str, Floats] = field(default_factory=dict)
    """The (Q,) values behind each median, by its key."""
    categories: Column | None = None
    """(Q,) category of each query, if categories were given."""

    @property
    def nearest(self) -> Integers:
        """(Q,) gallery row of the nearest image; of several at the same similarity, the lowest row."""
        right, wrong = self.nearest_right, self.nearest_wrong
        tied = np.minimum(right, wrong)
        unequal = np.where(self.margins > 0, right, wrong)
        return np.where(self.margins == 0, tied, unequal)

    @property
    def margins(self) -> Floats:
        """(Q,) best relevant minus best irrelevant similarity, in cosine or bits: below 0 the query fails.

        Infinite where all are relevant.
        """
        return self.right_similarity - self.wrong_similarity

    @property
    def queries(self) -> int:
        """Q, the queries that were scored."""
        return len(self.query_rows)

    @property
    def hits(self) -> dict[int, Floats]:
        """For each K, (Q,): 1 where a relevant image is among the first K, else 0; between them only with expected ties."""
        names = {name: name.partition("@") for name in self.scores}
        return {int(k): self.scores[name] for name, (metric, _, k) in names.items() if metric == "recall"}

    @property
    def recall(self) -> dict[int, float]:
        """For each K, the share of queries with a relevant image among the first K, in [0, 1]."""
        return {k: float(hits.mean()) for k, hits in self.hits.items()}

    @property
    def map_at_r(self) -> float:
        """Mean average precision at R, in [0, 1]."""
        return float(self.scores["map@r"].mean())

    @property
    def r_precision(self) -> float:
        """Mean precision at R, in [0, 1]."""
        return float(self.scores["r_precision"].mean())

    @property
    def median_rank(self) -> float:
        """Median over the queries of the best relevant image's rank, >= 1."""
        return float(np.median(self.first_ranks))

    def per_query(self) -> dict[str, Floats]:
        """The (Q,) values behind each mean, by the name that the mean has in :meth:`as_dict`."""
        return dict(self.scores)

    def as_dict(self) -> dict[str, float | int]:
        """Fractions ``recall@K`` for each K, ``map@r``, ``r_precision``; counts ``queries``, ``skipped``.

        Before the counts, where requested: the other metrics of :data:`cosphere.evaluate.metrics.METRICS`. The median
        rank is no fraction but a rank. Every query counts the same (micro average).
        """
        means = {name: float(values.mean()) for name, values in self.scores.items()}
        medians = {name: float(np.median(values)) for name, values in self.medians.items()}
        return {**means, **medians, "queries": self.queries, "skipped": self.skipped}

    def per_class(self) -> GroupScores:
        """Every metric of each class that has a scored query; its :meth:`GroupScores.macro` is the macro average."""
        return self._by(self.labels)

    def per_category(self) -> GroupScores:
        """Every metric of each category.

        Raises:
            SettingsError: no categories were given.
        """
        if self.categories is None:
            raise SettingsError("these scores know no categories. Give retrieval categories=, one for each query.")
        return self._by(self.categories)

    def macro(self) -> dict[str, float]:
        """Each metric's mean over classes, every class counting the same (PML's ``avg_of_avgs``)."""
        return self.per_class().macro()

    def with_rows(self, queries: Integers, gallery: Integers) -> RetrievalScores:
        """The same scores with the row numbers of a larger table, given its rows that are queries (Q,) and gallery (G,)."""
        missing = self.nearest_wrong < 0
        return replace(
            self,
            query_rows=queries[self.query_rows],
            nearest_right=gallery[self.nearest_right],
            nearest_wrong=np.where(missing, -1, gallery[self.nearest_wrong]),
        )

    def _by(self, labels: Column) -> GroupScores:
        return group_scores(labels, self.scores, self.medians)


@torch.no_grad()
def retrieval(
    embeddings: Matrix,
    labels: Any,
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    gallery: Matrix | None = None,
    gallery_labels: Any | None = None,
    exclude: Any | None = None,
    groups: Any | None = None,
    gallery_groups: Any | None = None,
    group_rule: GroupRule = "same_class",
    identities: Any | None = None,
    gallery_identities: Any | None = None,
    categories: Any | None = None,
    metrics: Sequence[str] = (),
    ties: Ties | None = None,
    fit_ks: bool = False,
    block_bytes: int = BLOCK_BYTES,
    progress: Progress | None = None,
) -> RetrievalScores:
    """Score a ranking by cosine, or by Hamming distance for packed bits.

    Without a gallery, every row is a query and all other rows are its gallery. The row itself is left out by its index, so
    a duplicate of it counts like any image. Queries without a relevant image are left out and counted. Scores do not
    depend on block size, threads or the order of the gallery.

    With R relevant images, the binary metrics of one query are:

    * ``recall@K``: 1 if a relevant image is among the first K. With a gallery this is CMC at rank K of Market-1501 (all
      relevant images stay; no single image per identity is drawn, as the CUHK03 protocol does).
    * ``precision@K``: relevant images among the first K, divided by K, also where R < K.
    * ``map@K``: the precisions at the relevant images among the first K, summed and divided by min(K, R), so that a
      perfect ranking scores 1. PML's ``mean_average_precision`` divides by R, which differs where K < R; OML divides by
      the number of relevant images among the first K, which rewards finding few.
    * ``map@r``, ``r_precision``: ``map@K`` and ``precision@K`` with the query's own K = R.
    * ``map@all``: ``map@K`` over the whole ranking, the mAP of person re-identification. The official Market-1501 code
      takes the mean of two neighbouring precisions for each, which gives slightly other numbers.
    * ``ndcg@K``: the sum of 1/log2(1 + rank) over the relevant images among the first K, divided by its largest value.
    * ``mrr``: 1 / rank of the best relevant image, however far down; PML counts 0 beyond its k neighbours.
    * ``median_rank``: the median over the queries of that rank.

    Equal similarities: ``optimistic`` puts relevant images first (as the official code of these benchmarks does),
    ``pessimistic`` puts them last, ``expected`` is the exact mean over all orders, of every metric (the median rank is
    the median of the mean ranks). Most pairs of short codes are tied, so optimistic scores would flatter them.

    Args:
        embeddings: (Q, D) float, torch or numpy, any length. float64 is compared in float64, everything else in float32, in
            which neighbours closer than about 3e-4 radians tie. A tensor's device computes. A zero row has cosine 0. Or
            (Q, D / 8) uint8, packed bits.
        labels: (Q,) integers of any size and type.
        ks: the K of each metric, from 1 to the number of images that a query ranks.
        gallery: (G, D) of the same kind; None takes the embeddings themselves.
        gallery_labels: (G,) integers, with ``gallery``.
        exclude: (Q,) integers, with ``gallery``: the gallery row that is the query itself, -1 where there is none.
        groups: (Q,) integers such as the camera or sequence of each query.
        gallery_groups: (G,) integers, with ``groups`` and ``gallery``.
        group_rule: ``same_class`` leaves out gallery rows of the query's class and group (Market-1501: the same person
            seen by the same camera), ``any_class`` all rows of its group.
        identities: (Q,) integers, the picture that each query shows. A query does not rank other rows of its own picture, as
            when a table lists one file twice.
        gallery_identities: (G,) integers, with ``identities`` and ``gallery``.
        categories: (Q,) integers, a coarser grouping for :meth:`RetrievalScores.per_category`.
        metrics: names of :data:`cosphere.evaluate.metrics.METRICS` to add, or ``("all",)``.
        ties: the rule for equal similarities. None takes optimistic for floats and expected for bits; a query whose nearest
            right and nearest wrong image tie among more than 10 images and a third of those that it ranks, or among all
            (a zero row, a collapsed embedding), then counts by the mean over all orders. Cosines that differ by no more than
            their rounding, eps (8 + sqrt(D)), tie there.
        fit_ks: leave out the K that are larger than the number of images that a query ranks, instead of raising.
        block_bytes: bound of the working memory in bytes, beside the unit rows; blocks have at least 32 queries.
        progress: called with the number of queries that are done.

    Raises:
        SizeError: shapes, labels or ks do not fit.
        DataError: a row holds NaN or infinity, or no query has anything to find.
        SettingsError: unknown metric or rule, or a gallery without labels.

    >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [0.8, 0.3]])
    >>> retrieval(x, [0, 0, 1, 1, 2], ks=(1,)).as_dict()
    {'recall@1': 1.0, 'map@r': 1.0, 'r_precision': 1.0, 'queries': 4, 'skipped': 1}
    """
    check_switches(fit_ks=fit_ks)
    _check_pairs(gallery, gallery_labels, exclude)
    rule = check_ties(ties) or ("expected" if is_codes(embeddings) else "optimistic")
    request = Request(check_metrics(metrics), check_ks(ks), rule, chance=ties is None)
    check_block_bytes(block_bytes)
    sides, candidates, query_labels = compared(
        embeddings,
        labels,
        gallery,
        gallery_labels,
        exclude,
        groups,
        gallery_groups,
        group_rule,
        identities,
        gallery_identities,
    )
    query_categories = None if categories is None else integer_column(categories, sides.queries, "categories")
    scored = candidates.relevant > 0
    if not bool(scored.any()):
        raise _nothing_to_find(candidates, groups is not None)
    available = images_to_rank(sides, candidates)
    ks = [k for k in request.ks if k <= available or not fit_ks] or [available]
    check_reach(ks, available)
    request = request._replace(ks=ks)
    result = rank_all(sides, candidates, request, block_bytes, progress)
    return _gathered(result, request, candidates, query_labels, query_categories)


def compared(
    embeddings: Matrix,
    labels: Any,
    gallery: Matrix | None = None,
    gallery_labels: Any | None = None,
    exclude: Any | None = None,
    groups: Any | None = None,
    gallery_groups: Any | None = None,
    group_rule: GroupRule = "same_class",
    identities: Any | None = None,
    gallery_identities: Any | None = None,
) -> tuple[Sides, Candidates, Column]:
    """Both sides of :func:`retrieval`, the gallery rows that each query ranks, and the labels of the queries.

    The arguments are those of :func:`retrieval`.
    """
    check_group_rule(group_rule)
    check_pairing(gallery, groups, gallery_groups, "groups")
    check_pairing(gallery, identities, gallery_identities, "identities")
    sides = both_sides(embeddings, gallery)
    own = exclusions(
        np.arange(sides.queries) if gallery is None else exclude, sides.queries, sides.gallery, sides.device
    )
    _check_several(sides.gallery - (own is not None and bool((own >= 0).any())))
    query_labels = integer_column(labels, sides.queries, "labels")
    others = None if gallery_labels is None else integer_column(gallery_labels, sides.gallery, "gallery_labels")
    classes = numbered(query_labels, others)
    excluded = []
    for name, column, of_gallery in (
        ("groups", groups, gallery_groups),
        ("identities", identities, gallery_identities),
    ):
        if column is not None:
            keys = _numbers(column, of_gallery, sides, name)
            by_class = name == "groups" and group_rule == "same_class"
            excluded.append(joint(classes, keys) if by_class else keys)
    return sides, candidates_of(classes, own, excluded, sides.device), query_labels


def images_to_rank(sides: Sides, candidates: Candidates) -> int:
    """The fewest images that a query with anything to find ranks; all gallery images where there is no such query."""
    scored = candidates.relevant > 0
    return sides.gallery - int(candidates.hidden[scored].max()) if bool(scored.any()) else sides.gallery


def _nothing_to_find(candidates: Candidates, grouped: bool) -> DataError:
    """The error for scores without a single query, naming what leaves all relevant images out."""
    count = len(candidates.relevant)
    words = f"none of {counted(count, 'query')} has an image of its class to find"
    itself = torch.zeros(count, dtype=torch.int64, device=candidates.relevant.device)
    if candidates.own is not None:
        own_class = candidates.classes.gallery_keys[candidates.own.clamp_min(0)] == candidates.classes.query_keys
        itself = ((candidates.own >= 0) & own_class).long()
    counts = candidates.classes.counts()
    if not bool(counts.any()):  # without a gallery of its own, each query counts itself
        return DataError(
            f"{words}: the gallery has none of that class. Check is_query and is_gallery, or gallery_labels."
        )
    if not bool((counts > itself).any()):
        return DataError(f"{words}. Scores want a class with two images.")
    if grouped:
        return DataError(
            f"{words}: all of them are in the query's own group, which it does not rank. The groups of a table are "
            "its column sequence. Leave that column out, or give each class more than one sequence."
        )
    return DataError(f"{words}: all of them are the query's own picture. Scores want a class with two pictures.")


def _check_pairs(gallery: Any, gallery_labels: Any, exclude: Any) -> None:
    if (gallery is None) != (gallery_labels is None):
        given, missing = ("gallery_labels", "gallery") if gallery is None else ("gallery", "gallery_labels")
        raise SettingsError(f"{given} came without {missing}. Give both or neither.")
    if gallery is None and exclude is not None:
        raise SettingsError("exclude came without gallery; without one each row excludes itself. Leave exclude out.")


def check_ties(ties: Ties | None) -> Ties | None:
    """The rule as it came; raise unless it is one or None."""
    if ties is not None and ties not in get_args(Ties):
        raise SettingsError(f"there is no tie rule {ties!r}. {did_you_mean(ties, get_args(Ties))}")
    return ties


def _check_several(available: int) -> None:
    if available < 1:
        raise SizeError("one image alone has nothing to be compared with. Give at least two, or a gallery.")


def _numbers(column: Any, of_gallery: Any | None, sides: Sides, name: str) -> Keys:
    others = None if of_gallery is None else integer_column(of_gallery, sides.gallery, f"gallery_{name}")
    return numbered(integer_column(column, sides.queries, name), others)


def _gathered(
    result: PassResult, request: Request, candidates: Candidates, labels: Column, categories: Column | None
) -> RetrievalScores:
    """Join the result of a pass with the labels of its queries."""
    rows = result.rows
    medians = [name for metric in request.metrics if metric.summary == "median" for name in metric.columns(request.ks)]
    return RetrievalScores(
        scores={name: values for name, values in result.scores.items() if name not in medians},
        first_ranks=result.first_ranks,
        **result.nearest,
        relevant=candidates.relevant.cpu().numpy()[rows],
        query_rows=rows,
        skipped=len(candidates.relevant) - len(rows),
        ties=request.ties,
        labels=labels[rows],
        medians={name: result.scores[name] for name in medians},
        categories=None if categories is None else categories[rows],
    )
