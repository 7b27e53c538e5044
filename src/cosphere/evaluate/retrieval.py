"""Retrieval scores: Recall@K, MAP@R and R-precision, all from one pass over the cosines in bounded memory.

Ranks come from counting, so no full sort is made: the best relevant image has rank 1 + the number of images with a
larger cosine. The first R places of a query come from ``topk``. Ties are settled by rule, never by the order of the
gallery.

Sources: Recall@K of Song et al., "Deep metric learning via lifted structured feature embedding" (2016); MAP@R and
R-precision of Musgrave et al., "A metric learning reality check" (2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import gammaln
from torch import Tensor

from cosphere.errors import DataError, SettingsError, SizeError, did_you_mean
from cosphere.search.cosines import (
    BLOCK_BYTES,
    CosineBlocks,
    Rows,
    UnitRows,
    check_block_bytes,
    check_widths,
    exclusions,
    hide_excluded,
    rows_within,
    unit_rows,
)

Ties = Literal["optimistic", "pessimistic", "expected"]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RetrievalScores:
    """Means over the queries that have something to find, and the value of each such query.

    All arrays have one entry for each of the Q scored queries, in the order of ``query_rows``.
    """

    hits: Mapping[int, Floats]
    """For each K, (Q,): 1 where a relevant image is among the first K, else 0; between them only for expected ties."""
    average_precisions: Floats
    """(Q,) in [0, 1]: average precision at R."""
    r_precisions: Floats
    """(Q,) in [0, 1]: share of relevant images among the first R."""
    first_ranks: Floats
    """(Q,) >= 1: rank of the best relevant image. Whole but for expected ties."""
    nearest: Integers
    """(Q,) gallery row of the nearest image; of several at the same cosine, the lowest row."""
    margins: Floats
    """(Q,) best relevant minus best irrelevant cosine: below 0 the query fails. Infinite where all are relevant."""
    relevant: Integers
    """(Q,) >= 1: R, the number of relevant images."""
    query_rows: Integers
    """(Q,) which rows of the embeddings were scored."""
    skipped: int
    """Queries left out because nothing in the gallery is relevant to them."""
    ties: Ties
    """The rule for equal cosines."""

    @property
    def queries(self) -> int:
        """Q, the queries that were scored."""
        return len(self.query_rows)

    @property
    def recall(self) -> dict[int, float]:
        """For each K, the share of queries with a relevant image among the first K, in [0, 1]."""
        return {k: float(hits.mean()) for k, hits in self.hits.items()}

    @property
    def map_at_r(self) -> float:
        """Mean average precision at R, in [0, 1]."""
        return float(self.average_precisions.mean())

    @property
    def r_precision(self) -> float:
        """Mean precision at R, in [0, 1]."""
        return float(self.r_precisions.mean())

    def per_query(self) -> dict[str, Floats]:
        """The (Q,) values behind each mean, by the name that the mean has in :meth:`as_dict`."""
        return {f"recall@{k}": hits for k, hits in self.hits.items()} | {
            "map@r": self.average_precisions,
            "r_precision": self.r_precisions,
        }

    def as_dict(self) -> dict[str, float | int]:
        """``recall@K`` for each K, ``map@r``, ``r_precision`` (fractions), ``queries``, ``skipped`` (counts)."""
        means = {name: float(values.mean()) for name, values in self.per_query().items()}
        return {**means, "queries": self.queries, "skipped": self.skipped}


@torch.no_grad()
def retrieval(
    embeddings: Rows,
    labels: Any,
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    gallery: Rows | None = None,
    gallery_labels: Any | None = None,
    exclude: Any | None = None,
    ties: Ties = "optimistic",
    block_bytes: int = BLOCK_BYTES,
) -> RetrievalScores:
    """Score a ranking by cosine.

    Without a gallery every row is a query and all other rows are its gallery: the row itself is left out by its index,
    so a duplicate of it counts like any image. Queries with nothing to find are left out and counted.

    Equal cosines: ``optimistic`` puts relevant images first (the official code of these benchmarks), ``pessimistic``
    puts them last, ``expected`` is the mean over all orders. Scores do not depend on block size, threads or the
    gallery's order.

    Args:
        embeddings: (Q, D) float, torch or numpy, any length. A tensor's device does the work. A zero row has cosine 0.
        labels: (Q,) integers of any size.
        ks: the K of Recall@K, from 1 to the number of images that a query ranks.
        gallery: (G, D) float; None takes the embeddings themselves.
        gallery_labels: (G,) integers, with ``gallery``.
        exclude: (Q,) integers, with ``gallery``: the gallery row that is the query itself, -1 where there is none.
        ties: the rule for equal cosines.
        block_bytes: bound of the working memory in bytes, beside the unit rows; 32 queries always pass.

    Raises:
        SizeError: shapes, labels or ks do not fit.
        DataError: a row holds NaN or infinity, or no query has anything to find.
        SettingsError: unknown tie rule, or a gallery without labels.

    >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [0.8, 0.3]])
    >>> retrieval(x, [0, 0, 1, 1, 2], ks=(1,)).as_dict()
    {'recall@1': 1.0, 'map@r': 1.0, 'r_precision': 1.0, 'queries': 4, 'skipped': 1}
    """
    _check_settings(ties, gallery, gallery_labels, exclude)
    check_block_bytes(block_bytes)
    queries = unit_rows(embeddings)
    answers = queries if gallery is None else unit_rows(gallery, name="gallery")
    check_widths(queries, answers)
    own = np.arange(queries.size) if gallery is None else exclude
    hidden = exclusions(own, queries.size, answers.size, answers.device)
    kept = _check_ks(ks, answers.size - (hidden is not None and bool((hidden >= 0).any())))
    classes = _classes(labels, queries.size, gallery_labels, answers.size, answers.device)
    relevant = _count_relevant(classes, hidden)
    order = relevant.argsort(stable=True)  # Queries of one block then want about the same number of places.
    order = order[relevant[order] > 0]
    if not len(order):
        raise DataError(
            f"none of {queries.size} queries has an image of its class to find. Scores want a class with two images."
        )
    found = _pass(queries, answers, classes, hidden, order, relevant, ties, block_bytes)
    return _gathered(found, kept, order.cpu().numpy(), relevant.cpu().numpy(), ties)


def _check_settings(ties: str, gallery: Any, gallery_labels: Any, exclude: Any) -> None:
    if ties not in get_args(Ties):
        raise SettingsError(f"there is no tie rule {ties!r}. {did_you_mean(ties, get_args(Ties))}")
    if (gallery is None) != (gallery_labels is None):
        given, missing = ("gallery_labels", "gallery") if gallery is None else ("gallery", "gallery_labels")
        raise SettingsError(f"{given} came without {missing}. Give both or neither.")
    if gallery is None and exclude is not None:
        raise SettingsError("exclude came without gallery; without one each row excludes itself. Leave exclude out.")


def _check_ks(ks: Sequence[int], available: int) -> list[int]:
    if available < 1:
        raise SizeError("one image alone has nothing to be compared with. Give at least two, or a gallery.")
    kept = sorted(set(ks))
    if not kept:
        raise SizeError("ks is empty. Give at least one K, such as ks=(1,).")
    for k in kept:
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= available:
            raise SizeError(
                f"Recall@{k} wants K to be from 1 to {available}, the images that a query ranks. Lower K or add images."
            )
    return [int(k) for k in kept]


class _Classes(NamedTuple):
    """Classes numbered from 0, and where the gallery keeps them."""

    queries: Tensor
    """(Q,)"""
    gallery: Tensor
    """(G,)"""
    rows: Tensor
    """(G,) gallery rows, class by class."""
    first: Tensor
    """(C,) where a class starts in ``rows``."""
    sizes: Tensor
    """(C,) gallery rows of a class."""


def _classes(labels: Any, queries: int, gallery_labels: Any | None, gallery: int, device: torch.device) -> _Classes:
    asked = check_labels(labels, queries, "labels")
    answering = asked if gallery_labels is None else check_labels(gallery_labels, gallery, "gallery_labels")
    _, numbers = np.unique(np.concatenate([asked, answering]), return_inverse=True)
    both = torch.from_numpy(numbers.astype(np.int64)).to(device)
    ours, theirs = both[:queries], both[queries:]
    sizes = torch.bincount(theirs, minlength=int(both.max()) + 1)
    return _Classes(ours, theirs, theirs.argsort(stable=True), sizes.cumsum(0) - sizes, sizes)


def check_labels(labels: Any, count: int, name: str) -> Integers:
    """Labels as (N,) int64 in numpy.

    Raises:
        SizeError: not ``count`` integers.
    """
    found = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if found.shape != (count,):
        raise SizeError(f"want {name} ({count},), one for each row, got {found.shape}. Take both from the same source.")
    if found.dtype.kind not in "iu":
        raise SizeError(f"want integer {name}, got {found.dtype}. Number the classes, such as with numpy.unique.")
    return found.astype(np.int64)


def _count_relevant(classes: _Classes, hidden: Tensor | None) -> Tensor:
    """(Q,) R of each query: gallery rows of its class, but for the one that it excludes."""
    counts = classes.sizes[classes.queries]
    if hidden is None:
        return counts
    own_class = classes.gallery[hidden.clamp_min(0)] == classes.queries
    return counts - ((hidden >= 0) & own_class).long()


class _Found(NamedTuple):
    """What one block of queries gave. All are (b,)."""

    above: Tensor
    """int64: gallery rows with a larger cosine than the best relevant one."""
    tied: Tensor
    """int64: irrelevant rows with the very cosine of the best relevant one; zeros under the optimistic rule."""
    tied_relevant: Tensor
    """int64 >= 1: relevant rows with that cosine."""
    average_precision: Tensor
    """float64"""
    r_precision: Tensor
    """float64"""
    nearest: Tensor
    """int64"""
    margin: Tensor
    """float32"""


def _pass(
    queries: UnitRows,
    gallery: UnitRows,
    classes: _Classes,
    hidden: Tensor | None,
    order: Tensor,
    relevant: Tensor,
    ties: Ties,
    block_bytes: int,
) -> _Found:
    def step(query: Tensor) -> int:
        # A gallery row costs 4 bytes of cosine and 1 of comparison, each of up to M places of the lists about 160.
        most = int(classes.sizes[classes.queries[query]])
        return min(rows_within(block_bytes, 5 * gallery.size + 160 * most), len(order))

    blocks = CosineBlocks(gallery, step(order[0]))
    parts = []
    end = len(order)
    while end > 0:  # From the back: the last query of a block has the longest lists and so decides how many fit.
        here = order[max(0, end - step(order[end - 1])) : end]
        cosines = blocks.of(queries.padded[here.to(queries.device)].to(gallery.device))
        hide_excluded(cosines, None if hidden is None else hidden[here])
        parts.append(_block(cosines, classes, classes.queries[here], relevant[here], ties))
        end -= len(here)
    return _Found(*(torch.cat(part).cpu() for part in zip(*reversed(parts), strict=True)))


def _block(cosines: Tensor, classes: _Classes, asked: Tensor, relevant: Tensor, ties: Ties) -> _Found:
    """All about a block: (b, G) cosines with the excluded at -inf, (b,) classes, (b,) R. The cosines are spent."""
    rows = _relevant_rows(classes, asked)
    # An excluded row of the class is at -inf, so it sorts behind the R relevant ones.
    matches = cosines.gather(1, rows.ids).masked_fill(~rows.real, -torch.inf)
    matches = matches.sort(dim=1, descending=True).values  # (b, M)
    places = cosines.topk(int(relevant.max()), dim=1).values  # (b, max R)
    best = matches[:, 0]
    above = _count_above(cosines, places, best)
    tied_relevant = (matches == best[:, None]).sum(dim=1)
    tied = torch.zeros_like(above)
    if ties != "optimistic":
        tied = (cosines >= best[:, None]).sum(dim=1) - above - tied_relevant
    average_precision, r_precision = _precisions(cosines, places, matches, relevant, ties)
    nearest = cosines.max(dim=1).indices
    cosines.scatter_(1, rows.ids, -torch.inf)
    margin = best - cosines.amax(dim=1)
    return _Found(above, tied, tied_relevant, average_precision, r_precision, nearest, margin)


class _RelevantRows(NamedTuple):
    ids: Tensor
    """(b, M) gallery rows of each query's class; short classes repeat their last row."""
    real: Tensor
    """(b, M) False where a row is a repetition."""


def _relevant_rows(classes: _Classes, asked: Tensor) -> _RelevantRows:
    sizes = classes.sizes[asked][:, None]
    place = torch.arange(int(sizes.max()), device=asked.device)
    at = classes.first[asked][:, None] + torch.minimum(place, sizes - 1)
    return _RelevantRows(classes.rows[at], place < sizes)


def _count_above(cosines: Tensor, places: Tensor, value: Tensor) -> Tensor:
    """(b,) number of cosines above a value: read off the places where they reach down to it, else counted."""
    above = (places > value[:, None]).sum(dim=1)
    beyond = (above == places.shape[1]).nonzero().flatten()
    if len(beyond) > len(above) // 2:
        return (cosines > value[:, None]).sum(dim=1, dtype=torch.int32).long()
    for part in torch.split(beyond, 64):  # Few rows at a time: they are copied.
        above[part] = (cosines[part] > value[part, None]).sum(dim=1)
    return above


def _precisions(
    cosines: Tensor, places: Tensor, matches: Tensor, relevant: Tensor, ties: Ties
) -> tuple[Tensor, Tensor]:
    """Average precision at R and precision at R of each query, (b,) float64 each.

    Place r holds a relevant image with probability ``share``, and then ``upto`` relevant ones lie in the first r
    places, on average. Without ties share is 0 or 1. With them, place r is the t-th of a group of n equal cosines, m of
    them relevant.
    """
    rank = torch.arange(1, places.shape[1] + 1, device=places.device)
    ahead = torch.searchsorted(-matches, -places)  # (b, max R): relevant ones with a larger cosine
    group_relevant = torch.searchsorted(-matches, -places, right=True) - ahead  # m
    turn = rank - torch.searchsorted(-places, -places)  # t
    if ties == "optimistic":
        share = (turn <= group_relevant).double()
        upto = (ahead + turn).double()
    else:
        size = _group_sizes(cosines, places)  # n
        if ties == "pessimistic":
            turn = turn - (size - group_relevant)
            share, upto = (turn >= 1).double(), (ahead + turn).double()
        else:
            share = group_relevant / size.double()
            others = (group_relevant - 1) / (size - 1).clamp_min(1).double()
            upto = ahead + 1 + (turn - 1) * others
    share = torch.where(rank <= relevant[:, None], share, 0.0)
    return _running_sum(share * upto / rank) / relevant, _running_sum(share) / relevant


def _running_sum(values: Tensor) -> Tensor:
    """Sum of each row from left to right. ``sum`` adds in another order when a block is padded to another width."""
    return values.cumsum(dim=1)[:, -1]


def _group_sizes(cosines: Tensor, places: Tensor) -> Tensor:
    """(b, p) how many cosines of the whole row equal the one at each place."""
    in_places = torch.searchsorted(-places, -places, right=True)
    last = places[:, -1:]
    in_places = torch.where(places == last, (cosines >= last).sum(dim=1, keepdim=True), in_places)
    return in_places - torch.searchsorted(-places, -places)


def _gathered(found: _Found, ks: list[int], order: Integers, relevant: Integers, ties: Ties) -> RetrievalScores:
    """Back into the order of the queries, and from counts to hits and ranks."""
    back = np.argsort(order, kind="stable")
    above, tied, tied_relevant, precision, r_precision, nearest, margin = (part.numpy()[back] for part in found)
    first = above + 1.0
    if ties == "pessimistic":
        first = first + tied
    elif ties == "expected":
        first = first + tied / (tied_relevant + 1)
    return RetrievalScores(
        hits={k: _hits(k, above, tied, tied_relevant, ties) for k in ks},
        average_precisions=precision,
        r_precisions=r_precision,
        first_ranks=first,
        nearest=nearest,
        margins=margin.astype(np.float64),
        relevant=relevant[order[back]],
        query_rows=order[back],
        skipped=len(relevant) - len(order),
        ties=ties,
    )


def _hits(k: int, above: Integers, tied: Integers, tied_relevant: Integers, ties: Ties) -> Floats:
    """(Q,) probability that a relevant image is among the first K."""
    if ties != "expected":
        return np.asarray(above + tied < k, dtype=np.float64)
    drawn = np.minimum(k - above, tied + tied_relevant)  # places within the group of equals
    can_miss = (drawn <= tied) & (drawn > 0)
    # All drawn are irrelevant with probability C(tied, drawn) / C(tied + tied_relevant, drawn).
    misses = np.where(can_miss, drawn, 0)
    log_miss = _log_falling(tied, misses) - _log_falling(tied + tied_relevant, misses)
    return np.where(drawn > 0, np.where(can_miss, -np.expm1(log_miss), 1.0), 0.0)


def _log_falling(total: Integers, drawn: Integers) -> Floats:
    """Logarithm of total! / (total - drawn)!."""
    return np.asarray(gammaln(total + 1.0) - gammaln(total - drawn + 1.0), dtype=np.float64)
