"""Galleries on disk: what is written with an index comes back, and files of embeddings are read too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, RunError, SizeError
from cosphere.search import Index, load_gallery, save_gallery
from cosphere.search.gallery_file import rows_to_keep


@pytest.fixture
def images() -> Embeddings:
    rows = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    return Embeddings(
        embeddings=rows,
        labels=np.array([0, 1, 0, 1, 1]),
        paths=tuple(f"/photos/{name}.jpg" for name in "abcde"),
        class_names=("mug", "vase"),
        files=tuple("abcde"),
        boxes=np.array([[0, 0, 4, 4]] * 5),
        model_id="a model",
    )


@pytest.mark.parametrize("kind", ["exact", "int8", "bits"])
def test_an_index_comes_back_with_the_images_that_it_shows(kind: str, images: Embeddings, tmp_path: Path) -> None:
    index = Index.build(images.embeddings, kind, check_queries=0)
    save_gallery(tmp_path / "gallery.npz", index, images)
    gallery = load_gallery(tmp_path / "gallery.npz")
    assert gallery.index is not None
    assert gallery.named
    assert gallery.index.kind == kind
    assert gallery.images.model_id == gallery.index.model_id == "a model"
    assert (gallery.images.paths, gallery.images.files) == (images.paths, images.files)
    assert gallery.images.class_names == images.class_names
    assert gallery.images.labels.tolist() == [0, 1, 0, 1, 1]
    assert gallery.images.boxes is not None
    assert gallery.images.boxes.tolist() == [[0, 0, 4, 4]] * 5
    queries = images.embeddings[:2]
    assert np.array_equal(gallery.index.search(queries, 3).ids, index.search(queries, 3).ids)
    assert Index.load(tmp_path / "gallery.npz").model_id == "a model"


def test_an_index_saved_by_itself_has_row_numbers_and_no_model(images: Embeddings, tmp_path: Path) -> None:
    Index.build(images.embeddings, check_queries=0).save(tmp_path / "index.npz")
    gallery = load_gallery(tmp_path / "index.npz")
    assert not gallery.named
    assert gallery.images.model_id == ""
    assert gallery.images.paths == ("row 0", "row 1", "row 2", "row 3", "row 4")
    unit = images.embeddings / np.linalg.norm(images.embeddings, axis=1, keepdims=True)
    assert np.allclose(gallery.images.embeddings, unit, atol=1e-6)


def test_embeddings_are_a_gallery_without_index(images: Embeddings, tmp_path: Path) -> None:
    images.save(tmp_path / "images.npz")
    gallery = load_gallery(tmp_path / "images.npz")
    assert gallery.index is None
    assert np.array_equal(gallery.images.embeddings, images.embeddings)


@pytest.mark.parametrize("labels", [[-1], [0, 1, 99], [0.5, 1.0]])
def test_a_label_without_a_class_name_is_refused(labels: list[float], images: Embeddings, tmp_path: Path) -> None:
    """A negative one named a class from the end."""
    save_gallery(tmp_path / "x.npz", Index.build(images.embeddings, check_queries=0), images)
    with np.load(tmp_path / "x.npz") as arrays:
        edited = dict(arrays)
    edited["labels"] = np.resize(np.array(labels), len(images))
    np.savez(tmp_path / "x.npz", **edited)
    with pytest.raises(RunError, match="has a label without a class name"):
        load_gallery(tmp_path / "x.npz")


def test_what_does_not_fit_is_refused(images: Embeddings, tmp_path: Path) -> None:
    index = Index.build(images.embeddings, check_queries=0)
    with pytest.raises(SizeError, match=r"the index has 5 rows of 8 dimensions, got 4 of 8\. Give the images"):
        save_gallery(tmp_path / "index.npz", index, images.rows([0, 1, 2, 3]))
    with pytest.raises(RunError, match="does not exist, so this is not a file of embeddings or an index"):
        load_gallery(tmp_path / "index.npz")
    replace(images, embeddings=np.zeros((5, 1), dtype=np.uint8)).save(tmp_path / "bits.npz")
    with pytest.raises(RunError, match="holds packed bits; wanted embeddings in floating point"):
        load_gallery(tmp_path / "bits.npz")


@pytest.mark.parametrize("kind", ["exact", "rerank", "hnsw", "ivf", "bits", "coarse-bits", "hnsw-bits", "ivf-bits"])
def test_a_gallery_keeps_the_live_rows_of_an_index_as_what_they_are(kind: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(80, 16)).astype(np.float32)
    index = Index.build(rows, kind, check_queries=0)
    index.delete([0, 7])
    index.save(tmp_path / "index.npz")
    kept = rows_to_keep(load_gallery(tmp_path / "index.npz"), "index.npz")
    live = np.delete(rows, [0, 7], axis=0)
    assert kept.paths[:2] == ("row 1", "row 2")
    if kind.endswith("bits"):
        assert np.array_equal(kept.embeddings, np.packbits(live > 0, axis=1))
    else:
        assert np.allclose(kept.embeddings, live / np.linalg.norm(live, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("kind", ["float16", "int8", "asymmetric"])
def test_a_gallery_takes_no_rounded_rows(kind: str, images: Embeddings, tmp_path: Path) -> None:
    Index.build(images.embeddings, kind, check_queries=0).save(tmp_path / "index.npz")
    with pytest.raises(
        DataError, match=f"index.npz is an index of kind '{kind}' .*does not keep the model's embeddings"
    ):
        rows_to_keep(load_gallery(tmp_path / "index.npz"), "index.npz")
