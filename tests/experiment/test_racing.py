"""Successive halving of planned runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosphere.errors import DataError
from cosphere.experiment import Choice, Plan, race
from cosphere.experiment.planning import DataSummary
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


def planned(photos: Path, *, val_images: int = 8) -> Plan:
    choices = []
    for name, changes in (("slow", {"optimizer.head_rate": 1e-6}), ("wide", {"model.dim": 16}), ("same", {})):
        settings = TrainSettings().with_values({**SMALL, **changes, "data.root": str(photos)})
        choices.append(Choice(name=name, changes=changes, settings=settings, reason="", cost=None, seconds=None))
    facts = DataSummary(train_images=8, val_images=val_images, classes=4, per_class=(2, 2, 2), side=40)
    return Plan(source=str(photos), summary=facts, choices=tuple(choices))


def test_the_better_half_goes_on_and_the_last_has_all_its_steps(photos: Path, tmp_path: Path) -> None:
    made = race(planned(photos), tmp_path)
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

    again = race(planned(photos), tmp_path)
    assert again.laps[-1].score >= last.score
    assert again.winner.name == made.winner.name


def test_without_validation_images_there_is_nothing_to_judge_by(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a race wants validation images"):
        race(planned(photos, val_images=0), tmp_path)
