"""Timing a few steps in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosphere.data import read_catalogue
from cosphere.errors import RunError
from cosphere.experiment.images import parts_of_training
from cosphere.experiment.trial import FROZEN_STEPS, MOST_IMAGES, STEPS, measure_cost, sample
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


def test_a_trial_of_cached_features_measures_each_part(settings: TrainSettings, photos: Path) -> None:
    parts = parts_of_training(read_catalogue(photos), settings)
    cost = measure_cost(settings.with_values({"features.copies": 3}), parts)
    assert cost.start > 0.1  # imports alone take longer
    assert 0 < cost.step < 1
    assert cost.lens >= 0
    assert cost.embedded > 1
    assert cost.features > 1
    assert cost.memory > 50e6
    assert STEPS < FROZEN_STEPS


def test_a_trial_that_fails_says_why(settings: TrainSettings, photos: Path) -> None:
    parts = parts_of_training(read_catalogue(photos), settings)
    with pytest.raises(RunError, match=r"a trial of these settings failed: .*no weights file"):
        measure_cost(settings.with_values({"model.weights": "nothing.pth"}), parts)


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
