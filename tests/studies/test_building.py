"""Arms that could not train are refused before anything runs, also those that are not the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosphere.data import Catalogue
from cosphere.errors import SettingsError
from cosphere.studies import read_study, run, shipped_studies, study_of
from cosphere.studies.budget import steps_of
from cosphere.studies.building import check_parts
from cosphere.studies.notes import batch_notes
from cosphere.studies.sources import rules_of


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.backbone": "resnet5O"}, "arm other: unknown backbone 'resnet5O'. Did you mean"),
        ({"model.weights": "gone.pth"}, "arm other: .*gone.pth"),
        ({"loss.name": "triplet", "loss.settings": {"margin": "wide"}}, "arm other: .*margin"),
        ({"model.head": "groups", "model.head_settings": {"parts": [1, 2]}}, "arm other: .*parts"),
        ({"model.head": "groups", "model.head_settings": {"part": 2}}, "arm other: .*no setting 'part'"),
    ],
)
def test_an_untuned_arm_that_cannot_train_is_refused_at_once(
    settings: dict[str, Any], message: str, content: dict[str, Any], images: Catalogue, tmp_path: Path
) -> None:
    content["arms"]["other"] = {"settings": settings}
    content["questions"] = [{"ask": "?", "arm": "sec", "against": "other"}]
    with pytest.raises(SettingsError, match=message):
        run(study_of("tiny", content), images, tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        # Both ends of each range are allowed, and what lies between is not.
        (
            {"loss.name": "soft_triple", "tune": {"loss.settings.centres": {"from": 2, "to": 10}}},
            "centres must be a whole number",
        ),
        (
            {"tune": {"batch.size": [30, 60], "loss.memory": [30, 60]}},
            "loss.memory 30 does not hold a batch of batch.size 60",
        ),
    ],
)
def test_a_candidate_that_cannot_train_is_refused_at_once(
    arm: dict[str, Any], message: str, content: dict[str, Any], images: Catalogue, tmp_path: Path
) -> None:
    tune = arm.pop("tune")
    content |= {"candidates": 8, "arms": {"plain": {}, "other": {"settings": arm, "tune": tune}}, "questions": []}
    with pytest.raises(SettingsError, match=f"arm other: .*{message}"):
        run(study_of("tiny", content), images, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_what_is_tuned_need_not_fit_its_default(content: dict[str, Any], images: Catalogue) -> None:
    """A memory of 100 holds the batches that are tried, and not the default one of 120."""
    del content["base"]["batch"]
    content["base"]["loss.memory"] = 100
    study = study_of("x", {**content, "tune": {"batch.size": [60, 90], "batch.images_per_class": [2, 6]}})
    check_parts(study, len(images.label_names))
    training = images.select("train")
    assert set(steps_of(study).values()) == {2}
    assert rules_of(study, images, {"training files": ""})["image files"] == ""
    texts = batch_notes(study, training)
    # Seven classes are trained on: each size and each number of images has its own note.
    assert [text.partition(": ")[0] for text in texts] == ["all arms"] * len(texts)
    assert len(texts) > 1


@pytest.mark.parametrize("name", shipped_studies())
def test_no_study_of_ours_is_refused(name: str) -> None:
    check_parts(read_study(name), 100)
