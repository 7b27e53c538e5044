"""A gallery as a file for other programs: all items of one committed state."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cosphere.codes import to_bits
from cosphere.errors import SettingsError
from cosphere.experiment import add_to_index
from cosphere.gallery import Space, Store, migration
from cosphere.search import Gallery, load_gallery
from cosphere.search.gallery_items import box_of

DIM = 24


def rows_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def test_exported_codes_are_an_index(tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "g", dim=DIM, holds="codes", model_id="m") as gallery:
        gallery.add(rows_of(30), range(30), {"label": "x", "path": [f"/{n}.jpg" for n in range(30)]})
        file = load_gallery(gallery.export(tmp_path / "x.npz"))
        assert file.index is not None
        assert (file.index.kind, file.index.model_id, file.named) == ("bits", "m", True)
        want = [hit.metadata["path"] for hit in gallery.search(rows_of(30)[4], 5)]
        assert [file.images.paths[at] for at in file.index.search(rows_of(30)[4:5], 5).ids[0].tolist()] == want


def test_exported_parquet_holds_every_column(tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "g", dim=DIM, holds="both") as gallery:
        metadata = [{"n": 1, "mixed": 1, "id2": True}, {"n": 2.5, "mixed": "x"}, {"embedding": "e", "other\n": "y"}]
        gallery.add(rows_of(3), ["a\nb", "🦊", "c"], metadata)
        table = pd.read_parquet(gallery.export(tmp_path / "x.parquet"))
    assert table["id"].tolist() == ["a\nb", "🦊", "c"]
    assert np.array_equal(np.stack(table["embedding"]), rows_of(3))
    assert [np.frombuffer(one, np.uint8).tolist() for one in table["code"]] == to_bits(rows_of(3)).tolist()
    assert table["n"].tolist()[:2] == [1, 2.5]
    assert table["mixed"].tolist()[:2] == ["1", "x"]
    assert table["metadata.embedding"].tolist()[2] == "e"
    assert table["other\n"].tolist()[2] == "y"


def test_an_export_is_of_one_state_while_the_gallery_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the pass that collects columns and the one that writes, an item comes with a new column and another kind of year."""
    with Gallery.create(tmp_path / "g", dim=DIM) as gallery:
        gallery.add(rows_of(3), range(3), {"year": [2001, 2002, 2003]})
        vectors, changes = Store.vectors, iter([{"year": "unknown", "new": "x"}, {"newer": 1.5}])

        def after_a_change(store: Store) -> Any:
            for change in itertools.islice(changes, 1):
                gallery.add(rows_of(1, len(gallery)), [f"late {len(gallery)}"], [change])
            return vectors(store)

        monkeypatch.setattr(Store, "vectors", after_a_change)
        table = pd.read_parquet(gallery.export(tmp_path / "x.parquet"))
    assert table["id"].tolist() == ["0", "1", "2", "late 3", "late 4"]
    assert table["year"].tolist()[:4] == ["2001", "2002", "2003", "unknown"]
    assert table["new"].tolist()[3] == "x"
    assert table[["year", "new", "newer"]].isna().sum().tolist() == [1, 4, 4]
    assert table["newer"].tolist()[4] == 1.5


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
def test_an_export_begins_again_when_the_rows_change(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.create(tmp_path / "g", dim=DIM, model_id="first") as gallery:
        gallery.add(rows_of(3), range(3))
        space, store = Store.space, gallery.store
        moves = iter([Space(dim=DIM, model_id="second"), Space(dim=9, model_id="third")])

        def before_a_switch(self: Store) -> Space:
            found = space(self)
            with monkeypatch.context() as patch:
                patch.setattr(Store, "space", space)
                for target in itertools.islice(moves, 1):
                    migration.begin(store, target)
                    for block in migration.waiting(store):
                        rows = np.full((3, target.dim), target.dim, np.float32)
                        migration.stage(store, block, rows, None)
                    migration.switch(store)
            return found

        monkeypatch.setattr(Store, "space", before_a_switch)
        file = gallery.export(tmp_path / f"x.{suffix}")
    if suffix == "npz":
        images = load_gallery(file).images
        assert (images.model_id, images.embeddings.tolist()) == ("third", np.full((3, 9), 9.0).tolist())
    else:
        assert pd.read_parquet(file)["embedding"].iloc[2].tolist() == [9.0] * 9


def test_an_export_takes_only_boxes_for_boxes(tmp_path: Path) -> None:
    edges = [
        (1, 2, 30, 40),
        ("left", "top", "right", "bottom"),
        (1.0, 2.0, 3.0, 4.0),
        (1, 2, 3, None),
        (1e300, 2, 3, 4),
    ]
    with Gallery.create(tmp_path / "g", dim=DIM) as gallery:
        columns = [dict(zip(("x_1", "y_1", "x_2", "y_2"), one, strict=True)) for one in edges]
        gallery.add(rows_of(5), range(5), columns)
        boxes = load_gallery(gallery.export(tmp_path / "x.npz")).images.boxes
        assert boxes is not None
        assert boxes.tolist() == [[1, 2, 30, 40], [-1] * 4, [1, 2, 3, 4], [-1] * 4, [-1] * 4]
        gallery.delete(["0", "2"])
        assert load_gallery(gallery.export(tmp_path / "x.npz")).images.boxes is None
    assert box_of(dict(zip(("x_1", "y_1", "x_2", "y_2"), ("1", "2", "30", "40"), strict=True))) == (1, 2, 30, 40)
    assert box_of({"x_1": True, "y_1": 2, "x_2": 30, "y_2": float("nan")}) is None


@pytest.mark.parametrize("holds", ["floats", "codes"])
def test_exported_faiss_indexes_answer_alike(holds: str, tmp_path: Path) -> None:
    import faiss

    with Gallery.create(tmp_path / "g", dim=DIM, holds=holds) as gallery:
        gallery.add(rows_of(60), [f"i{n}" for n in range(60)])
        file = gallery.export(tmp_path / "x.faiss")
        query = rows_of(1, 5)
        want = [hit.id for hit in gallery.search(query[0], 4)]
    ids = json.loads((tmp_path / "x.faiss.ids.json").read_text())
    if holds == "floats":
        _, found = faiss.read_index(str(file)).search(query, 4)
        assert [ids[at] for at in found[0]] == want
    else:
        _, found = faiss.read_index_binary(str(file)).search(to_bits(query), 4)
        assert ids[found[0, 0]] in want
        assert len(ids) == 60
    with pytest.raises(SettingsError, match=r"has suffix '\.csv'; wanted \.parquet, \.npz, \.faiss"):
        gallery.export(tmp_path / "x.csv")


@pytest.mark.parametrize("holds", ["floats", "codes"])
def test_an_export_is_added_with_its_ids(holds: str, tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "g", dim=DIM, holds=holds, model_id="m") as gallery:
        gallery.add(rows_of(4), ["a", "b", "c", "d"], {"path": ["/1.jpg", "/1.jpg", "/2.jpg", "/2.jpg"]})
        gallery.delete("c")
        before = {item.id: dict(item.metadata) for item in gallery}
        add_to_index(tmp_path / "again", gallery.export(tmp_path / "x.npz"))
    with Gallery.open(tmp_path / "again") as again:
        assert {item.id: dict(item.metadata) for item in again} == before
        assert again.space.holds == holds
        assert again.search(rows_of(4)[3], 1)[0].id == "d"


def test_whole_numbers_among_floats_stay_whole(tmp_path: Path) -> None:
    """9007199254740993 is no float: such a column is text, wherever the large number stands."""
    large = 9007199254740993
    for name, values in (("first", [large, 0.5, 1]), ("last", [1, 0.5, large]), ("whole", [1, large, 2])):
        with Gallery.create(tmp_path / name, dim=DIM) as gallery:
            gallery.add(rows_of(3), range(3), {"n": values})
            table = pd.read_parquet(gallery.export(tmp_path / f"{name}.parquet"))
        assert table["n"].tolist() == (values if name == "whole" else [str(value) for value in values])
