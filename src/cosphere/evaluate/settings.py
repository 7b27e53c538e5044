"""The settings of an evaluation, checked when they are made and before anything is embedded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cosphere.checks import MOST_SAMPLES, check_choice, check_seed, check_whole
from cosphere.evaluate._relevance import GroupRule
from cosphere.evaluate._ties import Ties
from cosphere.evaluate.clustering import check_preset
from cosphere.evaluate.metrics import check_metrics, metrics_help
from cosphere.evaluate.retrieval import check_ks, check_ties
from cosphere.evaluate.statistics import check_level
from cosphere.rows import BLOCK_BYTES, check_block_bytes

IntervalOver = Literal["queries", "classes"]
"""What an interval resamples: single queries, or classes with all their queries."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What to measure and how.

    Args:
        ks: the K of Recall@K and of the other metrics at K.
        clustering: also cluster the embeddings: NMI and F1. k-means takes longer than all the rest.
        clustering_preset: whose k-means: default, sec or norm_softmax. The default is one start from random rows, which finds
            worse clusters than the papers' ten: take their preset to compare with their NMI and F1.
        metrics: extra scores: {metrics}.
        bits: rank one bit per dimension by Hamming distance; everything else uses the floats.
        ties: rule for equal similarities: optimistic, pessimistic or expected. None takes optimistic for floats and expected
            for bits, and counts queries that tie with everything at chance.
        group_rule: what a query with a group (the column sequence of a table) does not rank: any_class all images of its
            group, as open-metric-learning does with sequences; same_class those of its class and group, as Market-1501 does
            with cameras.
        interval_over: what the intervals resample: queries for other images of these classes, classes for other classes.
        bootstrap_samples: resamples behind each interval; 0 makes none.
        level: confidence level of the intervals, in (0, 1).
        seed: seed of k-means and of the intervals.
        block_bytes: bound of the ranking's working memory in bytes.

    Raises:
        SettingsError: a setting is unknown or out of range.
        SizeError: a K is not a whole number from 1 on.
    """

    ks: tuple[int, ...] = (1, 2, 4, 8)
    clustering: bool = True
    clustering_preset: str = "default"
    metrics: tuple[str, ...] = ()
    bits: bool = False
    ties: Ties | None = None
    group_rule: GroupRule = "any_class"
    interval_over: IntervalOver = "queries"
    bootstrap_samples: int = 1000
    level: float = 0.95
    seed: int = 0
    block_bytes: int = BLOCK_BYTES

    def __post_init__(self) -> None:
        check_metrics(self.metrics)
        object.__setattr__(self, "ks", tuple(check_ks(self.ks)))
        object.__setattr__(self, "metrics", tuple(self.metrics))
        check_ties(self.ties)
        check_preset(self.clustering_preset)
        check_choice("interval_over", self.interval_over, get_args(IntervalOver))
        check_choice("group_rule", self.group_rule, get_args(GroupRule))
        check_level(self.level)
        check_seed(self.seed)
        check_whole("bootstrap_samples", self.bootstrap_samples, least=0, most=MOST_SAMPLES)
        check_block_bytes(self.block_bytes)


# Help follows from the table of metrics, and jsonargparse takes help from the docstring.
EvaluationSettings.__doc__ = str(EvaluationSettings.__doc__).replace("{metrics}", metrics_help())
