"""Scores of a study by name: of the embeddings as they are, or with ``/bits`` of one bit for each dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cosphere._types import Floats
from cosphere.errors import SettingsError
from cosphere.evaluate import EvaluationSettings, Scores
from cosphere.evaluate.clustering import SCORES as CLUSTERING_SCORES
from cosphere.evaluate.scores import rank
from cosphere.experiment.training import settings_for

BITS = "/bits"
"""End of the name of a score that ranks by Hamming distance of signs, as ``recall@1/bits``."""


def base_of(name: str) -> str:
    """The score whatever the form.

    >>> base_of("recall@1/bits"), base_of("map@r")
    ('recall@1', 'map@r')
    """
    return name.removesuffix(BITS)


def check_scores(names: Sequence[str]) -> None:
    """Raise unless each is a score, and those of bits are scores of a ranking.

    Raises:
        SettingsError: one is not; the error names the nearest.
    """
    settings_for(tuple(map(base_of, names)))
    for name in names:
        if name.endswith(BITS) and base_of(name) in CLUSTERING_SCORES:
            raise SettingsError(
                f"the score {name!r} clusters, which wants floats, not bits. Write {base_of(name)!r}, or a score of a ranking."
            )


def settings_of(names: Sequence[str]) -> EvaluationSettings:
    """The settings that measure those of the scores that are of floats."""
    return settings_for(tuple(name for name in names if not name.endswith(BITS)))


def per_query(scores: Scores, names: Sequence[str]) -> dict[str, Floats]:
    """The values of each query behind each score, of those that have them.

    Args:
        scores: of the embeddings, with the settings of :func:`settings_of`.
        names: of scores.

    Returns:
        (Q,) values in [0, 1] by name, of the same queries in every form.
    """
    values = scores.per_query
    bits = tuple(base_of(name) for name in names if name.endswith(BITS))
    if bits:
        ranking = rank(scores.embeddings, replace(settings_for(bits), bits=True))
        values |= {f"{name}{BITS}": own for name, own in ranking.per_query().items()}
    return {name: values[name] for name in names if name in values}
