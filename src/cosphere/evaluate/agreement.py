"""Agreement of two partitions of the same rows, from their sparse contingency table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaln

from cosphere._types import Floats, Integers
from cosphere.errors import SizeError
from cosphere.evaluate._relevance import check_labels

_CHUNK_TERMS = 2**19
"""Terms of the expected mutual information evaluated at a time: about 50 MB of working memory."""


class Agreement(NamedTuple):
    """How well a partition of N rows agrees with their classes. 1 for the classes themselves."""

    nmi: float
    """Normalised mutual information, in [0, 1], by the arithmetic mean of both entropies (scikit-learn, SEC's code)."""
    nmi_geometric: float
    """By their geometric mean, in [0, 1] (scikit-learn before 0.22, NormSoftmax's code)."""
    ami: float
    """Adjusted mutual information (Vinh 2010), arithmetic mean: at most 1, and 0 on average for random clusters,
    for which NMI grows with the number of clusters."""
    ari: float
    """Adjusted Rand index (Hubert 1985): at most 1, and 0 on average for random clusters."""
    f1: float
    """Harmonic mean of precision and recall over pairs of rows: two rows of one cluster should share a class."""
    precision: float
    """Of the pairs in one cluster, the share of one class; 0 when no cluster has two rows."""
    recall: float
    """Of the pairs of one class, the share in one cluster; 0 when no class has two rows."""
    purity: float
    """Share of rows that belong to the largest class of their cluster. 1 when each row is its own cluster."""


def worth_printing(shares: Mapping[str, float]) -> list[str]:
    """The names of scores in [0, 1] without the geometric NMI where it prints the same percentage as the arithmetic one.

    >>> worth_printing({"nmi": 0.500012, "nmi_geometric": 0.500013, "f1": 0.3})
    ['nmi', 'f1']
    """

    def is_twin(name: str) -> bool:
        same = f"{100 * shares[name]:.2f}" == f"{100 * shares.get('nmi', -1):.2f}"
        return name == "nmi_geometric" and same

    return [name for name in shares if not is_twin(name)]


def agreement(clusters: Any, labels: Any) -> Agreement:
    """Compare two partitions, in O(N log N) plus the expected mutual information that AMI subtracts.

    That expectation is exact and computed once per distinct pair of cluster size and class size; scikit-learn, which
    gives the same values, computes it for each pair of a cluster and a class.

    Args:
        clusters: (N,) integers.
        labels: (N,) integers.

    Raises:
        SizeError: not two lists of equally many integers, or empty ones.

    >>> agreement([0, 0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 2, 2, 1]).f1
    0.36363636363636365
    """
    if not len(labels):  # before the type check: an empty list has no integer type
        raise SizeError("want at least one label, got none.")
    classes = check_labels(labels, len(labels), "labels")
    _, cluster = np.unique(check_labels(clusters, len(classes), "clusters"), return_inverse=True)
    _, label = np.unique(classes, return_inverse=True)
    rows, columns = np.bincount(cluster), np.bincount(label)
    cells, together = np.unique(cluster * len(columns) + label, return_counts=True)
    at = cells // len(columns)
    largest = np.zeros(len(rows), dtype=np.int64)
    np.maximum.at(largest, at, together)
    shared = _mutual_information(together, rows[at], columns[cells % len(columns)])
    ours, theirs = _entropy(rows), _entropy(columns)
    right, in_clusters, in_classes = _pairs(together), _pairs(rows), _pairs(columns)
    return Agreement(
        nmi=_normalised(shared, (ours + theirs) / 2, both_trivial=ours == theirs == 0),
        nmi_geometric=_normalised(shared, float(np.sqrt(ours * theirs)), both_trivial=ours == theirs == 0),
        ami=_adjusted_mutual_information(shared, (ours + theirs) / 2, rows, columns),
        ari=_adjusted_rand(right, in_clusters, in_classes, len(classes)),
        f1=2 * right / (in_clusters + in_classes) if in_clusters + in_classes else 0.0,
        precision=right / in_clusters if in_clusters else 0.0,
        recall=right / in_classes if in_classes else 0.0,
        purity=int(largest.sum()) / len(classes),
    )


def _pairs(counts: Integers) -> int:
    """Unordered pairs within groups of these sizes."""
    return int((counts * (counts - 1) // 2).sum())


def _entropy(counts: Integers) -> float:
    """In nats."""
    if len(counts) == 1:
        return 0.0
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


def _mutual_information(together: Integers, rows: Integers, columns: Integers) -> float:
    """In nats, from the cells that are not empty and the sums of their row and column."""
    total = float(together.sum())
    return float((together / total * np.log(together * total / (rows * columns.astype(np.float64)))).sum())


def _normalised(shared: float, scale: float, *, both_trivial: bool) -> float:
    """In [0, 1]: one cluster for one class scores 1; one cluster for several classes scores 0."""
    if scale == 0:
        return 1.0 if both_trivial else 0.0
    return min(max(shared / scale, 0.0), 1.0)


def _adjusted_rand(right: int, in_clusters: int, in_classes: int, total: int) -> float:
    """Integers until the last division: products of pair counts exceed 2^53."""
    if right == in_clusters == in_classes:
        return 1.0
    everything = total * (total - 1) // 2
    chance = in_clusters * in_classes
    return 2 * (right * everything - chance) / ((in_clusters + in_classes) * everything - 2 * chance)


def _adjusted_mutual_information(shared: float, scale: float, rows: Integers, columns: Integers) -> float:
    total = int(rows.sum())
    if len(rows) == len(columns) and len(rows) in (1, total):
        return 1.0  # Two equal partitions, of which no other arrangement exists: 0 / 0.
    if {1, total} & {len(rows), len(columns)}:
        return 0.0  # Every arrangement has the same mutual information.
    chance = expected_mutual_information(rows, columns)
    return min((shared - chance) / (scale - chance), 1.0)


def expected_mutual_information(rows: Integers, columns: Integers) -> float:
    """Mean mutual information, in nats, over all assignments that keep these cluster and class sizes (Vinh 2010).

    A cell's count is then hypergeometric and depends only on the sizes of its cluster and its class, so each pair of
    sizes is computed once: N rows have at most sqrt(2 N) different sizes on either side.

    Args:
        rows: (R,) sizes of the clusters, at least 1.
        columns: (C,) sizes of the classes, with the same sum.
    """
    total = int(rows.sum())
    ours, our_times = np.unique(rows, return_counts=True)
    theirs, their_times = np.unique(columns, return_counts=True)
    a, b = (side.ravel() for side in np.meshgrid(ours, theirs, indexing="ij"))
    times = np.outer(our_times, their_times).ravel()
    terms = np.minimum(a, b) - np.maximum(0, a + b - total) + 1
    upto = np.cumsum(terms)
    cuts = np.searchsorted(upto, np.arange(_CHUNK_TERMS, upto[-1], _CHUNK_TERMS))
    expectation = 0.0
    for pairs in np.split(np.arange(len(a)), np.unique(cuts)):
        if len(pairs):
            expectation += float(times[pairs] @ _expected_cells(a[pairs], b[pairs], terms[pairs], total))
    return expectation


def _expected_cells(a: Integers, b: Integers, terms: Integers, total: int) -> Floats:
    """Expected share of the mutual information of one cell, for P pairs of sizes (P,), (P,), ``terms`` counts each."""
    first = np.cumsum(terms) - terms
    pair = np.repeat(np.arange(len(a)), terms)
    a_each, b_each = a[pair], b[pair]
    count = np.arange(len(pair)) - first[pair] + np.maximum(0, a + b - total)[pair]
    likelihood = -(
        gammaln(count + 1.0)
        + gammaln(a_each - count + 1.0)
        + gammaln(b_each - count + 1.0)
        + gammaln(total - a_each - b_each + count + 1.0)
    )
    # The factorials of the margins are equal for all counts of a pair. Dividing by the total likelihood cancels them, and
    # with them the rounding of their logarithms, which are of order N log N.
    weight = np.exp(likelihood - np.maximum.reduceat(likelihood, first)[pair])
    share = np.log(np.maximum(count, 1) * (total / (a_each * b_each.astype(np.float64)))) * count / total
    return np.asarray(np.add.reduceat(weight * share, first) / np.add.reduceat(weight, first), dtype=np.float64)
