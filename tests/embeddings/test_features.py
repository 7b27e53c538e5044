"""Features of a frozen backbone: computed once for each view of an image, and again when anything below them changes."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cosphere.embeddings.features as features
from cosphere.data import Catalogue, read_catalogue
from cosphere.embeddings import PLAIN, EmbeddingStore, FeatureCache, Views, embed
from cosphere.errors import DataError, DivergenceError
from cosphere.images import Augmentation, read_image
from cosphere.models import Embedder, EmbedderSettings, build_embedder

SEC = Augmentation()


def make(**settings: Any) -> Embedder:
    torch.manual_seed(0)
    made = {"backbone": "test_resnet", "weights": "none", "dim": 8, **settings}
    return build_embedder(EmbedderSettings(**made), image_size=32)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return make()


@pytest.fixture
def images(photos: Path, tmp_path: Path) -> Catalogue:
    return read_catalogue(shutil.copytree(photos / "test", tmp_path / "images"))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images of the backbone's passes."""
    sizes: list[int] = []
    real = features.infer_features

    def counted(model: Any, inputs: torch.Tensor) -> torch.Tensor:
        sizes.append(len(inputs))
        return real(model, inputs)

    monkeypatch.setattr(features, "infer_features", counted)
    return sizes


def all_rows(cache: FeatureCache, embedder: Embedder, images: Catalogue, views: Views = PLAIN) -> torch.Tensor:
    """(N, copies, W)."""
    table = cache.table(embedder, images, views)
    rows = np.arange(len(images))
    return torch.stack([table.take(rows, np.full(len(rows), copy)) for copy in range(table.copies)], dim=1)


def by_hand(embedder: Embedder, images: Catalogue, views: Views) -> torch.Tensor:
    """One image at a time, through the network's own function."""
    pictures, prepare = [read_image(path) for path in images.paths], embedder.preprocessing
    rows = []
    with torch.no_grad():
        embedder.eval()
        for picture, seeds in zip(pictures, views.seeds(images).tolist(), strict=True):
            for seed in seeds:
                plain = views.augmentation is None
                pixels = prepare.pixels(picture) if plain else views.augmentation.pixels(picture, prepare, seed)  # type: ignore[union-attr]
                maps = embedder.backbone.net.forward_features(prepare.to_input(pixels[None]))  # type: ignore[operator]
                rows.append(maps.mean((2, 3))[0])
        embedder.train()
    return torch.stack(rows).reshape(len(pictures), -1, rows[0].shape[0])


@pytest.mark.parametrize("views", [PLAIN, Views(SEC, 3, 5)], ids=["plain", "views"])
def test_features_are_those_of_each_view(embedder: Embedder, images: Catalogue, tmp_path: Path, views: Views) -> None:
    rows = all_rows(FeatureCache(tmp_path / "f"), embedder, images, views)
    assert rows.shape == (24, views.copies, embedder.feature_width)
    torch.testing.assert_close(rows, by_hand(embedder, images, views), rtol=1e-4, atol=1e-5)
    assert views is PLAIN or not torch.equal(rows[:, 0], rows[:, 1])


def test_the_second_time_nothing_is_computed(
    embedder: Embedder, images: Catalogue, tmp_path: Path, computed: list[int]
) -> None:
    views = Views(SEC, 2, 0)
    first = all_rows(FeatureCache(tmp_path / "f"), embedder, images, views)
    assert sum(computed) == 48
    computed.clear()
    again = all_rows(FeatureCache(tmp_path / "f"), make(dim=3, norm="none"), images, views)  # another head
    assert torch.equal(first, again)
    order = np.random.default_rng(0).permutation(24)[:10]
    some = all_rows(FeatureCache(tmp_path / "f"), embedder, images.rows(order), views)
    assert torch.equal(some, first[order])
    assert computed == []


def test_more_copies_are_added_and_other_seeds_are_others(
    embedder: Embedder, images: Catalogue, tmp_path: Path, computed: list[int]
) -> None:
    cache = FeatureCache(tmp_path / "f")
    two = all_rows(cache, embedder, images, Views(SEC, 2, 0))
    computed.clear()
    three = all_rows(cache, embedder, images, Views(SEC, 3, 0))
    assert sum(computed) == 24
    assert torch.equal(three[:, :2], two)
    other = all_rows(cache, embedder, images, Views(SEC, 2, 1))
    assert not torch.equal(other, two)
    assert not torch.equal(all_rows(cache, embedder, images, Views(Augmentation(flip=0), 2, 0)), two)


def test_a_changed_image_is_noticed(embedder: Embedder, images: Catalogue, tmp_path: Path, computed: list[int]) -> None:
    before = all_rows(FeatureCache(tmp_path / "f"), embedder, images)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(images.paths[7])
    os.utime(images.paths[7], ns=(1, 1))
    computed.clear()
    after = all_rows(FeatureCache(tmp_path / "f"), embedder, images)
    assert computed == [1]
    assert (after != before).any(dim=2).any(dim=1).nonzero().ravel().tolist() == [7]


def test_a_changed_backbone_is_noticed(images: Catalogue, tmp_path: Path, computed: list[int]) -> None:
    model, cache = make(), FeatureCache(tmp_path / "f")
    before = all_rows(cache, model, images)
    with torch.no_grad():
        next(model.backbone.parameters()).mul_(1.5)
    computed.clear()
    assert not torch.equal(all_rows(cache, model, images), before)
    assert sum(computed) == 24


def test_views_depend_neither_on_the_folder_nor_on_other_images(images: Catalogue, tmp_path: Path) -> None:
    views = Views(SEC, 2, 3)
    moved = read_catalogue(shutil.copytree(images.root, tmp_path / "moved"))
    seeds = views.seeds(images)
    assert (views.seeds(moved) == seeds).all()
    assert (views.seeds(images.rows([5, 2])) == seeds[[5, 2]]).all()
    assert len(np.unique(seeds)) == seeds.size
    assert seeds.min() >= 0
    assert (Views(SEC, 2, 4).seeds(images) != seeds).all()


def test_without_augmentation_one_copy_is_enough() -> None:
    assert Views(Augmentation(preset="none"), 4, 9) == PLAIN
    assert Views(SEC, 4, 9).copies == 4


def test_what_a_kill_left_is_used_and_the_rest_is_rounded_as_without_it(
    embedder: Embedder, images: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(images.root) / Path(images.paths[3]).relative_to(images.root)).write_bytes(b"no image")
    views = Views(SEC, 8, 0)
    readable = np.delete(np.arange(24), 3)

    def rows(folder: str) -> torch.Tensor:
        table = FeatureCache(tmp_path / folder).table(embedder, images, views, max_unreadable=0.1)
        return torch.stack([table.take(readable, np.full(23, copy)) for copy in range(8)])

    whole = rows("whole")
    monkeypatch.setattr(features, "_MOST_SECONDS", -1.0)  # a file for each batch
    real, passes = features.infer_features, []

    def dying(model: Any, inputs: torch.Tensor) -> torch.Tensor:
        passes.append(len(inputs))
        if len(passes) == 3:
            raise KeyboardInterrupt
        return real(model, inputs)

    monkeypatch.setattr(features, "infer_features", dying)
    with pytest.raises(KeyboardInterrupt):
        rows("killed")
    passes.clear()
    passes += [0, 0, 0]
    assert torch.equal(rows("killed"), whole)
    assert sum(passes) == 8 * 23 - (128 - 8)


def test_a_damaged_file_counts_as_none(
    embedder: Embedder, images: Catalogue, tmp_path: Path, computed: list[int]
) -> None:
    want = all_rows(FeatureCache(tmp_path / "f"), embedder, images)
    (file,) = (tmp_path / "f").rglob("*.npy")
    whole = file.read_bytes()
    for content in (whole[:-40], b"", whole[:-1] + bytes([whole[-1] ^ 1]), b"PK" + whole):
        file.write_bytes(content)
        computed.clear()
        assert torch.equal(all_rows(FeatureCache(tmp_path / "f"), embedder, images), want)
        assert sum(computed) == 24
        assert file.read_bytes() == whole


def test_processes_that_want_the_same_compute_it_once(images: Catalogue, tmp_path: Path, computed: list[int]) -> None:
    models = [make() for _ in range(3)]
    results: list[torch.Tensor] = []
    threads = [
        threading.Thread(
            target=lambda model=model: results.append(all_rows(FeatureCache(tmp_path / "f"), model, images))
        )
        for model in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(computed) == 24
    assert len(results) == 3
    assert all(torch.equal(one, results[0]) for one in results)


def test_features_that_are_not_finite_are_refused(images: Catalogue, tmp_path: Path) -> None:
    model = make()
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(torch.nan)
    with pytest.raises(
        DivergenceError, match=r"24 of 24 rows of features are not finite, because backbone\.net\..* holds NaN"
    ):
        FeatureCache(tmp_path / "f").table(model, images)
    assert not list((tmp_path / "f").rglob("*.npy"))


def test_a_folder_that_may_not_be_written_keeps_them_in_memory(
    embedder: Embedder, images: Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        rows = all_rows(FeatureCache(tmp_path / "file" / "f"), embedder, images)
    assert torch.equal(rows, all_rows(FeatureCache(tmp_path / "f"), embedder, images))
    assert len(caplog.messages) == 1
    assert "the features are kept in memory only" in caplog.messages[0]
    assert "features.folder" in caplog.messages[0]


def test_images_that_cannot_be_read_are_named_or_too_many(
    embedder: Embedder, images: Catalogue, tmp_path: Path
) -> None:
    for path in images.paths[:2]:
        Path(path).write_bytes(b"no image")
    cache = FeatureCache(tmp_path / "f")
    with pytest.raises(DataError, match="2 of 24 images cannot be read"):
        cache.table(embedder, images)
    for views in (PLAIN, Views(SEC, 3, 0)):
        table = cache.table(embedder, images, views, max_unreadable=0.2)
        assert table.readable.tolist() == [False] * 2 + [True] * 22
        assert [one.path for one in table.skipped] == images.paths[:2]
    with pytest.raises(DataError, match="none of 2 images can be read"):
        cache.table(embedder, images.rows([0, 1]), max_unreadable=1.0)


def test_progress_and_generators(embedder: Embedder, images: Catalogue, tmp_path: Path) -> None:
    torch.manual_seed(3)
    state, seen = torch.get_rng_state(), []
    embedder.train()
    FeatureCache(tmp_path / "f").table(embedder, images, Views(SEC, 4), progress=lambda *pair: seen.append(pair))
    assert seen == [(64, 96), (96, 96)]
    assert torch.equal(torch.get_rng_state(), state)
    assert embedder.training


@pytest.mark.parametrize("workers", [0, 1])
def test_embeddings_from_features_are_those_from_pixels(
    embedder: Embedder, images: Catalogue, tmp_path: Path, computed: list[int], workers: int
) -> None:
    Path(images.paths[5]).write_bytes(b"no image")
    cache = FeatureCache(tmp_path / "f")
    want = embed(embedder, images, max_unreadable=0.1)
    table = embed(embedder, images, max_unreadable=0.1, features=cache, workers=workers)
    np.testing.assert_allclose(table.embeddings, want.embeddings, rtol=0, atol=1e-5)
    for name in ("paths", "skipped", "class_names", "fingerprint", "model_id", "files"):
        assert getattr(table, name) == getattr(want, name), name
    assert (table.labels == want.labels).all()
    other, seen = make(dim=4), []
    computed.clear()
    embed(other, images, max_unreadable=0.1, features=FeatureCache(tmp_path / "f"), progress=lambda *p: seen.append(p))
    assert computed == []
    assert seen[-1] == (24, 24)


def test_rows_that_the_store_has_need_no_features(
    embedder: Embedder, images: Catalogue, tmp_path: Path, computed: list[int]
) -> None:
    store, cache = EmbeddingStore(tmp_path / "store"), FeatureCache(tmp_path / "f")
    part = embed(embedder, images.rows(range(10)), store=store)
    whole = embed(embedder, images, store=store, features=cache)
    assert sum(computed) == 14
    assert (whole.embeddings[:10] == part.embeddings).all()
    np.testing.assert_allclose(whole.embeddings, embed(embedder, images).embeddings, atol=1e-5)
    computed.clear()
    assert (embed(embedder, images, store=store, features=cache).embeddings == whole.embeddings).all()
    assert computed == []
