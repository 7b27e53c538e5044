"""Euclidean k-means by the two libraries whose results are published: faiss and scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cosphere._types import Integers, Progress
from cosphere.search._faiss import faiss_for

Unit = npt.NDArray[np.float32]

_RESTART_STEP = 15486557
"""Seeds of faiss's own restarts are this far apart."""
_CHUNK_ROWS = 4096
"""Rows whose distance to their centre is taken at a time."""


class Partition(NamedTuple):
    """The best of all restarts."""

    assignments: Integers
    """(N,) the cluster of each row, in [0, clusters)."""
    objective: float
    """Mean squared distance of the rows to the centre of their cluster."""
    iterations: int
    """That were run until nothing changed any more, or until there were no more."""


def faiss_k_means(
    rows: Unit, clusters: int, *, seed: int, iterations: int, restarts: int, progress: Progress | None = None
) -> Partition:
    """k-means from random rows: the centres of ``faiss.Kmeans``, bit for bit, with all rows used and all iterations run.

    Each iteration is a run of faiss of its own, from the centres before it, which gives the same centres as one long run.
    So there is progress to tell, and a restart ends where the centres stay as they are: going on would change nothing.
    Newer versions of faiss end where their objective repeats, which can be before all empty clusters are filled. They add
    it up in float32, in an order that depends on the threads, and choose between restarts by its value before the last
    step. Here it is summed in float64 and taken after that step, and one seed gives one result whatever the number of
    threads (measured on x86-64 with 1, 2 and 3).

    Beside the rows this takes three times the centres, 16 bytes a row, and 16 MiB of distances.

    Args:
        rows: (N, D) finite, C-contiguous.
        clusters: k, from 1 to N.
        seed: of the first centres; restart r takes the rows that faiss would draw for it.
        iterations: of each restart, at most.
        restarts: the one with the smallest objective is kept, the first of equal ones.
        progress: called after each iteration.

    Raises:
        SettingsError: faiss cannot be imported.
    """
    faiss = faiss_for("clustering")

    def run(restart: int) -> Partition:
        def report(done: int) -> None:
            if progress is not None:
                progress(restart * iterations + done, restarts * iterations)

        means = _one_iteration(faiss, rows, clusters, seed + restart * _RESTART_STEP)
        return _run_faiss(means, rows, iterations, report)

    return min((run(restart) for restart in range(restarts)), key=lambda partition: partition.objective)


def _run_faiss(means: Any, rows: Unit, iterations: int, report: Callable[[int], None]) -> Partition:
    centres: Unit | None = None
    used, settled = 0, False
    while used < iterations and not settled:
        before, used = centres, used + 1
        means.train(rows, init_centroids=before)
        centres = means.centroids.copy()
        settled = before is not None and np.array_equal(before, centres)
        report(iterations if settled else used)
    _, nearest = means.index.search(rows, 1)
    assignments = nearest[:, 0].astype(np.int64)
    return Partition(assignments, _objective(rows, centres, assignments), used)


def _objective(rows: Unit, centres: Any, assignments: Integers) -> float:
    """Mean squared distance, in float64. That of the search is rounded otherwise with another number of threads."""
    total = 0.0
    for start in range(0, len(rows), _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        total += float(np.square(rows[chunk] - centres[assignments[chunk]]).sum(dtype=np.float64))
    return total / len(rows)


def _one_iteration(faiss: Any, rows: Unit, clusters: int, seed: int) -> Any:
    """A ``faiss.Kmeans``. By itself it takes a sample of 256 rows a cluster, and warns below 39."""
    return faiss.Kmeans(
        rows.shape[1],
        clusters,
        niter=1,
        nredo=1,
        seed=(seed + 2**31) % 2**32 - 2**31,  # faiss holds it in 32 bits, and its own restarts wrap likewise
        spherical=False,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )


def scikit_k_means(
    rows: Unit, clusters: int, *, seed: int, iterations: int, restarts: int, progress: Progress | None = None
) -> Partition:
    """k-means from k-means++ by scikit-learn: ``KMeans(clusters, n_init=restarts, max_iter=iterations, random_state=seed)``.

    Restarts are run one after another on one random stream, as scikit-learn itself does, so that there is progress to
    tell. It sums centres in an order that may depend on the threads, so another number of threads could move a row.

    Beside the rows this takes two copies of them and their distances to eleven or so candidate centres at a time. Its
    Elkan variant, which was the default in scikit-learn before 1.1, gives the same clusters up to rounding, and holds
    N times k bounds.

    Args:
        rows: (N, D) finite, C-contiguous.
        clusters: k, from 1 to N.
        seed: of the random stream.
        iterations: of each restart, at most; the default tolerance of 1e-4 of the variance ends it earlier.
        restarts: the one with the smallest objective is kept.
        progress: called after each restart.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    stream = np.random.RandomState(seed % 2**32)
    best: Any = None
    for restart in range(restarts):
        means = KMeans(clusters, n_init=1, max_iter=iterations, random_state=stream)
        with warnings.catch_warnings():
            # It warns of fewer distinct rows than clusters; some clusters then stay empty.
            warnings.simplefilter("ignore", ConvergenceWarning)
            means.fit(rows)
        if best is None or means.inertia_ < best.inertia_:
            best = means
        if progress is not None:
            progress(restart + 1, restarts)
    assignments = best.labels_.astype(np.int64)
    return Partition(assignments, _objective(rows, best.cluster_centers_, assignments), int(best.n_iter_))
