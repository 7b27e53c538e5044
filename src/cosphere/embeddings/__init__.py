"""Embeddings of a set of images: compute, save, load, select, join, and split into queries and gallery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosphere._lazy import lazily

if TYPE_CHECKING:
    from cosphere._types import Precision as Precision
    from cosphere.embeddings.computing import columns_of as columns_of
    from cosphere.embeddings.computing import embed as embed
    from cosphere.embeddings.computing import number_classes as number_classes
    from cosphere.embeddings.features import PLAIN as PLAIN
    from cosphere.embeddings.features import FeatureCache as FeatureCache
    from cosphere.embeddings.features import FeatureTable as FeatureTable
    from cosphere.embeddings.features import Views as Views
    from cosphere.embeddings.store import EmbeddingStore as EmbeddingStore
    from cosphere.embeddings.table import Embeddings as Embeddings
    from cosphere.embeddings.table import Sides as Sides
else:
    __getattr__ = lazily(
        __name__,
        {
            "columns_of": "cosphere.embeddings.computing",
            "embed": "cosphere.embeddings.computing",
            "number_classes": "cosphere.embeddings.computing",
            "Precision": "cosphere._types",
            "FeatureCache": "cosphere.embeddings.features",
            "FeatureTable": "cosphere.embeddings.features",
            "PLAIN": "cosphere.embeddings.features",
            "Views": "cosphere.embeddings.features",
            "EmbeddingStore": "cosphere.embeddings.store",
            "Embeddings": "cosphere.embeddings.table",
            "Sides": "cosphere.embeddings.table",
        },
    )

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
    "number_classes",
]
