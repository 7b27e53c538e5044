"""A gallery that changes: its answers are those of an exact search over what it holds, and images come in through a model."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cosphere.codes import to_bits
from cosphere.embeddings import Embeddings
from cosphere.errors import DamagedError, DataError, RunError, SettingsError, SizeError
from cosphere.gallery import parse
from cosphere.models import Calibration, Embedder, EmbedderSettings, build_embedder
from cosphere.search import Gallery, hamming_search, load_gallery, search
from cosphere.search.held import Held

DIM = 24


def rows_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3000 items with a label and a number, of which every third was deleted."""
    path = tmp_path_factory.mktemp("gallery") / "g"
    with Gallery.create(path, dim=DIM, holds="both", model_id="a" * 64) as gallery:
        metadata = {"label": [f"l{n % 5}" for n in range(3000)], "n": list(range(3000))}
        gallery.add(rows_of(3000), [f"i{n}" for n in range(3000)], metadata)
        gallery.delete([f"i{n}" for n in range(0, 3000, 3)])
    return path


@pytest.fixture
def filled(original: Path, tmp_path: Path) -> Iterator[Gallery]:
    shutil.copytree(original, tmp_path / "g")
    with Gallery.open(tmp_path / "g") as gallery:
        yield gallery


def sides(queries: np.ndarray, rows: np.ndarray, by_bits: bool) -> tuple[np.ndarray, np.ndarray]:
    return (to_bits(queries), to_bits(rows)) if by_bits else (queries, rows)


FILTERS: list[tuple[Any, Any]] = [
    (None, lambda n: True),
    ({"label": "l2"}, lambda n: n % 5 == 2),
    ({"n": ("<", 100)}, lambda n: n < 100),  # few: searched alone
    ({"n": ("<", 2500)}, lambda n: n < 2500),  # many: the others are hidden
    ({"label": ("!=", "l2"), "n": (">=", 10)}, lambda n: n % 5 != 2 and n >= 10),
]


@pytest.mark.parametrize("precision", ["floats", "codes"])
def test_answers_are_those_of_exact_search_over_what_is_left(precision: Any, filled: Gallery) -> None:
    rows, queries = rows_of(3000), rows_of(5, seed=1)
    filled.search(queries[0])  # holds the rows before they change
    filled.delete(["i1"])
    filled.add(rows_of(1, seed=2), ["new"], [{"n": 50, "label": "l2"}])
    numbers = [n for n in range(3000) if n % 3 and n != 1]
    rows = np.concatenate([rows, rows_of(1, seed=2)])
    for where, keeps in FILTERS:
        kept = [n for n in numbers if keeps(n)]
        if where is None or parse(where).holds("new", {"n": 50, "label": "l2"}):
            kept.append(3000)
        names = [f"i{n}" if n < 3000 else "new" for n in kept]
        by_bits = precision == "codes"
        want = (hamming_search if by_bits else search)(*sides(queries, rows[kept], by_bits), k=7)
        found = filled.search_many(queries, 7, where, precision=precision)
        assert [[hit.id for hit in hits] for hits in found] == [
            [names[at] for at in ids] for ids in want.ids.tolist()
        ], where
        assert np.allclose([[hit.score for hit in hits] for hits in found], want.scores.numpy(), atol=1e-6)


def test_equal_rows_are_found_in_the_order_in_which_they_were_added(tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "g", dim=DIM, holds="both") as gallery:
        for turn in range(4):
            gallery.add(np.repeat(rows_of(1), 400, axis=0), [f"{turn} {n:03}" for n in range(400)])
        for precision in ("floats", "codes"):
            found = gallery.search(rows_of(1)[0], 500, precision=precision)  # type: ignore[arg-type]
            assert [hit.id for hit in found] == [f"{n // 400} {n % 400:03}" for n in range(500)]


def test_a_search_of_float32_gives_the_bits_of_the_evaluation(filled: Gallery) -> None:
    numbers = [n for n in range(3000) if n % 3]
    queries = rows_of(5, seed=1)
    fresh = Gallery.open(filled.path)
    scores = [[hit.score for hit in hits] for hits in fresh.search_many(queries, 9)]
    assert np.array_equal(np.array(scores, np.float32), search(queries, rows_of(3000)[numbers], k=9).scores.numpy())


def test_k_above_the_size_gives_all_and_an_empty_gallery_nothing(tmp_path: Path, filled: Gallery) -> None:
    assert len(filled.search(rows_of(1)[0], 10**6)) == 2000
    assert len(filled.search(rows_of(1)[0], 10**6, {"label": "l1"})) == 400
    assert filled.search(rows_of(1)[0], 5, {"label": "none"}) == []
    with Gallery.create(tmp_path / "empty", dim=DIM) as empty:
        assert empty.search(rows_of(1)[0]) == []
        assert len(empty) == 0
        assert list(empty) == []
        assert empty.delete(where={"label": "x"}).ids == ()
        with pytest.raises(DataError, match="is empty, so there is nothing to export"):
            empty.export(tmp_path / "x.npz")


def test_an_item_searches_for_others(filled: Gallery) -> None:
    found = filled.search(id="i1", k=3)
    want = search(rows_of(3000)[1:2], rows_of(3000)[[n for n in range(3000) if n % 3]], k=4)
    assert [hit.score for hit in found] == want.scores[0, 1:].tolist()
    assert "i1" not in [hit.id for hit in found]
    assert len(filled.search(id="i1", k=5000)) == 1999
    with pytest.raises(DataError, match="'i0' is not an id of"):
        filled.search(id="i0")


def test_get_gives_back_what_was_added(filled: Gallery) -> None:
    item = filled.get("i2999")
    assert np.array_equal(item.embedding, rows_of(3000)[2999])
    assert np.array_equal(item.code, to_bits(rows_of(3000))[2999])
    assert dict(item.metadata) == {"label": "l4", "n": 2999}
    assert item.thumbnail is None
    assert "i2999" in filled
    assert "i0" not in filled
    assert [item.id for item in filled][:3] == ["i1", "i2", "i4"]


@pytest.mark.parametrize(
    ("query", "options", "error"),
    [
        (np.ones(DIM + 1, np.float32), {}, r"holds embeddings of width 24; the query is \(25,\) float32"),
        (np.ones(3, np.uint8), {}, "is searched by float embeddings, got a packed code"),
        (np.ones(4, np.uint8), {"precision": "codes"}, "holds codes of 3 bytes; the query has 4"),
        (np.ones(DIM, np.int64), {}, r"the query is \(24,\) int64"),
        (np.full(DIM, np.nan, np.float32), {}, "1 of 1 row of queries holds NaN or infinity"),
        (np.zeros(DIM, np.float32), {}, "a query is zero and has no direction"),
        ("query.jpg", {}, "was opened without a model, which is needed to search with images"),
        (np.ones(DIM, np.float32), {"k": 0}, "k must be a whole number from 1 to"),
        (np.ones(DIM, np.float32), {"where": "label = 'x'"}, "SQL is not read"),
        (np.ones(DIM, np.float32), {"precision": "bits"}, "precision must be 'floats' or 'codes'"),
        (np.ones(DIM, np.float32), {"id": "i1"}, "a search wants one query"),
    ],
)
def test_what_cannot_be_searched_is_explained(query: Any, options: dict, error: str, filled: Gallery) -> None:
    with pytest.raises((DataError, SizeError, SettingsError), match=error):
        filled.search(query, **options)


def test_what_cannot_be_added_is_explained(tmp_path: Path, filled: Gallery) -> None:
    with pytest.raises(DataError, match="want an id for each of 2 embeddings"):
        filled.add(rows_of(2))
    with pytest.raises(SizeError, match="holds float embeddings, got packed codes"):
        filled.add(to_bits(rows_of(2)), ["a", "b"])
    with pytest.raises(SizeError, match=r"holds embeddings of width 24; got \(2, 23\) float32"):
        filled.add(rows_of(2)[:, 1:], ["a", "b"])
    bad = rows_of(2)
    bad[1, 0] = np.nan
    with pytest.raises(DataError, match=r"1 embedding \('b'\) holds NaN or infinity"):
        filled.add(bad, ["a", "b"])
    with pytest.raises(SizeError, match="column 'x' has 3 values for 2 items"):
        filled.add(rows_of(2), ["a", "b"], {"x": [1, 2, 3]})
    with pytest.raises(SettingsError, match="how wide are the embeddings"):
        Gallery.create(tmp_path / "other")
    assert len(filled) == 2000


def test_galleries_of_codes_and_of_floats(tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "codes", dim=DIM, holds="codes") as gallery:
        gallery.add(rows_of(50), list(range(50)))
        gallery.add(to_bits(rows_of(10, 1)), [f"code {n}" for n in range(10)])
        assert [hit.id for hit in gallery.search(rows_of(50)[7], 1)] == ["7"]
        assert [hit.id for hit in gallery.search(to_bits(rows_of(10, 1))[3], 1)] == ["code 3"]
        assert gallery.get("7").embedding is None
        with pytest.raises(SettingsError, match="holds codes, not floats"):
            gallery.search(rows_of(1)[0], precision="floats")
    with Gallery.create(tmp_path / "floats", dim=DIM) as gallery:
        gallery.add(
            torch.from_numpy(rows_of(5)).double(),
            list("abcde"),
            pd.DataFrame({"x": [1, 2, None, 4, 5], "y": list("vwxyz")}),
        )
        assert dict(gallery.get("c").metadata) == {"y": "x"}
        assert dict(gallery.get("d").metadata) == {"x": 4.0, "y": "y"}
        assert gallery.get("a").code is None


def test_a_second_process_sees_what_was_committed(filled: Gallery) -> None:
    with Gallery.open(filled.path) as reader:
        query = rows_of(1, seed=9)[0]
        assert "late" not in [hit.id for hit in reader.search(query)]
        before = reader.refresh()
        filled.add(query[None], ["late"])
        assert [hit.id for hit in reader.search(query, 1)] == ["late"]
        assert reader.refresh() == before + 1
        filled.upsert(-query[None], ["late"])
        assert "late" not in [hit.id for hit in reader.search(query)]
        filled.compact()
        assert len(reader.search(query, 10**6)) == 2001


def test_searches_from_several_threads(filled: Gallery) -> None:
    queries = rows_of(40, seed=3)
    want = [[hit.id for hit in filled.search(query, 3)] for query in queries]
    found: dict[int, list[str]] = {}

    def work(numbers: range) -> None:
        for number in numbers:
            found[number] = [hit.id for hit in filled.search(queries[number], 3)]

    threads = [threading.Thread(target=work, args=(range(start, 40, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(40)] == want


def test_a_remembered_filter_follows_the_commits(filled: Gallery) -> None:
    query, where = rows_of(1, 8)[0], {"label": "new"}
    for turn in range(6):
        filled.search(query, 1, {"n": turn})  # more filters than are remembered
        assert len(filled.search(query, 10, where)) == turn
        assert len(filled.search(query, 10, where)) == turn
        filled.add(rows_of(1, 100 + turn), [f"new {turn}"], where)
    filled.delete(["new 0"])
    assert len(filled.search(query, 10, where)) == 5
    assert len(filled._filtered) == 1


def test_rows_are_read_ahead_of_the_first_search(original: Path) -> None:
    with Gallery.open(original) as gallery:
        assert gallery.held_bytes == 0
        assert gallery.load() == gallery.store.state().generation
        assert gallery.held_bytes >= 2000 * 4 * DIM


def test_memory_is_that_of_the_rows(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (20_000, 64), np.uint8)
    with Gallery.create(tmp_path / "g", dim=512, holds="codes") as gallery:
        gallery.add(rows, range(20_000))
        gallery.search(rows[0])
        held = gallery._held["codes"]
        assert held.nbytes < 1.2 * rows.nbytes
        gallery.add(rows[:1], ["one more"])
        gallery.search(rows[0])
        assert held.nbytes < 1.2 * rows.nbytes
        gallery.delete([str(n) for n in range(10_000)])
        gallery.search(rows[0])
        assert held.nbytes < 0.7 * rows.nbytes  # read again without the deleted rows


def test_rows_are_kept_in_few_segments(tmp_path: Path) -> None:
    held = Held("floats")
    with Gallery.create(tmp_path / "g", dim=DIM) as gallery:
        for turn in range(30):
            gallery.add(rows_of(200, turn), [f"{turn}/{n}" for n in range(200)])
            with gallery.store.reading() as connection:
                held.refresh(gallery.store, connection)
        assert len(held) == 6000
        assert len(held._segments) <= 6
        query = rows_of(1, 99)
        want = search(query, np.concatenate([rows_of(200, turn) for turn in range(30)]), k=9)
        gallery._held["floats"] = held
        assert [hit.score for hit in gallery.search(query[0], 9)] == want.scores[0].tolist()


def test_damage_is_not_served(filled: Gallery) -> None:
    filled.search(rows_of(1)[0])
    with filled.store.writing() as (connection, *_):
        connection.overwrite("vectors", 2**32 + 1, [400], b"\x01\x02\x03")
    with (
        Gallery.open(filled.path) as other,
        pytest.raises(DamagedError, match="vectors of block 1 are not what was written"),
    ):
        other.search(rows_of(1)[0])


# With a model


@pytest.fixture(scope="module")
def model() -> Embedder:
    torch.manual_seed(0)
    return build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=8), image_size=32).eval()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 255, (6, 8, 3), np.uint8)
        picture = Image.fromarray(pixels).resize((90, 60))
        exif = Image.Exif()
        exif[0x010F] = "A secret camera"
        picture.save(folder / f"{number}.jpg", exif=exif)
        paths.append(folder / f"{number}.jpg")
    return paths


def test_images_in_and_out(model: Embedder, pictures: list[Path], tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "g", embedder=model, thumbnail=32) as gallery:
        seen: list[tuple[int, int]] = []
        added = gallery.add(
            pictures, metadata={"label": list("aabbccdde")}, batch_size=4, progress=lambda *at: seen.append(at)
        )
        assert added == (9, 0, 0)
        assert seen == [(4, 9), (8, 9), (9, 9)]
        rows = model.encode(pictures, normalize=False)
        for path, row in zip(pictures, rows, strict=True):
            assert np.allclose(gallery.get(str(path)).embedding, row, atol=1e-6)
        found = gallery.search(pictures[3], 2)
        assert found[0].id == str(pictures[3])
        assert found[0].metadata == {"path": str(pictures[3]), "label": "b"}
        with Image.open(pictures[3]) as picture:
            assert [hit.id for hit in gallery.search(picture, 2)] == [hit.id for hit in found]
            with pytest.raises(DataError, match="images that are not files need ids"):
                gallery.add([picture])
        assert [hit.id for hit in gallery.search(rows[3], 2)] == [hit.id for hit in found]
        assert gallery.search(pictures[3], 9, {"label": "e"})[0].id == str(pictures[8])
        thumbnail = gallery.get(str(pictures[0])).thumbnail
        with Image.open(io.BytesIO(thumbnail)) as small:
            assert small.size == (32, 21)
            assert not small.getexif()
        assert b"secret camera" in pictures[0].read_bytes()
        assert b"secret camera" not in thumbnail
        with pytest.raises(DataError, match="9 of 9 images are in the gallery already"):
            gallery.add(pictures)
        assert gallery.add(pictures, existing="skip") == (0, 0, 9)
        assert gallery.upsert(pictures[:2]) == (0, 2, 0)
        assert gallery.space.preprocessing == model.preprocessing.as_dict()


def test_boxes_and_unreadable_images(model: Embedder, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with Gallery.create(tmp_path / "g", embedder=model) as gallery:
        box = {"x_1": 10, "y_1": 5, "x_2": 60, "y_2": 50}
        gallery.add([pictures[0], pictures[0]], ["whole", "part"], [{}, box])
        with Image.open(pictures[0]) as picture:
            part = picture.crop((10, 5, 60, 50))
        assert np.allclose(gallery.get("part").embedding, model.encode(part, normalize=False)[0], atol=1e-5)
        with pytest.raises(DataError, match=r"1 of 3 images cannot be read, more than the 0\.0%"):
            gallery.add([pictures[1], tmp_path / "broken.jpg", pictures[2]], batch_size=1)
        assert gallery.add([tmp_path / "broken.jpg", pictures[2]], max_unreadable=0.5) == (1, 0, 0)


def test_another_model_is_refused_by_name(model: Embedder, pictures: list[Path], tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "g", embedder=model) as gallery:
        gallery.add(pictures[:2])
    torch.manual_seed(1)
    other = build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=8), image_size=32).eval()
    with pytest.raises(
        DataError, match=f"holds embeddings of model {model.id[:12]}; these would be of model {other.id[:12]}"
    ):
        Gallery.open(tmp_path / "g", embedder=other)
    with (
        Gallery.create(tmp_path / "unknown", dim=9) as unknown,
        pytest.raises(DataError, match="width 9; the model makes 8"),
    ):
        Gallery(unknown.store, other)
    table = Embeddings(
        embeddings=np.ones((1, 8), np.float32),
        labels=np.zeros(1, np.int64),
        paths=("/a",),
        class_names=("",),
        model_id=other.id,
    )
    with Gallery.open(tmp_path / "g") as gallery:
        with pytest.raises(DataError, match="these would be of model"):
            gallery.add(table)
        gallery.add(replace(table, model_id=model.id))
        assert dict(gallery.get("/a").metadata) == {"path": "/a"}


def test_hits_above_the_threshold_are_the_same(model: Embedder, pictures: list[Path], tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "g", embedder=model) as gallery:
        gallery.add(pictures)
        assert gallery.search(pictures[0])[0].same is None
        model.calibration = Calibration(
            threshold=0.999, wanted_far=0.1, far=0.1, tar=None, threshold_interval=(0, 1), far_interval=(0, 1), tar_interval=None,
            level=0.95, different_pairs=10, same_pairs=0, classes=3, images=4,
        )  # fmt: skip
        try:
            found = gallery.search(pictures[0])
            assert [hit.same for hit in found] == [hit.score >= 0.999 for hit in found]
            assert found[0].same is True
        finally:
            model.calibration = None


# Export


def test_exported_embeddings_are_what_search_reads(filled: Gallery, tmp_path: Path) -> None:
    numbers = [n for n in range(3000) if n % 3]
    file = load_gallery(filled.export(tmp_path / "x.npz"))
    assert np.array_equal(file.images.embeddings, rows_of(3000)[numbers])
    assert file.images.model_id == "a" * 64
    assert file.images.paths == tuple(f"i{n}" for n in numbers)
    assert [file.images.class_names[label] for label in file.images.labels] == [f"l{n % 5}" for n in numbers]
    with Gallery.create(tmp_path / "again", dim=DIM) as again:
        again.add(file.images)
        assert again.search(rows_of(1, 1)[0], 3)[0].score == filled.search(rows_of(1, 1)[0], 3)[0].score


def test_a_closed_gallery_lets_others_write(filled: Gallery) -> None:
    with Gallery.open(filled.path) as other:
        filled.delete("i2")
        with pytest.raises(RunError, match="is being written by this process"):
            other.delete(["i1"])
        filled.close()
        assert other.delete("i1").ids == ("i1",)
        assert "i1" not in filled


def test_a_table_names_its_items_as_its_images_are_named(tmp_path: Path) -> None:
    """Two boxes of one image are two items; two rows that show one box are one."""
    boxes = np.array([[0, 0, 4, 4], [1, 1, 5, 5], [-1] * 4, [0, 0, 4, 4]])
    table = Embeddings(
        embeddings=rows_of(4),
        labels=np.zeros(4, np.int64),
        paths=("/p/a.jpg",) * 3 + ("/link/a.jpg",),
        class_names=("mug",),
        files=("a",) * 4,
        boxes=boxes,
    )
    with Gallery.create(tmp_path / "g", dim=DIM) as gallery:
        assert gallery.add(table, metadata={"n": [1, 2, 3, 4]}) == (3, 0, 0)
        assert [(item.id, item.metadata["n"]) for item in gallery] == [
            ("/p/a.jpg@0,0,4,4", 1),
            ("/p/a.jpg@1,1,5,5", 2),
            ("/p/a.jpg", 3),
        ]
        assert np.array_equal(gallery.get("/p/a.jpg@1,1,5,5").embedding, rows_of(4)[1])
        assert gallery.add(table, ["w", "x", "y", "z"]) == (4, 0, 0)
        assert gallery.get("z").metadata["path"] == "/link/a.jpg"


@pytest.mark.parametrize("holds", ["floats", "codes", "both"])
def test_a_row_without_a_direction_is_refused_by_name_whatever_is_held(holds: str, tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "g", dim=DIM, holds=holds) as gallery:
        for value, error in (
            (0, "is zero or shorter"),
            (1e-9, "is zero or shorter"),
            (np.nan, "holds NaN or infinity"),
        ):
            rows = rows_of(3)
            rows[1] = value
            with pytest.raises(DataError, match=rf"1 embedding \('b'\) {error}"):
                gallery.add(rows, ["a", "b", "c"])
        assert len(gallery) == 0
        gallery.add(rows_of(2), ["a", "b"], {"year": np.int64(2024), "n": np.array(7), "path": ["x", "y"]})
        assert [item.metadata["year"] + item.metadata["n"] for item in gallery] == [2031, 2031]
        assert gallery.count({"year": np.array(2024)}) == 2
