"""Arms that could not train are refused before anything runs, also those that are not the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosphere.data import Catalogue
from cosphere.errors import SettingsError
from cosphere.studies import read_study, run, shipped_studies, study_of
from cosphere.studies.building import check_parts


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


@pytest.mark.parametrize("name", shipped_studies())
def test_no_study_of_ours_is_refused(name: str) -> None:
    check_parts(read_study(name), 100)
