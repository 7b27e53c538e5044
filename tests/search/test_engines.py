"""Approximate kinds, filters and deletion, against plain NumPy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cosphere.checks import FEW_KEPT
from cosphere.errors import DataError, RunError, SettingsError, SizeError
from cosphere.rows import unit_rows
from cosphere.search import KINDS, Index, IndexSettings
from cosphere.search.engines import ENGINES
from cosphere.search.hamming import bit_rows, search_bits
from cosphere.search.index import REBUILD_SHARE

APPROXIMATE = ["coarse-bits", "hnsw", "hnsw-bits", "ivf", "ivf-bits"]
FLOATS = {"exact", "hnsw", "ivf"}
SIGNS = {"bits", "coarse-bits", "hnsw-bits", "ivf-bits"}


def drawn(count: int, width: int, seed: int = 0, classes: int = 40) -> torch.Tensor:
    """Rows around class centres, so that neighbours mean something."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    return centres[torch.arange(count) % classes] + 0.6 * torch.randn(count, width, generator=generator)


def scores_by_hand(queries: torch.Tensor, gallery: torch.Tensor, kind: str) -> np.ndarray:
    """(Q, G) what the kind compares by."""
    x, y = queries.double().numpy(), gallery.double().numpy()
    if kind in SIGNS:
        return (np.where(x > 0, 1, -1) @ np.where(y > 0, 1, -1).T) / x.shape[1]
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
    return x @ y.T


def nearest_by_hand(
    scores: np.ndarray, k: int, keep: np.ndarray | None = None, exclude: list[int] | None = None
) -> list[list[int]]:
    found = []
    for query, row in enumerate(scores):
        rows = [
            at for at in range(len(row)) if (keep is None or keep[at]) and (exclude is None or exclude[query] != at)
        ]
        found.append(sorted(rows, key=lambda at: (-round(row[at], 9), at))[:k])
    return found


def share(found: torch.Tensor, want: list[list[int]]) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), want, strict=True)]))


@pytest.mark.parametrize("kind", APPROXIMATE)
@pytest.mark.parametrize("kept", [None, 0.5, 0.02])
def test_an_approximate_kind_finds_nearly_all_that_is_kept(kind: str, kept: float | None) -> None:
    gallery, queries = drawn(2000, 64), drawn(12, 64, seed=1)
    keep = None if kept is None else np.random.default_rng(0).random(2000) < kept
    exclude = list(range(12))
    index = Index.build(gallery, kind, check_queries=0)
    found = index.search(queries, 10, exclude, keep=keep)
    scores = scores_by_hand(queries, gallery, kind)
    want = nearest_by_hand(scores, 10, keep, exclude)
    assert share(found.ids, want) > 0.9
    if kept == 0.02:
        assert kept < FEW_KEPT
        assert found.ids.tolist() == want  # exact over the few
    for query, (ids, values) in enumerate(zip(found.ids.tolist(), found.scores.tolist(), strict=True)):
        assert len(set(ids)) == 10
        assert query not in ids
        assert keep is None or keep[ids].all()
        np.testing.assert_allclose(values, scores[query, ids], atol=1e-6)
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("kind", ["exact", "float16", "int8", "bits", "asymmetric", "rerank"])
@pytest.mark.parametrize("kept", [0.5, 0.02])
def test_an_exhaustive_kind_finds_all_that_is_kept(kind: str, kept: float) -> None:
    gallery, queries = drawn(700, 24), drawn(6, 24, seed=1)
    keep = np.random.default_rng(3).random(700) < kept
    rows = np.flatnonzero(keep)
    exclude = [int(rows[0]), int(np.flatnonzero(~keep)[0]), -1, 1, 2, int(rows[1])]
    found = Index.build(gallery, kind, check_queries=0).search(queries, 8, exclude, keep=torch.from_numpy(keep))
    place = {int(row): at for at, row in enumerate(rows)}
    part = Index.build(gallery[torch.from_numpy(rows)], kind, check_queries=0)
    want = part.search(queries, 8, [place.get(row, -1) for row in exclude])
    assert found.ids.tolist() == rows[want.ids.numpy()].tolist()
    assert torch.equal(found.scores, want.scores)
    if kind == "exact":
        assert found.ids.tolist() == nearest_by_hand(scores_by_hand(queries, gallery, kind), 8, keep, exclude)


@pytest.mark.parametrize("queries", [1, 40])
@pytest.mark.parametrize("threads", [1, 3])
def test_bits_agree_with_hand_made_distances_for_few_and_many_queries(queries: int, threads: int) -> None:
    random = np.random.default_rng(0)
    gallery = random.integers(0, 256, (5000, 256), dtype=np.uint8)
    gallery[2500:] = gallery[:2500]  # ties, between the shares of two threads
    asked = gallery[:queries] ^ (random.random((queries, 256)) < 0.3)
    keep = np.arange(5000) % 3 > 0
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = search_bits(bit_rows(asked), bit_rows(gallery), 7, np.arange(queries), keep=keep)
    finally:
        torch.set_num_threads(before)
    for query in range(queries):
        apart = np.bitwise_count(asked[query] ^ gallery).sum(axis=1, dtype=np.int64)
        rows = [row for row in np.lexsort((np.arange(5000), apart)) if keep[row] and row != query][:7]
        assert found.ids[query].tolist() == rows
        assert found.scores[query].tolist() == pytest.approx((1 - 2 * apart[rows] / 2048).tolist())


@pytest.mark.parametrize("kind", ["ivf", "ivf-bits"])
@pytest.mark.parametrize("kept", [None, 0.5])
def test_a_query_visits_nprobe_lists_whatever_k(kind: str, kept: float | None, tmp_path: Path) -> None:
    gallery, queries = drawn(2000, 64, classes=2000), drawn(9, 64, seed=1)
    index = Index.build(gallery, kind, nlist=20, nprobe=2, check_queries=0)
    index.save(tmp_path / "index.npz")
    with np.load(tmp_path / "index.npz") as file:
        centres, assigned = file["centres"], file["assigned"]
    if kind == "ivf-bits":
        centres = np.where(np.unpackbits(centres, axis=1), 1.0, -1.0)
    keep = np.ones(2000, dtype=bool) if kept is None else np.random.default_rng(0).random(2000) < kept
    visited = int(2 / keep.mean())  # a filter widens the search
    nearest = np.argsort(-scores_by_hand(queries, torch.as_tensor(centres), kind), axis=1, kind="stable")[:, :visited]
    scores = scores_by_hand(queries, gallery, kind)
    for k in (1, 10, 40):
        found = index.search(queries, k, keep=None if kept is None else keep).ids.tolist()
        for query, lists in enumerate(nearest):
            inside = keep & np.isin(assigned, lists)
            assert inside.sum() >= k  # else the answer is exact
            assert found[query] == nearest_by_hand(scores[query : query + 1], k, inside)[0]
    assert index.search(queries, 1).ids.flatten().tolist() != [
        one[0] for one in nearest_by_hand(scores, 1)
    ]  # it can fail


@pytest.mark.parametrize("kind", ["hnsw", "hnsw-bits"])
def test_a_graph_that_was_read_links_rows_as_it_was_built(kind: str) -> None:
    settings = IndexSettings(m=2, ef_construction=77)
    engine = Index.build(drawn(50, 16), kind, check_queries=0, m=2, ef_construction=77)._engine
    for number in range(12):
        engine = ENGINES[kind].read({**engine.arrays(), "dim": np.array(16)}, settings, "cpu")
        assert engine._graph.hnsw.efConstruction == 77  # type: ignore[attr-defined]
        engine.add(unit_rows(drawn(1, 16, seed=number)))
    levels = engine.arrays()["levels"][50:]
    assert len(levels) == 12
    assert len(set(levels.tolist())) > 1  # drawn for each row, though only one is added after each reading


@pytest.mark.parametrize("kind", list(KINDS))
def test_deleted_rows_never_come_back(kind: str, tmp_path: Path) -> None:
    gallery = drawn(600, 32)
    index = Index.build(gallery, kind, check_queries=0, shortlist=600)
    near = index.search(gallery[:5], 3).ids
    assert not index.wants_rebuild
    index.delete(near.flatten())
    index.delete([599])
    index.save(tmp_path / "index.npz")
    for one in (index, Index.load(tmp_path / "index.npz")):
        assert int(one.dead.sum()) == len(near.unique()) + (599 not in near)
        for k in (3, 40):
            found = one.search(gallery[:5], k).ids
            assert not set(found.flatten().tolist()) & {*near.flatten().tolist(), 599}
            assert (found >= 0).all()
        assert one.self_check(gallery).recall > (0.3 if kind in SIGNS | {"asymmetric", "pq"} else 0.8)
    with pytest.raises(SizeError, match=r"gallery of 600, of which \d+ may be returned"):
        index.search(gallery[:1], 600)
    index.delete(np.arange(600) < 600 * REBUILD_SHARE + 1)
    assert index.wants_rebuild
    index.delete(np.ones(600, dtype=bool))
    with pytest.raises(SizeError, match="k=1, but no row can be returned"):
        index.search(gallery[:1], 1)


@pytest.mark.parametrize("kind", ["exact", "coarse-bits", "hnsw"])
def test_a_prepared_filter_answers_as_its_flags_do(kind: str) -> None:
    index, queries = Index.build(drawn(600, 32), kind, check_queries=0), drawn(5, 32, seed=1)
    flags = np.random.default_rng(0).random(600) < 0.4
    kept, plain = index.kept(flags), flags.copy()
    flags[:] = False  # the filter has its own copy
    for rows in ([], [1, 2, 3], np.flatnonzero(plain)[:20].tolist()):
        index.delete(rows)
        for _ in range(2):
            found, want = index.search(queries, 7, keep=kept), index.search(queries, 7, keep=plain & ~index.dead)
            assert torch.equal(found.ids, want.ids)
            assert not index.dead[found.ids.numpy()].any()
    index.add(drawn(1, 32, seed=2))
    with pytest.raises(SizeError, match=r"want keep \(601,\) bool, one flag for each of 601 rows of the gallery"):
        index.search(queries, 7, keep=kept)


@pytest.mark.parametrize("kind", [*APPROXIMATE, "exact", "bits", "rerank", "int8"])
def test_rows_added_later_are_found(kind: str) -> None:
    gallery = drawn(900, 32)
    index = Index.build(gallery[:600], kind, check_queries=0)
    index.delete([0, 1])
    index.add(3 * gallery[600:])
    assert len(index) == 900
    assert index.rows().shape == (900, 32)
    assert index.dead.tolist() == [True, True] + 898 * [False]
    found = index.search(gallery[[700, 0]], 5).ids
    assert int(found[0, 0]) == 700
    assert 0 not in found
    whole = Index.build(gallery, kind, check_queries=0)
    if kind not in ("hnsw", "hnsw-bits"):  # whose links depend on the order
        assert share(whole.search(gallery[:50], 5).ids, index.search(gallery[:50], 5).ids.tolist()) > 0.8
    with pytest.raises(SizeError, match="new rows have 31 dimensions, the index 32"):
        index.add(gallery[:, :31])
    with pytest.raises(DataError, match="1 of 1 row of new rows holds NaN"):
        index.add(gallery[:1] * torch.nan)


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_a_copy_on_disk_answers_the_same(kind: str, tmp_path: Path) -> None:
    gallery, queries = drawn(800, 40), drawn(9, 40, seed=4)
    index = Index.build(gallery, kind, m=8, nlist=20, nprobe=5, shortlist=60, ef_search=50, coarse_bits=16)
    index.save(tmp_path / "a" / "index.npz")
    again = Index.load(tmp_path / "a" / "index.npz")
    found, read = index.search(queries, 6, [0] * 9), again.search(queries, 6, [0] * 9)
    assert torch.equal(found.ids, read.ids)
    assert torch.equal(found.scores, read.scores)
    assert torch.equal(index.rows(), again.rows())
    assert (again.kind, again.check, again.bytes_per_image) == (kind, index.check, index.bytes_per_image)
    assert again.settings == index.settings
    assert index.settings.m == 8
    want = gallery / gallery.norm(dim=1, keepdim=True)
    if kind in FLOATS:
        torch.testing.assert_close(index.rows(), want)
    else:
        torch.testing.assert_close(index.rows(), torch.where(gallery > 0, 1.0, -1.0) / 40**0.5)


@pytest.mark.parametrize("kind", ["hnsw", "hnsw-bits"])
def test_galleries_of_one_and_of_equal_rows_in_a_graph(kind: str) -> None:
    same = Index.build(torch.ones(200, 5), kind)
    assert same.check is not None
    assert same.check.recall == 1.0
    for k in (3, 90, 199):
        ids = same.search(torch.ones(1, 5), k, exclude=[1]).ids[0].tolist()
        assert len(set(ids)) == k
        assert not set(ids) & {1, -1}


def test_more_is_looked_at_until_the_wanted_recall_is_reached() -> None:
    gallery = drawn(2000, 48, classes=2000)
    few = Index.build(gallery, "ivf", nprobe=1)
    assert few.check is not None
    assert few.check.recall < 0.9
    assert few.settings.nprobe == 1
    enough = Index.build(gallery, "ivf", wanted_recall=0.9)
    assert enough.check is not None
    assert enough.check.recall >= 0.9
    assert enough.settings.nprobe is not None
    assert 8 <= enough.settings.nprobe <= 44
    with pytest.raises(SettingsError, match=r"an index of kind 'ivf' finds 0\.\d+ of the 10 nearest"):
        Index.build(gallery, "ivf", nprobe=1, wanted_recall=0.9)
    with pytest.raises(SettingsError, match="an index of kind 'hnsw-bits' finds"):
        Index.build(gallery, "hnsw-bits", wanted_recall=0.999)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("hnsw", {"m": 1}, "m must be a whole number from 2 to 512; got 1"),
        ("hnsw", {"ef_construction": 0}, "ef_construction must be a whole number from 1 to 100000; got 0"),
        ("hnsw", {"ef_search": 2.5}, "ef_search must be a whole number from 1 to 100000; got 2.5"),
        ("ivf", {"nlist": 101}, "nlist must be a whole number from 1 to 100; got 101"),
        ("ivf", {"nprobe": 0}, "nprobe must be a whole number from 1 to 1000000; got 0"),
        ("coarse-bits", {"coarse_bits": 12}, "coarse_bits must be a multiple of 8; got 12"),
        ("coarse-bits", {"coarse_bits": 0}, "coarse_bits must be a whole number from 8 to 65536; got 0"),
        ("hnsw", {"efsearch": 5}, r"an index has no setting 'efsearch'\. Did you mean 'ef_search'\?"),
        ("hsnw", {}, r"there is no index of kind 'hsnw'\. Did you mean 'hnsw'\?"),
        ("auto", {"most_bytes": 0}, "most_bytes must be a number above 0"),
    ],
)
def test_settings_out_of_range(kind: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Index.build(drawn(100, 8), kind, **settings)


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (
            np.ones(99, dtype=bool),
            r"want keep \(100,\) bool, one flag for each of 100 rows of the gallery, got \(99,\)",
        ),
        (np.ones(100), r"want keep \(100,\) bool.*float64"),
        (torch.ones(100, 1, dtype=torch.bool), r"got \(100, 1\) bool"),
    ],
)
def test_a_filter_is_a_flag_for_each_row(keep: Any, words: str) -> None:
    with pytest.raises(SizeError, match=words):
        Index.build(drawn(100, 8), "hnsw", check_queries=0).search(drawn(1, 8), 1, keep=keep)


def parts_of(index: Index, path: Path) -> dict[str, np.ndarray]:
    index.save(path)
    with np.load(path) as found:
        return dict(found)


def test_a_strangers_links_are_checked_before_they_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "index.npz"
    good = parts_of(Index.build(drawn(900, 8), "hnsw", m=4, check_queries=0), path)
    links, levels = good["links"], good["levels"]
    assert levels.max() > 1
    beyond, low = links.copy(), links.copy()
    beyond[links >= 0] = 900
    ends = np.cumsum(8 + 4 * (levels.astype(int) - 1))
    high = int(np.flatnonzero(levels > 1)[0])
    low[ends[high] - 1] = int(np.flatnonzero(levels == 1)[0])  # a link on the second level to a row of the first
    wrong = {
        "a link leads to no row": good | {"links": beyond},
        "a link leads to a row without that level": good | {"links": low},
        r"links are \(\d+,\) int32": good | {"links": links[:-1]},
        r"links are \(\d+,\) int64": good | {"links": links.astype(np.int64)},
        "levels are not all from 1 to": good | {"levels": levels * 0},
        r"levels are \(899,\)": good | {"levels": levels[1:]},
        "entry are not all from 0 to 899": good | {"entry": np.array(900)},
        "the entry of the graph is not on its highest level": good | {"entry": np.argmin(levels)},
        "m must be a whole number from 2 to 512": good | {"m": np.array(10**9)},
        "it has no 'links'": {name: part for name, part in good.items() if name != "links"},
        "rows hold NaN": good | {"rows": good["rows"] * np.nan},
        r"want dead \(900,\) bool": good | {"dead": np.zeros(3, dtype=bool)},
    }
    for words, arrays in wrong.items():
        with path.open("wb") as file:
            np.savez(file, **arrays)
        with pytest.raises(RunError, match=words):
            Index.load(path)


@pytest.mark.parametrize("kind", ["ivf", "ivf-bits"])
def test_a_strangers_lists_are_checked(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "index.npz"
    good = parts_of(Index.build(drawn(400, 16), kind, check_queries=0), path)
    wrong = {
        "assigned are not all from 0 to 19": good | {"assigned": good["assigned"] + 20},
        r"assigned are \(399,\)": good | {"assigned": good["assigned"][1:]},
        r"assigned are \(400,\) float": good | {"assigned": good["assigned"].astype(float)},
        r"centres are \(20, 1\)": good | {"centres": good["centres"][:, :1].copy()},
    }
    for words, arrays in wrong.items():
        if kind == "ivf-bits" and "20, 1" in words:
            continue
        with path.open("wb") as file:
            np.savez(file, **arrays)
        with pytest.raises(RunError, match=words):
            Index.load(path)


def test_auto_takes_exact_search_where_it_is_quick() -> None:
    index = Index.build(drawn(500, 16), "auto")
    assert index.kind == "exact"
    assert index.reason.startswith("exact: one query over 500 rows takes about ")


def test_auto_takes_the_fastest_that_finds_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cosphere.search import choosing

    monkeypatch.setattr(choosing, "QUICK", 0.0)
    monkeypatch.setattr(choosing, "_FEWEST", 0)
    monkeypatch.setattr(choosing, "_CANDIDATES", ("exact", "float16", "bits", "int8"))
    seconds = {"PackedSigns": 1e-6, "Exhaustive": 1e-3}
    monkeypatch.setattr(choosing, "_seconds", lambda engine, sample: seconds[type(engine).__name__])
    gallery = drawn(3000, 64, classes=1500)
    index = Index.build(gallery, "auto", wanted_recall=0.9)
    assert index.kind in ("exact", "float16", "int8")  # bits are faster, and find too little
    assert index.check is not None
    assert index.check.recall >= 0.9
    assert "bits 0.001 ms a query, recall 0." in index.reason
    small = Index.build(gallery, "auto", wanted_recall=0.9, most_bytes=3000 * 64)
    assert small.kind == "int8"
    assert "of those within 192,000 bytes that reached a recall of 0.9" in small.reason
    small.save(tmp_path / "index.npz")
    assert Index.load(tmp_path / "index.npz").reason == small.reason
    loose = Index.build(gallery, "auto", wanted_recall=0.2, most_bytes=3000 * 8)
    assert loose.kind == "bits"
    with pytest.raises(
        SettingsError, match=r"no kind of index reaches a recall of 0\.99 for 3,000 rows in 24,000 bytes"
    ):
        Index.build(gallery, "auto", wanted_recall=0.99, most_bytes=3000 * 8)


def test_every_kind_that_looks_at_a_part_names_the_setting() -> None:
    names = {one.name for one in dataclasses.fields(IndexSettings)}
    efforts = {name: kind.effort for name, kind in ENGINES.items() if kind.effort}
    assert set(efforts) == {*APPROXIMATE, "rerank"}
    assert set(efforts.values()) <= names


@pytest.mark.parametrize("kind", ["hnsw", "hnsw-bits", "ivf", "ivf-bits"])
def test_faiss_whose_methods_others_have_replaced(kind: str) -> None:
    pytest.importorskip("faiss.contrib.torch_utils")  # as pytorch-metric-learning does; for the rest of the process
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 32)).astype(np.float32))
    index = Index.build(rows, kind, check_queries=0)
    keep = np.arange(300) % 2 == 0
    found = index.search(rows[:20:2], 1, keep=keep)
    assert found.ids[:, 0].tolist() == list(range(0, 20, 2))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([600], "got 600"),
        ([-1], "got -1"),
        ([3, -600], "got -600"),
        (torch.tensor([1, -2]), "got -2"),
        (-1, "got -1"),
        (None, "got NoneType"),
        (True, r"got \(\) bool"),
        (..., "got ellipsis"),
        (slice(3), "got slice"),
        ({4}, "got set"),
        ([1.0], r"got \(1,\) float64"),
        (["1"], "got list"),
        (np.ones(599, dtype=bool), r"got \(599,\) bool"),
        (np.zeros(0, dtype=bool), r"got \(0,\) bool"),
    ],
)
def test_rows_to_delete_are_row_numbers_or_a_mask(rows: Any, words: str) -> None:
    index = Index.build(drawn(600, 8), "exact", check_queries=0)
    with pytest.raises(
        SizeError, match=f"rows to delete do not fit 600 rows: {words}. Give numbers from 0 to 599, or a mask"
    ):
        index.delete(rows)
    assert not index.dead.any()
    for nothing in ([], (), np.zeros((0, 3), dtype=np.int64), torch.zeros(0)):
        index.delete(nothing)
    assert not index.dead.any()
    for some in (5, np.int64(7), range(2), (9, 9), torch.tensor([[20], [21]]), np.arange(600) == 30):
        index.delete(some)
    assert np.flatnonzero(index.dead).tolist() == [0, 1, 5, 7, 9, 20, 21, 30]
