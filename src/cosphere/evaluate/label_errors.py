"""Likely label errors: images that lie nearer to another class than to their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cosphere._types import Flags, Floats, Integers
from cosphere.checks import check_whole
from cosphere.codes import code_bytes, from_bits, is_codes
from cosphere.errors import SizeError
from cosphere.evaluate._relevance import Column, integer_column
from cosphere.rows import BLOCK_BYTES, EQUAL_COSINE, Matrix, UnitRows, unit_rows
from cosphere.search import Neighbours, search
from cosphere.search.hamming import hamming_search


@dataclass(frozen=True, eq=False)
class LabelSuspects:
    """The n most suspicious images, the most suspicious first."""

    rows: Integers
    """(n,) rows of the embeddings."""
    labels: Column
    """(n,) the label that each carries."""
    suggested: Column
    """(n,) the class that it lies nearest to."""
    agreement: Floats
    """(n,) in (0, 1]: share of the k neighbours that carry the suggested class."""
    own: Floats
    """(n,) in [0, 1]: supporters among the neighbours, divided by the most there could be, min(k, other images of the class)."""
    margin: Floats
    """(n,) in (0, 2]: how much nearer the suggested class is than the own one, as a difference of mean cosines."""
    evidence: Floats
    """(n,) in (0, 1): s / (s + 2) of s other images of its class."""

    def __len__(self) -> int:
        """Number of suspects."""
        return len(self.rows)

    @property
    def suspicion(self) -> Floats:
        """(n,) above 0: ``margin * evidence``.

        The weight puts errors in large classes before images of rare classes that the model misreads.
        """
        return self.margin * self.evidence

    def as_rows(self) -> list[dict[str, float | int]]:
        """One plain dictionary for each image."""
        names = ("rows", "labels", "suggested", "agreement", "own", "suspicion")
        columns = [getattr(self, name).tolist() for name in names]
        keys = ("row", "label", "suggested", "agreement", "own", "suspicion")
        return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]


def likely_mislabelled(
    embeddings: Matrix,
    labels: Any,
    *,
    identities: Any | None = None,
    neighbours: int = 10,
    top: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> LabelSuspects:
    """Images that lie nearer to another class than to their own.

    Candidates are the classes of the k nearest neighbours (the vote of Wilson, "Asymptotic properties of nearest neighbor rules using
    edited data", 1972, with distances instead of counts). The nearness of a class is the mean cosine to its nearest images: a fifth of
    them, and for an image of a class with s others at least one in s. So the own class of an image, of which s others are left, and
    the other class are compared in the same way, whatever their sizes, and small classes do not fill the list.

    It finds labels that contradict the model: wrong labels, and correct labels of images that the model misreads. Look at them; do not
    delete them. A model that was trained to the end on wrong labels has learned them and cannot show them; embed with a model trained
    on other images. A perfect embedding gives no suspects. A class of one image supports nobody and is never suspected.

    At equal suspicion, the lower row comes first.

    Args:
        embeddings: (N, D) float, any length, or (N, D / 8) uint8, packed bits.
        labels: (N,) integers of any size.
        identities: (N,) integers, the picture of each row: see :meth:`Embeddings.identities`. Rows of one picture do not vote for
            each other. None: all rows show different pictures.
        neighbours: k, whose classes are candidates; fewer where the set is smaller.
        top: how many to return at most; None returns every image that is nearer to another class.
        block_bytes: bound of the working memory of the search.

    Raises:
        SizeError: shapes do not fit, or there is only one image.
        SettingsError: neighbours or top is below 1.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0], [0.1, 1.0], [0.2, 1.0]])
    >>> found = likely_mislabelled(x, [0, 0, 1, 1, 1, 1], neighbours=2)
    >>> found.rows.tolist(), found.suggested.tolist(), found.agreement.tolist(), found.own.tolist()
    ([2], [0], [1.0], [0.0])
    """
    for name, value in (("neighbours", neighbours), ("top", top)):
        if value is not None:
            check_whole(name, value, least=1)
    count = len(embeddings)
    classes_of = integer_column(labels, count, "labels")
    pictures = np.arange(count) if identities is None else integer_column(identities, count, "identities")
    neighbourhood = _voters(embeddings, pictures, neighbours, block_bytes)
    k = neighbourhood.ids.shape[1]
    classes, numbers = np.unique(classes_of, return_inverse=True)
    votes = numbers[neighbourhood.ids.numpy()]  # (N, k)
    others = _other_pictures(numbers, pictures)
    candidates = _candidates(votes, numbers)
    nearness = _nearness(_floats(embeddings), numbers, pictures, candidates, others, block_bytes)
    best = nearness[:, 1:].argmax(axis=1) + 1
    every = np.arange(count)
    margin = np.where(others > 0, nearness[every, best] - nearness[:, 0], -np.inf)
    suggested = candidates[every, best]
    suspects = np.flatnonzero(margin > EQUAL_COSINE)
    rows = suspects[np.argsort(-margin[suspects] * _evidence(others[suspects]), kind="stable")][:top]
    agreement = (votes[rows] == suggested[rows, None]).mean(axis=1)
    supporters = (votes[rows] == numbers[rows, None]).sum(axis=1)
    own = supporters / np.minimum(k, others[rows])
    return LabelSuspects(
        rows, classes_of[rows], classes[suggested[rows]], agreement, own, margin[rows], _evidence(others[rows])
    )


_SHARE = 0.2
"""Part of a class whose mean cosine is its nearness."""
_PRIOR = 2
"""Other images of a class that weigh as much as what is not known of it."""


def _evidence(others: Integers) -> Floats:
    evidence: Floats = others / (others + _PRIOR)
    return evidence


def _floats(embeddings: Matrix) -> UnitRows:
    if is_codes(embeddings):
        return unit_rows(from_bits(code_bytes(embeddings), 8 * embeddings.shape[1]))
    return unit_rows(embeddings)


def _voters(embeddings: Matrix, pictures: Column, neighbours: int, block_bytes: int) -> Neighbours:
    """The nearest rows of each row that show another picture."""
    count = len(embeddings)
    copies = int(np.unique(pictures, return_counts=True)[1].max()) if count else 1
    k = min(neighbours, count - copies)
    if count and k < 1:
        raise SizeError("one image alone has no neighbours. Give at least two.")
    compare: Callable[..., Neighbours] = hamming_search if is_codes(embeddings) else search
    # Rows of the own picture are dropped afterwards, so look for that many more.
    wide = max(1, k + copies - 1)
    listed = compare(embeddings, embeddings, k=wide, exclude=torch.arange(count), block_bytes=block_bytes)
    if copies == 1:
        return listed
    same = pictures[listed.ids.numpy()] == pictures[:, None]
    order = torch.from_numpy(np.argsort(same, axis=1, kind="stable")[:, :k])
    return Neighbours(listed.ids.gather(1, order), listed.scores.gather(1, order))


def _other_pictures(classes: Integers, pictures: Column) -> Integers:
    """(N,) rows of each one's class that show other pictures."""
    _, of_row, copies = np.unique(
        np.stack([classes, pictures.astype(np.int64)], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    others: Integers = np.bincount(classes)[classes] - copies[of_row]
    return others


def _candidates(votes: Integers, own: Integers) -> Integers:
    """(N, 1 + k): the own class, then each other class among the neighbours once, -1 elsewhere."""
    found = np.concatenate([own[:, None], votes], axis=1)
    for place in range(1, found.shape[1]):
        repeated = (found[:, :place] == found[:, place, None]).any(axis=1)
        found[repeated, place] = -1
    return found


def _nearness(
    rows: UnitRows, classes: Integers, pictures: Column, candidates: Integers, others: Integers, block_bytes: int
) -> Floats:
    """(N, w) mean cosine of each row to the nearest part of each of its candidate classes; -inf for no class.

    One product for each class, of its images and the rows that it is a candidate of.
    """
    nearness = np.full(candidates.shape, -np.inf)
    part = np.maximum(_SHARE, 1 / np.maximum(others, 1))
    asked, places = np.nonzero(candidates >= 0)
    order = np.argsort(candidates[asked, places], kind="stable")
    asked, places = asked[order], places[order]
    by_class = np.argsort(classes, kind="stable")
    count = int(classes.max()) + 1
    ends = np.searchsorted(candidates[asked, places], np.arange(count + 1))
    members = np.searchsorted(classes[by_class], np.arange(count + 1))
    for name in range(count):
        images = by_class[members[name] : members[name + 1]]
        step = max(1, block_bytes // (32 * len(images)))
        for start in range(ends[name], ends[name + 1], step):
            here = slice(start, min(start + step, ends[name + 1]))
            some = asked[here]
            same = pictures[some][:, None] == pictures[images][None]
            cosines = (rows.rows[torch.from_numpy(some)] @ rows.rows[torch.from_numpy(images)].T).double().cpu().numpy()
            nearness[some, places[here]] = _mean_of_nearest(cosines, same, part[some])
    return nearness


def _mean_of_nearest(cosines: Floats, left_out: Flags, part: Floats) -> Floats:
    """(n,) mean of the largest part of each row, at least of one; -inf where all are left out."""
    available = (~left_out).sum(axis=1)
    ranked = -np.sort(np.where(left_out, np.inf, -cosines), axis=1)
    sums = np.cumsum(np.where(np.isfinite(ranked), ranked, 0), axis=1)
    count = np.clip(np.ceil(part * available - 1e-9).astype(np.int64), 1, np.maximum(available, 1))
    means: Floats = np.where(available > 0, sums[np.arange(len(sums)), count - 1] / count, -np.inf)
    return means
