"""A run that is there already is taken only for the run that a call would train."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cosphere.data import training_parts
from cosphere.errors import RunError
from cosphere.experiment import run
from cosphere.experiment.continuing import differing_settings, steps_done
from cosphere.experiment.images import training_images
from cosphere.models import build_backbone
from cosphere.train import TrainSettings
from cosphere.train.checkpoint import load_checkpoint, save_checkpoint

SMALL = {
    "model.backbone": "test_resnet",
    "model.dim": 8,
    "images.size": 32,
    "batch.size": 8,
    "batch.images_per_class": 2,
    "steps": 2,
    "device": "cpu",
    "data.validation_share": 0.4,
    "validation.before": False,
    "validation.lens": False,
}


def write_weights(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    torch.save(build_backbone("test_resnet", "none", image_size=32).net.state_dict(), path)


@pytest.fixture(scope="module")
def begun(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainSettings, Path]:
    """Settings, and the folder of a run of two steps with them, from a weights file."""
    folder = tmp_path_factory.mktemp("begun")
    write_weights(folder / "net.pth", 0)
    shutil.copytree(photos, folder / "photos")
    settings = TrainSettings().with_values(
        {**SMALL, "data.root": str(folder / "photos"), "model.weights": str(folder / "net.pth")}
    )
    run(settings, folder / "run")
    return settings, folder / "run"


def test_the_same_run_says_how_far_it_is(begun: tuple[TrainSettings, Path], tmp_path: Path) -> None:
    settings, folder = begun
    shutil.copytree(settings.data.root, tmp_path / "moved")
    shutil.copy(settings.model.weights, tmp_path / "renamed.pth")
    moved = settings.with_values(
        {"data.root": str(tmp_path / "moved"), "model.weights": str(tmp_path / "renamed.pth"), "log_every": 3}
    )
    assert steps_done(settings, folder, training_images(settings)) == 2
    assert steps_done(moved, folder, training_images(moved)) == 2
    longer = settings.with_values({"steps": 9})
    assert steps_done(longer, folder, training_images(settings), but=("steps",)) == 2
    # The same weights under another name do not keep it from going on, and its settings follow.
    assert run(replace(moved, steps=3), shutil.copytree(folder, tmp_path / "run"), resume=True).steps == 3
    assert TrainSettings.read(tmp_path / "run" / "config.yaml") == replace(moved, steps=3)


def test_where_nothing_has_begun_there_is_nothing_to_compare(begun: tuple[TrainSettings, Path], tmp_path: Path) -> None:
    settings, folder = begun
    images = training_images(settings)
    assert steps_done(settings, tmp_path, images) is None
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "model"))
    assert steps_done(settings, tmp_path / "run", images) == 0


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"steps": 9}, "steps"),
        ({"seed": 1}, "seed"),
        ({"model.dim": 16, "sec.weight": 0.1, "loss.settings": {"base": 0.2}}, "loss.settings, loss.settings.base, "),
        ({"validation.metric": "map@r"}, "validation.metric"),
    ],
)
def test_other_settings_are_named(begun: tuple[TrainSettings, Path], changes: dict[str, Any], shown: str) -> None:
    settings, folder = begun
    with pytest.raises(
        RunError, match=rf"run holds a run with other settings \({shown}.*Give another folder with --runs"
    ):
        steps_done(settings.with_values(changes), folder, training_images(settings))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("pixels of a training image", "on other images"),
        ("pixels of a validation image", "on other validation images"),
        ("label", "on other images"),
        ("weights", "from other weights"),
        ("no weights", "from other weights"),
    ],
)
def test_other_images_and_weights_are_refused(
    change: str, words: str, begun: tuple[TrainSettings, Path], tmp_path: Path
) -> None:
    settings, folder = begun
    root = Path(shutil.copytree(settings.data.root, tmp_path / "photos"))
    settings = settings.with_values({"data.root": str(root)})
    images = training_images(settings)
    parts = training_parts(images, val_share=0.4)
    assert parts.val is not None
    if change == "label":
        (root / "train" / "class00").rename(root / "train" / "class00b")
    elif change == "weights":
        write_weights(tmp_path / "net.pth", 1)
        settings = settings.with_values({"model.weights": str(tmp_path / "net.pth")})
    elif change == "no weights":
        settings = settings.with_values({"model.weights": "none"})
    else:
        file = (parts.train if "training" in change else parts.val).paths[0]
        Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save(file)
    with pytest.raises(RunError, match=f"run holds a run that was trained {words}. Give another folder with --runs"):
        steps_done(settings, folder, training_images(settings))


def test_a_checkpoint_of_an_earlier_version_is_known_by_the_word_for_its_weights(
    begun: tuple[TrainSettings, Path], tmp_path: Path
) -> None:
    settings, folder = begun
    images = training_images(settings)
    old = Path(shutil.copytree(folder, tmp_path / "run"))
    for word, accepted in ((settings.model.weights, False), ("none", True)):
        saved = load_checkpoint(folder / "checkpoints" / "last.pt")
        del saved["weights"], saved["validation"]
        save_checkpoint(old / "checkpoints" / "last.pt", saved)
        now = settings.with_values({"model.weights": word})
        now.write(old / "config.yaml")
        if accepted:
            assert steps_done(now, old, images) == 2
        else:
            with pytest.raises(RunError, match="from other weights"):
                steps_done(now, old, images)


def test_a_refused_resumption_leaves_the_settings_of_the_run(begun: tuple[TrainSettings, Path], tmp_path: Path) -> None:
    settings, folder = begun
    own = Path(shutil.copytree(folder, tmp_path / "run"))
    before = (own / "config.yaml").read_bytes()
    (tmp_path / "others").mkdir()
    for number in range(4):
        shutil.copytree(Path(settings.data.root) / "train" / f"class0{number}", tmp_path / "others" / f"class0{number}")
    with pytest.raises(RunError, match="the data now has"):
        run(settings.with_values({"data.root": str(tmp_path / "others"), "steps": 5}), own, resume=True)
    with pytest.raises(RunError, match=r"last.pt has 2 steps; wanted at most the 1 of the settings. Give --steps 2 or"):
        run(replace(settings, steps=1), own, resume=True)
    assert (own / "config.yaml").read_bytes() == before


def test_differing_settings_are_those_that_a_number_depends_on() -> None:
    one = TrainSettings()
    other = one.with_values({"log_every": 7, "device": "cpu", "sec.weight": 1, "seed": 3, "data.root": "x"})
    assert differing_settings(one, one) == []
    assert differing_settings(one, other) == differing_settings(other, one) == ["data.root", "sec.weight", "seed"]
