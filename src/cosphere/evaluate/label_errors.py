"""Likely label errors: images whose nearest neighbours agree on one other class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cosphere._types import Floats, Integers
from cosphere.checks import check_whole
from cosphere.codes import is_codes
from cosphere.errors import SizeError
from cosphere.evaluate._relevance import Column, integer_column
from cosphere.rows import BLOCK_BYTES, Matrix
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
    """(n,) the class that most of its neighbours carry."""
    agreement: Floats
    """(n,) in (0, 1]: share of the neighbours that carry the suggested class."""
    own: Floats
    """(n,) in [0, 1]: supporters among the neighbours, divided by the most there could be, min(k, other images of the class)."""
    evidence: Floats
    """(n,) in (0, 1]: supporters that the image could have, min(k, other images of its class), divided by k."""

    def __len__(self) -> int:
        """Number of suspects."""
        return len(self.rows)

    @property
    def suspicion(self) -> Floats:
        """(n,) in (0, 1]: ``(agreement - own) * evidence``. 1 where all neighbours of an image of a large class carry one other.

        The weight puts errors in large classes before images of rare classes that the model misreads.
        """
        return (self.agreement - self.own) * self.evidence

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
    """Images whose neighbours carry another class more often than their own.

    The vote of the nearest neighbours against the label (Wilson, "Asymptotic properties of nearest neighbor rules using
    edited data", 1972, who drops every outvoted image). It finds labels that contradict the model: wrong labels, and correct
    labels of images that the model misreads. Look at them; do not delete them. A model that was trained to the end on wrong
    labels has learned them and cannot show them; embed with a model trained on other images.

    An image of a class of n images has at most n - 1 supporters, so the own share is taken of those it could have: a perfect
    embedding gives no suspects, whatever the class sizes. A class of one image supports nobody and is never suspected.

    At equal suspicion, the image whose nearest neighbour of the suggested class is nearer comes first. Row order decides
    only between duplicates.

    Args:
        embeddings: (N, D) float, any length, or (N, D / 8) uint8, packed bits.
        labels: (N,) integers of any size.
        identities: (N,) integers, the picture of each row: see :meth:`Embeddings.identities`. Rows of one picture do not vote for
            each other. None: all rows show different pictures.
        neighbours: k, how many vote; fewer where the set is smaller.
        top: how many to return at most; None returns every image that is outvoted.
        block_bytes: bound of the working memory of the search.

    Raises:
        SizeError: shapes do not fit, or there is only one image.
        SettingsError: neighbours or top is below 1.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0], [0.1, 1.0], [0.2, 1.0]])
    >>> likely_mislabelled(x, [0, 0, 1, 1, 1, 1], neighbours=2).as_rows()
    [{'row': 2, 'label': 1, 'suggested': 0, 'agreement': 1.0, 'own': 0.0, 'suspicion': 1.0}]
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
    possible = _most_supporters(numbers, pictures, k)
    supporters = (votes == numbers[:, None]).sum(axis=1)
    own = np.divide(supporters, possible, out=np.ones(count), where=possible > 0)
    suggested, counts, nearest = _other_class(votes, neighbourhood.scores.numpy(), numbers)
    agreement = counts / k
    suspects = np.flatnonzero(agreement > own)
    order = np.lexsort((-nearest[suspects], ((own - agreement) * possible / k)[suspects]))
    rows = suspects[order][:top]
    return LabelSuspects(
        rows, classes_of[rows], classes[suggested[rows]], agreement[rows], own[rows], possible[rows] / k
    )


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


def _most_supporters(classes: Integers, pictures: Column, k: int) -> Integers:
    """(N,) how many of k neighbours could carry the label of each image: the other pictures of its class, at most k."""
    _, of_row, copies = np.unique(
        np.stack([classes, pictures.astype(np.int64)], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    others = np.bincount(classes)[classes] - copies[of_row]
    possible: Integers = np.minimum(others, k)
    return possible


def _other_class(votes: Integers, cosines: npt.NDArray[Any], own: Integers) -> tuple[Integers, Integers, Floats]:
    """The other class with most of the votes; of equal ones the class with the nearest neighbour.

    Args:
        votes: (N, k) class of each neighbour, nearest first.
        cosines: (N, k)
        own: (N,) class of the image, whose votes do not count.

    Returns:
        (N,) the class, its votes (0 where all neighbours are of the own class), and its largest cosine.
    """
    width = votes.shape[1]
    counts = np.zeros(votes.shape, dtype=np.int64)
    for place in range(width):  # A (N, k, k) comparison at once would take k times the memory.
        counts += votes == votes[:, place, None]
    counts[votes == own[:, None]] = 0
    best = counts.argmax(axis=1)  # The first of equals is the nearest.
    rows = np.arange(len(votes))
    return votes[rows, best], counts[rows, best], cosines[rows, best].astype(np.float64)
