"""Public names of a package that are loaded when they are first used, so that a command imports only what it needs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from cosphere._elsewhere import ELSEWHERE


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package (PEP 562) whose public names are imported on first use.

    Args:
        package: ``__name__`` of the package.
        homes: for each public name the module that defines it.

    Returns:
        a function that imports the module of a name and stores the name in the package, so that it runs once for each name.
        Other names are an AttributeError that names the nearest, or the counterpart of a name of another library.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}{_advice(package, name, homes)}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(importlib.import_module(package), name, value)
        return value

    return load


def _advice(package: str, name: str, homes: Mapping[str, str]) -> str:
    """What to add to the error of an unknown name; nothing for a private one, which only tools look for."""
    if name.startswith("_"):
        return ""
    if name in ELSEWHERE:
        return f". Here it is {ELSEWHERE[name]}."
    from cosphere.errors import did_you_mean  # needed here alone, and `import cosphere` is quick

    tail = did_you_mean(name, [*homes, *getattr(sys.modules.get(package), "__all__", ())])
    return f". {tail}" if tail.startswith("Did") else ""
