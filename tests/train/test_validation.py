"""A validation pass leaves training as it was, and its score chooses the model."""

from __future__ import annotations

import random
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from cosphere.data import Catalogue
from cosphere.errors import SettingsError
from cosphere.health import embedding_health
from cosphere.models import Embedder
from cosphere.train import Validation
from cosphere.train.validation import Validator

IMAGES = cast(Catalogue, object())


def test_the_generators_and_the_mode_are_as_before() -> None:
    def draws(model: Embedder, images: Catalogue) -> dict[str, float]:
        model.eval()
        return {"recall@1": float(torch.rand(3)[0]) + random.random() + np.random.rand()}  # noqa: NPY002

    def drawn() -> list[float]:
        return [float(torch.rand(())), random.random(), float(np.random.rand())]  # noqa: NPY002

    model = cast(Embedder, nn.Linear(2, 2))
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(5)  # type: ignore[operator]
    expected = drawn()
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(5)  # type: ignore[operator]
    Validator(draws, IMAGES, "recall@1")(model)
    assert drawn() == expected
    assert model.training


@pytest.mark.parametrize("without", ["evaluate", "images"])
def test_without_a_score_or_images_there_is_nothing(without: str) -> None:
    evaluate = None if without == "evaluate" else lambda model, images: {"recall@1": 1.0}
    validator = Validator(evaluate, None if without == "images" else IMAGES, "recall@1")
    validation = validator(cast(Embedder, nn.Linear(2, 2)))
    assert (validation.scores, validation.logged(), validation.concerns) == ({}, {}, {})
    assert validator.improves({}, {})


def test_an_unknown_score_names_the_nearest() -> None:
    validator = Validator(lambda model, images: {"recall@1": 1.0, "nmi": 0.5}, IMAGES, "nmii")
    with pytest.raises(SettingsError, match=r"validation has no score 'nmii'\. Did you mean 'nmi'\?"):
        validator(cast(Embedder, nn.Linear(2, 2)))


def test_health_is_logged_beside_the_scores() -> None:
    health = embedding_health(torch.ones(12, 4), torch.arange(12) // 4)
    validation = Validation({"nmi": 0.5}, health)
    assert validation.logged()["val/nmi"] == 0.5
    assert validation.logged()["val/mean_cosine"] == pytest.approx(1, abs=1e-6)
    assert set(validation.concerns) == set(health.concerns)
