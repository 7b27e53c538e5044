"""A run as training leaves it, for the tables of faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from faults.making import class_folders

from cosphere.runs import RunFolder
from cosphere.train import TrainSettings
from cosphere.train.setup import build_model


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training and test classes of two images each."""
    root = tmp_path_factory.mktemp("faults")
    class_folders(root / "train", "abcdef")
    class_folders(root / "test", "uvwxyz")
    return root


@pytest.fixture(scope="session")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as training leaves it, with the weights that it began with."""
    values = {"data.root": str(data), "model.backbone": "test_resnet", "model.weights": "none", "model.dim": 8}
    settings = TrainSettings().with_values({**values, "images.size": 32, "device": "cpu", "steps": 1})
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "first")
    settings.write(folder.config)
    build_model(settings)[0].save(folder.model)
    folder.metrics.write_text(json.dumps({"step": 1, "train/loss": 1.0}) + "\n")
    return folder.path
