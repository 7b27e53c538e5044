"""Timing a few steps in a process of its own."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from cosphere.data import read_catalogue
from cosphere.errors import RunError
from cosphere.experiment.images import parts_of_training
from cosphere.experiment.trial import FROZEN_STEPS, MOST_IMAGES, STEPS, main, measure_cost, sample, trial
from cosphere.train import TrainSettings

SMALL = {
    "model.backbone": "test_resnet",
    "model.weights": "none",
    "model.dim": 8,
    "images.size": 32,
    "batch.size": 8,
    "batch.images_per_class": 2,
    "device": "cpu",
    "data.validation_share": 0.4,
}


@pytest.fixture(scope="module")
def settings(photos: Path) -> TrainSettings:
    return TrainSettings().with_values({**SMALL, "data.root": str(photos)})


def test_a_trial_of_cached_features_measures_each_part(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cosphere.experiment.trial.FROZEN_STEPS", 8)
    began = time.monotonic() - 2.0
    cost = trial(settings.with_values({"features.copies": 3}), tmp_path, began=began)
    assert cost.start > 2.0
    assert 0 < cost.step < 1
    assert cost.lens >= 0
    assert cost.embedded > 1
    assert cost.features > 1
    assert cost.memory > 50e6
    assert STEPS < FROZEN_STEPS


def test_a_trial_on_images_has_no_rate_of_features(settings: TrainSettings, tmp_path: Path) -> None:
    cost = trial(settings, tmp_path, began=time.monotonic())
    assert cost.features == 0.0
    assert cost.step > 0


@pytest.mark.slow(seconds=15)
def test_a_trial_runs_in_a_process_of_its_own(settings: TrainSettings) -> None:
    cost = measure_cost(settings.with_values({"features.copies": 3}))
    assert cost.start > 0.1  # imports alone take longer
    with pytest.raises(RunError, match=r"a trial of these settings failed: .*no weights file"):
        measure_cost(settings.with_values({"model.weights": "nothing.pth"}))


def test_the_process_of_a_trial_writes_its_cost_or_says_why_not(
    settings: TrainSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = settings.with_values({"model.weights": "nothing.pth"})
    wrong.write(tmp_path / "config.yaml")
    assert main(str(tmp_path), str(time.time())) == 2
    assert "no weights file" in capsys.readouterr().err
    assert not (tmp_path / "cost.json").exists()


def test_a_sample_has_whole_validation_classes_and_all_training_images(settings: TrainSettings, photos: Path) -> None:
    parts = parts_of_training(read_catalogue(photos), settings)
    assert parts.val is not None
    made = sample(parts, frozen=False)
    assert made.select("train").table["path"].tolist() == parts.train.table["path"].tolist()
    few = made.select("val")
    for label in few.label_names:
        assert (few.table["label"] == label).sum() == (parts.val.table["label"] == label).sum()
    frozen = sample(parts, frozen=True)
    assert len(np.unique(frozen.select("train").labels)) >= 2
    assert len(frozen.select("train")) <= max(MOST_IMAGES * 2, len(parts.train))
