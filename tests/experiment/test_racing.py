"""Successive halving of planned runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import draw_classes

from cosphere.errors import DataError, RunError
from cosphere.experiment import Choice, Listener, Plan, race, resume_run
from cosphere.experiment.planning import DataSummary
from cosphere.experiment.racing import best_score
from cosphere.runs import RunFolder
from cosphere.train import TrainSettings

SMALL = {
    "model.backbone": "test_resnet",
    "model.weights": "none",
    "model.dim": 8,
    "images.size": 32,
    "batch.size": 8,
    "batch.images_per_class": 2,
    "steps": 4,
    "device": "cpu",
    "data.validation_share": 0.4,
    "validation.before": False,
    "validation.lens": False,
}


def planned(photos: Path, *, val_images: int = 8, **others: object) -> Plan:
    choices = []
    for name, changes in (("slow", {"optimizer.head_rate": 1e-6}), ("wide", {"model.dim": 16}), ("same", {})):
        settings = TrainSettings().with_values({**SMALL, **changes, **others, "data.root": str(photos)})
        choices.append(Choice(name=name, changes=changes, settings=settings, reason="", cost=None, seconds=None))
    facts = DataSummary(train_images=8, val_images=val_images, classes=4, per_class=(2, 2, 2), side=40)
    return Plan(source=str(photos), summary=facts, choices=tuple(choices))


def test_the_better_half_goes_on_and_the_last_has_all_its_steps(photos: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Notes(Listener):
        def note(self, text: str) -> None:
            said.append(text)

    made = race(planned(photos), tmp_path, listener=Notes())
    told = [f"race, round 1 of 2: {name} to step 2" for name in ("slow", "wide", "same")]
    assert said == [*told, f"race, round 2 of 2: {made.winner.name} to step 4"]
    first = [lap for lap in made.laps if lap.round == 1]
    assert [lap.name for lap in first] == ["slow", "wide", "same"]
    assert {lap.steps for lap in first} == {2}
    (survivor,) = [lap for lap in first if lap.kept]
    assert survivor.score == max(lap.score for lap in first)
    (last,) = [lap for lap in made.laps if lap.round == 2]
    assert (last.name, last.steps, last.kept) == (survivor.name, 4, True)
    assert made.winner.name == survivor.name
    assert made.folder == tmp_path / survivor.name
    assert RunFolder(made.folder).read_metrics()[-1]["step"] == 4

    # Again, after one of the losers went on by hand: what it has learnt since does not count.
    loser = next(lap.name for lap in first if not lap.kept)
    resume_run(tmp_path / loser, steps=7)
    weights = [(tmp_path / lap.name / "model" / "model.safetensors").read_bytes() for lap in first]
    again = race(planned(photos), tmp_path, listener=Notes())
    assert len(said) == 4  # nothing was left to train
    assert again.laps == made.laps
    assert again.winner.name == made.winner.name
    assert TrainSettings.read(tmp_path / loser / "config.yaml").steps == 7
    assert [(tmp_path / lap.name / "model" / "model.safetensors").read_bytes() for lap in first] == weights

    with pytest.raises(
        RunError, match=r"slow holds a run with other settings \(loss.name\).*another folder with --runs"
    ):
        race(planned(photos, **{"loss.name": "contrastive"}), tmp_path)
    draw_classes(tmp_path / "others" / "train", classes=10, images=6, seed=5)
    with pytest.raises(RunError, match="slow holds a run that was trained on other images"):
        race(planned(tmp_path / "others"), tmp_path)
    assert [(tmp_path / lap.name / "model" / "model.safetensors").read_bytes() for lap in first] == weights


def test_a_score_is_the_best_up_to_a_step_and_not_of_the_untrained_model(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    for step, score in ((0, 0.9), (2, 0.3), (4, 0.5), (6, 0.4), (8, 0.8)):
        folder.append_metrics({"step": step, "train/loss": 1.0})
        folder.append_metrics({"step": step, "val/recall@1": score})
    settings = TrainSettings()
    for steps, best in ((2, 0.3), (3, 0.3), (6, 0.5), (8, 0.8), (100, 0.8)):
        assert best_score(folder, settings.with_values({"steps": steps})) == best
    with pytest.raises(RunError, match=r"metrics.jsonl has no validation score up to step 1\. Give another folder"):
        best_score(folder, settings.with_values({"steps": 1}))


def test_without_validation_images_there_is_nothing_to_judge_by(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a race wants validation images"):
        race(planned(photos, val_images=0), tmp_path)
