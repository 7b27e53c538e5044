"""A source that was embedded before is not read again, unless anything in it has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cosphere.data import Catalogue, LayoutCheck, read_catalogue
from cosphere.embeddings import Embeddings, EmbeddingStore, embed
from cosphere.embeddings.sources import MOST_SOURCES, SourceState, SourceStore
from cosphere.models import Embedder, EmbedderSettings, build_embedder


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    torch.manual_seed(0)
    return build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=8), image_size=32)


@pytest.fixture
def source(photos: Path, tmp_path: Path) -> Path:
    return shutil.copytree(photos / "test", tmp_path / "images")


@pytest.fixture
def store(tmp_path: Path) -> SourceStore:
    return SourceStore(EmbeddingStore(tmp_path / "store"))


def state_of(source: Path, **request: object) -> SourceState:
    state = SourceState.of(source, request)
    assert state is not None
    return state


def keep(store: SourceStore, embedder: Embedder, source: Path, catalogue: Catalogue | None = None) -> Embeddings:
    state = state_of(source)
    images = read_catalogue(source) if catalogue is None else catalogue
    table = embed(embedder, images, store=store.store, max_unreadable=0.5)
    store.keep(embedder, state, table, images, images.remarks)
    return table


def test_the_embeddings_and_the_remarks_come_back(embedder: Embedder, source: Path, store: SourceStore) -> None:
    (source / "notes.txt").write_text("not an image")
    images = read_catalogue(source)
    table = images.table.assign(x_1=1, y_1=2, x_2=20, y_2=21, sequence=["a", "b"] * (len(images) // 2), is_query=True)
    checks = (LayoutCheck("images", "3", "4"), LayoutCheck("classes", "2", "2"))
    images = replace(images, table=table, checks=checks)
    want = keep(store, embedder, source, images)
    known = store.find(embedder, state_of(source))
    assert known is not None
    assert known.remarks == images.remarks
    assert known.remarks.differences == checks[:1]
    assert known.remarks.notes == ("1 file that is not an image was left out: .txt 1",)
    assert (
        want.arrays().keys() == known.images.arrays().keys() >= {"boxes", "groups", "is_query", "files", "fingerprint"}
    )
    for name, array in want.arrays().items():
        np.testing.assert_array_equal(known.images.arrays()[name], array)


def touch_nothing_but_the_text(path: Path) -> None:
    """Other text of the same length, with the times of the old one."""
    status = path.stat()
    path.write_text(path.read_text().replace("class1", "class2"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a new image": lambda source: shutil.copy(next(source.glob("*/0.png")), source / "new.png"),
    "an image in another class": lambda source: next(source.glob("*/0.png")).rename(
        max(path for path in source.iterdir() if path.is_dir()) / "moved.png"
    ),
    "an image less": lambda source: next(source.glob("*/0.png")).unlink(),
    "another image": lambda source: shutil.copy(next(source.glob("*/1.png")), next(source.glob("*/0.png"))),
    "another file": lambda source: (source / "notes.txt").write_text("other text"),
    "a hidden file": lambda source: (source / ".hidden").write_text(""),
    "a second name": lambda source: os.link(next(source.glob("*/0.png")), source / "second.png"),
    "a table with the old size and time": lambda source: touch_nothing_but_the_text(source / "old.csv"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changed_is_read_again(change: str, embedder: Embedder, source: Path, store: SourceStore) -> None:
    (source / "old.csv").write_text("path,label\nclass1/0.png,class1\n")
    (source / "notes.txt").write_text("text")
    keep(store, embedder, source)
    assert store.find(embedder, state_of(source)) is not None
    CHANGES[change](source)
    assert store.find(embedder, state_of(source)) is None


def test_another_request_folder_or_model_is_another_source(
    embedder: Embedder, source: Path, store: SourceStore
) -> None:
    keep(store, embedder, source)
    assert store.find(embedder, state_of(source, split="test")) is None
    other = shutil.copytree(source, source.parent / "copy")
    assert store.find(embedder, state_of(other)) is None
    torch.manual_seed(1)
    model = build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=8), image_size=32)
    assert store.find(model, state_of(source)) is None
    link = source.parent / "link"
    link.symlink_to(source)
    keep(store, embedder, link)
    assert store.find(embedder, state_of(link)) is not None
    link.unlink()
    link.symlink_to(other)
    assert store.find(embedder, state_of(link)) is None


def test_what_depends_on_more_than_the_folder_is_not_stored(
    embedder: Embedder, source: Path, store: SourceStore
) -> None:
    path = next(source.glob("*/0.png"))
    outside = source.parent / "outside.png"
    shutil.copy(path, outside)
    rows = [
        f"{path.relative_to(source)},a",
        *(f"{one.relative_to(source)},b" for one in sorted(source.glob("*/*.png"))),
    ]
    (source / "labels.csv").write_text("\n".join(["path,label", *rows, f"{outside},a"]))
    keep(store, embedder, source, read_catalogue(source, layout="table"))
    assert not store.folder.exists()
    (source / "labels.csv").write_text("\n".join(["path,label", *rows, "missing.png,a"]))
    keep(store, embedder, source, read_catalogue(source, layout="table", max_missing=0.5))
    assert not store.folder.exists()
    (source / "labels.csv").unlink()
    path.write_bytes(b"no image")
    keep(store, embedder, source)
    assert not store.folder.exists()
    assert SourceState.of(source.parent / "labels.csv", {}) is None
    assert SourceState.of(source.parent / "none", {}) is None


def test_an_archive_is_a_source_too(embedder: Embedder, source: Path, store: SourceStore) -> None:
    archive = Path(shutil.make_archive(str(source.parent / "photos"), "zip", source))
    want = keep(store, embedder, archive)
    known = store.find(embedder, state_of(archive))
    assert known is not None
    assert known.images.paths == want.paths
    shutil.make_archive(str(source.parent / "photos"), "zip", source / "class10")
    assert store.find(embedder, state_of(archive)) is None


def test_damage_and_lost_rows_cost_nothing_but_time(embedder: Embedder, source: Path, store: SourceStore) -> None:
    keep(store, embedder, source)
    (rows,) = store.store.folder.glob("*.npz")
    content = rows.read_bytes()
    rows.unlink()
    assert store.find(embedder, state_of(source)) is None
    rows.write_bytes(content)
    assert store.find(embedder, state_of(source)) is not None
    (file,) = store.folder.iterdir()
    file.write_bytes(file.read_bytes()[:500])
    assert store.find(embedder, state_of(source)) is None


def test_the_oldest_sources_go(embedder: Embedder, source: Path, store: SourceStore) -> None:
    store.folder.mkdir(parents=True)
    for number in range(MOST_SOURCES + 2):
        (store.folder / f"{number}.npz").write_bytes(b"")
        os.utime(store.folder / f"{number}.npz", (number, number))
    keep(store, embedder, source)
    assert len(list(store.folder.iterdir())) == MOST_SOURCES
    assert not (store.folder / "0.npz").exists()
    assert store.find(embedder, state_of(source)) is not None
