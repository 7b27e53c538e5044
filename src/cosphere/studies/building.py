"""What is built of every arm before the first run, so that no arm fails after hours: its loss, its head and the names of its model."""

from __future__ import annotations

import torch

from cosphere.errors import CosphereError, MissingExtraError, SettingsError
from cosphere.models import weights_identity
from cosphere.models.backbones import check_backbone
from cosphere.models.heads.base import LevelShape, build_head
from cosphere.studies.definition import Study, extreme_values
from cosphere.train import TrainSettings
from cosphere.train.setup import build_loss

_SHAPES = (
    LevelShape(channels=64, width=64),
    LevelShape(channels=64, width=64, positions=16),
    LevelShape(channels=64, width=64, prefix_tokens=1, class_token=True, positions=16),
)
"""Of a small feature map, one of a known size, and a transformer's tokens: a head has to fit one of them."""


def check_parts(study: Study, classes: int) -> None:
    """Raise unless each arm has a known backbone, weights that are there, and a loss and a head that can be built.

    Args:
        study: checked by :func:`cosphere.studies.definition.check_study`.
        classes: different labels in training.

    Raises:
        SettingsError: one of them has not; the error names the arm.
    """
    seen = set[str]()
    for arm in study.arms.values():
        other = study.arms[arm.values_of] if arm.values_of is not None else arm
        for values in map(arm.taken_from, extreme_values(other)):
            for final in (False, True):
                settings = study.settings(arm.name, values, 0, final=final)
                key = repr((settings.model, settings.loss, settings.steps))
                if key in seen:
                    continue
                seen.add(key)
                try:
                    _check(settings, classes)
                except MissingExtraError:
                    raise
                except CosphereError as error:
                    raise SettingsError(f"study {study.name}, arm {arm.name}: {error}") from error


def _check(settings: TrainSettings, classes: int) -> None:
    model = settings.model
    check_backbone(model.backbone)
    weights_identity(model.weights)
    with torch.random.fork_rng(devices=[]):
        build_loss(settings, None, max(2, classes), model.dim)
        refusals = []
        for shape in _SHAPES:
            try:
                build_head(model.head, lambda _, shape=shape: shape, model.shared, model.head_settings)  # type: ignore[misc]
            except CosphereError as error:
                refusals.append(error)
    if len(refusals) == len(_SHAPES):
        raise refusals[0]
