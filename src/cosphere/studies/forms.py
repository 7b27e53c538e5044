"""Scores of a study by name.

They are of a ranking of the embeddings; with ``/bits`` of one bit for each dimension; or of a protocol, as ``lfw/unseen/auc``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cosphere import fields
from cosphere._types import Floats
from cosphere.errors import SettingsError
from cosphere.evaluate import EvaluationSettings, Scores
from cosphere.evaluate.clustering import SCORES as CLUSTERING_SCORES
from cosphere.evaluate.scores import rank
from cosphere.experiment.protocols import find_protocol, split_score
from cosphere.experiment.training import settings_for

BITS = "/bits"
"""End of the name of a score that ranks by Hamming distance of signs, as ``recall@1/bits``."""


def base_of(name: str) -> str:
    """The score whatever the form.

    >>> base_of("recall@1/bits"), base_of("map@r")
    ('recall@1', 'map@r')
    """
    return name.removesuffix(BITS)


def of_ranking(names: Sequence[str]) -> tuple[str, ...]:
    """Those of the scores that are of a ranking or a clustering, not of a protocol."""
    return tuple(name for name in names if name.endswith(BITS) or split_score(name) is None)


def of_protocols(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """The scores of each protocol among names: protocol -> whole name -> the protocol's own name of the score.

    >>> of_protocols(["recall@1", "lfw/unseen/auc", "knn/accuracy"])
    {'lfw': {'lfw/unseen/auc': 'unseen/auc'}, 'knn': {'knn/accuracy': 'accuracy'}}
    """
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        found = None if name.endswith(BITS) else split_score(name)
        if found is not None:
            groups.setdefault(found[0].name, {})[name] = found[1]
    return groups


def check_scores(names: Sequence[str]) -> None:
    """Raise unless each is a score, and those of bits are scores of a ranking.

    Raises:
        SettingsError: one is not; the error names the nearest.
    """
    of_protocols(names)
    settings_for(tuple(map(base_of, of_ranking(names))))
    for name in names:
        if name.endswith(BITS) and base_of(name) in CLUSTERING_SCORES:
            raise SettingsError(
                f"the score {name!r} clusters, which wants floats, not bits. Write {base_of(name)!r}, or a score of a ranking."
            )


def settings_of(names: Sequence[str]) -> EvaluationSettings:
    """The settings that measure those of the scores that are of a ranking of floats."""
    return settings_for(tuple(name for name in of_ranking(names) if not name.endswith(BITS)))


def protocol_options(protocol: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a protocol in a study: as given, and without intervals, since a study has seeds for that."""
    known = {one.name for one in dataclasses.fields(find_protocol(protocol).settings)}
    return {**({"samples": 0} if "samples" in known else {}), **given}


def check_protocols(protocols: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    """Raise unless the settings are those of protocols whose scores are measured.

    Raises:
        SettingsError: there is no such protocol or setting, or none of its scores is measured.
    """
    used = of_protocols(names)
    for name, given in protocols.items():
        entry = find_protocol(name)
        if name not in used:
            raise SettingsError(
                f"protocols names {name}, and no score is of it. Add {name}/{entry.scores[0]} to `scores`."
            )
        fields.build(entry.settings, protocol_options(name, given), section=f"protocols.{name}.")


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
