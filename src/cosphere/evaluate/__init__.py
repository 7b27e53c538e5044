"""Evaluation: embeddings and labels to plain numbers, with intervals."""

from __future__ import annotations

from cosphere.evaluate.clustering import Agreement, ClusteringScores, agreement, clustering
from cosphere.evaluate.embeddings import Embeddings, embed_catalogue
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

__all__ = [
    "Agreement",
    "ClusteringScores",
    "Embeddings",
    "Interval",
    "RetrievalScores",
    "Scores",
    "Summary",
    "agreement",
    "bootstrap",
    "bootstrap_all",
    "clustering",
    "embed_catalogue",
    "evaluate",
    "paired_difference",
    "retrieval",
    "score_embeddings",
    "seeds_summary",
]
