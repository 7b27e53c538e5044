"""Training and evaluating by calls: the same files as the commands leave, and nothing printed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cosphere.cli import main
from cosphere.data import Catalogue
from cosphere.embeddings import Embeddings
from cosphere.errors import RunError, SettingsError
from cosphere.evaluate import EvaluationSettings, score_embeddings
from cosphere.experiment import Listener, embed_images, evaluate_run, resume_run, run, search_images, validation_scores
from cosphere.experiment.training import settings_for
from cosphere.train import TrainSettings
from cosphere.train.settings import read_about

SMALL = {
    "model.backbone": "test_resnet",
    "model.weights": "none",
    "model.dim": 8,
    "images.size": 32,
    "batch.size": 8,
    "batch.images_per_class": 2,
    "steps": 3,
    "device": "cpu",
}


class Heard(Listener):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.catalogues: list[Catalogue] = []

    def listed(self, catalogue: Catalogue) -> None:
        self.catalogues.append(catalogue)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def settings(photos: Path) -> TrainSettings:
    return TrainSettings().with_values({**SMALL, "data.root": str(photos)})


@pytest.fixture(scope="module")
def trained(settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    run(settings, folder, about={"published": {"recall@1": 50.0}})
    return folder


def test_a_call_trains_what_the_command_trains(
    settings: TrainSettings, trained: Path, photos: Path, tmp_path: Path
) -> None:
    words = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    assert main(["train", str(photos), "--name", "second", "--runs", str(tmp_path), *words]) == 0
    ours, theirs = (folder / "model" / "model.safetensors" for folder in (trained, tmp_path / "second"))
    assert TrainSettings.read(trained / "config.yaml") == TrainSettings.read(tmp_path / "second" / "config.yaml")
    from safetensors.numpy import load_file

    for name, values in load_file(ours).items():
        np.testing.assert_array_equal(values, load_file(theirs)[name])


def test_the_settings_are_kept_with_the_run(settings: TrainSettings, trained: Path) -> None:
    assert TrainSettings.read(trained / "config.yaml") == settings
    assert read_about(trained / "config.yaml") == {"published": {"recall@1": 50.0}}


def test_a_run_is_not_replaced_and_a_finished_one_resumes_to_itself(settings: TrainSettings, trained: Path) -> None:
    with pytest.raises(RunError, match="already holds a run"):
        run(settings, trained)
    weights = (trained / "model" / "model.safetensors").read_bytes()
    assert resume_run(trained).steps == 3
    assert (trained / "model" / "model.safetensors").read_bytes() == weights


def test_without_images_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="what should be trained on"):
        run(TrainSettings(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_evaluation_is_returned_and_written(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heard = Heard()
    measured = EvaluationSettings(ks=(1, 3), clustering=False, bootstrap_samples=10)
    untrained = evaluate_run(trained, settings=measured, untrained=True)
    found = evaluate_run(trained, settings=measured, codes=True, listener=heard)
    assert (found.split, found.name, found.published) == ("test", "first", {"recall@1": 50.0})
    assert (untrained.name, untrained.tables, untrained.published) == ("untrained backbone", None, {})
    content = json.loads(found.path.read_text())
    assert found.path == trained / "scores.json"
    assert content["scores"]["recall@3"]["value"] == found.scores.value("recall@3")
    assert content["baseline_scores"]["map@r"]["value"] == untrained.scores.value("map@r")
    saved = Embeddings.load(trained / "embeddings" / "test.npz")
    again = score_embeddings(saved, measured)
    assert again.value("map@r") == pytest.approx(found.scores.value("map@r"))
    assert {path.name for path in trained.glob("*.csv")} == {"classes.csv", "suspects.csv"}
    assert json.loads((trained / "codes.json").read_text())["split"] == "test"
    assert found.codes is not None
    assert len(heard.catalogues) == 1
    shown = capsys.readouterr()
    assert shown.out == ""


def test_images_are_embedded_and_searched_as_the_model_sees_them(trained: Path, photos: Path) -> None:
    images = embed_images(trained, photos, split="test", batch_size=5)
    assert len(images) == 24
    names = np.array(images.class_names)[images.labels]
    searched = search_images(trained, photos, images.paths[:2], k=3, split="test")
    unit = images.embeddings / np.linalg.norm(images.embeddings, axis=1, keepdims=True)
    for row, answer in enumerate(searched.answers):
        cosines = unit @ unit[row]
        cosines[row] = -2
        want = np.sort(cosines)[::-1][:3]
        np.testing.assert_allclose([hit.score for hit in answer.hits], want, atol=1e-5)
        assert all(hit.label == names[hit.row] for hit in answer.hits)
        assert answer.own_label == names[row]
    assert len(embed_images(trained / "model", photos, split="train")) == 60


@pytest.mark.parametrize(
    ("names", "ks", "metrics", "clustering"),
    [
        (("recall@1", "map@r"), (1,), (), False),
        (("recall@5", "recall@2"), (2, 5), (), False),
        (("mrr",), (1,), ("mrr",), False),
        (("ndcg@10", "precision@3"), (3, 10), ("ndcg", "precision"), False),
        (("map@all", "nmi"), (1,), ("map@all",), True),
    ],
)
def test_a_score_needs_no_more_than_its_settings(
    names: tuple[str, ...], ks: tuple[int, ...], metrics: tuple[str, ...], clustering: bool
) -> None:
    found = settings_for(names)
    assert (found.ks, found.metrics, found.clustering, found.bootstrap_samples) == (ks, metrics, clustering, 0)
    data = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    rows = Embeddings(embeddings=data, labels=np.arange(24) % 2, paths=tuple("x" * 24), class_names=("a", "b"))
    values = score_embeddings(rows, found).values
    assert set(names) <= set(values)


@pytest.mark.parametrize(
    ("name", "near"), [("recall", "recall@1"), ("map@rr", "map@r"), ("median_rank", ""), ("nmi2", "nmi")]
)
def test_an_unknown_score_is_said_before_training(name: str, near: str) -> None:
    with pytest.raises(SettingsError, match=f"there is no score {name!r} to validate by.*{near}"):
        settings_for((name,))


def test_validation_measures_what_the_best_model_is_chosen_by(settings: TrainSettings, photos: Path) -> None:
    from cosphere.data import read_catalogue
    from cosphere.train import build_model

    embedder, _ = build_model(settings)
    images = read_catalogue(photos).select("test")
    found = validation_scores(settings)(embedder, images)
    assert list(found.scores) == ["recall@1", "map@r", "r_precision"]  # type: ignore[union-attr]
