"""Histograms of the lengths of the test embeddings, of arms that differ in SEC: each length as a share of its run's mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cosphere._types import Floats
from cosphere.studies.definition import Study
from cosphere.studies.variance import sec_pairs

BINS = 60
"""Of equal width."""
LONGEST = 3.0
"""The last bin ends here and also holds what is longer."""


class Spread(NamedTuple):
    """Of one arm; both (BINS,), shares of the images that add up to 1."""

    mean: tuple[float, ...]
    """Over seeds."""
    sd: tuple[float, ...]
    """Over seeds; 0 for one seed."""


class Spreads(NamedTuple):
    """Of all arms of the pairs that differ in SEC."""

    pairs: tuple[tuple[str, str], ...]
    """Arm, and what it is compared with."""
    arms: Mapping[str, Spread]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with the edges of the bins."""
        return {
            "edges": np.linspace(0, LONGEST, BINS + 1).round(6).tolist(),
            "pairs": [list(pair) for pair in self.pairs],
            "arms": {arm: spread._asdict() for arm, spread in self.arms.items()},
        }


def spreads(
    study: Study, records: Sequence[Mapping[str, Any]], lengths_of: Callable[[Mapping[str, Any]], Floats | None]
) -> Spreads | None:
    """The histograms; None where no two arms with kept embeddings differ in SEC.

    Args:
        study: its comparisons name the pairs of arms.
        records: of its runs; final runs count that did not diverge.
        lengths_of: the lengths (N,) of the test embeddings of a record; None where they are not kept.
    """
    pairs = sec_pairs(study)
    arms = {name for pair in pairs for name in pair}
    shares: dict[str, list[Floats]] = {}
    for record in records:
        if record["phase"] != "final" or record["arm"] not in arms or record["status"] == "diverged":
            continue
        lengths = lengths_of(record)
        if lengths is not None and len(one := relative(lengths)):
            counts, _ = np.histogram(one.clip(max=LONGEST), bins=BINS, range=(0, LONGEST))
            shares.setdefault(record["arm"], []).append(counts / len(one))
    drawn = tuple(pair for pair in pairs if all(name in shares for name in pair))
    if not drawn:
        return None
    return Spreads(drawn, {arm: _over_seeds(shares[arm]) for pair in drawn for arm in pair})


def relative(lengths: Floats) -> Floats:
    """Finite lengths over their mean; empty where none is above 0.

    >>> relative(np.array([1.0, 3.0, np.nan])).tolist()
    [0.5, 1.5]
    """
    finite = lengths[np.isfinite(lengths)]
    return finite / finite.mean() if len(finite) and finite.mean() > 0 else finite[:0]


def _over_seeds(shares: Sequence[Floats]) -> Spread:
    values = np.array(shares)
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    return Spread(tuple(map(float, values.mean(axis=0))), tuple(map(float, spread)))
