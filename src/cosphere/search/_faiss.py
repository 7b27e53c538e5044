"""The one place that imports faiss, which takes a second and may be broken where torch is not."""

from __future__ import annotations

from typing import Any

from cosphere.errors import SettingsError


def faiss_for(purpose: str) -> Any:
    """The faiss module.

    Raises:
        SettingsError: it cannot be imported; the error says what wanted it.
    """
    try:
        import faiss
    except ImportError as error:
        raise SettingsError(
            f"{purpose} needs the package faiss-cpu, which cannot be imported: {error}. Run: pip install faiss-cpu."
        ) from error
    return faiss
