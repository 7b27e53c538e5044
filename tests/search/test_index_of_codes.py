"""Indexes that are built from packed codes, without floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cosphere.codes import to_bits
from cosphere.errors import SettingsError, SizeError
from cosphere.search import KINDS, Index
from cosphere.search.self_check import check_search

SIGNS = ["bits", "coarse-bits", "hnsw-bits", "ivf-bits"]
DIM = 61


def drawn(count: int, seed: int) -> np.ndarray:
    """Rows around 30 centres."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((30, DIM))
    return (centres[np.arange(count) % 30] + 0.6 * random.standard_normal((count, DIM))).astype(np.float32)


@pytest.mark.parametrize("kind", SIGNS)
def test_codes_are_searched_as_the_signs_of_floats_are(kind: str, tmp_path: Path) -> None:
    rows, more, queries = drawn(900, 0), drawn(100, 1), drawn(9, 2)
    every = np.concatenate([rows, more])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        codes = to_bits(rows)
        floats, index = Index.build(rows, kind), Index.build(codes, kind, dim=DIM)
    finally:
        torch.set_num_threads(threads)
    assert index.dim == DIM
    assert index.check is not None
    for one, given in ((floats, more), (index, to_bits(more))):
        one.add(given)
        one.delete([5, 7])
    codes[:] = 0  # the index has its own copy
    index.save(tmp_path / "x.npz")
    apart = (np.sign(queries)[:, None] != np.sign(every)[None]).sum(axis=2)
    apart[:, [5, 7]] = DIM + 1
    for each in (index, Index.load(tmp_path / "x.npz")):
        found = each.search(to_bits(queries), k=8)
        assert torch.equal(found.ids, each.search(queries, k=8).ids)
        distances = np.take_along_axis(apart, found.ids.numpy(), axis=1)
        np.testing.assert_allclose(found.scores.numpy(), 1 - 2 * distances / DIM, atol=1e-6)
        assert (distances <= np.sort(apart, axis=1)[:, 7:8]).mean() > 0.9
        few = np.arange(1000) % 40 == 0
        exact = each.search(to_bits(queries), k=8, keep=few)
        assert np.array_equal(
            np.take_along_axis(apart, exact.ids.numpy(), axis=1), np.sort(apart[:, few], axis=1)[:, :8]
        )


def test_the_check_compares_with_exact_hamming_distances() -> None:
    codes = to_bits(drawn(400, 3))
    apart = np.unpackbits(codes[:, None] ^ codes[None], axis=2).sum(axis=2)
    random = np.random.default_rng(0).integers(0, 400, (400, 10))

    def guess(queries: torch.Tensor, k: int, exclude: torch.Tensor | None) -> object:
        assert exclude is not None
        return type("Found", (), {"ids": torch.from_numpy(random[exclude.numpy()])})

    check = check_search(guess, codes, k=10, count=400)  # type: ignore[arg-type]
    np.fill_diagonal(apart, 999)
    last = np.sort(apart, axis=1)[:, 9:10]
    right = [len({one for one in row if apart[at, one] <= last[at, 0]}) for at, row in enumerate(random.tolist())]
    assert 0 < check.recall < 0.3
    assert check.recall == pytest.approx(sum(right) / 4000)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SIGNS])
def test_kinds_of_floats_refuse_codes(kind: str) -> None:
    with pytest.raises(
        SizeError, match=f"gallery are packed codes; an index of kind '{kind}' wants floats. Take one of"
    ):
        Index.build(to_bits(drawn(300, 0)), kind)
    index = Index.build(drawn(300, 0), kind, check_queries=0)
    with pytest.raises(SizeError, match="queries are packed codes; an index of kind"):
        index.search(to_bits(drawn(2, 0)), k=1)


def test_codes_of_another_width() -> None:
    codes = to_bits(drawn(50, 0))
    with pytest.raises(SizeError, match="gallery are codes of 8 bytes; wanted 9, for 65 bits"):
        Index.build(codes, "bits", dim=65)
    with pytest.raises(SizeError, match="queries are codes of 7 bytes; wanted 8, for 61 bits"):
        Index.build(codes, "hnsw-bits", dim=DIM).search(codes[:, :7], k=1)


def test_auto_measures_the_kinds_that_compare_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = to_bits(drawn(3000, 0))
    quick = Index.build(codes, "auto", dim=DIM)
    assert quick.kind == "bits"
    assert quick.reason.startswith("bits: one query over 3,000 rows takes about")
    monkeypatch.setattr("cosphere.search.choosing.QUICK", 0)
    chosen = Index.build(codes, "auto", dim=DIM, wanted_recall=0.5)
    assert chosen.kind in SIGNS
    assert "hnsw 0" not in chosen.reason
    assert all(f"{kind} " in chosen.reason for kind in SIGNS)
    with pytest.raises(SettingsError, match="no kind of index reaches a recall of"):
        Index.build(codes, "auto", dim=DIM, wanted_recall=1.0, most_bytes=1)
