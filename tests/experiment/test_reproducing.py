"""Reproducing a published row on a small stand-in, and its verdicts."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cosphere.errors import DataError, RunError, SettingsError
from cosphere.evaluate import Interval
from cosphere.evaluate.scores import Value
from cosphere.experiment import find_recipe, reproduce, reproducing
from cosphere.experiment.reproducing import changed_numbers, reproduced_score, weights_notes, what_to_place
from cosphere.models import build_backbone, origin, weights_identity
from cosphere.train import TrainSettings

SMALL = {
    "steps": 2,
    "model.backbone": "test_resnet",
    "model.weights": "none",
    "images.size": 32,
    "batch.size": 8,
    "batch.images_per_class": 4,
}


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training and two test classes in the layout of CUB-200-2011."""
    return draw_birds(tmp_path_factory.mktemp("cub"), seed=0)


def draw_birds(root: Path, *, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for label in (1, 2, 3, 4, 101, 102):
        folder = root / "images" / f"{label:03d}.Bird"
        folder.mkdir(parents=True)
        for image in range(5):
            Image.fromarray(rng.integers(0, 255, (36, 36, 3), dtype=np.uint8)).save(folder / f"{image}.png")
    return root


@pytest.mark.parametrize(
    ("values", "interval", "published", "low", "high", "verdict"),
    [
        ([0.60], (0.57, 0.63), 0.61, 0.57, 0.63, "inside"),
        ([0.60], (0.57, 0.63), 0.64, 0.57, 0.63, "below"),
        ([0.60], (0.57, 0.63), 0.56, 0.57, 0.63, "above"),
        # t(0.975, 2 degrees of freedom) = 4.3027, sd 0.01: 4.3027 * 0.01 / sqrt(3) = 0.02484
        ([0.59, 0.60, 0.61], (0.0, 1.0), 0.62, 0.57516, 0.62484, "inside"),
        ([0.59, 0.60, 0.61], (0.0, 1.0), 0.63, 0.57516, 0.62484, "below"),
        ([0.59, 0.60, 0.61], None, 0.57, 0.57516, 0.62484, "above"),
    ],
)
def test_the_verdict_is_where_the_published_value_lies(
    values: list[float],
    interval: tuple[float, float] | None,
    published: float,
    low: float,
    high: float,
    verdict: str,
) -> None:
    row = reproduced_score("nmi", published, [_evaluation(value, interval) for value in values])
    assert row.verdict == verdict
    assert row.interval == pytest.approx((low, high), abs=1e-5)
    assert row.value == pytest.approx(np.mean(values))


def test_without_an_interval_or_the_published_data_there_is_no_verdict() -> None:
    assert reproduced_score("nmi", 0.5, [_evaluation(0.6, None)]).verdict is None
    assert reproduced_score("nmi", 0.5, [_evaluation(0.6, (0.55, 0.65))], comparable=False).verdict is None


def _evaluation(value: float, interval: tuple[float, float] | None) -> Any:
    score = Value(value, None if interval is None else Interval(*interval))
    return SimpleNamespace(scores=SimpleNamespace(values={"nmi": score}, value=lambda name: value))


def test_a_row_runs_from_the_published_layout_to_a_comparison(birds: Path, tmp_path: Path) -> None:
    result = reproduce("sec/cub/triplet+sec", birds, seeds=(0, 1), runs=tmp_path, values=SMALL)
    assert [score.name for score in result.scores] == ["nmi", "f1", *(f"recall@{k}" for k in (1, 2, 4, 8))]
    assert not result.comparable
    assert all(score.verdict is None for score in result.scores)
    assert "not CUB-200-2011 as published" in result.notes[0]
    assert "settings differ from the recipe (batch.images_per_class, batch.size" in result.notes[1]
    scores = [json.loads((run / "scores.json").read_text())["scores"]["recall@1"]["value"] for run in result.runs]
    assert next(score.value for score in result.scores if score.name == "recall@1") == pytest.approx(np.mean(scores))
    content = json.loads(result.path.read_text())
    assert content["recipe"] == "sec/cub/triplet+sec"
    assert content["provenance"]
    weights = [(run / "model" / "model.safetensors").read_bytes() for run in result.runs]
    assert weights[0] != weights[1]

    again = reproduce("sec/cub/triplet+sec", birds, seeds=(0, 1), runs=tmp_path, values=SMALL)
    assert [score.value for score in again.scores] == [score.value for score in result.scores]
    assert [(run / "model" / "model.safetensors").read_bytes() for run in again.runs] == weights
    with pytest.raises(RunError, match="holds a run with other settings"):
        reproduce("sec/cub/triplet+sec", birds, runs=tmp_path, values={**SMALL, "images.size": 36})

    # The same names with other pixels; the same data elsewhere.
    others = draw_birds(tmp_path / "others", seed=1)
    scores = (result.runs[0] / "scores.json").read_bytes()
    with pytest.raises(RunError, match="seed0 holds a run that was trained on other images"):
        reproduce("sec/cub/triplet+sec", others, runs=tmp_path, values=SMALL)
    assert TrainSettings.read(result.runs[0] / "config.yaml").data.root == str(birds)
    assert (result.runs[0] / "scores.json").read_bytes() == scores
    moved = Path(shutil.copytree(birds, tmp_path / "moved"))
    assert reproduce("sec/cub/triplet+sec", moved, runs=tmp_path, values=SMALL).scores[0].value == pytest.approx(
        json.loads(scores)["scores"]["nmi"]["value"]
    )
    assert TrainSettings.read(result.runs[0] / "config.yaml").data.root == str(moved)


def test_a_run_from_other_weights_is_not_reused(birds: Path, tmp_path: Path) -> None:
    files = [tmp_path / "a.pth", tmp_path / "b.pth", tmp_path / "moved" / "a.pth"]
    files[2].parent.mkdir()
    for file, seed in zip(files, (0, 1, 0), strict=True):
        torch.manual_seed(seed)
        torch.save(build_backbone("test_resnet", "none", image_size=32).net.state_dict(), file)
    values = {**SMALL, "model.weights": str(files[0])}
    result = reproduce("sec/cub/triplet", birds, runs=tmp_path, values=values)
    assert result.weights == weights_identity(str(files[0]))
    assert json.loads(result.path.read_text())["weights"] == result.weights
    assert len(result.notes) == 2  # where nothing is compared, the weights need not be the published ones
    for other in (str(files[1]), "none"):
        with pytest.raises(RunError, match="holds a run that was trained from other weights"):
            reproduce("sec/cub/triplet", birds, runs=tmp_path, values={**SMALL, "model.weights": other})
    again = reproduce("sec/cub/triplet", birds, runs=tmp_path, values={**SMALL, "model.weights": str(files[2])})
    assert [score.value for score in again.scores] == [score.value for score in result.scores]


def test_without_the_data_it_says_what_to_place_where(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs Stanford Online Products: .*train 59,551 images of 11,318 classes"):
        reproduce("sec/sop/triplet", tmp_path / "sop")
    assert "cosphere reproduce normsoftmax/cub --data ROOT" in what_to_place(find_recipe("normsoftmax/cub"), tmp_path)


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_are_different_and_not_none(seeds: tuple[int, ...], birds: Path) -> None:
    with pytest.raises(SettingsError, match="wanted at least one, each different"):
        reproduce("sec/cub/triplet", birds, seeds=seeds)


def test_only_what_a_number_depends_on_counts_as_a_change() -> None:
    frozen = find_recipe("sec/cub/triplet").settings
    moved = frozen.with_values({"data.root": "x", "seed": 3, "data.workers": 2})
    assert changed_numbers(frozen, moved) == []
    assert changed_numbers(frozen, frozen.with_values({"sec.weight": 0.5, "steps": 9})) == ["sec.weight", "steps"]


@pytest.mark.parametrize(
    ("recipe", "weights", "counts", "note"),
    [
        ("sec/cub/triplet", "imagenet", False, ""),
        ("sec/cub/triplet", "none", True, ""),
        ("sec/cub/triplet", "missing.pth", True, ""),
        ("sec/cub/triplet", "folder", True, ""),
        (
            "sec/cub/triplet",
            "other.pth",
            True,
            "other.pth (sha256:{digest}...) is not the published file of bn_inception",
        ),
        ("sec/cub/triplet", "published.pth", False, ""),
        # timm has its file on the hub too, in another form.
        (
            "normsoftmax/cub",
            "other.pth",
            False,
            "other.pth (sha256:{digest}...) cannot be checked against the published",
        ),
    ],
)
def test_weights_other_than_the_published_ones_count_as_a_change(
    recipe: str, weights: str, counts: bool, note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "other.pth").write_bytes(b"other")
    (tmp_path / "published.pth").write_bytes(b"published")
    # The file of BN-Inception is not ours to ship: one whose digest begins as its name says.
    real = origin.file_digest
    monkeypatch.setattr(
        origin, "file_digest", lambda path: "52deb4733" + "0" * 55 if path.stem == "published" else real(path)
    )
    frozen = find_recipe(recipe).settings
    given = weights if weights in ("imagenet", "none") else str(tmp_path / weights)
    settings = frozen.with_values({"model.weights": given})
    assert changed_numbers(frozen, settings) == (["model.weights"] if counts else [])
    digest = hashlib.sha256(b"other").hexdigest()[:12]
    (*notes,) = weights_notes(settings, f"sha256:{digest}{'0' * 52}" if given != weights else given)
    assert [text[: len(note.format(digest=digest))] for text in notes] == ([note.format(digest=digest)] if note else [])


@pytest.mark.parametrize(
    ("recipe", "weights", "comparable", "notes"),
    [
        ("normsoftmax/cub", "imagenet", True, ["one seed"]),
        ("normsoftmax/cub", "file", True, ["net.pth (sha256:", "one seed"]),
        ("sec/cub/triplet", "file", False, ["settings differ from the recipe (model.weights)", "net.pth (sha256:"]),
        ("sec/cub/triplet", "none", False, ["settings differ from the recipe (model.weights)"]),
    ],
)
def test_on_the_published_data_the_weights_decide_what_is_said(
    recipe: str, weights: str, comparable: bool, notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published images are not ours to ship, so nothing is trained here."""
    value = Value(0.5, Interval(0.4, 0.6))
    names = find_recipe(recipe).published
    scores = SimpleNamespace(values=dict.fromkeys(names, value), value=lambda name: 0.5)
    evaluation = SimpleNamespace(published={"recall@1": 50.0}, scores=scores)
    monkeypatch.setattr(reproducing, "training_images", lambda settings: SimpleNamespace(remarks=None))
    monkeypatch.setattr(reproducing, "run", lambda *_, **__: None)
    monkeypatch.setattr(reproducing, "evaluate_run", lambda *_, **__: evaluation)
    (tmp_path / "net.pth").write_bytes(b"a file")
    given = str(tmp_path / "net.pth") if weights == "file" else weights
    result = reproduce(recipe, tmp_path, runs=tmp_path / "runs", values={"model.weights": given})
    assert result.comparable is comparable
    assert all((score.verdict is not None) is comparable for score in result.scores)
    assert [text[: len(start)] for text, start in zip(result.notes, notes, strict=True)] == notes
