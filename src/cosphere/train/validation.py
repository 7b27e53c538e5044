"""Validation passes: scoring the model on held-out images without disturbing training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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
    lengths: Mapping[str, Any] | None = None
    """Of the embeddings, as :func:`cosphere.tensors.length_histogram` gives them; None when they were not measured."""

    @property
    def concerns(self) -> dict[str, str]:
        """What looks wrong with the embeddings, one sentence for each kind."""
        return {} if self.health is None else self.health.concerns

    @property
    def collapsed(self) -> bool:
        """Whether all embeddings are zero or point in nearly the same direction, so that a score says nothing."""
        if self.health is None:
            return False
        return self.health.zero_rows == self.health.rows or "total collapse" in self.concerns

    def logged(self) -> dict[str, Any]:
        """All its numbers under the keys of metrics.jsonl."""
        numbers = {} if self.health is None else self.health.logged()
        lengths = {} if self.lengths is None else {"lengths": dict(self.lengths)}
        return {f"val/{name}": value for name, value in {**numbers, **self.scores, **lengths}.items()}


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
            SettingsError: ``evaluate`` returns no score of the name ``metric``, of images with labels.
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
        if self.metric not in scores and (scores or self.images.labelled):
            raise SettingsError(f"validation has no score {self.metric!r}. {did_you_mean(self.metric, scores)}")
        return validation._replace(scores=scores)

    def rank(self, validation: Validation) -> tuple[float, ...]:
        """What models are compared by; larger is better. Without scores all are equal.

        A collapsed embedding ranks below any other, whatever it scores. MAP@R breaks ties: it still tells models apart when
        Recall@1 is 100 % for all of them.
        """
        scores = validation.scores
        if not scores:
            return ()
        return (float(not validation.collapsed), scores[self.metric], scores.get("map@r", 0.0))

    def saturated(self, validation: Validation) -> str:
        """A sentence when the score can grow no further; else empty."""
        if validation.scores.get(self.metric, 0.0) < 1:
            return ""
        rest = (
            "" if self.metric == "map@r" or "map@r" not in validation.scores else "; MAP@R chooses between equal models"
        )
        return (
            f"validation is saturated: {self.metric} is 100 %{rest}. Hold out more classes (--data.validation_share) to tell "
            "models apart."
        )
