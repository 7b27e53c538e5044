"""Embedding the images of lists of pairs."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cosphere.data import Catalogue, Skipped
from cosphere.embeddings import Embeddings
from cosphere.errors import DataError
from cosphere.experiment.protocols.comparing import Embedded, _odd_pairs
from cosphere.experiment.protocols.verifying import ROWS_AT_ONCE, combined


class Disk:
    """A subject whose embeddings are numbers of the images, and some of whose images cannot be read."""

    def __init__(self, *lost: set[str]) -> None:
        self.lost = lost
        self.passes: list[list[str]] = []

    def embed(self, images: Catalogue, *, mirrored: bool = False) -> Embeddings:
        self.passes.append([Path(path).name for path in images.paths])
        lost = self.lost[mirrored]
        whole = [path for path in images.paths if Path(path).name not in lost]
        return Embeddings(
            embeddings=np.array([[int(Path(path).name), 10 * mirrored] for path in whole], dtype=np.float32),
            labels=np.zeros(len(whole), dtype=np.int64),
            paths=tuple(whole),
            class_names=("",),
            skipped=tuple(Skipped(path, "broken") for path in images.paths if path not in whole),
        )


def four(root: Path) -> Catalogue:
    return Catalogue(table=pd.DataFrame({"path": list("0123"), "label": "", "split": "all"}), root=root)


def test_mirror_images_are_those_of_the_images_that_were_read(tmp_path: Path) -> None:
    disk: Any = Disk({"1"}, {"1"})
    embedded = Embedded(disk, four(tmp_path), "sum")
    assert disk.passes == [["0", "1", "2", "3"], ["0", "2", "3"]]
    assert embedded.rows.tolist() == [[0, 10], [4, 10], [6, 10]]
    assert embedded.place.tolist() == [0, -1, 1, 2]


def test_an_image_that_is_lost_in_between_is_an_error(tmp_path: Path) -> None:
    disk: Any = Disk(set(), {"2"})
    with pytest.raises(DataError, match=r"2 could be read once and then no more"):
        Embedded(disk, four(tmp_path), "concat")


def test_odd_pairs_are_named() -> None:
    assert not _odd_pairs(np.array([[0, 1], [0, 2], [1, 2]]))
    assert _odd_pairs(np.array([[0, 1], [1, 0], [0, 1], [3, 3]])) == [
        "1 pair compares an image with itself",
        "2 pairs are listed more than once",
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_embeddings_are_combined_in_little_memory(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    plain, mirrored = (rng.normal(size=(3 * ROWS_AT_ONCE + 5, 4)).astype(np.float32) for _ in range(2))
    wide = plain.astype(np.float64), mirrored.astype(np.float64)
    wanted = {"none": wide[0], "sum": wide[0] + wide[1], "concat": np.hstack(wide)}
    for flip, rows in wanted.items():
        tracemalloc.start()
        found = combined(plain, mirrored, flip, dtype)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.dtype == dtype
        assert np.array_equal(found, rows.astype(dtype)), flip
        assert peak < found.nbytes + 10_000 + 2 * 8 * 4 * ROWS_AT_ONCE
