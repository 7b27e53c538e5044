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
    assert validator.rank(validation) == ()


def test_an_unknown_score_names_the_nearest() -> None:
    validator = Validator(lambda model, images: {"recall@1": 1.0, "nmi": 0.5}, IMAGES, "nmii")
    with pytest.raises(SettingsError, match=r"validation has no score 'nmii'\. Did you mean 'nmi'\?"):
        validator(cast(Embedder, nn.Linear(2, 2)))


def test_health_is_logged_beside_the_scores() -> None:
    health = embedding_health(torch.ones(12, 4), torch.arange(12) // 4)
    validation = Validation({"nmi": 0.5}, health)
    assert validation.logged()["val/nmi"] == 0.5
    assert "val/lengths" not in validation.logged()
    assert validation._replace(lengths={"low": 1.0}).logged()["val/lengths"] == {"low": 1.0}
    assert validation.logged()["val/mean_cosine"] == pytest.approx(1, abs=1e-6)
    assert set(validation.concerns) == set(health.concerns)


WELL = embedding_health(torch.eye(6), torch.arange(6) // 2)
COLLAPSED = embedding_health(torch.ones(6, 4) + 1e-3 * torch.eye(6, 4), torch.arange(6) // 2)
ZERO = embedding_health(torch.zeros(6, 4), torch.arange(6) // 2)


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        (Validation({"recall@1": 0.4}), Validation({"recall@1": 0.5})),
        (Validation({"recall@1": 0.5, "map@r": 0.2}), Validation({"recall@1": 0.5, "map@r": 0.3})),  # E5
        (Validation({"recall@1": 0.4, "map@r": 0.9}), Validation({"recall@1": 0.5, "map@r": 0.1})),
        (Validation({"recall@1": 1.0}, COLLAPSED), Validation({"recall@1": 0.1}, WELL)),  # A5
        (Validation({"recall@1": 1.0}, ZERO), Validation({"recall@1": 0.1}, WELL)),
        (Validation({"recall@1": 0.1}, COLLAPSED), Validation({"recall@1": 0.2}, COLLAPSED)),
    ],
)
def test_what_makes_a_model_better(worse: Validation, better: Validation) -> None:
    validator = Validator(None, None, "recall@1")
    assert validator.rank(better) > validator.rank(worse)


def test_a_score_that_can_grow_no_further_is_said() -> None:
    validator = Validator(None, None, "recall@1")
    assert not validator.saturated(Validation({"recall@1": 0.99, "map@r": 1.0}))
    said = validator.saturated(Validation({"recall@1": 1.0, "map@r": 0.8}))
    assert said.startswith(
        "validation is saturated: recall@1 is 100 %; MAP@R chooses between equal models. Hold out more"
    )
    assert "MAP@R" not in Validator(None, None, "map@r").saturated(Validation({"map@r": 1.0}))
