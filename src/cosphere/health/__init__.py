"""Embedding health: spectrum, effective rank, uniformity, alignment, hubness, class margins, and warnings about collapse."""

from __future__ import annotations

from cosphere.health.concerns import Health
from cosphere.health.measure import embedding_health, spectrum

__all__ = ["Health", "embedding_health", "spectrum"]
