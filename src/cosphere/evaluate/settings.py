"""The settings of an evaluation, checked when they are made and before anything is embedded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from cosphere.checks import MOST_SAMPLES, check_choice, check_seed, check_switches, check_whole
from cosphere.errors import CosphereError, RunError
from cosphere.evaluate._depths import check_ks
from cosphere.evaluate._relevance import GroupRule
from cosphere.evaluate._ties import Ties
from cosphere.evaluate.clustering import check_preset
from cosphere.evaluate.metrics import check_metrics, metrics_help
from cosphere.evaluate.retrieval import check_ties
from cosphere.evaluate.statistics import check_level
from cosphere.fields import make_plain
from cosphere.rows import BLOCK_BYTES, check_block_bytes

IntervalOver = Literal["queries", "classes"]
"""What an interval resamples: single queries, or classes with all their queries."""
DEFAULT_KS = (1, 2, 4, 8)
"""The K that are scored where none are asked for."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What to measure and how.

    Args:
        ks: the K of Recall@K and of the other metrics at K, each at most the number of images that a query ranks. None takes 1, 2,
            4 and 8, and leaves out those that are larger.
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

    ks: tuple[int, ...] | None = None
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
        make_plain(self)
        check_metrics(self.metrics)
        if self.ks is not None:
            object.__setattr__(self, "ks", tuple(check_ks(self.ks)))
        object.__setattr__(self, "metrics", tuple(self.metrics))
        check_ties(self.ties)
        check_preset(self.clustering_preset)
        check_switches(clustering=self.clustering, bits=self.bits)
        check_choice("interval_over", self.interval_over, get_args(IntervalOver))
        check_choice("group_rule", self.group_rule, get_args(GroupRule))
        check_level(self.level)
        check_seed(self.seed)
        check_whole("bootstrap_samples", self.bootstrap_samples, least=0, most=MOST_SAMPLES)
        check_block_bytes(self.block_bytes)

    @property
    def depths(self) -> tuple[int, ...]:
        """The K to score: ``ks``, or the default ones."""
        return DEFAULT_KS if self.ks is None else self.ks


def stored_settings(scores: Mapping[str, Any]) -> EvaluationSettings:
    """How embeddings were scored, as their `scores.json` says; the defaults where it says nothing.

    The default K are stored as numbers; they are read as the default, so that other images may have fewer to rank.

    Args:
        scores: the content of `scores.json`.

    Raises:
        RunError: the scores hold settings that are none.
    """
    stored = scores.get("evaluation")
    values = stored if isinstance(stored, Mapping) else {}
    names = {one.name for one in fields(EvaluationSettings)} & values.keys()
    # JSON has no tuples.
    given: dict[str, Any] = {
        name: tuple(values[name]) if isinstance(values[name], list) else values[name] for name in names
    }
    if given.get("ks") == DEFAULT_KS:
        given["ks"] = None
    try:
        return EvaluationSettings(**given)
    except (CosphereError, TypeError) as error:
        raise RunError(f"the scores hold settings that cannot be used: {error} Evaluate the run again.") from error


# Help follows from the table of metrics, and jsonargparse takes help from the docstring.
EvaluationSettings.__doc__ = str(EvaluationSettings.__doc__).replace("{metrics}", metrics_help())
