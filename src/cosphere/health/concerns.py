"""Health numbers of an embedding, their healthy ranges, and warnings with a remedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from cosphere.errors import agreeing, counted

# Limits. "Healthy" below is the range measured on held-out classes: of Cars196 (4092 images, 98
# classes) triplet and multi-similarity with and without SEC (512-d, three seeds each), NormSoftmax (2048-d) and the untrained
# backbone (1280-d), and LFW faces (128-d). "Collapsed" are 128-d heads on that backbone's features, trained so as to collapse.
NEAR_ONE = 0.9
"""Mean cosine. Healthy: 0.01 to 0.53. Collapsed (hardest triplets at a high rate): 0.965 and 0.997."""
FEW_DIRECTIONS = 3.0
"""Participation ratio. Healthy: 6.3 to 86. Collapsed (NormSoftmax at a high rate): 1.3; cut to 2 directions, even with noise: 1.9."""
SMALL_SHARE = 0.1
"""Effective rank over the directions that the data could fill. Healthy: above 2.4 of 97 (0.9 of 127 for the faces)."""
UNEQUAL = 1.0
"""CV of the lengths. Healthy: 0.02 to 0.45, heads without SEC up to 0.68; at 1 they scatter like exponential variables."""
SKEWED = 5.0
"""Skew of the k-occurrence. Healthy: 1.3 to 2.2; independent draws have 0.3, off-centre Gaussians in 512-d 5.1."""
MANY_ORPHANS = 0.3
"""Share of images that are in no neighbour list. Healthy: 0.004 to 0.042; the same Gaussians have 0.49."""

LOGGED = ("effective_rank", "uniformity", "alignment", "hubness", "margin", "mean_cosine", "norm_cv")
"""The numbers that a training log records."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """Result of :func:`cosphere.health.embedding_health`. A number that the data does not define is None.

    Zero rows are counted in ``zero_rows`` and left out of every other number except ``norm_cv``.
    """

    rows: int
    """N."""
    dim: int
    """D."""
    compared: int
    """Rows that were compared with each other: all non-zero rows, or a random sample of them if they are many."""
    classes: int | None
    """Classes among the non-zero rows; None without labels."""
    k: int
    """Neighbours behind ``hubness``, ``orphans`` and ``largest_hub``: the requested k, or all other rows if they are fewer."""
    zero_rows: int
    """Rows shorter than 1e-6."""
    norm_cv: float
    """Standard deviation of the lengths over their mean, of all rows; 0 is equal."""
    mean_cosine: float | None
    """Of two different rows, in [-1, 1]; 1 when all rows have the same direction."""
    effective_rank: float | None
    """From 1 to min(D, N - 1), or 0 when all rows have the same direction: exp of the entropy of the singular values."""
    participation_ratio: float | None
    """From 1 to ``effective_rank``, or 0: number of directions that hold the variance; small ones hardly count."""
    uniformity: float | None
    """In [-8, 0]: log of the mean of exp(-2 d^2) over all pairs. Lower is more uniform; about -4 for uniform points on a sphere."""
    alignment: float | None
    """In [0, 4]: mean d^2 over the pairs of one class. Lower is closer."""
    hubness: float | None
    """Skewness of how often a row is among the k nearest of the others. 0 is even; above 5 a few images are neighbours of all."""
    orphans: float | None
    """In [0, 1]: share of rows that are not among the k nearest of any other row (anti-hubs)."""
    largest_hub: float | None
    """Number of rows that have the largest hub among their k nearest; the mean over all rows is k."""
    margin: float | None
    """In [-2, 2]: median over rows of the cosine to its class mean (without the row itself) minus that to the nearest other mean."""
    margin_below_zero: float | None
    """In [0, 1]: share of rows that are nearer to the mean of another class."""

    def _concerns(self) -> dict[str, _Concern]:
        by_kind = {
            "zero rows": _of_zero_rows(self),
            "total collapse": _of_total_collapse(self),
            "dimension collapse": _of_few_directions(self),
            "unequal lengths": _of_lengths(self),
            "hubs": _of_hubs(self),
        }
        return {kind: one for kind, one in by_kind.items() if one is not None}

    @property
    def concerns(self) -> dict[str, str]:
        """Problems by kind: one sentence each with the measured value, its limit and a remedy."""
        return {kind: f"{one.finding}; {one.remedy}." for kind, one in self._concerns().items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """The sentences of :attr:`concerns`; none for a healthy embedding."""
        return tuple(self.concerns.values())

    @property
    def findings(self) -> tuple[str, ...]:
        """The warnings without their remedies, which are settings of training; for a model that was not trained."""
        return tuple(f"{one.finding}." for one in self._concerns().values())

    def logged(self) -> dict[str, float]:
        """The defined numbers of :data:`LOGGED`."""
        values = asdict(self)
        return {name: values[name] for name in LOGGED if values[name] is not None}

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers by name, and ``warnings``."""
        return {**asdict(self), "warnings": list(self.warnings)}


class _Concern(NamedTuple):
    """A problem in words, and what to do while training; neither ends with a full stop."""

    finding: str
    remedy: str


def _of_zero_rows(health: Health) -> _Concern | None:
    if not health.zero_rows:
        return None
    rows = f"{health.zero_rows} of {counted(health.rows, 'embedding')}"
    are, have = agreeing(health.rows, "are"), agreeing(health.rows, "have")
    return _Concern(
        f"Zero rows: {rows} {are} zero and {have} no direction, so what is nearest there is chance",
        "look at these images, lower --optimizer.head_rate, or set --optimizer.clip_norm 1",
    )


def _of_total_collapse(health: Health) -> _Concern | None:
    if health.mean_cosine is None or health.mean_cosine <= NEAR_ONE:
        return None
    return _Concern(
        f"Total collapse: the cosine of two images is {health.mean_cosine:.3f} on average (limit {NEAR_ONE}), so nearly all look similar",
        "lower --optimizer.head_rate and --optimizer.backbone_rate tenfold, or take a loss that does not only see the hardest pairs, "
        "such as --loss.name norm_softmax",
    )


def _of_few_directions(health: Health) -> _Concern | None:
    """Few rows or classes cannot fill D directions: well-trained classes are C points, which span C - 1 directions."""
    rank, ratio = health.effective_rank, health.participation_ratio
    if not rank or not ratio or _of_total_collapse(health):  # The remaining variance is then meaningless.
        return None
    rows = health.rows - health.zero_rows
    possible = min(health.dim, health.compared - 1, (health.classes or rows) - 1)
    least_ratio, least_rank = min(FEW_DIRECTIONS, possible / 4), SMALL_SHARE * possible
    if ratio >= least_ratio and rank >= least_rank:
        return None
    return _Concern(
        f"Dimension collapse: the embeddings vary in few of {possible} possible directions (participation ratio {ratio:.1f}, limit "
        f"{least_ratio:.1f}; effective rank {rank:.1f}, limit {least_rank:.1f})",
        "lower --optimizer.head_rate, or --loss.settings.temperature where the loss has one, show more classes at a time with a larger "
        "--batch.size, or add --sec.weight",
    )


def _of_lengths(health: Health) -> _Concern | None:
    if health.norm_cv <= UNEQUAL:
        return None
    return _Concern(
        f"Unequal lengths: their standard deviation is {health.norm_cv:.2f} times their mean (limit {UNEQUAL:.0f}), so a step turns "
        "short embeddings far and long ones hardly",
        "raise --sec.weight, from 0.1 on with --sec.scale_free true, while train/sec_share stays below 1",
    )


def _of_hubs(health: Health) -> _Concern | None:
    skew, orphans = health.hubness, health.orphans
    if skew is None or orphans is None or (skew <= SKEWED and orphans <= MANY_ORPHANS):
        return None
    return _Concern(
        f"Hubs: one image is among the {health.k} nearest of {health.largest_hub:.0f} others, and {100 * orphans:.0f} % of the images "
        f"are among those of none (limit {100 * MANY_ORPHANS:.0f} %; skew {skew:.1f}, limit {SKEWED:.0f})",
        "look for blank or repeated images, or centre the embeddings with --model.norm batch and --model.bias false",
    )
