"""How a run ended, and what its model says of where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosphere.data import Catalogue
from cosphere.train.settings import TrainSettings


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    steps: int
    """Optimiser steps done, over all resumptions."""
    seconds: float
    """Wall time of training and validation, over all resumptions."""
    best_step: int
    """Step of the model that was kept; the last one when nothing was validated."""
    best_scores: dict[str, float]
    """Its validation scores; empty when nothing was validated."""
    before: dict[str, float]
    """Validation scores of the untrained model; empty when not asked for."""
    stopped_early: bool
    """Whether patience ran out before the last step."""
    unreadable: tuple[str, ...]
    """Why images could not be read and were left out, one sentence each."""
    folder: Path
    """Of the run, where its model lies; with ``numbered`` it may be another than the one that was asked for."""


def made_from(settings: TrainSettings, images: Catalogue, loss: str, *, by_image: bool = False) -> dict[str, Any]:
    """What a bundle's provenance says of the run beside its step and scores; no classes where each image was one of its own."""
    classes = [] if by_image else images.label_names
    return {
        "data": {"fingerprint": images.fingerprint(), "images": len(images), "classes": classes},
        "loss": loss,
        "sec_weight": settings.sec.weight,
    }
