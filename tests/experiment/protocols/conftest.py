"""A run that was trained on the training people of a small LFW."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_lfw import write_lfw


@pytest.fixture(scope="session")
def lfw_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lfw(tmp_path_factory.mktemp("faces") / "lfw")


@pytest.fixture(scope="session")
def face_run(lfw_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cosphere.experiment import run
    from cosphere.train import TrainSettings

    settings = TrainSettings().with_values(
        {
            "data.root": str(lfw_root),
            "data.validation_share": 0,
            "images.size": 24,
            "images.resize": 24,  # A crop of an odd margin would differ in a mirrored picture.
            "model.backbone": "test_resnet",
            "model.weights": "none",
            "model.dim": 8,
            "batch.size": 8,
            "batch.images_per_class": 2,
            "steps": 2,
            "checkpoint_every": 0,
            "validation.before": False,
            "device": "cpu",
        }
    )
    path = tmp_path_factory.mktemp("runs") / "faces"
    run(settings, path)
    return path
