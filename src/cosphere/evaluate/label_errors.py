"""Images that may carry the wrong label: those whose nearest neighbours agree on one other class."""

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
    """(n,) in [0, 1]: share that carry the image's own label."""

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    @property
    def suspicion(self) -> Floats:
        """(n,) in (0, 1]: ``agreement - own``. 1 where all neighbours carry one other class."""
        return self.agreement - self.own

    def as_rows(self) -> list[dict[str, float | int]]:
        """One plain dictionary for each image."""
        names = ("rows", "labels", "suggested", "agreement", "own", "suspicion")
        columns = [getattr(self, name).tolist() for name in names]
        keys = ("row", "label", "suggested", "agreement", "own", "suspicion")
        return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]


def likely_mislabelled(
    embeddings: Matrix, labels: Any, *, neighbours: int = 10, top: int | None = None, block_bytes: int = BLOCK_BYTES
) -> LabelSuspects:
    """Images whose neighbours carry another class more often than their own.

    The vote of the nearest neighbours against the label (Wilson, "Asymptotic properties of nearest neighbor rules using
    edited data", 1972, who drops every image it outvotes). It finds labels that contradict what the model sees: wrong
    labels, and right ones of images that the model misreads. Look at them; do not delete them. Errors that the model was
    trained on to the end it has learned, and cannot show; embed with a model trained on other images.

    Equal suspicion: the image first whose nearest neighbour of the suggested class is nearer. Row order never decides but
    between duplicates.

    Args:
        embeddings: (N, D) float, any length, or (N, D / 8) uint8, packed bits.
        labels: (N,) integers of any size.
        neighbours: k, how many vote; fewer where the set is smaller. Not many more than a class has images.
        top: how many to return at most; None returns every image that is outvoted.
        block_bytes: bound of the working memory of the search.

    Raises:
        SizeError: shapes do not fit, or there is but one image.
        SettingsError: neighbours or top is below 1.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0], [0.1, 1.0], [0.2, 1.0]])
    >>> likely_mislabelled(x, [0, 0, 1, 1, 1, 1], neighbours=2).as_rows()
    [{'row': 2, 'label': 1, 'suggested': 0, 'agreement': 1.0, 'own': 0.0, 'suspicion': 1.0}]
    """
    for name, value in (("neighbours", neighbours), ("top", top)):
        if value is not None:
            check_whole(name, value, least=1)
    count = len(embeddings)
    known = integer_column(labels, count, "labels")
    if count == 1:
        raise SizeError("one image alone has no neighbours. Give at least two.")
    k = max(1, min(neighbours, count - 1))  # of no rows at all the search tells
    compare: Callable[..., Neighbours] = hamming_search if is_codes(embeddings) else search
    found = compare(embeddings, embeddings, k=k, exclude=torch.arange(count), block_bytes=block_bytes)
    classes, numbers = np.unique(known, return_inverse=True)
    votes = numbers[found.ids.numpy()]  # (N, k)
    own = (votes == numbers[:, None]).sum(axis=1)
    suggested, agreement, nearest = _other_class(votes, found.scores.numpy(), numbers)
    suspects = np.flatnonzero(agreement > own)
    order = np.lexsort((-nearest[suspects], (own - agreement)[suspects]))
    rows = suspects[order][:top]
    return LabelSuspects(rows, known[rows], classes[suggested[rows]], agreement[rows] / k, own[rows] / k)


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
