"""Settings: every wrong value is a sentence, and a written file reads back as the same settings."""

from __future__ import annotations

import re

import pytest
import yaml

from cosphere.errors import SettingsError
from cosphere.train.settings import (
    BatchSettings,
    DataSettings,
    ImageSettings,
    OptimizerSettings,
    ScheduleSettings,
    SecSettings,
    TrainSettings,
    ValidationSettings,
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: BatchSettings(size=100, images_per_class=3),
            "batch.size 100 does not divide by batch.images_per_class 3; try 99 or 102.",
        ),
        (
            lambda: BatchSettings(size=2, images_per_class=3),
            "batch.size 2 does not divide by batch.images_per_class 3; try 3 or 6.",
        ),
        (lambda: BatchSettings(size=0), "batch.size is a number of images, got 0."),
        (lambda: BatchSettings(images_per_class=0), "batch.images_per_class is a number of images, got 0."),
        (lambda: BatchSettings(accumulate=0), "batch.accumulate is a number of batches from 1, got 0."),
        (lambda: DataSettings(validation_share=0.7), "data.validation_share is a share from 0 to 0.5, got 0.7."),
        (lambda: DataSettings(max_unreadable=-1), "data.max_unreadable is a share from 0 to 1, got -1."),
        (lambda: DataSettings(workers=-2), "data.workers is a number of processes or -1, got -2."),
        (lambda: ImageSettings(size=8), "images.size is a side in pixels of at least 16, got 8."),
        (
            lambda: ImageSettings(size=128, resize=100),
            "images.resize 100 is smaller than images.size 128; give at least 128, or null.",
        ),
        (lambda: SecSettings(weight=-0.1), "sec.weight is at least 0, got -0.1."),
        (lambda: OptimizerSettings(head_rate=-1), "optimizer.head_rate is at least 0, got -1."),
        (lambda: OptimizerSettings(loss_rate=-1), "optimizer.loss_rate is at least 0, got -1."),
        (lambda: OptimizerSettings(name="lion"), "optimizer.name is adam, adamw or sgd, got 'lion'."),
        (lambda: OptimizerSettings(momentum=1.0), "optimizer.momentum is from 0 to below 1, got 1.0."),
        (lambda: OptimizerSettings(nesterov=True, momentum=0.0), "optimizer.nesterov wants a momentum above 0."),
        (lambda: ScheduleSettings(name="lin"), "schedule.name is constant, milestones or cosine, got 'lin'."),
        (lambda: TrainSettings(seed=-1), "seed is from 0 to 2147483647, got -1."),
        (lambda: ScheduleSettings(milestones=[20, 10]), "schedule.milestones are rising steps above 0, got [20, 10]."),
        (lambda: ScheduleSettings(warmup_steps=-1), "schedule.warmup_steps is at least 0, got -1."),
        (lambda: ValidationSettings(patience=-1), "validation.patience is a number of validations, got -1."),
        (lambda: TrainSettings(steps=0), "steps is at least 1, got 0."),
        (lambda: TrainSettings(log_every=0), "log_every is at least 1, got 0."),
        (
            lambda: TrainSettings(steps=5, schedule=ScheduleSettings(new_layers_steps=5)),
            "schedule.new_layers_steps 5 leaves none of the 5 steps for the backbone.",
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
    with pytest.raises(SettingsError, match=r"do not fit this version of Cosphere.*velocity"):
        TrainSettings.from_dict({"optimizer": {"velocity": 1}})


def test_image_settings_make_the_augmentation() -> None:
    plain = ImageSettings(preset="sec").augmentation()
    assert (plain.crop_scale, plain.flip) == ((0.16, 1.0), 0.5)
    changed = ImageSettings(preset="sec", smallest_crop=0.4, flip=0.0, rotation=15.0).augmentation()
    assert (changed.crop_scale, changed.flip, changed.rotation) == ((0.4, 1.0), 0.0, 15.0)
