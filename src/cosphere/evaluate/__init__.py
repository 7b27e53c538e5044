"""Evaluation: embeddings and labels to plain numbers, with intervals."""

from __future__ import annotations

from cosphere.evaluate.clustering import Agreement, ClusteringScores, agreement, clustering
from cosphere.evaluate.embeddings import Embeddings, embed_catalogue
from cosphere.evaluate.identification import identification, pool_templates
from cosphere.evaluate.probes import LinearProbe, NearestVote, linear_probe, nearest_vote
from cosphere.evaluate.retrieval import RetrievalScores, retrieval
from cosphere.evaluate.scores import Scores, evaluate, score_embeddings
from cosphere.evaluate.statistics import (
    Interval,
    Summary,
    bootstrap,
    bootstrap_all,
    paired_difference,
    seeds_summary,
)
from cosphere.evaluate.verification import VerificationScores, tar_at_far, verification, verification_intervals

__all__ = [
    "Agreement",
    "ClusteringScores",
    "Embeddings",
    "Interval",
    "LinearProbe",
    "NearestVote",
    "RetrievalScores",
    "Scores",
    "Summary",
    "VerificationScores",
    "agreement",
    "bootstrap",
    "bootstrap_all",
    "clustering",
    "embed_catalogue",
    "evaluate",
    "identification",
    "linear_probe",
    "nearest_vote",
    "paired_difference",
    "pool_templates",
    "retrieval",
    "score_embeddings",
    "seeds_summary",
    "tar_at_far",
    "verification",
    "verification_intervals",
]
