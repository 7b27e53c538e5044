"""`cosphere calibrate`, end to end on small pictures."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cosphere.cli import main
from cosphere.cli.calibrate import run as calibrate_command
from cosphere.data import read_catalogue, training_parts
from cosphere.errors import SettingsError
from cosphere.evaluate import calibrate, embed_catalogue
from cosphere.experiment.calibrating import calibration_notes
from cosphere.models import Embedder
from cosphere.search import search

SMALL = ["--model.backbone", "test_resnet", "--model.weights", "none", "--model.dim", "8", "--images.size", "32"]
SMALL += ["--batch.size", "8", "--batch.images_per_class", "2", "--steps", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert main(["train", str(photos), "--name", "small", "--runs", str(runs), *SMALL]) == 0
    return runs / "small"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_the_threshold_comes_from_held_out_classes_and_stays_in_the_model(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = Embedder.load(run).state_dict()
    assert main(["calibrate", str(run), "--far", "0.1"]) == 0
    shown = capsys.readouterr().out
    for words in ("cosine above", "angle below", "L2 below", "false accept rate, wanted, %", "DIR", "false alarm"):
        assert words in shown
    held_out = training_parts(read_catalogue(photos)).val
    assert held_out is not None
    embedder = Embedder.load(run)
    images = embed_catalogue(embedder, held_out)
    assert embedder.calibration is not None
    assert embedder.calibration.tested_far is not None
    chosen = dataclasses.replace(embedder.calibration, tested_far=None, tested_pairs=None)
    assert chosen == calibrate(images.embeddings, images.labels, 0.1, data=held_out.fingerprint())
    assert all((weights[name] == value).all() for name, value in embedder.state_dict().items())
    assert json.loads((run / "model" / "bundle.json").read_text())["calibration"]["wanted_far"] == 0.1


def test_a_named_split_and_no_test(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(run), str(photos), "--far", "0.2", "--split", "train", "--test", "false"]) == 0
    shown = " ".join("".join(capsys.readouterr()).split())
    assert "threshold from train: 60 images, 10 classes" in shown
    assert "trained on lie farther apart" in shown
    assert "if these are among them" not in shown
    assert "DIR" not in shown
    found = Embedder.load(run).calibration
    assert found is not None
    assert found.images == 60
    assert main(["calibrate", str(run), "--far", "0.3", "--test", "false"]) == 0  # a second one replaces it
    again = Embedder.load(run).calibration
    assert again is not None
    assert again.wanted_far == 0.3


def test_few_pairs_are_noted() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3))
    few = calibrate(rows, np.arange(20) % 5, 0.01, samples=5)
    assert any(
        "160 pairs are few for a rate of 0.01: want at least 3,000" in note for note in calibration_notes(few, "train")
    )
    enough = calibrate(rows, np.arange(20) % 5, 0.5, samples=5)
    (note,) = calibration_notes(enough, "test")
    assert note.startswith("5 classes are few: with other classes the false accept rate may lie anywhere from ")
    enough = dataclasses.replace(enough, classes=20)
    assert calibration_notes(enough, "test") == []
    (note,) = calibration_notes(dataclasses.replace(enough, tar=0.0), "test")
    assert note.startswith("no pair of one class lies above the threshold, so it accepts nothing")
    assert "chosen on these classes" in calibration_notes(enough, "val")[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--far", "2"], "far must be a number above 0 and below 1, finite; got 2.0"),
        (["--split", "vale"], "has no split 'vale'; it has train, test"),
        (["--fars", "0.1"], "there is no setting 'fars'. Did you mean 'far'?"),
    ],
)
def test_mistakes_get_one_line(run: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["calibrate", str(run), *words]) == 2
    assert message in capsys.readouterr().err
    assert Embedder.load(run).calibration is None


def test_a_wrong_rate_is_told_before_any_image_is_embedded() -> None:
    with pytest.raises(SettingsError, match=r"far must be a number above 0 and below 1, finite; got 0\.0"):
        calibrate_command(["never/there", "--far", "0"])


def test_other_images_than_those_of_the_training_are_noted(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(photos, tmp_path / "moved")
    assert main(["calibrate", str(run), str(moved), "--far", "0.1", "--test", "false"]) == 0
    assert "not the images that the run was trained from" not in capsys.readouterr().err
    (moved / "train" / "new").mkdir()
    for number in range(2):
        shutil.copy(photos / "test" / "class10" / f"{number}.png", moved / "train" / "new")
    assert main(["calibrate", str(run), str(moved), "--far", "0.1", "--test", "false"]) == 0
    assert "these are not the images that the run was trained from, so" in capsys.readouterr().err
    assert main(["calibrate", str(run), str(moved), "--far", "0.1", "--split", "all"]) == 0
    assert "expect more false accepts, if these are among them" in capsys.readouterr().err


def test_no_run_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(tmp_path / "none")]) == 2
    assert "there is no run at" in capsys.readouterr().err


def test_search_marks_what_is_below_the_threshold(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(threshold: float | None, *words: str) -> list[str]:
        embedder = Embedder.load(run)
        if threshold is None:
            embedder.calibration = None
        else:
            assert embedder.calibration is not None
            embedder.calibration = dataclasses.replace(embedder.calibration, threshold=threshold)
        embedder.save(run / "model")
        query = str(photos / "test" / "class10" / "0.png")
        command = ["search", str(run), str(photos), query, "--k", "5", "--out", str(tmp_path / "found.png"), *words]
        capsys.readouterr()
        assert main(command) == 0
        return capsys.readouterr().out.splitlines()

    assert main(["calibrate", str(run), "--far", "0.1", "--test", "false"]) == 0
    images = embed_catalogue(Embedder.load(run), read_catalogue(photos))
    asked = next(row for row, path in enumerate(images.paths) if path.endswith("test/class10/0.png"))
    found = search(images.embeddings[asked : asked + 1], images.embeddings, k=5, exclude=[asked]).scores[0].tolist()
    assert found[1] > found[2] + 1e-5
    some = "\n".join(lines((found[1] + found[2]) / 2))
    assert some.count("unknown (class") == 3
    assert "2 of 5 above the threshold" in some
    none = "\n".join(lines(0.999999))
    assert none.count("unknown (class") == 5
    assert "no known class matches the query" in none
    assert "\n".join(lines(0.999999, "--kind", "rerank")).count("unknown (class") == 5
    bits = "\n".join(lines(0.999999, "--kind", "bits"))
    assert "unknown (" not in bits
    assert "nothing is marked as unknown by kind bits" in bits
    assert "unknown" not in "\n".join(lines(-1.0)).replace("marked as unknown", "")
    assert "unknown" not in "\n".join(lines(None))
