"""A study so small that its runs take a fraction of a second, on the made-up photographs of all tests."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from cosphere.data import Catalogue, read_catalogue
from cosphere.studies import StudyResult, run, study_of

TINY: dict[str, Any] = {
    "title": "Does SEC help?",
    "base": {
        "images": {"size": 32},
        "model": {"backbone": "test_resnet", "weights": "none", "dim": 8},
        "batch": {"size": 8, "images_per_class": 2},
        "steps": 2,
        "checkpoint_every": 1,
        "validation": {"before": False, "lens": False, "every": 0},
        "data": {"validation_share": 0.3},
    },
    "arms": {
        "plain": {"sec.weight": 0},
        "sec": {"tune": {"sec.weight": {"from": 1e-3, "to": 1}}},
    },
    "tune": {"optimizer.head_rate": {"from": 1e-4, "to": 1e-2}},
    "candidates": 2,
    "seeds": 2,
    "questions": [{"ask": "Does SEC raise Recall@1?", "arm": "sec", "against": "plain"}],
}


@pytest.fixture
def content() -> dict[str, Any]:
    """The content of the file of a tiny study."""
    return copy.deepcopy(TINY)


@pytest.fixture(scope="session")
def images(photos: Path) -> Catalogue:
    return read_catalogue(photos)


@pytest.fixture(scope="session")
def whole(images: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """The tiny study, unbroken."""
    return run(study_of("tiny", TINY), images, tmp_path_factory.mktemp("studies") / "whole")
