from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cosphere.errors import DataError, RunError, SettingsError, SizeError
from cosphere.search import Index, search


def drawn(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_an_index_answers_as_search_does_and_so_does_its_copy_on_disk(tmp_path: Path) -> None:
    gallery, queries = drawn(90, 12), drawn(7, 12, seed=1)
    exclude = [3, -1, 5, 6, 7, 8, 9]
    want = search(queries, gallery, k=6, exclude=exclude)
    index = Index.build(gallery.numpy())
    index.save(tmp_path / "deep" / "gallery.index")
    again = Index.load(tmp_path / "deep" / "gallery.index")
    for one in (index, again):
        found = one.search(queries, 6, exclude, block_bytes=1)
        assert torch.equal(found.ids, want.ids)
        assert torch.equal(found.scores, want.scores)
        assert (len(one), one.dim, one.kind) == (90, 12, "exact")


def test_unknown_kind_and_wrong_rows() -> None:
    with pytest.raises(SettingsError, match=r"there is no index of kind 'exat'\. Did you mean 'exact'\?"):
        Index.build(torch.eye(3), kind="exat")
    with pytest.raises(DataError, match="1 of 1 rows of gallery"):
        Index.build(torch.tensor([[float("inf"), 0.0]]))
    with pytest.raises(SizeError, match="k=4, but a query can have from 1 to 3"):
        Index.build(torch.eye(3)).search(torch.eye(3), 4)


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with pytest.raises(RunError, match="does not exist, so this is not an index"):
        Index.load(path)
    rows = np.eye(3, dtype=np.float32)
    wrong = {
        "it holds rows. Build it again": {"rows": rows},
        "has index format 2; this Cosphere reads 1": {"format": 2, "kind": np.array("exact"), "rows": rows},
        "no index of kind 'new'": {"format": 1, "kind": np.array("new"), "rows": rows},
        r"rows are \(3, 3\) float64": {"format": 1, "kind": np.array("exact"), "rows": rows.astype(np.float64)},
        "Object arrays cannot be loaded": {"format": 1, "kind": np.array("exact"), "rows": np.array([{}, {}])},
    }
    for words, arrays in wrong.items():
        with path.open("wb") as file:
            np.savez(file, **arrays)
        with pytest.raises((RunError, SettingsError), match=words):
            Index.load(path)
    Index.build(torch.eye(50)).save(path)
    whole = path.read_bytes()
    np.save(tmp_path / "rows.npy", rows)
    for broken in (b"", b"text", whole[: len(whole) // 2], (tmp_path / "rows.npy").read_bytes()):
        path.write_bytes(broken)
        with pytest.raises(RunError, match="is not an index"):
            Index.load(path)
