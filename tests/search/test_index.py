from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cosphere.codes import to_bits
from cosphere.errors import DataError, RunError, SettingsError, SizeError
from cosphere.search import KINDS, Index, asymmetric_search, hamming_search, reranked_search, search


def drawn(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


EXHAUSTIVE = ["exact", "float16", "int8", "bits", "asymmetric", "rerank", "pq"]
BYTES = {"exact": 48, "float16": 24, "int8": 12, "bits": 2, "asymmetric": 2, "rerank": 50, "pq": 2}


@pytest.mark.parametrize("kind", EXHAUSTIVE)
def test_an_index_answers_as_search_does_and_so_does_its_copy_on_disk(kind: str, tmp_path: Path) -> None:
    gallery, queries = drawn(300, 12), drawn(7, 12, seed=1)
    exclude = [3, -1, 5, 6, 7, 8, 9]
    index = Index.build(gallery.numpy(), kind, shortlist=20)
    index.save(tmp_path / "deep" / "gallery.index")
    again = Index.load(tmp_path / "deep" / "gallery.index")
    codes = to_bits(gallery)
    want = {
        "exact": lambda: search(queries, gallery, k=6, exclude=exclude),
        "bits": lambda: hamming_search(to_bits(queries), codes, k=6, exclude=exclude, dim=12),
        "asymmetric": lambda: asymmetric_search(queries, codes, k=6, exclude=exclude),
        "rerank": lambda: reranked_search(queries, gallery, k=6, shortlist=20, exclude=exclude),
    }.get(kind, lambda: search(queries, index.rows(), k=6, exclude=exclude))()
    for one in (index, again):
        found = one.search(queries, 6, exclude, block_bytes=1)
        assert torch.equal(found.ids, want.ids)
        torch.testing.assert_close(found.scores, want.scores, atol=0 if kind == "exact" else 1e-6, rtol=0)
        assert (len(one), one.dim, one.kind, one.bytes_per_image) == (300, 12, kind, BYTES[kind])
        assert one.rows().shape == (300, 12)
    assert again.check == index.check
    assert again.shortlist == 20
    first = index.search(queries, 6, exclude)
    assert torch.equal(again.search(queries, 6, exclude).scores, first.scores)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_check_is_the_overlap_with_exact_search(kind: str) -> None:
    gallery, queries = drawn(400, 16), drawn(25, 16, seed=1)
    index = Index.build(gallery, kind, shortlist=30)
    assert index.check is not None
    assert (index.check.k, index.check.queries) == (10, 100)
    exact, ours = search(queries, gallery, k=10).ids.tolist(), index.search(queries, 10).ids.tolist()
    want = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, ours, strict=True)])
    found = index.self_check(gallery * 2, queries, k=10)
    assert found.recall == pytest.approx(want)
    assert found.queries == 25
    if kind not in ("hnsw", "ivf"):  # which find all of so few
        assert (found.recall == 1.0) == (kind in ("exact", "float16"))
    if kind == "exact":
        assert index.check.recall == 1.0
    assert Index.build(gallery, kind, check_queries=0).check is None


def test_a_recall_below_what_was_wanted_is_an_error() -> None:
    x = drawn(300, 16)
    with pytest.raises(SettingsError, match=r"an index of kind 'bits' finds 0\.\d+ of the 10 nearest rows of exact"):
        Index.build(x, "bits", wanted_recall=0.99)
    assert Index.build(x, "bits", wanted_recall=0.1).self_check(x, wanted=0.1).recall < 0.99
    assert Index.build(x, wanted_recall=1.0).kind == "exact"
    with pytest.raises(SettingsError, match=r"wanted_recall must be a number >= 0 and at most 1, finite; got 2"):
        Index.build(x, wanted_recall=2)
    with pytest.raises(SettingsError, match="wanted_recall needs a check, but check_queries is 0"):
        Index.build(x, wanted_recall=1.0, check_queries=0)
    with pytest.raises(SizeError, match="the index has 300 rows of 16 dimensions, got 299 of 16"):
        Index.build(x).self_check(x[1:])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pq"])
def test_small_and_degenerate_galleries(kind: str) -> None:
    one = Index.build(drawn(1, 5), kind)
    assert one.check is not None
    assert (one.check.recall, one.check.k, one.check.queries) == (1.0, 1, 1)
    assert one.search(drawn(3, 5), 1).ids.tolist() == [[0], [0], [0]]
    same = Index.build(torch.ones(20, 5), kind)
    assert same.check is not None
    assert same.check.recall == 1.0  # all rows are as good as each other
    if not kind.startswith("hnsw"):  # a graph reaches any of the equal ones
        assert same.search(torch.ones(1, 5), 3, exclude=[1]).ids.tolist() == [[0, 2, 3]]
    zeros = Index.build(torch.zeros(6, 5), kind)
    assert torch.isfinite(zeros.search(drawn(2, 5), 6).scores).all()
    half = Index.build(drawn(30, 5).half(), kind)
    assert len(half.search(drawn(2, 5).bfloat16(), 2).ids) == 2


def test_beyond_its_shortlist_re_ranking_is_exact_search() -> None:
    index = Index.build(drawn(40, 8), "rerank", shortlist=5)
    assert index.check is not None
    assert index.check.k == 5
    queries, exact = drawn(2, 8, 3), Index.build(drawn(40, 8), "exact")
    for k, keep in ((6, None), (40, None), (10, np.arange(40) % 3 == 0), (6, np.arange(40) < 6)):
        found, want = index.search(queries, k, keep=keep), exact.search(queries, k, keep=keep)
        assert torch.equal(found.ids, want.ids)
        assert torch.equal(found.scores, want.scores)
    five = index.search(queries, 5).ids  # and up to it a list of the bits
    assert [set(row) for row in five.tolist()] == [
        set(row) for row in Index.build(drawn(40, 8), "bits").search(queries, 5).ids.tolist()
    ]
    with pytest.raises(SettingsError, match="shortlist must be a whole number >= 1; got 0"):
        Index.build(drawn(40, 8), "rerank", shortlist=0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pq"])
def test_wrong_rows_and_queries(kind: str) -> None:
    with pytest.raises(DataError, match="1 of 1 row of gallery holds"):
        Index.build(torch.tensor([[float("inf"), 0.0]]), kind)
    with pytest.raises(SizeError, match="floating type"):
        Index.build(np.zeros((3, 2), dtype=np.int16), kind)
    index = Index.build(torch.eye(3), kind)
    with pytest.raises(SizeError, match="k=4, but a query can have from 1 to 3"):
        index.search(torch.eye(3), 4)
    with pytest.raises(SizeError, match="queries have 2 dimensions, the gallery"):
        index.search(torch.eye(2), 1)
    with pytest.raises(DataError, match="1 of 1 row of queries holds"):
        index.search(torch.tensor([[0.0, 1.0, float("nan")]]), 1)


def test_unknown_kind_and_too_few_rows_to_train() -> None:
    with pytest.raises(SettingsError, match=r"there is no index of kind 'exat'\. Did you mean 'exact'\?"):
        Index.build(torch.eye(3), kind="exat")
    with pytest.raises(SizeError, match="wants as many rows, got 3"):
        Index.build(torch.eye(3), kind="pq")
    with pytest.raises(SettingsError, match="parts must be a whole number from 1 to 4; got 0"):
        Index.build(drawn(256, 4), kind="pq", parts=0)


def arrays_of(index: Index, path: Path) -> dict[str, np.ndarray]:
    index.save(path)
    with np.load(path) as found:
        return dict(found)


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with pytest.raises(RunError, match="does not exist, so this is not an index"):
        Index.load(path)
    rows = np.eye(3, dtype=np.float32)
    good = arrays_of(Index.build(rows), path)
    bits = arrays_of(Index.build(rows, "rerank"), path)
    quantised = arrays_of(Index.build(drawn(256, 4), "pq"), path)
    wrong = {
        "it holds rows. Build it again": {"rows": rows},
        "has index format 1; this Cosphere reads 2 and 3": good | {"format": 1},
        "no index of kind 'new'": good | {"kind": np.array("new")},
        r"rows are \(3, 3\) float64": good | {"rows": rows.astype(np.float64)},
        r"rows are \(3, 2\) float32": good | {"rows": rows[:, :2]},
        "rows hold NaN or infinity": good | {"rows": rows * np.nan},
        "it has no 'kept'": {name: part for name, part in bits.items() if name != "kept"},
        r"kept are \(3, 2\) uint8": bits | {"kept": np.zeros((3, 2), np.uint8)},
        "3 rows and 2 codes": bits | {"kept": bits["kept"][:2]},
        r"words are \(1, 255, 4\) float32": quantised | {"words": quantised["words"][:, :255]},
        "words hold NaN or infinity": quantised | {"words": quantised["words"] * np.nan},
        "can only convert an array of size 1": good | {"format": np.arange(3)},
        "cannot convert float infinity": good | {"dim": np.inf},
        "holds pickled objects": good | {"rows": np.array([{}, {}])},
    }
    for words, arrays in wrong.items():
        with path.open("wb") as file:
            np.savez(file, **arrays)
        with pytest.raises(RunError, match=words):
            Index.load(path)
    Index.build(torch.eye(50)).save(path)
    whole = path.read_bytes()
    np.save(tmp_path / "rows.npy", rows)
    for broken in (b"", b"text", whole[: len(whole) // 2], (tmp_path / "rows.npy").read_bytes()):
        path.write_bytes(broken)
        with pytest.raises(RunError, match="is not an index"):
            Index.load(path)
