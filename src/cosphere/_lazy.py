"""Public names of a package that are loaded when they are first used, so that a command imports only what it needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package (PEP 562) whose public names are imported on first use.

    Args:
        package: ``__name__`` of the package.
        homes: for each public name the module that defines it.

    Returns:
        a function that imports the module of a name and stores the name in the package, so that it runs once for each name.
        Other names are an AttributeError.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(importlib.import_module(package), name, value)
        return value

    return load
