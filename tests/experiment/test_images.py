"""Which images are scored: a split, or the validation images under whatever name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from cosphere.data import Catalogue, training_parts
from cosphere.errors import DataError
from cosphere.experiment import calibrating, evaluation, protocol_runs
from cosphere.experiment.images import choose_images, how_read, take_split, validation_images
from cosphere.runs import RunFolder
from cosphere.train import TrainSettings

SETTINGS = TrainSettings().with_values({"data.validation_share": 0.3})
NOTHING_HELD_OUT = TrainSettings().with_values({"data.validation_share": 0.0})


def catalogue(*splits: str) -> Catalogue:
    """Ten classes of three images in each split."""
    rows = [
        {"path": f"{split}/{number}/{image}.png", "label": f"{split}{number}", "split": split}
        for split in splits
        for number in range(10)
        for image in range(3)
    ]
    return Catalogue(table=pd.DataFrame(rows), root=Path("/photos"))


@pytest.mark.parametrize("name", ["val", "validation", "held-out"])
@pytest.mark.parametrize("splits", [("all",), ("train", "test")])
def test_validation_images_are_those_of_training(name: str, splits: tuple[str, ...]) -> None:
    data = catalogue(*splits)
    want = training_parts(data, val_share=0.3).val
    assert want is not None
    for found in (take_split(data, name, SETTINGS), choose_images(data, name, SETTINGS)):
        assert found.split == "val"
        assert found.images.paths == want.paths
    assert validation_images(data, None, SETTINGS).images.paths == want.paths


@pytest.mark.parametrize(
    ("typed", "want"), [("Test", "test"), ("TESTING", "test"), ("Training", "train"), ("valid", "val"), ("ALL", "all")]
)
def test_a_split_is_named_as_the_data_may_name_it(typed: str, want: str) -> None:
    """Folders `Test/` and `TESTING/` are read as test, so the option is too."""
    images = catalogue("train", "val", "test")
    assert take_split(images, typed).split == want
    assert take_split(images, typed).images.paths == take_split(images, want).images.paths


def test_a_split_of_the_data_comes_first() -> None:
    data = catalogue("train", "val", "test")
    assert set(take_split(data, "held-out", SETTINGS).images.table["split"]) == {"val"}
    assert set(take_split(catalogue("train", "held-out"), "held-out").images.table["split"]) == {"held-out"}
    assert len(take_split(data, "all").images) == 90


@pytest.mark.parametrize(
    ("splits", "want", "noted"),
    [
        (("train", "val", "test"), "test", False),
        (("train", "val"), "val", True),
        (("all",), "val", True),
    ],
)
def test_test_images_are_scored_and_else_validation_images(splits: tuple[str, ...], want: str, noted: bool) -> None:
    found = choose_images(catalogue(*splits), None, SETTINGS)
    assert found.split == want
    assert any("the model was chosen on them" in note for note in found.notes) == noted


def test_what_is_not_there_is_one_sentence() -> None:
    with pytest.raises(DataError, match=r"has no split 'tset'; it has train, test. Did you mean 'test'\?$"):
        take_split(catalogue("train", "test"), "tset")
    with pytest.raises(DataError, match=r"has no splits, so no split 'test'. Leave --split out, or use --split all"):
        take_split(catalogue("all"), "test")
    with pytest.raises(DataError, match=r"has no split 'fold3'; it has train, test. Give one of these, or --split all"):
        take_split(catalogue("train", "test"), "fold3")
    with pytest.raises(DataError, match="has no split 'val'"):
        take_split(catalogue("train", "test"), "val")  # a bundle: nobody knows what was held out
    with pytest.raises(DataError, match="no test split and no classes were held out of training"):
        choose_images(catalogue("all"), None, NOTHING_HELD_OUT)
    with pytest.raises(DataError, match="nothing to choose a threshold on"):
        validation_images(catalogue("all"), None, NOTHING_HELD_OUT)


def test_the_images_of_a_run_are_read_as_they_were_for_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("photos", "others"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    run = SETTINGS.with_values({"data.layout": "table", "data.classes": "leaf", "data.root": str(tmp_path / "photos")})
    for source in (None, "photos", "photos/", tmp_path / "photos", "link"):
        assert how_read(source, "auto", None, run) == ("table", "leaf", ())
        assert how_read(source, "folder", "top", run) == ("folder", "top", ())
    for source in ("others", "nowhere", "x\0y"):
        layout, classes, notes = how_read(source, "auto", None, run)
        assert (layout, classes) == ("auto", "leaf")
        assert [note.rpartition("--")[2] for note in notes] == ["layout table", "classes leaf"]
        assert how_read(source, "cifar-10", "top", run) == ("cifar-10", "top", ())
        assert how_read(source, "auto", None, SETTINGS) == ("auto", "top", ())
        assert how_read(source, "auto", None, None) == ("auto", "top", ())


@pytest.mark.parametrize(
    ("module", "call"),
    [
        (evaluation, evaluation.evaluate_run),
        (calibrating, calibrating.calibrate_run),
        (protocol_runs, functools.partial(protocol_runs.evaluate_protocol, protocol="pairs")),
    ],
)
def test_a_run_is_scored_on_its_images_in_their_layout(
    module: ModuleType, call: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.create(tmp_path / "run")
    SETTINGS.with_values({"data.root": "photos", "data.layout": "table"}).write(folder.config)
    asked = []

    def recorded(source: str, **how: object) -> Catalogue:
        asked.append((source, how["layout"]))
        raise DataError("enough")

    monkeypatch.setattr(module, "read_catalogue", recorded)
    monkeypatch.setattr(module.Embedder, "load", lambda *_: None)
    with pytest.raises(DataError, match="enough"):
        call(folder.path)
    assert asked == [("photos", "table")]
