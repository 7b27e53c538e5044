"""Embeddings of a set of images: compute, save, load, select, join, and split into queries and gallery."""

from __future__ import annotations

from cosphere.embeddings.computing import Precision, columns_of, embed, number_classes
from cosphere.embeddings.features import PLAIN, FeatureCache, FeatureTable, Views
from cosphere.embeddings.store import EmbeddingStore
from cosphere.embeddings.table import Embeddings, Sides

embed_catalogue = embed
"""The name of :func:`embed` in :mod:`cosphere.evaluate`."""

__all__ = [
    "PLAIN",
    "EmbeddingStore",
    "Embeddings",
    "FeatureCache",
    "FeatureTable",
    "Precision",
    "Sides",
    "Views",
    "columns_of",
    "embed",
    "embed_catalogue",
    "number_classes",
]
