"""Search: which rows are nearest. Evaluation, reports and service all rank through this room."""

from __future__ import annotations

from cosphere.search.exact import Neighbours, search
from cosphere.search.index import Index

__all__ = ["Index", "Neighbours", "search"]
