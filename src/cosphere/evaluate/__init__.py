"""Evaluation: scores of embeddings with confidence intervals, thresholds, open-set scores, probes and comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosphere._lazy import lazily
from cosphere.embeddings import Embeddings
from cosphere.embeddings import embed as embed_catalogue
from cosphere.evaluate.agreement import Agreement, agreement
from cosphere.evaluate.audit import AuditFindings, AuditSettings, audit_embeddings
from cosphere.evaluate.by_group import GroupScores
from cosphere.evaluate.calibration import PairRates, calibrate, pair_rates
from cosphere.evaluate.clustering import (
    CLUSTERING_PRESETS,
    ClusteringPreset,
    ClusteringScores,
    ClusteringSeeds,
    clustering,
    clustering_over_seeds,
)
from cosphere.evaluate.comparison import Arm, Comparison, Difference, compare
from cosphere.evaluate.equal_bytes import EqualBytes, equal_bytes
from cosphere.evaluate.identification import identification, pool_templates, verification_among
from cosphere.evaluate.label_errors import LabelSuspects, likely_mislabelled
from cosphere.evaluate.neighbours import RankedImages, ranked_images
from cosphere.evaluate.open_set import OpenSetScores, OpenSetSplit, open_set, open_set_split
from cosphere.evaluate.probes import LinearProbe, NearestVote, linear_probe, nearest_vote
from cosphere.evaluate.quality import LengthQuality, length_quality
from cosphere.evaluate.retrieval import RetrievalScores, retrieval
from cosphere.evaluate.scores import Scores, evaluate, score_embeddings
from cosphere.evaluate.settings import EvaluationSettings
from cosphere.evaluate.significance import holm, mcnemar_test, seeds_test, sign_flip_test
from cosphere.evaluate.statistics import (
    Interval,
    Summary,
    bootstrap,
    bootstrap_all,
    bootstrap_classes,
    bootstrap_seeds,
    paired_bootstrap,
    paired_difference,
    seeds_summary,
)
from cosphere.evaluate.thresholds import (
    MatchedHamming,
    Rates,
    ThresholdRow,
    convert_threshold,
    matched_hamming,
    rates_at,
    threshold_table,
)
from cosphere.evaluate.verification import VerificationScores, tar_at_far, verification, verification_intervals

__all__ = [
    "CLUSTERING_PRESETS",
    "Agreement",
    "Arm",
    "AuditFindings",
    "AuditSettings",
    "ClusteringPreset",
    "ClusteringScores",
    "ClusteringSeeds",
    "Comparison",
    "Difference",
    "Embeddings",
    "EqualBytes",
    "EvaluationSettings",
    "GroupScores",
    "Interval",
    "LabelSuspects",
    "LengthQuality",
    "LinearProbe",
    "MatchedHamming",
    "NearestVote",
    "OpenSetScores",
    "OpenSetSplit",
    "PairRates",
    "RankedImages",
    "Rates",
    "RetrievalScores",
    "Scores",
    "Summary",
    "ThresholdRow",
    "VerificationScores",
    "agreement",
    "audit_embeddings",
    "bootstrap",
    "bootstrap_all",
    "bootstrap_classes",
    "bootstrap_seeds",
    "calibrate",
    "clustering",
    "clustering_over_seeds",
    "compare",
    "convert_threshold",
    "embed_catalogue",
    "equal_bytes",
    "evaluate",
    "holm",
    "identification",
    "length_quality",
    "likely_mislabelled",
    "linear_probe",
    "matched_hamming",
    "mcnemar_test",
    "nearest_vote",
    "open_set",
    "open_set_split",
    "pair_rates",
    "paired_bootstrap",
    "paired_difference",
    "pool_templates",
    "ranked_images",
    "rates_at",
    "retrieval",
    "score_embeddings",
    "seeds_summary",
    "seeds_test",
    "sign_flip_test",
    "tar_at_far",
    "threshold_table",
    "verification",
    "verification_among",
    "verification_intervals",
]

if not TYPE_CHECKING:  # else mypy would accept any name
    __getattr__ = lazily(__name__, {})
