"""Clustering scores: k-means on unit vectors, then the agreement of clusters and classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from cosphere._types import Integers, Progress
from cosphere.checks import check_choice, check_seed, check_whole
from cosphere.errors import SettingsError, SizeError
from cosphere.evaluate._relevance import check_labels
from cosphere.evaluate.agreement import Agreement, agreement
from cosphere.evaluate.k_means import Unit, faiss_k_means, scikit_k_means
from cosphere.evaluate.statistics import Summary, seeds_summary
from cosphere.rows import Matrix, unit_rows


@dataclass(frozen=True, kw_only=True)
class ClusteringPreset:
    """Settings of a clustering, and the NMI that goes with them."""

    method: Literal["faiss k-means", "scikit-learn k-means"]
    iterations: int
    """Of each restart, at most."""
    restarts: int
    nmi: Literal["nmi", "nmi_geometric"]
    """The field of :class:`Agreement` that is reported."""
    source: str


CLUSTERING_PRESETS: Mapping[str, ClusteringPreset] = MappingProxyType(
    {
        "default": ClusteringPreset(
            method="faiss k-means",
            iterations=50,
            restarts=1,
            nmi="nmi",
            source=(
                "Cosphere: one start from random rows, which is fast and finds worse clusters than ten starts, above all with few "
                "images per class. Report the mean over several seeds."
            ),
        ),
        "sec": ClusteringPreset(
            method="scikit-learn k-means",
            iterations=300,
            restarts=10,
            nmi="nmi",
            source=(
                "Spherical embedding (Zhang 2020), evaluation.py: KMeans(n_clusters, n_jobs=4, random_state=0). n_jobs "
                "exists in versions whose n_init is 10 and max_iter 300. Its NMI is 2 I / (H + H)."
            ),
        ),
        "norm_softmax": ClusteringPreset(
            method="faiss k-means",
            iterations=300,
            restarts=10,
            nmi="nmi_geometric",
            source=(
                "NormSoftmax (Zhai and Wu 2019), evaluation/nmi.py: faiss.Clustering with niter=300, nredo=10, seed=0 on "
                "a GPU. requirements.txt pins scikit-learn 0.17.1, whose NMI takes the geometric mean."
            ),
        ),
    }
)
"""Settings by name. Neither paper reports how much its scores vary with the seed; both use seed 0."""


@dataclass(frozen=True)
class ClusteringScores:
    """Agreement of k-means clusters with classes, and the settings of the clustering."""

    agreement: Agreement
    clusters: int
    """k of k-means."""
    seed: int
    iterations: int
    """Of each restart, at most."""
    restarts: int
    preset: str
    """The name of these settings in :data:`CLUSTERING_PRESETS`."""
    method: str
    """Implementation: ``faiss k-means`` or ``scikit-learn k-means``."""
    iterations_run: int
    """Iterations until the chosen restart converged."""
    objective: float
    """Mean squared distance of the unit rows to their cluster's centre, in [0, 2]."""
    assignments: Integers = field(repr=False, compare=False)
    """(N,) the cluster of each row, in [0, clusters)."""

    @property
    def reported_nmi(self) -> float:
        """The NMI that goes with the preset: by the geometric mean for ``norm_softmax``, the arithmetic for the others."""
        return float(getattr(self.agreement, CLUSTERING_PRESETS[self.preset].nmi))

    def as_dict(self) -> dict[str, float]:
        """``nmi``, ``nmi_geometric``, ``ami``, ``f1`` and ``purity`` as fractions."""
        return {name: float(getattr(self.agreement, name)) for name in SCORES}


SCORES = ("nmi", "nmi_geometric", "ami", "f1", "purity")
"""The names in :meth:`ClusteringScores.as_dict`, in their order."""


@dataclass(frozen=True)
class ClusteringSeeds:
    """The same clustering from several seeds."""

    runs: tuple[ClusteringScores, ...]
    """One a seed, in their order."""

    @property
    def values(self) -> dict[str, list[float]]:
        """For each name of :meth:`ClusteringScores.as_dict`, one value a seed."""
        return {name: [run.as_dict()[name] for run in self.runs] for name in SCORES}

    @property
    def summary(self) -> dict[str, Summary]:
        """Mean, sample standard deviation and Student's t interval of each score over the seeds."""
        return {name: seeds_summary(values) for name, values in self.values.items()}

    def as_dict(self) -> dict[str, Any]:
        """For each score ``mean``, ``sd``, ``low``, ``high``, ``n`` and ``values``; and ``seeds``."""
        values = self.values
        scores = {name: {**summary._asdict(), "values": values[name]} for name, summary in self.summary.items()}
        return {"seeds": [run.seed for run in self.runs], **scores}


def clustering(
    embeddings: Matrix,
    labels: Any,
    *,
    clusters: int | None = None,
    seed: int = 0,
    preset: str = "default",
    iterations: int | None = None,
    restarts: int | None = None,
    progress: Progress | None = None,
) -> ClusteringScores:
    """Cluster directions with k-means and compare the clusters with the classes.

    Euclidean k-means on unit rows; all rows are used and centres are not normalised. The papers' settings differ and change
    the scores: ``preset="sec"`` and ``preset="norm_softmax"`` reproduce them, see :data:`CLUSTERING_PRESETS`. They reproduce
    the settings, not the random numbers, which the libraries have changed since. At SOP's size ``sec`` takes an hour or
    more. Scores vary with the seed: see :func:`clustering_over_seeds`.

    With faiss, the result depends on the seed only; with scikit-learn (``sec``), on the seed and the number of threads.
    Memory: a unit copy of the rows, a few copies of the centres, and blocks of a fixed size.

    Args:
        embeddings: (N, D) float, torch or numpy, any length. Runs on the CPU. A zero row is the point 0.
        labels: (N,) integers.
        clusters: k; None takes the number of classes, as both papers do.
        seed: of the first centres.
        preset: a name in :data:`CLUSTERING_PRESETS`.
        iterations: of each restart, at least 1; only with the default preset, which takes 50.
        restarts: the one with the smallest objective is returned; at least 1; only with the default preset, which takes 1.
        progress: called with (done, total) after each iteration of faiss or each restart of scikit-learn.

    Raises:
        SizeError: shapes do not fit, or there are more clusters than rows.
        DataError: a row holds NaN or infinity.
        SettingsError: a setting is out of range, or faiss cannot be imported.
    """
    chosen = _chosen(preset, iterations, restarts)
    check_seed(seed)
    return _score(_prepared(embeddings, labels, clusters), chosen, preset, int(seed), progress)


def clustering_over_seeds(
    embeddings: Matrix,
    labels: Any,
    *,
    seeds: Iterable[int] = range(5),
    clusters: int | None = None,
    preset: str = "default",
    iterations: int | None = None,
    restarts: int | None = None,
    progress: Progress | None = None,
) -> ClusteringSeeds:
    """:func:`clustering` once for each seed: k-means finds another local optimum each time, so scores vary.

    Args:
        embeddings: (N, D) float, torch or numpy, any length.
        labels: (N,) integers.
        seeds: at least one, all different.
        clusters: k; None takes the number of classes.
        preset: as in :func:`clustering`.
        iterations: as in :func:`clustering`.
        restarts: as in :func:`clustering`.
        progress: called with (done, total) over all seeds.

    Raises:
        SizeError: as :func:`clustering`.
        DataError: as :func:`clustering`.
        SettingsError: as :func:`clustering`, or seeds are missing or equal.
    """
    if not isinstance(seeds, Iterable):
        raise SettingsError(f"want seeds as a list of whole numbers, got {seeds!r}. Usual: range(5).")
    chosen, numbers = _chosen(preset, iterations, restarts), list(seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise SettingsError(f"want at least one seed and no seed twice, got {numbers}. Usual: range(5).")
    for seed in numbers:
        check_seed(seed)
    task = _prepared(embeddings, labels, clusters)
    parts = _parts(progress, len(numbers))
    return ClusteringSeeds(
        tuple(_score(task, chosen, preset, int(seed), part) for seed, part in zip(numbers, parts, strict=True))
    )


def _parts(progress: Progress | None, count: int) -> Sequence[Progress | None]:
    """``count`` callbacks for equally long runs, one after another."""
    if progress is None:
        return [None] * count

    def part(number: int) -> Progress:
        return lambda done, total: progress(number * total + done, count * total)

    return [part(number) for number in range(count)]


def check_preset(preset: str) -> ClusteringPreset:
    """The settings of that name; raise unless the preset exists."""
    return CLUSTERING_PRESETS[check_choice("clustering preset", preset, CLUSTERING_PRESETS)]


def _chosen(preset: str, iterations: int | None, restarts: int | None) -> ClusteringPreset:
    settings = check_preset(preset)
    if iterations is None and restarts is None:
        return settings
    if preset != "default":
        raise SettingsError(
            f"preset {preset!r} has {settings.iterations} iterations and {settings.restarts} restarts of its own. "
            "Leave both out, or leave the preset out."
        )
    for name, value in (("iterations", iterations), ("restarts", restarts)):
        if value is not None:
            check_whole(name, value, least=1, most=10**6)
    return ClusteringPreset(
        method=settings.method,
        iterations=int(settings.iterations if iterations is None else iterations),
        restarts=int(settings.restarts if restarts is None else restarts),
        nmi=settings.nmi,
        source=settings.source,
    )


class _Task(NamedTuple):
    rows: Unit
    labels: Integers
    clusters: int


def _prepared(embeddings: Matrix, labels: Any, clusters: int | None) -> _Task:
    unit = unit_rows(embeddings)
    classes = check_labels(labels, unit.size, "labels")
    count = len(np.unique(classes)) if clusters is None else clusters
    check_whole("clusters", count, least=1)
    if count > unit.size:
        raise SizeError(f"{count} clusters want at least as many rows, got {unit.size}. Lower clusters.")
    return _Task(unit.rows.cpu().numpy(), classes, int(count))


def _score(
    task: _Task, chosen: ClusteringPreset, preset: str, seed: int, progress: Progress | None
) -> ClusteringScores:
    k_means = faiss_k_means if chosen.method == "faiss k-means" else scikit_k_means
    partition = k_means(
        task.rows,
        task.clusters,
        seed=seed,
        iterations=chosen.iterations,
        restarts=chosen.restarts,
        progress=progress,
    )
    return ClusteringScores(
        agreement=agreement(partition.assignments, task.labels),
        clusters=task.clusters,
        seed=seed,
        iterations=chosen.iterations,
        restarts=chosen.restarts,
        preset=preset,
        method=chosen.method,
        iterations_run=partition.iterations,
        objective=partition.objective,
        assignments=partition.assignments,
    )
