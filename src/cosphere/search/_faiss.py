"""Lazy import of faiss, which takes a second and may be broken where torch works."""

from __future__ import annotations

from typing import Any

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
