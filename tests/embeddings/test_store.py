"""An image is embedded once for each model, and again when its file, its box or the model changes."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cosphere.embeddings.computing as computing
from cosphere.data import Catalogue, read_catalogue
from cosphere.embeddings import EmbeddingStore, embed
from cosphere.models import Embedder, EmbedderSettings, build_embedder, quick


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    torch.manual_seed(0)
    return build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=8), image_size=32)


@pytest.fixture
def images(photos: Path, tmp_path: Path) -> Catalogue:
    return read_catalogue(shutil.copytree(photos / "test", tmp_path / "images"))


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images of the forward passes."""
    sizes: list[int] = []
    real = computing._forward

    def counted(embedder: Embedder, batch: Any, *rest: Any) -> Any:
        sizes.append(len(batch.rows))
        return real(embedder, batch, *rest)

    monkeypatch.setattr(computing, "_forward", counted)
    return sizes


def test_only_new_images_are_embedded(embedder: Embedder, images: Catalogue, tmp_path: Path, passed: list[int]) -> None:
    want = embed(embedder, images).embeddings
    part = images.rows(range(5, 12))
    passed.clear()
    store = EmbeddingStore(tmp_path / "store")
    np.testing.assert_array_equal(embed(embedder, part, store=store).embeddings[0], embed(embedder, part).embeddings[0])
    passed.clear()
    again = embed(embedder, images, store=store)
    assert sum(passed) == len(images) - 7
    np.testing.assert_allclose(again.embeddings, want, rtol=1e-4, atol=1e-6)
    passed.clear()
    order = np.random.default_rng(0).permutation(len(images))
    np.testing.assert_array_equal(embed(embedder, images.rows(order), store=store).embeddings, again.embeddings[order])
    assert passed == []


def test_what_changed_is_embedded_again(
    embedder: Embedder, images: Catalogue, tmp_path: Path, passed: list[int]
) -> None:
    store = EmbeddingStore(tmp_path / "store")
    embed(embedder, images, store=store)
    Image.new("RGB", (40, 40), "red").save(images.paths[3])
    passed.clear()
    found = embed(embedder, images, store=store)
    assert passed == [1]
    np.testing.assert_allclose(found.embeddings, embed(embedder, images).embeddings, rtol=1e-4, atol=1e-6)
    boxed = replace(images, table=images.table.assign(x_1=1, y_1=1, x_2=20, y_2=20))
    passed.clear()
    embed(embedder, boxed, store=store)
    assert sum(passed) == len(images)
    passed.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cosphere.embeddings.store.DECODING", 10**6)  # pixels that another version decodes
        embed(embedder, images, store=store)
    assert sum(passed) == len(images)
    torch.manual_seed(1)
    other = build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=8), image_size=32)
    passed.clear()
    embed(other, images, store=store)
    assert sum(passed) == len(images)
    assert len(list((tmp_path / "store").iterdir())) == 2


def test_unreadable_images_are_tried_again(
    embedder: Embedder, images: Catalogue, tmp_path: Path, passed: list[int]
) -> None:
    store = EmbeddingStore(tmp_path / "store")
    good = Path(images.paths[2]).read_bytes()
    Path(images.paths[2]).write_bytes(b"no picture")
    assert len(embed(embedder, images, store=store, max_unreadable=0.5)) == len(images) - 1
    Path(images.paths[2]).write_bytes(good)
    passed.clear()
    assert len(embed(embedder, images, store=store)) == len(images)
    assert passed == [1]


def test_a_broken_store_or_one_that_may_not_be_written_costs_nothing_but_time(
    embedder: Embedder, images: Catalogue, tmp_path: Path, passed: list[int]
) -> None:
    store = EmbeddingStore(tmp_path / "store")
    embed(embedder, images, store=store)
    (file,) = (tmp_path / "store").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    passed.clear()
    embed(embedder, images, store=store)
    assert sum(passed) == len(images)
    (tmp_path / "file").write_text("")
    assert len(embed(embedder, images, store=EmbeddingStore(tmp_path / "file" / "store"))) == len(images)


def test_files_of_old_models_go(embedder: Embedder, images: Catalogue, tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path / "store")
    (tmp_path / "store").mkdir()
    for number in range(6):
        (tmp_path / "store" / f"{number}.npz").write_bytes(b"")
        os.utime(tmp_path / "store" / f"{number}.npz", (number, number))
    embed(embedder, images, store=store)
    names = {file.name for file in (tmp_path / "store").iterdir()}
    assert {"3.npz", "4.npz", "5.npz"} < names
    assert len(names) == 4


def test_mirrored_rows_lie_beside_the_others(
    embedder: Embedder, images: Catalogue, tmp_path: Path, passed: list[int]
) -> None:
    store = EmbeddingStore(tmp_path / "cache")
    plain = embed(embedder, images, store=store).embeddings
    mirrored = embed(embedder, images, store=store, mirrored=True).embeddings
    assert (plain != mirrored).any()
    before = list(passed)
    assert (embed(embedder, images, store=store).embeddings == plain).all()
    assert (embed(embedder, images, store=store, mirrored=True).embeddings == mirrored).all()
    assert passed == before  # neither is computed again
    assert (embed(embedder, images, mirrored=True).embeddings == mirrored).all()
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 1


def test_quick_rows_are_not_kept_and_exact_ones_are_used(
    embedder: Embedder, images: Catalogue, tmp_path: Path, passed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick, "_seconds", lambda *_: [1.0, 2.0])
    store = EmbeddingStore(tmp_path / "cache")
    fast = embed(embedder, images, store=store, fast=True)
    assert embedder.quick_note
    exact = embed(embedder, images, store=store)
    assert sum(passed) == 2 * len(images)
    assert np.array_equal(exact.embeddings, embed(embedder, images).embeddings)
    np.testing.assert_allclose(fast.embeddings, exact.embeddings, rtol=1e-4, atol=1e-5)
    passed.clear()
    assert np.array_equal(embed(embedder, images, store=store, fast=True).embeddings, exact.embeddings)
    assert not passed
