from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from cosphere.errors import DataError, SettingsError, SizeError
from cosphere.evaluate import CLUSTERING_PRESETS, agreement, clustering, clustering_over_seeds, seeds_summary

TO_THE_END: dict[str, Any] = (
    {"early_stop_threshold": -1.0} if hasattr(faiss.ClusteringParameters(), "early_stop_threshold") else {}
)
"""Keeps newer versions of faiss from stopping where their objective repeats."""


def blobs(classes: int = 6, each: int = 20, spread: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    labels = np.repeat(np.arange(classes), each)
    points = np.eye(8)[labels] + generator.standard_normal((classes * each, 8)) * spread
    return (points * generator.uniform(0.1, 10, (len(labels), 1))).astype(np.float32), labels


def unit_of(points: np.ndarray) -> np.ndarray:
    wide = points.astype(np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


def test_finds_the_classes_of_well_apart_directions_whatever_the_lengths() -> None:
    points, labels = blobs()
    found = clustering(points, labels, restarts=5)
    assert found.as_dict() == pytest.approx({"nmi": 1, "nmi_geometric": 1, "ami": 1, "f1": 1, "purity": 1})
    sklearn = KMeans(6, n_init=5, random_state=0).fit(unit_of(points).astype(np.float64))
    assert found.objective == pytest.approx(sklearn.inertia_ / len(points), rel=1e-4)
    assert agreement(found.assignments, sklearn.labels_).f1 == 1.0
    assert (found.clusters, found.restarts, found.iterations, found.seed) == (6, 5, 50, 0)
    assert (found.preset, found.method) == ("default", "faiss k-means")
    assert 1 <= found.iterations_run < 50


def test_agrees_with_scikit_learn_on_directions_that_overlap() -> None:
    points, labels = blobs(spread=0.45)
    found = clustering(points, labels, restarts=10)
    sklearn = KMeans(6, n_init=10, random_state=0).fit(unit_of(points).astype(np.float64))
    assert found.objective == pytest.approx(sklearn.inertia_ / len(points), rel=0.02)
    want = normalized_mutual_info_score(labels, sklearn.labels_)
    assert found.as_dict()["nmi"] == pytest.approx(want, abs=0.06)
    assert 0.2 < want < 0.95


def with_duplicates(rows: int, width: int) -> np.ndarray:
    """They leave clusters empty, which faiss fills by splitting others."""
    points = np.random.default_rng(rows).standard_normal((rows, width)).astype(np.float32)
    points[rows // 2 :: 7] = points[0]
    return points


def lloyd_by_hand(unit: np.ndarray, centres: np.ndarray, iterations: int) -> tuple[list[int], float]:
    """Plain loops in float64; no cluster of this data runs empty."""
    rows, means = unit.astype(np.float64), centres.astype(np.float64)

    def nearest(row: np.ndarray) -> int:
        return min(range(len(means)), key=lambda c: sum((row - means[c]) ** 2))

    for _ in range(iterations):
        chosen = [nearest(row) for row in rows]
        means = np.array(
            [np.mean([r for r, c in zip(rows, chosen, strict=True) if c == k], 0) for k in range(len(means))]
        )
    last = [nearest(row) for row in rows]
    return last, float(np.mean([sum((row - means[c]) ** 2) for row, c in zip(rows, last, strict=True)]))


@pytest.mark.parametrize("iterations", [1, 2, 40])
def test_agrees_with_loops_from_the_same_first_centres(iterations: int) -> None:
    points, labels = blobs(spread=0.45)
    unit = unit_of(points)
    drawn = np.empty(len(unit), dtype=np.int32)
    faiss.rand_perm(faiss.swig_ptr(drawn), len(unit), 7 + 1)
    assignments, objective = lloyd_by_hand(unit, unit[drawn[:6]], iterations)
    found = clustering(points, labels, seed=7, iterations=iterations)
    assert found.assignments.tolist() == assignments
    assert found.objective == pytest.approx(objective, rel=1e-5)


@pytest.mark.parametrize(
    ("rows", "width", "clusters"), [(120, 8, 6), (400, 33, 90), (50, 3, 49), (64, 5, 1), (900, 6, 2)]
)
@pytest.mark.parametrize("iterations", [1, 5, 60])
def test_is_one_long_run_of_faiss(rows: int, width: int, clusters: int, iterations: int) -> None:
    """Iteration by iteration, with a stop where nothing changes, gives the clusters of a run that goes on to the end."""
    points = with_duplicates(rows, width)
    found = clustering(points, np.arange(rows), clusters=clusters, seed=5, iterations=iterations)
    sizes = {"min_points_per_centroid": 1, "max_points_per_centroid": rows}
    means = faiss.Kmeans(width, clusters, niter=iterations, seed=5, **sizes, **TO_THE_END)
    means.train(unit_of(points))
    _, assignments = means.index.search(unit_of(points), 1)
    assert found.assignments.tolist() == assignments[:, 0].tolist()


def test_restarts_are_those_of_faiss_and_the_best_is_kept() -> None:
    points, labels = blobs(spread=0.6)
    one_each = [clustering(points, labels, seed=2 + restart * 15486557) for restart in range(4)]
    best = clustering(points, labels, seed=2, restarts=4)
    objectives = [found.objective for found in one_each]
    assert len(set(objectives)) == 4
    assert best.objective == min(objectives)
    assert best.assignments.tolist() == one_each[int(np.argmin(objectives))].assignments.tolist()
    means = faiss.Kmeans(8, 6, niter=50, nredo=4, seed=2, min_points_per_centroid=1, **TO_THE_END)
    means.train(unit_of(points))
    assert best.assignments.tolist() == means.index.search(unit_of(points), 1)[1][:, 0].tolist()


def test_one_seed_gives_one_result_and_settings_matter() -> None:
    points, labels = blobs(spread=0.6)
    one = clustering(points, labels, seed=4)
    again = clustering(torch.from_numpy(points), labels, seed=4)
    assert one.assignments.tolist() == again.assignments.tolist()
    assert one == again
    assert clustering(points, labels, seed=5).assignments.tolist() != one.assignments.tolist()
    assert clustering(points, labels, seed=4, iterations=1).objective > one.objective
    assert clustering(points, labels, seed=2**40 + 4) == clustering(points, labels, seed=2**40 + 4)
    assert clustering(points, labels, clusters=2).clusters == 2
    assert set(clustering(points, labels, clusters=2).assignments.tolist()) == {0, 1}


def test_faiss_ends_before_empty_clusters_are_filled() -> None:
    """Newer versions stop where the objective repeats; here it falls on, by ten orders of magnitude."""
    if not TO_THE_END:
        pytest.skip("this faiss never stops early")
    points = with_duplicates(50, 3)
    means = faiss.Kmeans(3, 49, niter=20, seed=5, min_points_per_centroid=1)
    means.train(unit_of(points))
    distances, _ = means.index.search(unit_of(points), 1)
    assert len(means.obj) < 20
    assert distances.mean() > 1e-4
    assert clustering(points, np.arange(50), clusters=49, seed=5, iterations=20).objective < 1e-12


def test_threads_do_not_matter() -> None:
    points = np.random.default_rng(0).standard_normal((1500, 40)).astype(np.float32)
    before = faiss.omp_get_max_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            faiss.omp_set_num_threads(threads)
            found.append(clustering(points, np.arange(1500) // 15, iterations=6, restarts=2))
    finally:
        faiss.omp_set_num_threads(before)
    assert found[0] == found[1] == found[2]
    assert found[0].assignments.tolist() == found[1].assignments.tolist() == found[2].assignments.tolist()


def test_the_presets_are_those_of_the_papers() -> None:
    sec, norm_softmax = CLUSTERING_PRESETS["sec"], CLUSTERING_PRESETS["norm_softmax"]
    assert (sec.method, sec.iterations, sec.restarts, sec.nmi) == ("scikit-learn k-means", 300, 10, "nmi")
    found = (norm_softmax.method, norm_softmax.iterations, norm_softmax.restarts, norm_softmax.nmi)
    assert found == ("faiss k-means", 300, 10, "nmi_geometric")
    assert all(preset.source for preset in CLUSTERING_PRESETS.values())


@pytest.mark.parametrize("seed", [0, 3])
def test_sec_is_scikit_learn_with_ten_restarts(seed: int) -> None:
    points, labels = blobs(spread=0.6)
    found = clustering(points, labels, preset="sec", seed=seed)
    want = KMeans(6, n_init=10, max_iter=300, random_state=seed).fit(unit_of(points))
    assert found.assignments.tolist() == want.labels_.tolist()
    assert found.objective == pytest.approx(want.inertia_ / len(points), rel=1e-6)
    assert found.iterations_run == want.n_iter_
    assert (found.method, found.iterations, found.restarts) == ("scikit-learn k-means", 300, 10)
    assert found.reported_nmi == found.agreement.nmi == found.as_dict()["nmi"]
    first = KMeans(6, n_init=1, random_state=seed).fit(unit_of(points))
    assert first.labels_.tolist() != want.labels_.tolist()  # this data can tell one restart from ten


def test_norm_softmax_is_faiss_with_ten_restarts_and_the_geometric_mean() -> None:
    points, labels = blobs(spread=0.6)
    found = clustering(points, labels, preset="norm_softmax", clusters=4)
    same = clustering(points, labels, iterations=300, restarts=10, clusters=4)
    assert found.assignments.tolist() == same.assignments.tolist()
    assert found.reported_nmi == found.agreement.nmi_geometric == found.as_dict()["nmi_geometric"]
    assert found.reported_nmi != same.reported_nmi == found.agreement.nmi


def test_several_seeds_give_values_and_their_spread() -> None:
    points, labels = blobs(spread=0.6)
    found = clustering_over_seeds(points, labels, seeds=(4, 0, 9), iterations=7)
    alone = [clustering(points, labels, seed=seed, iterations=7) for seed in (4, 0, 9)]
    assert found.runs == tuple(alone)
    assert found.values["f1"] == [run.agreement.f1 for run in alone]
    assert len(set(found.values["f1"])) == 3
    assert found.summary["ami"] == seeds_summary([run.agreement.ami for run in alone])
    content = found.as_dict()
    assert content["seeds"] == [4, 0, 9]
    assert content["nmi"]["mean"] == pytest.approx(np.mean(found.values["nmi"]))
    assert content["nmi"]["sd"] == pytest.approx(np.std(found.values["nmi"], ddof=1))
    assert set(content["purity"]) == {"mean", "sd", "low", "high", "n", "values"}
    assert clustering_over_seeds(points, labels, seeds=[1]).as_dict()["f1"]["sd"] is None


def test_progress_is_told_and_reaches_its_end() -> None:
    points, labels = blobs(spread=0.6)
    told: list[tuple[int, int]] = []
    clustering(points, labels, iterations=4, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    told.clear()
    found = clustering(points, labels, restarts=2, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (100, 100)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert found.iterations_run < 50
    assert len(told) < 100  # both restarts settled early
    told.clear()
    clustering(points, labels, preset="sec", progress=lambda done, total: told.append((done, total)))
    assert told == [(restart, 10) for restart in range(1, 11)]
    told.clear()
    clustering_over_seeds(
        points, labels, seeds=(0, 1), iterations=2, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_more_rows_than_faiss_samples_are_all_used() -> None:
    """By itself faiss takes 256 rows a cluster; the far few would then mostly be missed."""
    points = np.tile(np.eye(2, dtype=np.float32)[:1], (3000, 1))
    points[-2:] = [[0, 1]]
    found = clustering(points, [0] * 2998 + [1] * 2, restarts=20, seed=1)
    assert found.objective < 1e-3
    assert found.as_dict()["f1"] == 1.0


@pytest.mark.parametrize("preset", sorted(CLUSTERING_PRESETS))
@pytest.mark.parametrize("clusters", [1, 3, 4, 5])
def test_fewer_distinct_rows_than_clusters(clusters: int, preset: str) -> None:
    points = np.array([[1, 0], [1, 0], [1, 0], [0, 0], [0, 1]], dtype=np.float32)
    found = clustering(points, [0, 0, 1, 1, 2], clusters=clusters, preset=preset)
    assert found.assignments.shape == (5,)
    assert 0 <= found.assignments.min() <= found.assignments.max() < clusters
    assert len(set(found.assignments[:3])) == 1  # equal rows stay together, however many clusters there are
    assert found.objective == pytest.approx(0, abs=1e-6) if clusters >= 3 and preset == "sec" else found.objective >= 0


@pytest.mark.parametrize("preset", sorted(CLUSTERING_PRESETS))
def test_all_rows_equal_or_zero(preset: str) -> None:
    for row in ([3.0, 4.0], [0.0, 0.0]):
        found = clustering(np.tile(np.array(row), (6, 1)), [0, 0, 1, 1, 2, 2], preset=preset)
        assert found.objective == pytest.approx(0, abs=1e-6)
        assert len(set(found.assignments.tolist())) == 1
        assert found.as_dict() == {"nmi": 0, "nmi_geometric": 0, "ami": 0, "f1": 1 / 3, "purity": 1 / 3}


@pytest.mark.parametrize("preset", sorted(CLUSTERING_PRESETS))
def test_one_class_and_one_image(preset: str) -> None:
    perfect = {"nmi": 1, "nmi_geometric": 1, "ami": 1, "f1": 1, "purity": 1}
    assert clustering(np.eye(3), [7, 7, 7], preset=preset).as_dict() == perfect
    assert clustering(np.eye(3)[:1], [7], preset=preset).as_dict() == {**perfect, "f1": 0}


def test_every_row_its_own_cluster() -> None:
    found = clustering(np.eye(4), [0, 1, 2, 3])
    assert sorted(found.assignments.tolist()) == [0, 1, 2, 3]
    assert found.objective == 0
    assert found.agreement.ami == 1


def test_any_layout_and_type_gives_the_same(tmp_path: Path) -> None:
    points, labels = blobs(spread=0.6)
    rounded = np.round(points * 4).astype(np.float16)  # small whole numbers: exact in every type
    rounded = np.clip(rounded, -64, 64)
    want = clustering(rounded.astype(np.float32), labels).assignments.tolist()
    np.save(tmp_path / "rows.npy", rounded)
    strided = np.zeros((len(rounded), 16))
    strided[:, ::2] = rounded
    tensor = torch.from_numpy(rounded)
    for given in (
        rounded,
        np.load(tmp_path / "rows.npy", mmap_mode="r"),
        strided[:, ::2],
        np.asfortranarray(rounded),
        tensor,
        tensor.bfloat16(),
        tensor.double().T.contiguous().T,
    ):
        assert clustering(given, labels).assignments.tolist() == want


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"clusters": 4}, SizeError, "4 clusters want at least as many rows, got 3"),
        ({"clusters": 0}, SettingsError, "clusters must be a whole number >= 1; got 0"),
        ({"clusters": 2.0}, SettingsError, "clusters must be a whole number >= 1; got 2.0"),
        ({"iterations": 0}, SettingsError, "iterations must be a whole number from 1 to 1000000"),
        ({"restarts": 0}, SettingsError, "restarts must be a whole number from 1 to 1000000"),
        ({"seed": 0.5}, SettingsError, "seed must be a whole number from 0 to 9223372036854775807; got 0.5"),
        ({"preset": "secs"}, SettingsError, "clustering preset must be 'default' or"),
        ({"preset": "sec", "restarts": 1}, SettingsError, "'sec' has 300 iterations and 10 restarts of its own"),
        ({"labels": [0, 1]}, SizeError, "want labels (3,)"),
        ({"embeddings": np.full((3, 2), np.nan)}, DataError, "3 of 3 rows"),
        ({"embeddings": np.array([[1, 0], [np.inf, 0], [0, 1]])}, DataError, "1 of 3 rows"),
        ({"embeddings": np.empty((0, 2)), "labels": []}, SizeError, "at least one row"),
    ],
)
def test_wrong_input_is_named(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    given = {"embeddings": np.eye(3), "labels": [0, 0, 1], **arguments}
    with pytest.raises(error) as caught:
        clustering(**given)
    assert words in str(caught.value)
    seeds = {"seeds": [given.pop("seed")]} if "seed" in given else {}
    with pytest.raises(error) as caught:
        clustering_over_seeds(**given, **seeds)
    assert words in str(caught.value)


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_are_some_and_differ(seeds: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match="at least one seed and no seed twice"):
        clustering_over_seeds(np.eye(3), [0, 0, 1], seeds=seeds)
    with pytest.raises(SettingsError, match="want seeds as a list of whole numbers, got 3"):
        clustering_over_seeds(np.eye(3), [0, 0, 1], seeds=3)  # type: ignore[arg-type]


def test_without_faiss_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SettingsError, match="clustering needs the package faiss-cpu"):
        clustering(np.eye(3), [0, 0, 1])
