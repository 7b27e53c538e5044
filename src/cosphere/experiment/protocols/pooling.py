"""Templates of several images each, pooled with raw lengths as weights and without: what lengths are worth when images are added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cosphere.evaluate import pool_templates, verification
from cosphere.evaluate.scores import Value
from cosphere.experiment.protocols.base import Part

LEAST, MOST = 4, 2000
"""Images of a person who makes two templates; people that are compared, since all pairs of their templates are."""


def template_parts(rows: Any, labels: Any, fars: Sequence[float]) -> list[Part]:
    """Two templates of each person with four images or more, every second image in each, compared with all others.

    Args:
        rows: (N, D) raw embeddings.
        labels: (N,) the person of each.
        fars: false-accept rates.

    Returns:
        A part with raw lengths as weights, and one with each embedding at length 1 before it is added; empty where fewer than two
        people have enough images.
    """
    raw = np.asarray(rows, dtype=np.float64)
    codes = np.unique(np.asarray(labels).astype(str), return_inverse=True)[1]
    sizes = np.bincount(codes)
    people = np.flatnonzero(sizes >= LEAST)[:MOST]
    if len(people) < 2:
        return []
    order = np.argsort(codes, kind="stable")
    rank = np.empty(len(codes), dtype=np.int64)
    rank[order] = np.arange(len(codes)) - (np.cumsum(sizes) - sizes)[codes[order]]
    chosen = np.isin(codes, people)
    templates = 2 * codes[chosen] + rank[chosen] % 2
    same = np.eye(len(people), dtype=bool).ravel()
    parts = []
    for key, lengths in (("templates", True), ("templates_plain", False)):
        pooled, _ = pool_templates(raw[chosen], templates, keep_lengths=lengths)
        found = verification((pooled[::2] @ pooled[1::2].T).ravel(), same, None, fars=fars)
        how = "raw lengths as weights" if lengths else "lengths made equal first"
        parts.append(
            Part(
                key=key,
                title=f"Two templates of each person with {LEAST} images or more, {how}",
                values={name: Value(value, None) for name, value in found.as_dict().items()},
                counts={
                    "people": len(people),
                    "images": int(chosen.sum()),
                    "same_pairs": found.same_pairs,
                    "different_pairs": found.different_pairs,
                },
            )
        )
    return parts
