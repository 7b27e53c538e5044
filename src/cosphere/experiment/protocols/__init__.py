"""Protocols: fixed ways to score a model. To add one, add a file here, a test, and an entry in :data:`PROTOCOLS`."""

from __future__ import annotations

from cosphere.errors import SettingsError, did_you_mean
from cosphere.evaluate.clustering import SCORES as CLUSTERING_SCORES
from cosphere.evaluate.metrics import find_metric
from cosphere.experiment.protocols.base import Part, ProtocolEntry, ProtocolScores, Subject
from cosphere.experiment.protocols.ijb import ENTRY as IJB
from cosphere.experiment.protocols.knn import ENTRY as KNN
from cosphere.experiment.protocols.lfw import ENTRY as LFW
from cosphere.experiment.protocols.linear import ENTRY as LINEAR
from cosphere.experiment.protocols.megaface import ENTRY as MEGAFACE
from cosphere.experiment.protocols.pairs import ENTRY as PAIRS
from cosphere.experiment.protocols.verification_bins import AGEDB, CFP

__all__ = ["PROTOCOLS", "Part", "ProtocolEntry", "ProtocolScores", "Subject", "find_protocol", "split_score"]

PROTOCOLS: dict[str, ProtocolEntry] = {
    entry.name: entry for entry in (LFW, AGEDB, CFP, IJB, MEGAFACE, PAIRS, KNN, LINEAR)
}
"""All protocols by name."""


def find_protocol(name: str) -> ProtocolEntry:
    """The protocol of a name.

    Raises:
        SettingsError: there is none; the error names the nearest.
    """
    if name not in PROTOCOLS:
        raise SettingsError(f"there is no protocol {name!r}. {did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def split_score(name: str) -> tuple[ProtocolEntry, str] | None:
    """The protocol and the score in a name such as ``lfw/unseen/accuracy``; None for scores of a ranking or a clustering.

    Raises:
        SettingsError: there is no such protocol, or it has no such score.

    >>> entry, score = split_score("lfw/unseen/accuracy")
    >>> entry.name, score, split_score("recall@1")
    ('lfw', 'unseen/accuracy', None)
    """
    protocol, slash, score = name.partition("/")
    if not slash or find_metric(protocol) is not None or protocol in CLUSTERING_SCORES:  # as in recall@1/bits
        return None
    entry = find_protocol(protocol)
    entry.check_score(score)
    return entry, score
