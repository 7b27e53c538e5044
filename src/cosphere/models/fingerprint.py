"""Fingerprints of models: what makes two of them give the same embeddings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, as 64 hexadecimal digits.

    The order of the names, the device and the memory layout do not count.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def of_content(content: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, as 64 hexadecimal digits. The order of the keys does not count."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def of_model(settings: Any, preprocessing: Any, weights: str) -> str:
    """What identifies a model: :attr:`cosphere.models.Embedder.id`.

    Args:
        settings: its :class:`cosphere.models.EmbedderSettings`.
        preprocessing: its :class:`cosphere.images.Preprocessing`.
        weights: :func:`of_tensors` of its state.
    """
    architecture = non_default(settings)
    for origin in ("weights", "cut"):  # where they came from; what they are is in the digest
        architecture.pop(origin, None)
    return of_content({"architecture": architecture, "preprocessing": non_default(preprocessing), "weights": weights})


def non_default(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, so that fields added later change no fingerprint."""
    defaults = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(settings)
    }
    return {name: value for name, value in dataclasses.asdict(settings).items() if value != defaults[name]}


class CachedDigest:
    """:func:`of_tensors`, computed again only after a tensor was replaced or modified in place."""

    def __init__(self) -> None:
        self._state: list[tuple[weakref.ref[Tensor], tuple[int, int]]] = []
        self._digest = ""

    def __reduce__(self) -> tuple[type[CachedDigest], tuple[()]]:
        return CachedDigest, ()  # a copy starts empty: it has other tensors, and weak references cannot be copied

    def __call__(self, tensors: Mapping[str, Tensor]) -> str:
        """The digest of these tensors, which must be a module's own: ``state_dict(keep_vars=True)``."""
        if not self._unchanged(tensors):
            self._state = [(weakref.ref(tensor), location(tensor)) for tensor in tensors.values()]
            self._digest = of_tensors(tensors)
        return self._digest

    def _unchanged(self, tensors: Mapping[str, Tensor]) -> bool:
        if len(tensors) != len(self._state):
            return False
        seen = zip(tensors.values(), self._state, strict=True)
        return all(tensor is reference() and location(tensor) == memory for tensor, (reference, memory) in seen)


def location(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor lies and how often it was modified in place, which writing through .data or numpy does not count."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
