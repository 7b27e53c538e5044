"""Cosphere: train, evaluate, compress and search image embeddings that lie on one sphere.

The public names below are loaded when they are first used, so that ``import cosphere`` and ``cosphere --help`` are quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cosphere._lazy import lazily
from cosphere._version import __version__

if TYPE_CHECKING:
    from cosphere import codes, data, evaluate, health, losses, models, search
    from cosphere.data import Catalogue, read_catalogue
    from cosphere.errors import CosphereError
    from cosphere.models import Embedder
    from cosphere.search import Gallery, Index
    from cosphere.spherical import SphericalConstraint, spherical_penalty

_HOME = {
    "Catalogue": "cosphere.data",
    "CosphereError": "cosphere.errors",
    "Embedder": "cosphere.models",
    "Gallery": "cosphere.search",
    "Index": "cosphere.search",
    "SphericalConstraint": "cosphere.spherical",
    "read_catalogue": "cosphere.data",
    "spherical_penalty": "cosphere.spherical",
}
_load = lazily(__name__, _HOME)
_ROOMS = ("codes", "data", "evaluate", "health", "losses", "models", "search")

__all__ = [
    "Catalogue",
    "CosphereError",
    "Embedder",
    "Gallery",
    "Index",
    "SphericalConstraint",
    "__version__",
    "codes",
    "data",
    "evaluate",
    "health",
    "losses",
    "models",
    "read_catalogue",
    "search",
    "spherical_penalty",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"cosphere.{name}")
    return _load(name)


def __dir__() -> list[str]:
    return __all__
