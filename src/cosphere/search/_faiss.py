"""Lazy import of faiss, which takes a second and may be broken where torch works."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from cosphere.errors import SettingsError


def faiss_for(purpose: str) -> Any:
    """The faiss module.

    Raises:
        SettingsError: it cannot be imported; the error names the purpose.
    """
    try:
        import faiss
    except ImportError as error:
        raise SettingsError(
            f"{purpose} needs the package faiss-cpu, which cannot be imported: {error}. Run: pip install faiss-cpu."
        ) from error
    return faiss


def search_with(index: Any, rows: npt.NDArray[Any], k: int, parameters: Any) -> tuple[Any, Any]:
    """``index.search(rows, k, params=parameters)``, also where ``faiss.contrib.torch_utils`` was imported.

    That module, which pytorch-metric-learning loads, replaces the method by one without parameters, and keeps the first as
    ``search_numpy``.
    """
    search = getattr(index, "search_numpy", None) or index.search
    found: tuple[Any, Any] = search(rows, k, params=parameters)
    return found
