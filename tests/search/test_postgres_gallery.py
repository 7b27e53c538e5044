"""A gallery on a server answers as one in a folder does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from postgres_server import server as server

from cosphere.errors import DataError, SettingsError
from cosphere.models import Embedder
from cosphere.search import Gallery, PostgresGallery
from cosphere.search.any_gallery import AnyGallery

DIM, COUNT = 24, 150
_NAMES = (f"gallery{number}" for number in itertools.count())


@pytest.fixture
def both(server: str, tmp_path: Path) -> Iterator[tuple[Gallery, PostgresGallery]]:
    """The same items in a folder and on a server."""
    vectors = np.random.default_rng(0).standard_normal((COUNT, DIM)).astype(np.float32)
    ids = [f"i{place}" for place in range(COUNT)]
    columns = {"label": [f"class {place % 4}" for place in range(COUNT)], "n": list(range(COUNT))}
    with (
        Gallery.create(tmp_path / "g", dim=DIM, holds="both") as folder,
        PostgresGallery.create(server, next(_NAMES), dim=DIM, holds="both") as remote,
    ):
        for gallery in (folder, remote):
            gallery.add(vectors, ids, columns)
        yield folder, remote
        remote.store.drop()


def answers(gallery: AnyGallery, **options: object) -> list[list[tuple[str, float]]]:
    queries = np.random.default_rng(1).standard_normal((6, DIM)).astype(np.float32)
    found = gallery.search_many(queries, **options)  # type: ignore[arg-type]
    return [[(hit.id, round(hit.score, 5)) for hit in answer] for answer in found]


@pytest.mark.slow
def test_answers_are_the_same(both: tuple[Gallery, PostgresGallery]) -> None:
    folder, remote = both
    for options in (
        {"k": 5},
        {"k": 5, "precision": "codes"},
        {"k": 500, "where": {"label": "class 3"}},
        {"k": 4, "where": [{"n": ("<", 9)}, {"label": ("!=", "class 1")}]},
    ):
        assert answers(remote, **options) == answers(folder, **options), options
    assert [hit.id for hit in remote.search(id="i7", k=3)] == [hit.id for hit in folder.search(id="i7", k=3)]
    for precision, measure in (("floats", "cosine"), ("codes", "1 - 2 x share of differing bits")):
        for gallery in both:
            assert {hit.measure for hit in gallery.search(id="i7", precision=precision)} == {measure}  # type: ignore[arg-type]
    remote.build_index(m=8)
    assert remote.indexes == ("code", "vector")
    assert answers(remote, k=1) == answers(folder, k=1)
    remote.exact = True
    assert answers(remote, k=9) == answers(folder, k=9)


@pytest.mark.slow
def test_rows_in_half_precision_are_rounded_and_said_to_be(server: str) -> None:
    with PostgresGallery.create(server, next(_NAMES), dim=DIM, stored="float16") as gallery:
        gallery.add(np.ones((1, DIM), dtype=np.float32), ["one"])
        gallery.embedder = cast(Embedder, SimpleNamespace(id="", output_dim=DIM, calibration=object()))
        (hit,) = gallery.search(np.ones(DIM, dtype=np.float32))
        assert (hit.measure, hit.same) == ("cosine of rounded rows", None)
        gallery.store.drop()


@pytest.mark.slow
def test_changes_are_the_same(both: tuple[Gallery, PostgresGallery], tmp_path: Path) -> None:
    for number, gallery in enumerate(both):
        assert gallery.delete("i3").ids == ("i3",)
        assert len(gallery.delete(where={"label": "class 2"}).ids) == 37
        assert tuple(gallery.upsert(np.ones((1, DIM), dtype=np.float32), ["i5"], [{"label": "new"}])) == (0, 1, 0)
        assert (len(gallery), "i3" in gallery, "i5" in gallery) == (112, False, True)
        item = gallery.get("i5")
        assert (item.metadata, item.thumbnail) == ({"label": "new"}, None)
        assert item.embedding is not None
        assert item.code is not None
        assert item.embedding.tolist() == [1.0] * DIM
        assert item.code.tolist() == [255] * (DIM // 8)
        with pytest.raises(DataError, match="'i3' is not an id of"):
            gallery.get("i3")
        gallery.compact()
        gallery.export(tmp_path / f"{number}.parquet")
    import pandas as pd

    one, other = (pd.read_parquet(tmp_path / f"{number}.parquet").sort_values("id") for number in (0, 1))
    columns = ["id", "label", "n", "code"]
    assert one[columns].fillna(-1).values.tolist() == other[columns].fillna(-1).values.tolist()
    assert np.stack(one["embedding"]).tolist() == np.stack(other["embedding"]).tolist()


def test_a_gallery_wants_a_width() -> None:
    with pytest.raises(SettingsError, match="how wide are the embeddings"):
        PostgresGallery.create("dbname=x", "a")
