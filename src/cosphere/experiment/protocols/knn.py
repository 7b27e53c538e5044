"""Weighted vote of the nearest training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cosphere.embeddings import Embeddings
from cosphere.evaluate import bootstrap, nearest_vote
from cosphere.evaluate.scores import Value
from cosphere.experiment.protocols.base import Part, ProtocolEntry, ProtocolScores, Subject
from cosphere.experiment.protocols.probing import ProbeData, chance, halves, probe_data
from cosphere.fields import Settings, setting

TOP = 5


@dataclass(frozen=True, kw_only=True)
class NearestSettings(Settings):
    """How neighbours vote.

    Args:
        k: neighbours; solo-learn takes 20, InstDisc 200.
        temperature: each neighbour votes with exp(cosine / temperature); solo-learn 0.07, InstDisc 0.1.
        samples: resamples of test images behind the interval; 0 makes none.
        level: confidence level of the interval.
        seed: of the interval.
    """

    SECTION: ClassVar[str] = "options."

    k: int = setting(20, at_least=1, at_most=10**6)
    temperature: float = setting(0.07, above=0)
    samples: int = setting(1000, at_least=0, at_most=10**6)
    level: float = setting(0.95, above=0, below=1)
    seed: int = setting(0, at_least=0, at_most=2**31 - 1)


def run(subject: Subject, settings: NearestSettings) -> ProtocolScores:
    """Classify the test images by their nearest training images."""
    return _scores(probe_data(subject, "knn"), settings)


def label_scores(table: Embeddings, settings: NearestSettings) -> ProtocolScores:
    """Classify one half of labelled embeddings by the other half."""
    return _scores(halves(table, "these images", "knn"), settings)


def _scores(data: ProbeData, settings: NearestSettings) -> ProtocolScores:
    vote = nearest_vote(data.test, data.train, data.train_labels, k=settings.k, temperature=settings.temperature)
    hits = (vote.predictions == data.test_labels).astype(np.float64)
    interval = (
        bootstrap(hits, samples=settings.samples, level=settings.level, seed=settings.seed)
        if settings.samples
        else None
    )
    values = {"accuracy": Value(float(hits.mean()), interval)}
    if len(vote.classes) > TOP:
        columns = np.searchsorted(vote.classes, data.test_labels)
        own = vote.log_votes[np.arange(len(columns)), columns]
        above = (vote.log_votes > own[:, None]).sum(axis=1)
        values["accuracy_top5"] = Value(float(((above < TOP) & np.isfinite(own)).mean()), None)
    part = Part(
        key="", title=f"{min(settings.k, len(data.train))} nearest neighbours", values=values, counts=data.counts
    )
    return ProtocolScores(protocol="knn", settings=settings, parts=(part,), notes=data.notes, data=data.data)


ENTRY = ProtocolEntry(
    name="knn",
    title="weighted vote of the nearest training images",
    wants="a train and a test split with the same classes, or --split NAME",
    settings=NearestSettings,
    run=run,
    label_scores=label_scores,
    scores=("accuracy", "accuracy_top5"),
    chance=chance,
)
