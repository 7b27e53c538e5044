"""A run on cached features is a run like any other, and its images go through the backbone once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cosphere.cli.quick import understood
from cosphere.data import read_catalogue
from cosphere.embeddings import embed
from cosphere.errors import SettingsError
from cosphere.experiment import calibrate_run, embed_images, evaluate_run, prepare_features, resume_run, run
from cosphere.models import Embedder
from cosphere.models.backbones import Backbone
from cosphere.runs import RunFolder
from cosphere.train import PlainReporter, TrainSettings


@pytest.fixture(scope="module")
def settings(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    """With the backbone of a model on disk, as every pretrained one is."""
    from cosphere.models import EmbedderSettings, build_embedder

    torch.manual_seed(0)
    start = tmp_path_factory.mktemp("start")
    build_embedder(EmbedderSettings(backbone="test_resnet", weights="none", dim=0, norm="none"), image_size=32).save(
        start
    )
    return TrainSettings().with_values(
        {
            "data.root": str(photos),
            "data.validation_share": 0.3,
            "steps": 8,
            "images.size": 32,
            "model.backbone": "test_resnet",
            "model.weights": str(start),
            "model.dim": 8,
            "batch.size": 8,
            "batch.images_per_class": 2,
            "optimizer.head_rate": 0.01,
            "sec.weight": 0.1,
            "validation.every": 4,
            "features.copies": 2,
            "features.seed": 0,
        }
    )


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images of all passes through a backbone, but for the blank image that tells its shape."""
    sizes: list[int] = []
    real = Backbone.forward

    def counted(self: Backbone, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 1 or bool(images.any()):
            sizes.append(len(images))
        return real(self, images)

    monkeypatch.setattr(Backbone, "forward", counted)
    return sizes


def test_each_image_passes_the_backbone_once_in_a_study(
    settings: TrainSettings, tmp_path: Path, passed: list[int]
) -> None:
    run(settings, tmp_path / "runs" / "one")
    assert sum(passed) == 42 * 2 + 18  # copies of the training images, and the validation images
    passed.clear()
    first = evaluate_run(tmp_path / "runs" / "one")
    assert sum(passed) == 24
    passed.clear()
    other = settings.with_values({"seed": 1, "model.dim": 5, "loss.name": "norm_softmax", "sec.weight": 0.0})
    run(other, tmp_path / "runs" / "two")
    second = evaluate_run(tmp_path / "runs" / "two")
    evaluate_run(tmp_path / "runs" / "two", untrained=True)
    calibrate_run(tmp_path / "runs" / "two", far=0.1)
    assert passed == []
    assert first.scores.fingerprint == second.scores.fingerprint
    assert second.scores.embeddings.embeddings.shape == (24, 5)


def test_scores_and_embeddings_are_those_of_the_pixels(settings: TrainSettings, photos: Path, tmp_path: Path) -> None:
    result = run(settings, tmp_path / "run")
    assert result.before
    model = Embedder.load(tmp_path / "run")
    test = read_catalogue(photos).select("test")
    pixels = embed(model, test)
    evaluated = evaluate_run(tmp_path / "run").scores
    np.testing.assert_allclose(evaluated.embeddings.embeddings, pixels.embeddings, rtol=0, atol=1e-5)
    assert evaluated.embeddings.paths == pixels.paths
    assert evaluated.embeddings.model_id == pixels.model_id
    again = embed_images(tmp_path / "run" / "model", test.root, split="test")
    np.testing.assert_allclose(again.embeddings, pixels.embeddings, rtol=0, atol=1e-5)
    encoded = model.encode(test.paths, normalize=False)
    np.testing.assert_allclose(encoded, pixels.embeddings, rtol=0, atol=1e-5)


def test_a_run_goes_on_to_more_steps(settings: TrainSettings, tmp_path: Path, passed: list[int]) -> None:
    run(settings, tmp_path / "run")
    passed.clear()
    assert resume_run(tmp_path / "run", steps=12).steps == 12
    assert passed == []


def test_features_are_prepared_for_the_runs_that_follow(
    settings: TrainSettings, tmp_path: Path, passed: list[int]
) -> None:
    lines: list[str] = []

    class Lines(PlainReporter):
        def _line(self, text: str) -> None:
            lines.append(text)

    prepare_features(settings, tmp_path / "runs" / "one", reporter=Lines(1))
    assert not (tmp_path / "runs" / "one").exists()
    assert sum(passed) == 42 * 2 + 18
    assert [line.split(" computed in")[0] for line in lines] == [
        "features: 84",
        "features of the validation images: 18",
    ]
    passed.clear()
    run(settings, tmp_path / "runs" / "one")
    assert passed == []


def test_preparing_and_training_read_no_test_image(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cosphere.data.dataset as dataset

    read: list[str] = []
    real = dataset.read_image
    monkeypatch.setattr(dataset, "read_image", lambda path, **how: (read.append(str(path)), real(path, **how))[1])
    prepare_features(settings, tmp_path / "runs" / "one")
    run(settings, tmp_path / "runs" / "one")
    assert read
    assert not [path for path in read if "/test/" in path]


def test_random_weights_are_prepared_as_the_run_draws_them(
    settings: TrainSettings, tmp_path: Path, passed: list[int]
) -> None:
    random: Any = settings.with_values({"model.weights": "none", "seed": 3})
    state = torch.get_rng_state()
    prepare_features(random, tmp_path / "runs" / "one")
    assert torch.equal(torch.get_rng_state(), state)
    passed.clear()
    run(random, tmp_path / "runs" / "one")
    assert passed == []


def test_without_copies_there_is_nothing_to_prepare(settings: TrainSettings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"features\.copies is 0.*at least 1"):
        prepare_features(settings.with_values({"features.copies": 0}), tmp_path / "run")


def test_a_folder_of_ones_own_is_kept_as_an_absolute_path(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(settings.with_values({"features.folder": "shared"}), "runs/one")
    assert list((tmp_path / "shared").rglob("*.npy"))
    assert not (tmp_path / "runs" / ".features").exists()
    assert TrainSettings.read(RunFolder(tmp_path / "runs/one").config).features.folder == str(tmp_path / "shared")


def test_the_command_has_a_short_form() -> None:
    assert understood("train", ["photos", "--cache-features", "4"]) == ["photos", "--features.copies=4"]
    assert understood("train", ["photos", "--cache-features=4"]) == ["photos", "--features.copies=4"]
