"""torch without its Python kernels for tensors that hold no data.

``import torch`` ends with the import of ``torch._meta_registrations``: kernels that tell a compiler the shapes of results. With
what they are built on, they take a fifth of the import's time. A command that encodes images and searches never compiles, so its
process leaves them out until somebody asks for them or for a compiler.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_KERNELS = "torch._meta_registrations"
_COMPILERS = frozenset({"torch._dynamo", "torch._inductor"})
"""Parts of torch that expect the kernels to be there and, without them, import one another in a circle."""


def defer_shape_kernels() -> None:
    """Leave the kernels out of the next ``import torch``, until they are needed. Does nothing once torch is imported.

    For the process of a command alone: a program may use such tensors in ways that cannot be seen from here.
    """
    if "torch" not in sys.modules:
        sys.modules[_KERNELS] = _Later(_KERNELS)
        sys.meta_path.insert(0, _Watch())


def _load() -> ModuleType:
    """The kernels, imported now if they were left out."""
    if isinstance(sys.modules.get(_KERNELS), _Later):
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watch)]
        del sys.modules[_KERNELS]
    return importlib.import_module(_KERNELS)


class _Later(ModuleType):
    """Stands for the kernels; the first use of one loads them."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by the import system
            raise AttributeError(name)
        return getattr(_load(), name)


class _Watch(MetaPathFinder):
    """Finds nothing itself: loads the kernels before a compiler."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Of the import system."""
        if fullname in _COMPILERS:
            _load()
        return None
