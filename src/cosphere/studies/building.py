"""What is built of every arm before the first run, so that no arm fails after hours: its loss, its head and the names of its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from cosphere.errors import CosphereError, MissingExtraError, SettingsError
from cosphere.fields import hint_of
from cosphere.models import weights_identity
from cosphere.models.backbones import check_backbone
from cosphere.models.heads.base import LevelShape, build_head
from cosphere.studies.definition import Study
from cosphere.studies.search import shared_candidates
from cosphere.train import TrainSettings
from cosphere.train.setup import build_loss

_SHAPES = (
    LevelShape(channels=64, width=64),
    LevelShape(channels=64, width=64, positions=16),
    LevelShape(channels=64, width=64, prefix_tokens=1, class_token=True, positions=16),
)
"""Of a small feature map, one of a known size, and a transformer's tokens: a head has to fit one of them."""


def check_parts(study: Study, classes: int) -> None:
    """Raise unless each arm has a known backbone, weights that are there, and a loss and a head that can be built, whatever is tuned.

    Args:
        study: checked by :func:`cosphere.studies.checking.check_study`.
        classes: different labels in training.

    Raises:
        SettingsError: one of them has not; the error names the arm.
    """
    seen = set[str]()
    shared = shared_candidates(study) if study.sampler == "qmc" else []
    for name in study.arms:
        for values in (*study.extremes(name), *_candidates(study, name, shared)):
            for final in (False, True):
                try:
                    settings = study.settings(name, values, 0, final=final)
                    key = repr((settings.model, settings.loss, settings.steps))
                    if key not in seen:
                        seen.add(key)
                        _check(settings, classes)
                except MissingExtraError:
                    raise
                except CosphereError as error:
                    raise SettingsError(f"study {study.name}, arm {name}: {error}") from error


def _candidates(study: Study, arm: str, shared: Sequence[Mapping[str, float]]) -> Iterator[dict[str, Any]]:
    """The values of the candidates that are known beforehand and that may be refused although the ends of each range are not.

    Args:
        study: of the arm.
        arm: its name.
        shared: of :func:`cosphere.studies.search.shared_candidates`; empty where they are not known.
    """
    own = study.arms[arm]
    spaces = (own if own.values_of is None else study.arms[own.values_of]).tune
    # Plain numbers between two allowed ones are allowed; there may be thousands of candidates.
    doubtful = [name for name in spaces if hint_of(TrainSettings, name) is not float]
    first, seen = next(study.extremes(arm)), set[str]()
    for places in shared if doubtful else ():
        values = {name: spaces[name].at(places[name]) for name in doubtful}
        if repr(values) not in seen:
            seen.add(repr(values))
            yield {**first, **own.taken_from(values)}


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
