"""What a random order of the images would score: the place of runs that diverged."""

from __future__ import annotations

import re

import numpy as np

from cosphere._types import Floats, Integers
from cosphere.studies.forms import base_of


def chance(score: str, labels: Integers) -> Floats:
    """Expected score of each query under a random order of all others; 0 for scores whose chance is not worked out here.

    Args:
        score: such as ``recall@1``, ``map@r``, ``r_precision`` or ``precision@5``, in any form.
        labels: (Q,) class of each query, every query being in the gallery of all others.

    Returns:
        (Q,) fractions.
    """
    others = len(labels) - 1
    score = base_of(score)
    relevant = (np.bincount(labels)[labels] - 1).astype(np.float64)
    share = relevant / max(others, 1)
    name, _, k = score.partition("@")
    if name == "recall" and re.fullmatch(r"\d+", k):
        missed = np.ones(len(labels))
        for rank in range(min(int(k), others)):
            missed *= np.clip(1 - relevant / (others - rank), 0, 1)
        return np.asarray(1 - missed)
    if score == "map@r":
        next_one = np.clip(relevant - 1, 0, None) / max(others - 1, 1)
        harmonic = np.array([np.sum(1 / np.arange(1, int(r) + 1)) for r in relevant])
        # P(k) counts rank k itself, and k - 1 others that are relevant with probability next_one.
        safe = np.maximum(relevant, 1)
        return np.asarray(share / safe * (harmonic + next_one * (relevant - harmonic)))
    return share if name in ("r_precision", "precision") else np.zeros(len(labels))
