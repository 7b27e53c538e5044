"""The retrieval metrics: what each is called, what it needs and what it computes for one query.

A new metric is a function from a :class:`Ranking` to one value per query, and one entry of :data:`METRICS`. The names
that ``retrieval`` and ``cosphere evaluate`` accept, their help and the titles in a report follow from the entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from cosphere._types import Floats
from cosphere.errors import SettingsError, did_you_mean
from cosphere.evaluate._ranking import Ranking

Depth = Literal["first", "r", "k", "all"]
"""Ranks that must be exact: of the best relevant image only, of those within R, within K, or in the whole gallery."""
Values = Tensor | Floats


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One retrieval metric."""

    name: str
    """As in ``metrics=`` and ``scores.json``; with ``at_k`` the key there is ``name@K``."""
    title: str
    """As in a report."""
    values: Callable[..., Values]
    """(b,) float64 from a ranking of b queries, and from K with ``at_k``."""
    depth: Depth = "r"
    """How far down it reads ranks. The pass is the faster, the less it must know."""
    at_k: bool = False
    """Whether there is one value for each K."""
    default: bool = False
    """Computed without being requested."""
    summary: Literal["mean", "median"] = "mean"
    """How queries are summarised. A median has no interval, and stands beside the scores in ``scores.json``."""

    @property
    def about(self) -> str:
        """Its value for one query, as the first line of its function's docstring says it."""
        return str(self.values.__doc__).splitlines()[0].rstrip(".")

    def columns(self, ks: Sequence[int]) -> dict[str, Callable[[Ranking], Values]]:
        """The key of each of its scores, and what computes it."""
        if not self.at_k:
            return {self.name: self.values}
        return {f"{self.name}@{k}": partial(self.values, k=k) for k in ks}


def recall(ranking: Ranking, k: int) -> Values:
    """1 if a relevant image is among the first K (Song et al., 2016)."""
    return ranking.hits(k)


def average_precision_at_r(ranking: Ranking) -> Values:
    """Precisions at the relevant images among the first R, summed and divided by R (Musgrave et al., 2020)."""
    return ranking.summed_precisions(ranking.relevant) / ranking.relevant


def r_precision(ranking: Ranking) -> Values:
    """Share of relevant images among the first R."""
    return ranking.relevant_within(ranking.relevant) / ranking.relevant


def precision(ranking: Ranking, k: int) -> Values:
    """Share of relevant images among the first K."""
    return ranking.relevant_within(k) / k


def average_precision(ranking: Ranking, k: int) -> Values:
    """Precisions at the relevant images among the first K, summed and divided by min(K, R)."""
    return ranking.summed_precisions(k) / ranking.relevant.clamp_max(k)


def discounted_gain(ranking: Ranking, k: int) -> Values:
    """Sum of 1/log2(1 + rank) over the relevant images among the first K, divided by its largest value."""
    return ranking.gain(k) / ranking.best_gain(ranking.relevant.clamp_max(k))


def whole_average_precision(ranking: Ranking) -> Values:
    """Precisions at all relevant images, summed and divided by R."""
    return ranking.summed_precisions(ranking.gallery) / ranking.relevant


def reciprocal_rank(ranking: Ranking) -> Values:
    """1 / rank of the best relevant image, however far down."""
    return ranking.reciprocal_ranks()


def first_rank(ranking: Ranking) -> Values:
    """Rank of the best relevant image; its median is taken over the queries."""
    return ranking.first_ranks()


METRICS: tuple[Metric, ...] = (
    Metric(
        name="recall",
        title="Recall",
        values=recall,
        depth="first",
        at_k=True,
        default=True,
    ),
    Metric(
        name="map@r",
        title="MAP@R",
        values=average_precision_at_r,
        default=True,
    ),
    Metric(
        name="r_precision",
        title="R-precision",
        values=r_precision,
        default=True,
    ),
    Metric(
        name="precision",
        title="Precision",
        values=precision,
        depth="k",
        at_k=True,
    ),
    Metric(
        name="map",
        title="MAP",
        values=average_precision,
        depth="k",
        at_k=True,
    ),
    Metric(
        name="ndcg",
        title="nDCG",
        values=discounted_gain,
        depth="k",
        at_k=True,
    ),
    Metric(
        name="map@all",
        title="MAP, whole ranking",
        values=whole_average_precision,
        depth="all",
    ),
    Metric(
        name="mrr",
        title="MRR",
        values=reciprocal_rank,
        depth="first",
    ),
    Metric(
        name="median_rank",
        title="Median rank",
        values=first_rank,
        depth="first",
        summary="median",
    ),
)
"""All retrieval metrics, in the order of their scores."""


def check_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics to compute: the default ones and those named, in the order of :data:`METRICS`; "all" names every one.

    Raises:
        SettingsError: an unknown name; the error gives the nearest.
    """
    if isinstance(names, str):
        raise SettingsError(f"want metrics as a list of names, got {names!r}. Write metrics=({names!r},).")
    known = [*(metric.name for metric in METRICS), "all"]
    for name in names:
        if name not in known:
            raise SettingsError(f"there is no metric {name!r}. {did_you_mean(str(name), known)}")
    return tuple(metric for metric in METRICS if metric.default or metric.name in names or "all" in names)


def find_metric(key: str) -> Metric | None:
    """The metric that a score belongs to, such as that of ``ndcg@10``; None if it is not a retrieval score."""
    name, k = re.fullmatch(r"(.*?)(@\d+)?", key).groups("")  # type: ignore[union-attr]
    return next((metric for metric in METRICS if metric.name == name and metric.at_k == bool(k)), None)


def metric_title(key: str) -> str | None:
    """The title of a score, or None if it is not a retrieval score.

    >>> metric_title("ndcg@10"), metric_title("map@r"), metric_title("nmi")
    ('nDCG@10', 'MAP@R', None)
    """
    metric = find_metric(key)
    return None if metric is None else metric.title + key.removeprefix(metric.name)


def metrics_help() -> str:
    """The names that ``metrics`` takes beside the default ones, as a phrase."""
    return ", ".join([*(metric.name for metric in METRICS if not metric.default), "or all"])
