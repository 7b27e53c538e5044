"""Validation passes: scoring the model on held-out images without disturbing training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from cosphere.data import Catalogue
from cosphere.errors import SettingsError, did_you_mean
from cosphere.health import Health
from cosphere.models import Embedder
from cosphere.train.checkpoint import random_state, restore_random_state


class Validation(NamedTuple):
    """Scores of a model on labelled images, and the health of its embeddings."""

    scores: Mapping[str, float]
    """Fractions by name; empty when nothing was validated."""
    health: Health | None = None
    """None when it was not measured."""

    @property
    def concerns(self) -> dict[str, str]:
        """What looks wrong with the embeddings, one sentence for each kind."""
        return {} if self.health is None else self.health.concerns

    def logged(self) -> dict[str, float]:
        """All its numbers under the keys of metrics.jsonl."""
        numbers = {} if self.health is None else self.health.logged()
        return {f"val/{name}": value for name, value in {**numbers, **self.scores}.items()}


Evaluate = Callable[[Embedder, Catalogue], Mapping[str, float] | Validation]
"""Scores a model on labelled images; bare scores will do. The loop receives one and does not know how scores are made."""


class Validator:
    """The validation pass of a run.

    Args:
        evaluate: scores a model; None validates nothing.
        images: the validation images; None validates nothing.
        metric: the score that chooses the best model.
    """

    def __init__(self, evaluate: Evaluate | None, images: Catalogue | None, metric: str) -> None:
        self.evaluate, self.images, self.metric = evaluate, images, metric

    def __call__(self, embedder: Embedder) -> Validation:
        """Score the model. Restores the state of the random generators, so training is unaffected.

        Raises:
            SettingsError: ``evaluate`` returns no score of the name ``metric``.
        """
        if self.evaluate is None or self.images is None:
            return Validation({})
        generators = random_state()
        try:
            result = self.evaluate(embedder, self.images)
        finally:
            restore_random_state(generators)
            embedder.train()
        validation = result if isinstance(result, Validation) else Validation(result)
        scores = {name: float(value) for name, value in validation.scores.items()}
        if self.metric not in scores:
            raise SettingsError(f"validation has no score {self.metric!r}. {did_you_mean(self.metric, scores)}")
        return validation._replace(scores=scores)

    def improves(self, scores: Mapping[str, float], best: Mapping[str, float]) -> bool:
        """Whether a model with these scores replaces the best one. Without scores the later model always does."""
        return not scores or not best or scores[self.metric] > best[self.metric]
