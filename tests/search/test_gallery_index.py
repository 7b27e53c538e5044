"""A gallery searched through an approximate index: caught up with every commit, and never an answer that was deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cosphere.errors import SettingsError, SizeError
from cosphere.search import KINDS, Gallery, Index
from cosphere.search.answer import MEASURES

DIM = 16


def rows_of(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=(count, 4)) @ np.random.default_rng(99).normal(size=(4, DIM))).astype(np.float32)


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.create(tmp_path / "g", dim=DIM) as made:
        made.add(rows_of(2000), [f"i{n}" for n in range(2000)], {"n": list(range(2000))})
        yield made


def recall(gallery: Gallery, exact: Gallery, where: dict | None = None) -> float:
    """Share of the ten nearest that the index finds."""
    queries = rows_of(30, 7)
    found = gallery.search_many(queries, 10, where)
    want = exact.search_many(queries, 10, where)
    shared = [len({hit.id for hit in one} & {hit.id for hit in other}) for one, other in zip(found, want, strict=True)]
    return sum(shared) / sum(len(one) for one in want)


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "int8"])
def test_an_index_follows_additions_deletions_and_filters(kind: str, gallery: Gallery) -> None:
    index = gallery.use_index(kind, wanted_recall=0.9)
    assert index is not None
    assert index.check is not None
    with Gallery.open(gallery.path) as exact:
        assert recall(gallery, exact) > 0.85
        gallery.add(rows_of(300, 1), [f"new {n}" for n in range(300)], {"n": list(range(5000, 5300))})
        gone = [f"i{n}" for n in range(0, 600, 3)]
        gallery.delete(gone)
        assert recall(gallery, exact) > 0.85
        assert gallery.index is index  # caught up, not built again
        for hits in gallery.search_many(rows_of(50, 3), 50):
            assert not {hit.id for hit in hits} & set(gone)
        assert recall(gallery, exact, {"n": ("<", 1000)}) > 0.85
        assert recall(gallery, exact, {"n": ("<", 20)}) == 1  # few: exactly
        assert gallery.search(rows_of(1)[0], 5, {"n": -1}) == []
        gallery.delete(where={"n": ("<", 900)})
        gallery.search(rows_of(1)[0])
        assert gallery.index is not index  # more than a fifth is deleted
        assert recall(gallery, exact) > 0.85
        assert len(gallery.search(rows_of(1)[0], 10**5, {"n": ("<", 950)})) == 50
        gallery.compact()
        assert recall(gallery, exact) > 0.85
        gallery.close()
        assert gallery.index is None  # the memory is free
        assert recall(gallery, exact) > 0.85


def test_the_kind_is_checked_and_exact_goes_back(gallery: Gallery, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no index of kind 'hnws'"):
        gallery.use_index("hnws")
    gallery.use_index("hnsw")
    assert gallery.use_index("exact") is None
    assert gallery.index is None
    codes = Gallery.create(tmp_path / "codes", dim=DIM, holds="codes")
    with (
        codes,
        pytest.raises(SizeError, match="are packed codes; an index of kind 'hnsw' wants floats"),
    ):
        codes.use_index("hnsw")
    with codes, pytest.raises(SettingsError, match="holds codes, not floats"):
        codes.use_index("hnsw", precision="floats")
    with codes, pytest.raises(SettingsError, match="compares all rows and needs no index"):
        codes.build_index("bits")
    with Gallery.create(tmp_path / "small", dim=DIM) as small:
        small.add(rows_of(5), range(5))
        assert small.use_index("hnsw") is None
        assert [hit.id for hit in small.search(rows_of(5)[2], 1)] == ["2"]
        small.add(rows_of(1500, 4), [f"more {n}" for n in range(1500)])
        assert len(small.search(rows_of(5)[2], 3)) == 3
        assert small.index is not None


@pytest.mark.parametrize("kind", ["hnsw-bits", "ivf-bits", "coarse-bits"])
def test_codes_have_an_index_of_their_own(kind: str, tmp_path: Path) -> None:
    """Against Hamming distances of numpy, with a width that fills no byte."""
    dim, random = 93, np.random.default_rng(5)
    signs = np.sign(random.normal(size=(40, dim)))[random.integers(0, 40, 1400)]
    bits = np.where(random.random(signs.shape) < 0.12, -signs, signs) > 0
    codes = np.packbits(bits, axis=1)
    ids = [f"i{n}" for n in range(len(codes))]
    with Gallery.create(tmp_path / "g", dim=dim, holds="codes") as gallery:
        gallery.add(codes[:1300], ids[:1300], {"n": list(range(1300))})
        built = gallery.build_index(kind, wanted_recall=0.95)
        assert built.check is not None
        assert built.check.recall >= 0.95
        gallery.add(codes[1300:], ids[1300:], {"n": list(range(1300, 1400))})
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.index is not None
        assert (gallery.index.kind, gallery.index.dim) == (kind, dim)
        gallery.delete([f"i{n}" for n in range(30)])
        found = 0
        for query in range(40, 60):
            apart = (bits != bits[query]).sum(axis=1)[30:]
            hits = gallery.search(codes[query], k=10)
            scores = [round(dim * (1 - hit.score) / 2) for hit in hits]
            assert scores == [int((bits[int(hit.id[1:])] != bits[query]).sum()) for hit in hits]
            found += sum(score <= np.sort(apart)[9] for score in scores)
            few = gallery.search(codes[query], k=5, where={"n": ("<", 60)})  # exactly
            assert [round(dim * (1 - hit.score) / 2) for hit in few] == np.sort(apart[:30])[:5].tolist()
        assert found / 200 >= 0.9
        gallery.exact = True
        assert gallery.index is None


def verdict(score: float) -> bool:
    return bool(score > 0.8)


MODEL: Any = SimpleNamespace(id="", output_dim=DIM, calibration=SimpleNamespace(same=verdict))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bits"])
def test_scores_are_named_and_a_threshold_judges_cosines_only(kind: str, gallery: Gallery) -> None:
    """The first item is sought with itself: a verdict of False on it would be a wrong one."""
    rows, gallery.embedder = rows_of(2000), MODEL
    gallery.use_index(kind)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit[0]
    for exact in (False, True):
        gallery.exact = exact
        measure = "cosine" if exact else MEASURES[kind]
        for hit in gallery.search(rows[0], 40):
            cosine = cosines[int(hit.id[1:])]
            assert hit.measure == measure
            assert hit.same is (verdict(cosine) if measure == "cosine" else None)
            assert measure != "cosine" or hit.score == pytest.approx(cosine, abs=1e-6)
    assert {True, False} == {hit.same for hit in gallery.search(rows[0], 1000)}  # the test can fail
    gallery.exact = False
    assert gallery.search(rows[0], 5, {"n": -1}) == []


def test_scores_of_codes_are_never_judged(tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "g", dim=DIM, holds="both") as gallery:
        gallery.add(rows_of(1200), range(1200))
        gallery.embedder = MODEL
        for index in (None, "bits", "hnsw-bits"):
            if index is not None:
                gallery.use_index(index, precision="codes")
            hits = gallery.search(rows_of(1)[0], 5, precision="codes")
            assert {(hit.measure, hit.same) for hit in hits} == {("1 - 2 x share of differing bits", None)}
            assert {hit.measure for hit in gallery.search(rows_of(1)[0], 5)} == {"cosine"}


@pytest.mark.parametrize(("kind", "shortlist"), [("coarse-bits", 50), ("rerank", 20), ("hnsw", None)])
def test_as_many_are_found_as_are_asked_for(kind: str, shortlist: int | None, gallery: Gallery) -> None:
    query = rows_of(1, 7)[0]
    want = [hit.id for hit in gallery.search(query, 2000)]
    gallery.use_index(kind, **({} if shortlist is None else {"shortlist": shortlist}))
    for k in (10, 51, 300, 1500, 2000, 9999):
        ids = [hit.id for hit in gallery.search(query, k)]
        assert len(set(ids)) == len(ids) == min(k, 2000)
        assert kind != "rerank" or k <= 20 or ids == want[:k]  # beyond its shortlist it compares all rows
    few = {"n": ("<", 900)}
    assert len(gallery.search(query, 700, few)) == 700
    assert len(gallery.search(query, 1000, few)) == 900


def test_an_index_that_cannot_be_built_again_leaves_searches_exact(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gallery.use_index("bits", wanted_recall=0.01) is not None
    found = gallery._indexes["floats"]
    assert found is not None
    found.options["wanted_recall"] = 1.0  # which bits do not reach
    builds, build = [], Index.build

    def counted(*args: Any, **settings: Any) -> Index:
        builds.append(settings)
        return build(*args, **settings)

    monkeypatch.setattr(Index, "build", counted)
    gallery.delete(where={"n": ("<", 500)})
    with Gallery.open(gallery.path) as exact:
        for _ in range(2):
            assert recall(gallery, exact) == 1
            assert gallery.index is None
            assert "an index of kind 'bits' finds" in gallery.index_failure()
            assert "below the wanted 1.0" in gallery.index_failure()
            gallery.add(rows_of(1, 8), ["more"], existing="replace")
        assert gallery.search(rows_of(1, 8)[0], 1)[0].id == "more"
        assert len(builds) == 1  # and not at each search, nor at each commit
        found.options["wanted_recall"] = 0.01
        gallery.delete(where={"n": ("<", 1000)})
        assert recall(gallery, exact) > 0
        assert (len(builds), gallery.index is None, gallery.index_failure()) == (2, False, "")
    with pytest.raises(SettingsError, match=r"below the wanted 1\.0"):  # whoever asks for an index is told
        gallery.use_index("bits", wanted_recall=1.0)
    assert gallery.index is not None
