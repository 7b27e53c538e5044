from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

from cosphere.data import Catalogue
from cosphere.experiment.images import trained_classes_note
from cosphere.train import SecSettings, TrainSettings
from cosphere.train.result import made_from


def model(**data: Any) -> Any:
    return SimpleNamespace(provenance={"data": data} if data else {})


def test_classes_that_the_model_was_trained_on_are_named(catalogue: Catalogue) -> None:
    (note,) = trained_classes_note(model(classes=["red", "green", "blue"]), catalogue)
    assert note.startswith(
        "2 of 4 classes here have the name of a class that the model was trained on ('green', 'red'): its scores"
    )
    assert trained_classes_note(model(classes=["blue"]), catalogue) == []
    assert trained_classes_note(model(fingerprint="0f"), catalogue) == []  # a model of an older version
    assert trained_classes_note(model(), catalogue) == []
    many = dataclasses.replace(catalogue, table=catalogue.table.assign(label=[f"c{row}" for row in range(10)]))
    (note,) = trained_classes_note(model(classes=many.label_names), many)
    assert note.startswith("10 of 10 classes here")
    assert "('c0', 'c1', 'c2', ...)" in note


def test_a_model_keeps_the_classes_that_it_was_trained_on(catalogue: Catalogue) -> None:
    about = made_from(TrainSettings(sec=SecSettings(weight=0.1)), catalogue, "triplet")
    assert about["data"]["classes"] == ["dark", "green", "lonely", "red"]
    assert about["data"]["fingerprint"] == catalogue.fingerprint()
