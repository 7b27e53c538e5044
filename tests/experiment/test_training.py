"""Training and evaluating by calls: the same files as the commands leave, and nothing printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cosphere.cli import main
from cosphere.cli import train as train_command
from cosphere.data import Catalogue, LayoutCheck, Remarks
from cosphere.embeddings import Embeddings
from cosphere.errors import RunError, SettingsError
from cosphere.evaluate import EvaluationSettings, score_embeddings
from cosphere.experiment import Listener, embed_images, evaluate_run, resume_run, run, search_images, validation_scores
from cosphere.experiment.evaluation import published_scores
from cosphere.experiment.training import settings_for
from cosphere.runs import RunFolder
from cosphere.train import TrainSettings
from cosphere.train.beside import read_beside

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
        self.remarks: list[Remarks] = []

    def listed(self, remarks: Remarks) -> None:
        self.remarks.append(remarks)

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
    assert read_beside(trained / "config.yaml", "about") == {"published": {"recall@1": 50.0}}


def test_a_run_is_not_replaced_and_a_finished_one_resumes_to_itself(settings: TrainSettings, trained: Path) -> None:
    with pytest.raises(RunError, match="already holds a run"):
        run(settings, trained)
    weights = (trained / "model" / "model.safetensors").read_bytes()
    assert resume_run(trained).steps == 3
    assert (trained / "model" / "model.safetensors").read_bytes() == weights


def test_a_run_resumes_for_more_steps_and_its_settings_say_so(settings: TrainSettings, tmp_path: Path) -> None:
    run(settings, tmp_path / "run", about={"paper": "x"}, evaluation={"ks": [1]})
    assert resume_run(tmp_path / "run", steps=settings.steps + 1).steps == settings.steps + 1
    config = tmp_path / "run" / "config.yaml"
    assert TrainSettings.read(config).steps == settings.steps + 1
    assert (read_beside(config, "about"), read_beside(config, "evaluation")) == ({"paper": "x"}, {"ks": [1]})
    # The command, for a run that is there already: nothing is left to do.
    assert train_command.run(["--resume", str(tmp_path / "run"), "--steps", str(settings.steps + 1)]) == 0
    with pytest.raises(SettingsError, match="it takes no other setting than --steps"):
        train_command.run(["--resume", str(tmp_path / "run"), "--seed", "3"])


def test_without_images_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="what should be trained on"):
        run(TrainSettings(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_evaluation_is_returned_and_written(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heard = Heard()
    measured = EvaluationSettings(ks=(1, 3), clustering=False, bootstrap_samples=10)
    untrained = evaluate_run(trained, settings=measured, untrained=True)
    found = evaluate_run(trained, settings=measured, codes=True, listener=heard)
    assert (found.split, found.name, found.published) == ("test", "first", {})  # these photos are not the published set
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
    assert len(heard.remarks) == 1
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
    rows = Embeddings(
        embeddings=data, labels=np.arange(24) % 2, paths=tuple("abcdefghijklmnopqrstuvwx"), class_names=("a", "b")
    )
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


@pytest.mark.parametrize(
    ("split", "bits", "form", "found", "layout", "shown"),
    [
        ("test", False, None, "5864", "cub-200-2011", True),
        ("test", True, "bits", "5864", "cub-200-2011", True),
        ("test", True, None, "5864", "cub-200-2011", False),  # the row is of floats
        ("test", False, "bits", "5864", "cub-200-2011", False),
        ("train", False, None, "5864", "cub-200-2011", False),
        ("test", False, None, "36", "cub-200-2011", False),  # a made-up set in the published layout
        ("test", False, None, None, "cub-200-2011", False),  # a set that has no published counts
        ("test", False, None, "5864", "cars196", False),  # another published set than the recipe's: A22
        ("test", False, None, "5864", "auto", False),
    ],
)
def test_published_scores_stand_only_beside_what_can_be_compared(
    split: str, bits: bool, form: str | None, found: str | None, layout: str, shown: bool, tmp_path: Path
) -> None:
    row = {"recall@1": 60.82}
    folder = RunFolder.create(tmp_path / "run")
    settings = TrainSettings().with_values({"data.layout": layout})
    settings.write(folder.config, about={"published": row, **({"form": form} if form else {})})
    table = pd.DataFrame({"path": ["a.jpg"], "label": ["a"], "split": ["test"]})
    checks = () if found is None else (LayoutCheck("train images", "5864", found),)
    catalogue = Catalogue(table=table, root=tmp_path, layout="cub-200-2011", checks=checks)
    assert published_scores(folder, catalogue, split, bits=bits) == (row if shown else {})


def test_a_recipe_says_how_its_run_is_evaluated(settings: TrainSettings, tmp_path: Path) -> None:
    block = {"ks": [1, 2], "clustering": False, "bits": True, "bootstrap_samples": 0}
    run(settings, tmp_path / "run", evaluation=block)
    scores = evaluate_run(tmp_path / "run").scores
    assert sorted(scores.values) == ["map@r", "r_precision", "recall@1", "recall@2"]
    assert any("one bit" in note for note in scores.notes)
    assert main(["evaluate", str(tmp_path / "run"), "--ks", "[3]"]) == 0  # the command line overrides one of them
    content = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert sorted(content["scores"]) == ["map@r", "r_precision", "recall@3"]


@pytest.mark.parametrize(
    ("block", "words"),
    [({"kz": [1]}, "there is no setting 'evaluation.kz'"), ({"ks": "all"}, r"evaluation\.ks is 'all'")],
)
def test_a_wrong_evaluation_block_is_named_before_training(
    block: dict[str, Any], words: str, settings: TrainSettings, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=words):
        run(settings, tmp_path / "run", evaluation=block)
    assert not (tmp_path / "run").exists()
