"""The stream of batches: endless, exact to resume, and quiet towards the global generators."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cosphere.data import Batch, read_catalogue
from cosphere.errors import RunError
from cosphere.images import Augmentation, Preprocessing
from cosphere.models import EmbedderSettings, build_embedder
from cosphere.train import stream as streams
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


@pytest.mark.parametrize("channels_last", [True, False])
def test_batches_lie_in_memory_as_the_settings_say(photos: Path, channels_last: bool) -> None:
    source = stream(photos, replace(SETTINGS, channels_last=channels_last))
    inputs, _ = source.inputs(take(source, 1)[0])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert inputs.is_contiguous(memory_format=layout)
    assert TrainSettings().channels_last


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


def test_all_processes_take_as_many_images_as_the_one_with_the_fewest(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = take(stream(photos), 4)
    others = iter([12, 0, 20])  # readable in the other process
    monkeypatch.setattr(streams, "fewest_anywhere", lambda count, device: min(count, next(others)))
    first, second = take(stream(photos), 2)
    assert torch.equal(first.pixels, whole[0].pixels[:12])
    for name in ("labels", "rows", "seeds"):
        assert torch.equal(getattr(first, name), getattr(whole[0], name)[:12]), name
    assert torch.equal(
        second.rows, whole[2].rows
    )  # the batch of which the other process had nothing is left out here too


RANKS = """
import json, os, sys
import torch
from cosphere.experiment import run
from cosphere.train import TrainSettings
settings = TrainSettings().with_values(json.loads(sys.argv[1]))
rank = int(os.fork() == 0)  # importing takes seconds, so that the two share it
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[3]}
from cosphere.train.loop import Training
ended = {}
finish = Training._finish
def noted(training):
    ended["weights"] = [float(one.double().sum()) for one in training.embedder.parameters()]
    ended["notes"] = training.notes
    return finish(training)
Training._finish = noted
try:
    ended["steps"] = run(settings, sys.argv[2]).steps
except Exception as error:
    ended["error"] = repr(error)
with open(f"{sys.argv[2]}.{rank}.json", "w") as file:
    json.dump(ended, file)
rank or os.waitpid(-1, 0)
os._exit(0)  # gloo's threads may outlive the interpreter's end and abort it
"""


@pytest.mark.slow
def test_two_processes_step_together_whatever_one_of_them_cannot_read(photos: Path, tmp_path: Path) -> None:
    """All images of the second process's first batch are damaged; later epochs scatter them over both."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for number, path in enumerate(sorted(photos.glob("train/*/*.png"))[:24]):
        shutil.copy(path, folder / f"{number:03d}.png")
    values = {
        "images.size": 16, "images.preset": "simclr-cifar", "model.backbone": "resnet8_cifar", "model.weights": "none",
        "model.head": "mlp", "model.norm": "none", "model.dim": 8, "batch.sampler": "views", "batch.size": 8, "loss.name": "nt_xent",
        "data.root": str(folder), "data.validation_share": 0, "data.max_unreadable": 0.5, "data.workers": 0, "freeze_norm": False,
        "steps": 6, "checkpoint_every": 0, "validation.before": False, "validation.lens": False, "device": "cpu",
    }  # fmt: skip
    settings = TrainSettings().with_values(values)
    sampler = streams.sampler_of(settings.batch, read_catalogue(folder, labels="optional"), 0, rank=1, world_size=2)
    for row in next(iter(sampler)):
        (folder / f"{row:03d}.png").write_bytes(b"no picture")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [json.dumps(values), str(tmp_path / "run"), port]
    subprocess.run([sys.executable, "-W", "ignore", "-c", RANKS, *words], check=True, timeout=600)
    first, second = (json.loads((tmp_path / f"run.{rank}.json").read_text()) for rank in range(2))
    assert first.get("error") is second.get("error") is None
    assert first["steps"] == second["steps"] == 6
    assert first["weights"] == second["weights"]
    assert first["notes"] == [
        "note: batch norm is synchronised on GPUs alone; here each process takes the statistics of its own batch"
    ]
