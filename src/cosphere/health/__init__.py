"""Health of an embedding: how many directions it uses, how it fills the sphere, and what is wrong when it collapses."""

from __future__ import annotations

from cosphere.health.concerns import Health
from cosphere.health.measure import embedding_health

__all__ = ["Health", "embedding_health"]
