"""The state of a run comes back whole, and a checkpoint of another run is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cosphere.data import read_catalogue
from cosphere.errors import RunError
from cosphere.train import SecSettings, TrainSettings
from cosphere.train.state import SAMPLES, RunState, check_same_run, fingerprints

SETTINGS = TrainSettings(sec=SecSettings(weight=0.1))
DATA = {"paths, labels or boxes": "1" * 64, "file contents": "2" * 64}
SAVED = {"settings": SETTINGS.as_dict(), "classes": ["a", "b"], "data": DATA}


def test_every_value_comes_back() -> None:
    state = RunState(
        step=7,
        seconds=1.5,
        best={"step": 4, "scores": {"nmi": 0.5}, "rank": [1.0, 0.5]},
        before={"nmi": 0.1},
        stale=3,
        warned={"sec", "hubs"},
    )
    fresh = RunState()
    fresh.load_state_dict(state.state_dict())
    assert fresh == state
    assert all(getattr(fresh, field.name) != getattr(RunState(), field.name) for field in dataclasses.fields(RunState))


def test_a_missing_value_is_an_error() -> None:
    values = RunState().state_dict()
    del values["stale"]
    with pytest.raises(KeyError, match="stale"):
        RunState().load_state_dict(values)


def check(settings: TrainSettings, classes: list[str], data: dict[str, str] = DATA) -> None:
    check_same_run(SAVED, settings.step_identity(), classes, data, config="config.yaml")


def test_other_validation_images_are_refused() -> None:
    """Else the best model of two sets of images would be the one with the easier set."""
    saved = {**SAVED, "validation": DATA}
    for now, words in (
        (DATA, None),
        (None, None),
        ({**DATA, "file contents": "4" * 64}, "validated on images with other file contents"),
        ({}, "validated on images with other paths, labels or boxes"),
    ):
        with contextlib.nullcontext() if words is None else pytest.raises(RunError, match=words):
            check_same_run(saved, SETTINGS.step_identity(), ["a", "b"], DATA, config="config.yaml", validation=now)
    check_same_run(
        SAVED, SETTINGS.step_identity(), ["a", "b"], DATA, config="c", validation=DATA
    )  # of an earlier version


def test_other_first_weights_count_only_for_cached_features() -> None:
    """On images the checkpoint holds the backbone as it was trained; features are computed from the first weights again."""
    cached = SETTINGS.with_values({"features.copies": 2})
    for saved, settings, now, same in (
        ("sha256:1", SETTINGS, "sha256:2", True),
        ("sha256:1", cached, "sha256:1", True),
        (None, cached, "sha256:2", True),  # of an earlier version
        ("sha256:1", cached, "sha256:2", False),
    ):
        content = {**SAVED, "settings": settings.as_dict(), **({} if saved is None else {"weights": saved})}
        refusal = (
            contextlib.nullcontext() if same else pytest.raises(RunError, match="was sha256:1, now it is sha256:2")
        )
        with refusal:
            check_same_run(content, settings.step_identity(), ["a", "b"], DATA, config="config.yaml", weights=now)


@pytest.mark.parametrize(
    "changes",
    [{}, {"steps": 5}, {"log_every": 3}, {"data.root": "elsewhere"}, {"validation.every": 7}, {"device": "cpu"}],
)
def test_what_a_step_does_not_depend_on_may_change(changes: dict[str, Any]) -> None:
    check(SETTINGS.with_values(changes), ["a", "b"])


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({"sec.weight": 0.2}, ["a", "b"], r"made with sec.weight 0.1, the settings now say 0.2\. Put config.yaml back"),
        ({"seed": 3}, ["a", "b"], r"made with seed 0, the settings now say 3"),
        ({}, ["a", "b", "c"], r"trained on 2 classes, the data now has 3 or other names"),
        ({}, ["a", "c"], r"trained on 2 classes, the data now has 2 or other names"),
    ],
)
def test_another_run_is_refused(changes: dict[str, Any], classes: list[str], message: str) -> None:
    with pytest.raises(RunError, match=message):
        check(SETTINGS.with_values(changes), classes)


@pytest.mark.parametrize("what", list(DATA))
def test_other_images_are_named(what: str) -> None:
    with pytest.raises(
        RunError, match=f"on images with other {what}: their fingerprint was .{{12}}, now it is 333333333333"
    ):
        check(SETTINGS, ["a", "b"], {**DATA, what: "3" * 64})


def test_a_checkpoint_without_the_ends_of_files_is_resumed_and_others_are_compared() -> None:
    check_same_run(SAVED, SETTINGS.step_identity(), ["a", "b"], {**DATA, SAMPLES: "3" * 64}, config="config.yaml")
    saved = {**SAVED, "data": {**DATA, SAMPLES: "4" * 64}}
    with pytest.raises(RunError, match=r"trained on images with other bytes in their files: their fingerprint was 444"):
        check_same_run(saved, SETTINGS.step_identity(), ["a", "b"], {**DATA, SAMPLES: "3" * 64}, config="config.yaml")


def test_fingerprints_follow_the_files_and_not_their_folder(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "copy")
    first, moved = (read_catalogue(folder).select("train") for folder in (photos, tmp_path / "copy"))
    assert fingerprints(first) == fingerprints(moved)
    Image.new("RGB", (64, 64)).save(moved.paths[0])
    changed = fingerprints(moved)
    assert changed["file contents"] != fingerprints(first)["file contents"]
    assert changed["paths, labels or boxes"] == fingerprints(first)["paths, labels or boxes"]
    file = Path(moved.paths[1])
    content = bytearray(file.read_bytes())
    content[-20] ^= 1  # another content of the same size
    file.write_bytes(content)
    replaced = fingerprints(moved)
    assert replaced["file contents"] == changed["file contents"]
    assert replaced[SAMPLES] != changed[SAMPLES]
    Path(moved.paths[0]).rename(tmp_path / "copy" / "train" / "class00" / "renamed.png")
    renamed = read_catalogue(tmp_path / "copy").select("train")
    assert fingerprints(renamed)["paths, labels or boxes"] != changed["paths, labels or boxes"]


@pytest.mark.parametrize("key", ["settings", "classes", "data"])
def test_a_checkpoint_without_its_origin_is_refused(key: str) -> None:
    for odd in ({name: value for name, value in SAVED.items() if name != key}, {**SAVED, key: 7}):
        with pytest.raises(RunError, match=f"the checkpoint holds no {key}"):
            check_same_run(odd, SETTINGS.step_identity(), ["a", "b"], DATA, config="config.yaml")
