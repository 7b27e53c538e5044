from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cosphere.data import (
    Catalogue,
    ClassBalancedBatches,
    Draw,
    ImageRows,
    Item,
    Skipped,
    UnreadableLog,
    collate,
    read_folder,
)
from cosphere.errors import DataError, ImageError, SettingsError, SizeError
from cosphere.images import Augmentation, PixelCache, Preprocessing, preset, read_image

SMALL = Preprocessing(size=4, resize=6, resize_mode="squash")
FLAT = {"a/1.png": 10, "a/2.png": 20, "a/3.png": 30, "b/4.png": 40, "b/5.png": 50}


@pytest.fixture
def photos(tmp_path: Path) -> Catalogue:
    """Pictures of one gray each, so that a pixel tells which picture it comes from."""
    for path, gray in FLAT.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (12, 9), (gray, gray, gray)).save(tmp_path / path)
    return read_folder(tmp_path)


def spoil(catalogue: Catalogue, *rows: int) -> None:
    for row in rows:
        Path(catalogue.paths[row]).write_bytes(b"no image")


def gray(pixels: torch.Tensor | None) -> int:
    assert pixels is not None
    assert pixels.unique().numel() == 1
    return int(pixels.flatten()[0])


def test_without_stand_ins_the_place_of_an_unreadable_image_is_dropped(photos: Catalogue) -> None:
    spoil(photos, 1)
    rows = ImageRows(photos, SMALL, Augmentation(preset="none"), stand_ins=False)
    batch = collate([rows[Draw(row, 7)] for row in (0, 1, 2)])
    assert batch.rows.tolist() == [0, 2]
    assert [one.path for one in batch.skipped] == [photos.paths[1]]
    assert [gray(one) for one in batch.pixels] == [10, 30]


def test_an_unreadable_image_removes_all_its_views(photos: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(photos, 3)
    rows = ImageRows(photos, SMALL, Augmentation(preset="simclr-cifar"), stand_ins=False)
    draws = [Draw(row, 10 * row + view) for row in (2, 3, 4) for view in range(3)]
    batch = collate([rows[draw] for draw in draws])
    assert batch.rows.tolist() == [2, 2, 2, 4, 4, 4]
    assert batch.seeds.tolist() == [20, 21, 22, 40, 41, 42]
    # One that becomes readable between its views goes with all of them too.
    reads = iter([ImageError("still being written"), np.zeros((4, 4, 3), np.uint8)])

    def read(*_: object, **__: object) -> np.ndarray:
        found = next(reads)
        if isinstance(found, ImageError):
            raise found
        return found

    monkeypatch.setattr("cosphere.data.dataset.read_image", read)
    assert len(collate([rows[Draw(1, seed)] for seed in (1, 2)]).rows) == 0


@pytest.mark.parametrize("name", ["simclr-cifar", "simclr-224", "sec"])
def test_views_finished_by_the_batch_are_the_whole_views(tmp_path: Path, name: str) -> None:
    for row in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        noise = np.random.default_rng(row).integers(0, 256, (18, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "a" / f"{row}.png")
    images, (sizes, augmentation) = read_folder(tmp_path), preset(name, 16)
    draws = [Draw(row, 7 * row + view) for row in range(3) for view in range(2)]
    whole = collate([ImageRows(images, sizes, augmentation)[draw] for draw in draws])
    later = collate([ImageRows(images, sizes, augmentation, finished=False)[draw] for draw in draws])
    assert torch.equal(augmentation.finished(later.pixels, sizes, later.seeds.numpy()), whole.pixels)
    assert torch.equal(later.pixels, whole.pixels) == (name == "sec")
    assert not torch.equal(whole.pixels[0], whole.pixels[1])


def test_a_batch_in_the_order_of_the_rows(photos: Catalogue) -> None:
    loader = DataLoader(ImageRows(photos, SMALL), batch_size=3, collate_fn=collate)
    first, second = list(loader)
    assert first.pixels.shape == (3, 3, 4, 4)
    assert first.pixels.dtype == torch.uint8
    assert [gray(one) for one in (*first.pixels, *second.pixels)] == list(FLAT.values())
    assert torch.cat([first.labels, second.labels]).tolist() == [0, 0, 0, 1, 1]
    assert first.labels.dtype == first.rows.dtype == torch.int64
    assert second.rows.tolist() == [3, 4]
    assert first.skipped == ()


def test_rows_outside_are_index_errors(photos: Catalogue) -> None:
    images = ImageRows(photos, SMALL)
    assert len(images) == 5
    for row in (5, -1):
        with pytest.raises(IndexError):
            images[row]


def test_training_views_depend_on_the_seed_alone(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(noise).save(tmp_path / "a" / "1.png")
    rows = ImageRows(read_folder(tmp_path), SMALL, Augmentation(preset="sec"))
    one, same, other = (rows[Draw(0, seed)].pixels for seed in (1, 1, 2))
    assert one is not None
    assert same is not None
    assert other is not None
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    with pytest.raises(SettingsError, match=r"augmentation wants a seed: ask for Draw\(row, seed\)"):
        rows[0]


def test_workers_give_the_same_batches(photos: Catalogue) -> None:
    spoil(photos, 1)
    rows = ImageRows(photos, SMALL, Augmentation(preset="normsoftmax"))
    batches = ClassBalancedBatches(photos.labels, 4, 2, length=3)
    alone = list(DataLoader(rows, batch_sampler=batches, collate_fn=collate))
    helped = list(DataLoader(rows, batch_sampler=batches, collate_fn=collate, num_workers=2))
    for one, two in zip(alone, helped, strict=True):
        assert torch.equal(one.pixels, two.pixels)
        assert one.rows.tolist() == two.rows.tolist()
        assert one.skipped == two.skipped
    assert any(batch.skipped for batch in helped)


def test_in_training_the_next_of_the_class_stands_in(photos: Catalogue) -> None:
    spoil(photos, 0, 2, 3)
    rows = ImageRows(photos, SMALL, Augmentation(preset="normsoftmax"))
    batch = collate([rows[Draw(row, 7)] for row in range(5)])
    assert batch.rows.tolist() == [1, 1, 1, 4, 4]
    assert batch.labels.tolist() == [0, 0, 0, 1, 1]
    assert [gray(one) for one in batch.pixels] == [20, 20, 20, 50, 50]
    # Row 2 is followed by row 0 in the circle, and that is spoilt too.
    assert [Path(one.path).name for one in batch.skipped] == ["1.png", "3.png", "1.png", "4.png"]
    assert "1.png" in batch.skipped[0].reason


def test_a_class_without_a_readable_image_leaves_its_place_empty(photos: Catalogue) -> None:
    spoil(photos, 3, 4)
    rows = ImageRows(photos, SMALL, Augmentation(preset="none"))
    batch = collate([rows[Draw(row, 0)] for row in range(5)])
    assert batch.rows.tolist() == [0, 1, 2]
    assert len({one.path for one in batch.skipped}) == 2


def test_in_evaluation_an_unreadable_image_is_dropped(photos: Catalogue) -> None:
    spoil(photos, 1)
    rows = ImageRows(photos, SMALL)
    batch = collate([rows[row] for row in range(3)])
    assert batch.rows.tolist() == [0, 2]
    assert batch.pixels.shape == (2, 3, 4, 4)
    assert [one.path for one in batch.skipped] == [photos.paths[1]]


def test_a_batch_without_any_image_is_empty(photos: Catalogue) -> None:
    spoil(photos, 0, 1)
    rows = ImageRows(photos, SMALL)
    batch = collate([rows[0], rows[1]])
    assert batch.pixels.shape == (0, 3, 0, 0)
    assert batch.labels.tolist() == batch.rows.tolist() == []
    assert len(batch.skipped) == 2


def test_errors_that_are_not_the_file_s_are_not_hidden(photos: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Preprocessing, image: object) -> None:
        raise SizeError("a bug")

    monkeypatch.setattr(Preprocessing, "resized", broken)
    with pytest.raises(SizeError, match="a bug"):
        ImageRows(photos, SMALL)[0]


def test_boxes_are_cut_out(tmp_path: Path) -> None:
    pixels = np.zeros((10, 10, 3), dtype=np.uint8)
    pixels[2:6, 3:9] = 200
    Image.fromarray(pixels).save(tmp_path / "1.png")
    table = pd.DataFrame({"path": "1.png", "label": ["x", "y"], "split": "all"})
    table[["x_1", "y_1", "x_2", "y_2"]] = [[3.0, 2.0, 9.0, 6.0], [np.nan] * 4]
    rows = ImageRows(Catalogue(table=table, root=tmp_path), SMALL)
    assert gray(rows[0].pixels) == 200
    whole = rows[1].pixels
    assert whole is not None
    assert whole.float().mean() < 100
    cache = PixelCache(tmp_path / "cache", rule=SMALL.rule, keep_free=0)
    cached = ImageRows(Catalogue(table=table, root=tmp_path), SMALL, cache=cache)
    assert gray(cached[0].pixels) == 200
    assert cached[1].pixels is not None
    assert torch.equal(cached[1].pixels, whole)


def test_a_second_look_comes_from_the_cache(photos: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PixelCache(tmp_path / "cache", rule=SMALL.rule, keep_free=0)
    rows = ImageRows(photos, SMALL, cache=cache)
    first = [gray(rows[row].pixels) for row in range(5)]

    def no_decoding(*args: object, **options: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("cosphere.data.dataset.read_image", no_decoding)
    assert [gray(rows[row].pixels) for row in range(5)] == first == list(FLAT.values())
    with pytest.raises(SettingsError, match=r"the cache holds pixels for .* Make it with rule=preprocessing\.rule"):
        ImageRows(photos, Preprocessing(size=4, resize=8), cache=cache)


def test_pixels_are_those_of_decoding_and_resizing(photos: Catalogue, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photos.paths[0])
    cached = ImageRows(photos, SMALL, cache=PixelCache(tmp_path / "cache", rule=SMALL.rule, keep_free=0))
    want = SMALL.pixels(noise)
    for rows in (ImageRows(photos, SMALL), cached, cached):
        found = rows[0].pixels
        assert found is not None
        assert torch.equal(found, want)


def test_exact_decoding_reads_every_pixel(tmp_path: Path) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(coarse).resize((320, 240)).save(tmp_path / "a" / "photo.jpg", quality=90)
    catalogue = read_folder(tmp_path)
    whole = read_image(tmp_path / "a" / "photo.jpg")
    exact = Preprocessing(size=32, resize=32)
    reduced = Preprocessing(size=32, resize=32, decoding="reduced")
    want = exact.pixels(whole)
    found = ImageRows(catalogue, exact)[0].pixels
    assert found is not None
    assert torch.equal(found, want)
    other = ImageRows(catalogue, reduced)[0].pixels
    assert other is not None
    assert not torch.equal(other, want)


def test_the_log_names_each_file_once_and_stops_at_too_many(caplog: pytest.LogCaptureFixture) -> None:
    bad = [Skipped(f"{number}.jpg", f"{number}.jpg is damaged. Remove it.") for number in range(4)]
    count = UnreadableLog(300, max_share=0.01)
    with caplog.at_level(logging.WARNING, logger="cosphere.data"):
        for _ in range(3):
            count.add(bad[:2])
        count.add(bad[2:3])
    assert len(count) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"skipped an unreadable image ({number} of at most 3): {number - 1}.jpg is damaged. Remove it."
        for number in (1, 2, 3)
    ]
    with pytest.raises(
        DataError, match=r"4 of 300 images cannot be read, more than the 1\.0%.*: 0\.jpg is damaged\. .*2\.jpg"
    ):
        count.add(bad[3:])


@pytest.mark.parametrize(
    ("total", "share", "allowed"), [(10_000, 0.01, 100), (50, 0.01, 1), (50, 0.0, 0), (50, 1.0, 50)]
)
def test_one_image_is_forgiven_unless_none_is(total: int, share: float, allowed: int) -> None:
    count = UnreadableLog(total, share)
    bad = [Skipped(str(number), "bad") for number in range(allowed + 1)]
    count.add(bad[:allowed])
    with pytest.raises(DataError, match=f"{allowed + 1} of {total:,} images"):
        count.add(bad)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_the_share_is_a_share(share: float) -> None:
    with pytest.raises(SettingsError, match="max_unreadable must be a number >= 0 and at most 1, finite; got "):
        UnreadableLog(10, share)


def test_items_may_be_collated_by_hand() -> None:
    whole = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    batch = collate([Item(whole, 1, 5, ()), Item(None, 0, 2, (Skipped("x", "bad"),)), Item(whole + 1, 0, 7, ())])
    assert torch.equal(batch.pixels, torch.stack([whole, whole + 1]))
    assert batch.labels.tolist() == [1, 0]
    assert batch.rows.tolist() == [5, 7]
    assert batch.skipped == (Skipped("x", "bad"),)
