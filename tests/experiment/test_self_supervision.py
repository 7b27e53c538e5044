"""Contrastive self-supervision from a folder to an embedder: with and without labels, killed and resumed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cosphere.cli import main
from cosphere.data import read_catalogue, training_parts
from cosphere.errors import DataError
from cosphere.experiment import resume_run, run
from cosphere.experiment.listener import SilentReporter
from cosphere.images import IMAGENET_MEAN, Augmentation
from cosphere.images.augmentation import CIFAR100_MEAN, CIFAR100_STD, CIFAR_MEAN, CIFAR_STD
from cosphere.models import Embedder
from cosphere.runs import RunFolder
from cosphere.train import TrainSettings, build_model
from cosphere.train.checkpoint import load_checkpoint

SIMCLR: dict[str, Any] = {
    "images.size": 16,
    "images.preset": "simclr-cifar",
    "model.backbone": "resnet8_cifar",
    "model.weights": "none",
    "model.head": "mlp",
    "model.norm": "none",
    "model.dim": 8,
    "batch.sampler": "views",
    "batch.size": 20,
    "loss.name": "nt_xent",
    "loss.settings": {"base_temperature": 0.07},
    "sec.weight": 0.1,
    "sec.ramp": "linear",
    "optimizer.name": "lars",
    "optimizer.head_rate": 0.5,
    "optimizer.backbone_rate": 0.5,
    "schedule.name": "cosine",
    "schedule.final_factor": 0.001,
    "schedule.every": 3,
    "freeze_norm": False,
    "steps": 8,
    "checkpoint_every": 4,
    "validation.every": 4,
    "validation.before": False,
    "validation.lens": False,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def flat(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pictures in one folder, without labels."""
    folder = tmp_path_factory.mktemp("flat") / "pictures"
    folder.mkdir()
    for number, path in enumerate(sorted(photos.glob("train/*/*.png"))):
        shutil.copy(path, folder / f"{number:03d}.png")
    return folder


def settings_on(source: Path, **changes: Any) -> TrainSettings:
    return TrainSettings().with_values({**SIMCLR, "data.root": str(source), **changes})


def test_a_flat_folder_trains_and_its_health_is_watched(flat: Path, tmp_path: Path) -> None:
    result = run(settings_on(flat), tmp_path / "run")
    assert (result.steps, result.best_step, result.best_scores) == (8, 8, {})
    rows = [row for row in RunFolder.open(tmp_path / "run").read_metrics() if "val/effective_rank" in row]
    assert [row["step"] for row in rows] == [4, 8]
    assert {"val/uniformity", "val/mean_cosine", "val/norm_cv"} <= rows[0].keys()
    assert not {"val/recall@1", "val/alignment"} & rows[0].keys()  # these need labels
    embedder = Embedder.load(tmp_path / "run" / "model")
    assert (embedder.dim, embedder.output_dim) == (8, 64)  # the encoder's features, not the projection
    assert embedder.encode(sorted(flat.iterdir())[:3]).shape == (3, 64)
    assert embedder.provenance["data"]["classes"] == []


def test_images_without_labels_are_held_out_whatever_their_order(flat: Path) -> None:
    images = read_catalogue(flat, labels="optional")
    parts = training_parts(images, val_share=0.2, seed=1)
    assert parts.val is not None
    assert (len(parts.train), len(parts.val)) == (48, 12)
    assert not set(parts.train.paths) & set(parts.val.paths)
    turned = training_parts(images.rows(range(59, -1, -1)), val_share=0.2, seed=1)
    assert turned.val is not None
    assert sorted(turned.val.paths) == sorted(parts.val.paths)
    assert "without labels held out" in parts.how
    assert training_parts(images, val_share=0).val is None
    assert training_parts(images.rows([0, 1, 2])).how == "no validation: 3 images are too few to hold some out"


def test_a_loss_that_compares_classes_still_wants_them(flat: Path, tmp_path: Path) -> None:
    advice = "holds 60 images but no class folders.* Or learn without labels: --config ssl/simclr-small"
    with pytest.raises(DataError, match=advice):
        run(settings_on(flat, **{"loss.name": "sup_con", "loss.settings": {}}), tmp_path / "run")


def test_classes_are_validation_and_no_more(photos: Path, tmp_path: Path) -> None:
    """With labels, the run scores itself on them and trains as without: the same weights but for the classes held out."""
    result = run(settings_on(photos, **{"data.validation_share": 0.2}), tmp_path / "run")
    assert set(result.best_scores) >= {"recall@1", "map@r"}


class Killed(Exception):
    """Stops a run."""


class Killer(SilentReporter):
    def stepped(self, step: int) -> None:
        if step == 6:
            raise Killed


def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(flat: Path, tmp_path: Path) -> None:
    """Batched views, LARS, a cosine by epochs, the ramp of SEC and the queue of past views take part."""
    settings = settings_on(flat, **{"loss.memory": 40})
    run(settings, tmp_path / "whole")
    with pytest.raises(Killed):
        run(settings, tmp_path / "broken", reporter=Killer())
    resume_run(tmp_path / "broken")
    same(tmp_path / "whole", tmp_path / "broken")


def test_a_network_with_random_weights_sees_the_presets_mean_and_deviation(tmp_path: Path) -> None:
    embedder, augmentation = build_model(settings_on(tmp_path))
    assert (embedder.preprocessing.mean, embedder.preprocessing.std) == (CIFAR_MEAN, CIFAR_STD)
    assert augmentation == Augmentation(preset="simclr-cifar")
    finer, _ = build_model(settings_on(tmp_path, **{"images.preset": "simclr-cifar100"}))
    assert (finer.preprocessing.mean, finer.preprocessing.std) == (CIFAR100_MEAN, CIFAR100_STD)
    other, _ = build_model(settings_on(tmp_path, **{"images.preset": "simclr-224", "images.blur": 0}))
    assert other.preprocessing.mean == IMAGENET_MEAN
    embedder.save(tmp_path / "model")
    tuned = {"model.weights": str(tmp_path / "model"), "images.preset": "sec"}  # what the weights were trained on wins
    assert build_model(settings_on(tmp_path, **tuned))[0].preprocessing.mean == CIFAR_MEAN


def same(one: Path, other: Path) -> None:
    ends = [load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (one, other)]
    assert ends[0]["step"] == ends[1]["step"]
    for part in ("model", "loss", "constraint"):
        assert ends[0][part].keys() == ends[1][part].keys()
        for name, value in ends[0][part].items():
            assert torch.equal(value, ends[1][part][name]), name
    assert ends[0]["stream"] == ends[1]["stream"]


@pytest.mark.slow(seconds=15)
def test_kill_9_and_resume_through_the_command(flat: Path, tmp_path: Path) -> None:
    config = tmp_path / "simclr.yaml"
    settings_on(flat, steps=60, checkpoint_every=30, **{"validation.every": 30, "loss.memory": 40}).write(config)
    words = ["train", str(flat), "--config", str(config), "--runs", str(tmp_path)]
    assert main([*words, "--name", "whole"]) == 0
    command = [sys.executable, "-m", "cosphere", *words, "--name", "killed"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics, deadline = tmp_path / "killed" / "metrics.jsonl", time.monotonic() + 600
    while not (metrics.exists() and any(json.loads(line)["step"] >= 40 for line in whole_lines(metrics))):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert load_checkpoint(tmp_path / "killed" / "checkpoints" / "last.pt")["step"] == 30
    assert main(["train", "--resume", str(tmp_path / "killed")]) == 0
    same(tmp_path / "whole", tmp_path / "killed")


def whole_lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
