"""What a look at the model during training brings back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from cosphere.data import Catalogue
from cosphere.health import Health
from cosphere.models import Embedder


class Validation(NamedTuple):
    """Scores of a model on labelled images, and the health of its embeddings."""

    scores: Mapping[str, float]
    """Fractions by name."""
    health: Health | None = None
    """None when nobody measured it."""

    def logged(self) -> dict[str, float]:
        """All its numbers under the keys of metrics.jsonl."""
        numbers = {} if self.health is None else self.health.logged()
        return {f"val/{name}": value for name, value in {**numbers, **self.scores}.items()}


Evaluate = Callable[[Embedder, Catalogue], Mapping[str, float] | Validation]
"""Looks at a model on labelled images; bare scores will do. The loop is handed one; it does not know how scores are made."""


def validation_of(found: Mapping[str, float] | Validation) -> Validation:
    """What an :data:`Evaluate` returned, with scores as plain numbers."""
    looked = found if isinstance(found, Validation) else Validation(found)
    return looked._replace(scores={name: float(value) for name, value in looked.scores.items()})
