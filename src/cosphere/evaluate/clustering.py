"""Clustering scores: k-means on directions, then how well clusters and classes agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cosphere.errors import SettingsError, SizeError
from cosphere.evaluate.retrieval import check_labels
from cosphere.search.cosines import Rows, unit_rows

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Unit = npt.NDArray[np.float32]


class Agreement(NamedTuple):
    """How well a partition of N rows agrees with their classes. All in [0, 1], 1 for the classes themselves."""

    nmi: float
    """Normalised mutual information, by the arithmetic mean of both entropies (scikit-learn's default, SEC's code)."""
    nmi_geometric: float
    """By their geometric mean (scikit-learn before 0.22, NormSoftmax's code)."""
    f1: float
    """Harmonic mean of precision and recall over pairs of rows: a pair in one cluster should be of one class."""
    precision: float
    """Of the pairs in one cluster, the share of one class; 0 when no cluster has two rows."""
    recall: float
    """Of the pairs of one class, the share in one cluster; 0 when no class has two rows."""
    purity: float
    """Share of rows that belong to the largest class of their cluster. 1 when each row is its own cluster."""


@dataclass(frozen=True)
class ClusteringScores:
    """Agreement of k-means clusters with classes, and the settings that found them."""

    agreement: Agreement
    clusters: int
    """k of k-means."""
    seed: int
    iterations: int
    restarts: int
    objective: float
    """Mean squared distance of the unit rows to their cluster's centre, in [0, 2]."""
    assignments: Integers = field(repr=False, compare=False)
    """(N,) the cluster of each row, in [0, clusters)."""

    def as_dict(self) -> dict[str, float]:
        """``nmi``, ``nmi_geometric``, ``f1`` and ``purity`` as fractions."""
        found = self.agreement
        return {"nmi": found.nmi, "nmi_geometric": found.nmi_geometric, "f1": found.f1, "purity": found.purity}


def clustering(
    embeddings: Rows,
    labels: Any,
    *,
    clusters: int | None = None,
    seed: int = 0,
    iterations: int = 50,
    restarts: int = 1,
) -> ClusteringScores:
    """Cluster directions with faiss's k-means and compare the clusters with the classes.

    Euclidean k-means on unit rows, all rows used, centres not normalised, random rows as first centres. One seed gives
    one result on one machine. The papers' settings differ, and each moves the scores: SEC's code runs scikit-learn's
    k-means (k-means++, to convergence, ten restarts in the versions of its day), NormSoftmax's runs faiss with
    ``iterations=300, restarts=10``. Report the mean over several seeds.

    Args:
        embeddings: (N, D) float, torch or numpy, any length.
        labels: (N,) integers of any size.
        clusters: k; None takes the number of classes, as both papers do.
        seed: of the first centres.
        iterations: of each restart, at least 1.
        restarts: the one with the smallest objective is kept; at least 1.

    Raises:
        SizeError: shapes do not fit, or there are more clusters than rows.
        DataError: a row holds NaN or infinity.
        SettingsError: a setting is out of range, or faiss cannot be imported.
    """
    unit = unit_rows(embeddings)
    known = check_labels(labels, unit.size, "labels")
    wanted = len(np.unique(known)) if clusters is None else clusters
    for name, value in (("clusters", wanted), ("iterations", iterations), ("restarts", restarts)):
        if value < 1:
            raise SettingsError(f"{name} must be at least 1, got {value}.")
    if wanted > unit.size:
        raise SizeError(f"{wanted} clusters want at least as many rows, got {unit.size}. Lower clusters.")
    found = _k_means(unit.rows.cpu().numpy(), wanted, seed=seed, iterations=iterations, restarts=restarts)
    return ClusteringScores(
        agreement=agreement(found.assignments, known),
        clusters=wanted,
        seed=seed,
        iterations=iterations,
        restarts=restarts,
        objective=found.objective,
        assignments=found.assignments,
    )


class _Partition(NamedTuple):
    assignments: Integers
    objective: float


def _k_means(unit: Unit, clusters: int, *, seed: int, iterations: int, restarts: int) -> _Partition:
    try:
        import faiss
    except ImportError as error:
        raise SettingsError(
            f"clustering needs the package faiss-cpu, which cannot be imported: {error}. "
            "Run: pip install faiss-cpu, or leave clustering out."
        ) from error
    # faiss by itself takes a sample of 256 rows a cluster, and warns below 39.
    means = faiss.Kmeans(
        unit.shape[1],
        clusters,
        niter=iterations,
        nredo=restarts,
        seed=seed,
        spherical=False,
        min_points_per_centroid=1,
        max_points_per_centroid=len(unit),
    )
    means.train(unit)
    distances, assignments = means.index.search(unit, 1)
    return _Partition(assignments[:, 0].astype(np.int64), float(distances.clip(min=0).mean(dtype=np.float64)))


def agreement(clusters: Any, labels: Any) -> Agreement:
    """Compare two partitions through their sparse contingency table, in O(N log N).

    Args:
        clusters: (N,) integers.
        labels: (N,) integers.

    Raises:
        SizeError: not two lists of equally many integers, or empty ones.

    >>> agreement([0, 0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 2, 2, 1]).f1
    0.36363636363636365
    """
    known = check_labels(labels, len(labels), "labels")
    if not len(known):
        raise SizeError("want at least one label, got none.")
    found = check_labels(clusters, len(known), "clusters")
    _, cluster = np.unique(found, return_inverse=True)
    _, label = np.unique(known, return_inverse=True)
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
        f1=2 * right / (in_clusters + in_classes) if in_clusters + in_classes else 0.0,
        precision=right / in_clusters if in_clusters else 0.0,
        recall=right / in_classes if in_classes else 0.0,
        purity=int(largest.sum()) / len(known),
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
    """In [0, 1]: one cluster for one class is perfect; one cluster for several classes says nothing."""
    if scale == 0:
        return 1.0 if both_trivial else 0.0
    return min(max(shared / scale, 0.0), 1.0)
