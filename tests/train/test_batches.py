"""The stream of batches: endless, exact to resume, and quiet towards the global generators."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cosphere.data import Batch, read_catalogue
from cosphere.errors import RunError
from cosphere.images import Augmentation, Preprocessing
from cosphere.models import EmbedderSettings, build_embedder
from cosphere.train.batches import BatchStream, decoding_workers
from cosphere.train.settings import BatchSettings, DataSettings, TrainSettings

SETTINGS = TrainSettings(batch=BatchSettings(size=20, images_per_class=2), data=DataSettings(workers=0))


def stream(photos: Path, settings: TrainSettings = SETTINGS) -> BatchStream:
    images = read_catalogue(photos).select("train")
    sizes = Preprocessing(size=24, resize=32)
    return BatchStream(images, settings, sizes, Augmentation(), device=torch.device("cpu"))


def take(source: BatchStream, count: int) -> list[Batch]:
    return list(itertools.islice(source, count))


def test_it_goes_on_over_epochs_with_new_views(photos: Path) -> None:
    source = stream(photos)  # 60 images: 3 batches an epoch
    batches = take(source, 7)
    assert (source.epoch, source.position) == (2, 1)
    assert all(batch.pixels.shape == (20, 3, 24, 24) for batch in batches)
    assert not torch.equal(batches[0].rows, batches[3].rows)


@pytest.mark.parametrize("taken", [1, 3, 5])
def test_put_back_it_gives_the_same_pixels(photos: Path, taken: int) -> None:
    first = stream(photos)
    take(first, taken)
    state = first.state_dict()
    left = take(first, 3)
    second = stream(photos)
    second.load_state_dict(state)
    for one, other in zip(left, take(second, 3), strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.labels, other.labels)


def test_other_settings_cannot_go_on(photos: Path) -> None:
    state = stream(photos).state_dict()
    other = stream(photos, replace(SETTINGS, seed=1))
    with pytest.raises(RunError, match="cannot resume: the batches were drawn with seed 0, and now it is 1"):
        other.load_state_dict(state)


def test_global_generators_are_left_alone(photos: Path) -> None:
    before = torch.get_rng_state()
    source = stream(photos)
    take(source, 4)
    source.probe()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_probe_is_always_the_same_and_takes_nothing_from_the_stream(photos: Path) -> None:
    source = stream(photos)
    first = source.probe()
    batch = take(source, 1)[0]
    assert torch.equal(source.probe().pixels, first.pixels)
    assert torch.equal(take(stream(photos), 1)[0].pixels, batch.pixels)


@pytest.mark.parametrize(
    ("asked", "cores", "cache", "device", "want"),
    [
        (3, 2, None, "cpu", 3),
        (-1, 2, None, "cpu", 0),
        (-1, 16, None, "cpu", 8),
        (-1, 6, "c", "cpu", 0),
        (-1, 6, "c", "cuda", 5),
    ],
)
def test_workers_never_take_the_networks_core(
    asked: int, cores: int, cache: str | None, device: str, want: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    settings = replace(SETTINGS, data=DataSettings(workers=asked, cache=cache))
    assert decoding_workers(settings, torch.device(device)) == want


def test_all_training_images_are_embedded_in_order_and_the_stream_stays(photos: Path) -> None:
    source = stream(photos)
    first = take(source, 1)[0]
    torch.manual_seed(0)
    settings = EmbedderSettings(backbone="test_resnet", weights="none", dim=8)
    embedder = build_embedder(settings, preprocessing=Preprocessing(size=24, resize=32), image_size=24)
    before = torch.get_rng_state()
    rows, labels = source.embed(embedder)
    images = read_catalogue(photos).select("train")
    assert torch.equal(torch.get_rng_state(), before)
    assert embedder.training
    expected = embedder.encode(images.paths, normalize=False)
    assert torch.allclose(rows, torch.from_numpy(expected), atol=1e-5)
    assert labels.tolist() == images.labels.tolist()
    again = stream(photos)
    again.load_state_dict(source.state_dict())
    assert not torch.equal(take(again, 1)[0].rows, first.rows)


def test_the_end_of_an_epoch_comes_before_the_next_is_drawn(photos: Path) -> None:
    source, ends = stream(photos), []
    batches = source.batches(lambda: ends.append((source.epoch, source.position)))
    list(itertools.islice(batches, 3))
    assert ends == []
    next(batches)
    assert ends == [(0, 3)]
    assert (source.epoch, source.position) == (1, 1)
