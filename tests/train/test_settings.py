"""Settings: every wrong value is a sentence, and a written file reads back as the same settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from cosphere.errors import CosphereError, RunError, SettingsError
from cosphere.train.beside import read_beside
from cosphere.train.settings import (
    BatchSettings,
    DataSettings,
    ImageSettings,
    LossSettings,
    OptimizerSettings,
    ScheduleSettings,
    SecSettings,
    TrainSettings,
    ValidationSettings,
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchSettings(size=0), "batch.size must be a whole number from 1 to 1000000; got 0."),
        (
            lambda: BatchSettings(images_per_class=0),
            "batch.images_per_class must be a whole number from 1 to 1000000; got 0.",
        ),
        (lambda: BatchSettings(accumulate=0), "batch.accumulate must be a whole number from 1 to 10000; got 0."),
        (
            lambda: DataSettings(validation_share=0.7),
            "data.validation_share must be a number >= 0 and at most 0.5, finite; got 0.7.",
        ),
        (
            lambda: DataSettings(max_unreadable=-1),
            "data.max_unreadable must be a number >= 0 and at most 1, finite; got -1.0.",
        ),
        (lambda: DataSettings(workers=-2), "data.workers must be a whole number from -1 to 256; got -2."),
        (lambda: ImageSettings(size=8), "images.size must be a whole number from 16 to 4096; got 8."),
        (
            lambda: ImageSettings(size=128, resize=100),
            "images.resize 100 is smaller than images.size 128; give at least 128, or null.",
        ),
        (lambda: SecSettings(weight=-0.1), "sec.weight must be a number >= 0, finite; got -0.1."),
        (lambda: OptimizerSettings(head_rate=-1), "optimizer.head_rate must be a number >= 0, finite; got -1.0."),
        (lambda: OptimizerSettings(loss_rate=-1), "optimizer.loss_rate must be a number >= 0, finite; got -1.0."),
        (lambda: OptimizerSettings(name="lion"), "optimizer.name is 'lion'; wanted 'adam', 'adamw', 'sgd' or 'lars'."),
        (
            lambda: OptimizerSettings(momentum=1.0),
            "optimizer.momentum must be a number >= 0 and below 1, finite; got 1.0.",
        ),
        (lambda: OptimizerSettings(nesterov=True, momentum=0.0), "optimizer.nesterov wants a momentum above 0."),
        (lambda: ScheduleSettings(name="lin"), "schedule.name is 'lin'; wanted 'constant', 'milestones' or 'cosine'."),
        (lambda: TrainSettings(seed=-1), "seed must be a whole number from 0 to 2147483647; got -1."),
        (lambda: ScheduleSettings(milestones=[20, 10]), "schedule.milestones are rising steps above 0, got [20, 10]."),
        (
            lambda: ScheduleSettings(warmup_steps=-1),
            "schedule.warmup_steps must be a whole number from 0 to 1000000000; got -1.",
        ),
        (
            lambda: ScheduleSettings(gamma=-1.0),
            "schedule.gamma must be a number above 0 and at most 10, finite; got -1.0.",
        ),
        (lambda: SecSettings(weight=float("nan")), "sec.weight must be a number >= 0, finite; got nan."),
        (lambda: TrainSettings(freeze_norm=None), "freeze_norm is left empty; wanted true or false."),
        (lambda: TrainSettings(images=None), "images is left empty; wanted names with values."),
        (lambda: TrainSettings(seed=True), "seed is True; wanted a whole number."),
        (
            lambda: ValidationSettings(patience=-1),
            "validation.patience must be a whole number from 0 to 1000000000; got -1.",
        ),
        (lambda: TrainSettings(steps=0), "steps must be a whole number from 1 to 1000000000; got 0."),
        (lambda: TrainSettings(log_every=0), "log_every must be a whole number from 1 to 1000000000; got 0."),
        (
            lambda: TrainSettings(steps=5, schedule=ScheduleSettings(new_layers_steps=5)),
            "schedule.new_layers_steps 5 leaves none of the 5 steps for the backbone.",
        ),
        (
            lambda: TrainSettings(batch=BatchSettings(size=12), loss=LossSettings(name="contrastive", memory=11)),
            "loss.memory 11 does not hold a batch of batch.size 12. Set it to 12 or more, or to 0 for none.",
        ),
    ],
)
def test_wrong_values_are_explained(make: object, message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}$"):
        make()  # type: ignore[operator]


def test_settings_survive_yaml() -> None:
    settings = TrainSettings(
        steps=7,
        batch=BatchSettings(size=12, images_per_class=4),
        sec=SecSettings(weight=0.5, radius="ema"),
        schedule=ScheduleSettings(name="milestones", milestones=[3, 5]),
    )
    text = yaml.safe_dump(settings.as_dict())
    assert TrainSettings.from_dict(yaml.safe_load(text)) == settings


def test_a_key_of_another_version_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^there is no setting 'optimizer.velocity'\."):
        TrainSettings.from_dict({"optimizer": {"velocity": 1}})


def test_a_written_file_reads_back_with_what_it_says_of_itself(tmp_path: Path) -> None:
    settings = TrainSettings().with_values({"loss.settings": {"margin": 0.2}, "schedule.milestones": [3, 5]})
    settings.write(tmp_path / "config.yaml", about={"paper": "Zhai \u0026 Wu"})
    assert TrainSettings.read(tmp_path / "config.yaml") == settings
    assert read_beside(tmp_path / "config.yaml", "about") == {"paper": "Zhai & Wu"}
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {
        "about": {"paper": "Zhai & Wu"},
        **settings.as_dict(),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"freeze_norm:\n", r"config.yaml: freeze_norm is left empty; wanted true or false\.$"),
        (b"images:\n", r"config.yaml: images is left empty; wanted names with values\.$"),
        (b"batch: {sise: 3}\n", r"config.yaml: there is no setting 'batch.sise'. Did you mean 'batch.size'\?$"),
        (b"- steps\n", r"config.yaml holds a list, no settings\."),
        (b"steps: [1\n", r"cannot read settings from .*config.yaml: while parsing"),
        (b"about: caf\xe9\n", r"cannot read settings from .*config.yaml: it is not UTF-8"),
        (b"steps: " + b"9" * 5000, r"cannot read settings from .*config.yaml: Exceeds the limit"),
        (b"steps: " + b"9" * 50, r"steps must be a whole number from 1 to 1000000000"),
        (b"loss: {settings: &a [1]}\nsec: *a\n", r"aliases \(\*name\) are not read"),
        (b"[" * 3000, r"cannot read settings from"),
        (b"steps: " + b"[" * 100 + b"]" * 100, r"config.yaml: it is nested deeper than 100 levels"),
    ],
)
def test_a_broken_file_is_one_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(CosphereError, match=message):
        TrainSettings.read(tmp_path / "config.yaml")


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none.yaml does not exist, so it holds no settings"):
        TrainSettings.read(tmp_path / "none.yaml")


@pytest.mark.parametrize(("about", "want"), [("about:\n", {}), ("steps: 3\n", {}), ("about: {row: 1}\n", {"row": 1})])
def test_what_a_recipe_says_of_itself(about: str, want: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(about)
    assert read_beside(tmp_path / "recipe.yaml", "about") == want


def test_what_a_recipe_says_of_itself_has_names(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("about: a row\n")
    with pytest.raises(SettingsError, match=r"recipe.yaml: about is 'a row'; wanted names with values\."):
        read_beside(tmp_path / "recipe.yaml", "about")


NO_NUMBER = {
    "device": "cpu",
    "log_every": 3,
    "checkpoint_every": 7,
    "data.cache": "pixels",
    "data.workers": 2,
    "data.max_unreadable": 0.5,
    "validation.lens": False,
    "validation.before": False,
}


def test_settings_that_change_no_number_are_left_out_of_the_identity() -> None:
    assert TrainSettings().with_values(NO_NUMBER).identity() == TrainSettings().identity()
    names = {"seed": 1, "steps": 9, "sec.weight": 0.1, "loss.settings.margin": 0.1, "model.dim": 8, "data.root": "x"}
    for name, value in names.items():
        assert TrainSettings().with_values({name: value}).identity() != TrainSettings().identity()


def test_a_resumed_run_may_change_how_long_where_and_what_is_watched() -> None:
    free = {**NO_NUMBER, "steps": 9, "data.root": "elsewhere", "validation.every": 1}
    assert TrainSettings().with_values(free).step_identity() == TrainSettings().step_identity()
    for name, value in {"seed": 1, "batch.size": 60, "precision": "bf16", "loss.settings.margin": 0.1}.items():
        changed = TrainSettings().with_values({name: value})
        assert changed.step_identity() != TrainSettings().step_identity()


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.pth").write_bytes(b"")
    settings = TrainSettings().with_values({"data.root": "photos", "data.cache": "pixels", "model.weights": "own.pth"})
    found = settings.with_absolute_paths()
    want = [str(tmp_path / name) for name in ("photos", "pixels", "own.pth")]
    assert [found.data.root, found.data.cache, found.model.weights] == want
    assert TrainSettings().with_absolute_paths() == TrainSettings()


def test_image_settings_make_the_augmentation() -> None:
    plain = ImageSettings(preset="sec").augmentation()
    assert (plain.crop_scale, plain.flip) == ((0.16, 1.0), 0.5)
    changed = ImageSettings(preset="sec", smallest_crop=0.4, flip=0.0, rotation=15.0).augmentation()
    assert (changed.crop_scale, changed.flip, changed.rotation) == ((0.4, 1.0), 0.0, 15.0)
