"""timm with only the file that defines one network.

``import timm`` loads every network that it has, and through torchvision torch's compiler: two thirds of the CPU time of a
search. A search and an embedding need one network. What is left out here is loaded as soon as anybody uses it, so ``timm``
and ``torchvision`` are complete for every other user in the process.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import sys
import threading
from collections.abc import Iterator
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

_PACKAGES = ("timm", "timm.models", "timm.data")
_HUB = "timm.models._hub"
"""What downloads weights. It imports huggingface_hub and through that an HTTP client, which a network from a bundle never uses."""
_ITS_TORCHVISION = ("torchvision", "torchvision.ops", "torchvision.models")
"""Packages of which timm's networks need one module each."""
_OWN = "cosphere.models.networks"
"""Our networks, which register themselves with timm when they are imported."""
_OURS = Path(__file__).with_name("networks")


class TimmPart(NamedTuple):
    """The functions of timm that make one network, with their names there."""

    is_model: Any
    get_pretrained_cfg: Any
    create_model: Any


def timm_part(name: str) -> TimmPart:
    """Functions of timm that know at least the network ``name``, if there is one of that name.

    Args:
        name: of a network, with or without the tag of its weights.
    """
    network = name.partition(".")[0]
    own = _file_of(network, _OURS) is not None
    with contextlib.suppress(ImportError, AttributeError):  # a timm of another structure: load all of it
        folder = _prepared()
        file = None if folder is None else _file_of(network, _OURS if own else folder)
        if file is not None:
            importlib.import_module(_OWN if own else f"timm.models.{file.stem}")
            registry = importlib.import_module("timm.models._registry")
            factory = importlib.import_module("timm.models._factory")
            return TimmPart(registry.is_model, registry.get_pretrained_cfg, factory.create_model)
    import timm

    importlib.import_module(_OWN)

    return TimmPart(timm.is_model, timm.models.get_pretrained_cfg, timm.create_model)


@functools.cache  # reading a hundred files for each model that is built adds up
def _file_of(network: str, folder: Path) -> Path | None:
    """The file that defines a network; None where there is none."""
    needle = f"def {network}(".encode()
    defines = re.compile(b"^" + re.escape(needle), re.MULTILINE)
    for file in sorted(folder.glob("*.py")):
        content = file.read_bytes()
        if needle in content and defines.search(content):  # a plain search is many times quicker
            return file
    return None


@functools.cache
def _prepared() -> Path | None:
    """The folder of timm's networks, after its packages were prepared; None where timm is loaded already or not there."""
    if "timm" in sys.modules or not _prepare(_PACKAGES):
        return None
    timm, models, data = (sys.modules[name] for name in _PACKAGES)
    vars(timm)["__version__"] = importlib.import_module("timm.version").__version__
    constants = vars(importlib.import_module("timm.data.constants"))
    vars(data).update({name: value for name, value in constants.items() if name.isupper()})
    with _torchvision_in_part():
        importlib.import_module("timm.layers")
    _defer_functions(_HUB)
    return Path(models.__path__[0])


@contextlib.contextmanager
def _torchvision_in_part() -> Iterator[None]:
    """Inside the block, ``import torchvision`` loads nothing but the modules that are asked for; afterwards it is as it was."""
    if "torchvision" in sys.modules or not _prepare(_ITS_TORCHVISION):
        yield
        return
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]


def _defer_functions(name: str) -> None:
    """Make a module of functions that is loaded when one of them is first called, or another of its names is used."""
    parent, _, own = name.rpartition(".")
    spec = PathFinder.find_spec(name, list(sys.modules[parent].__path__))
    if spec is None or spec.origin is None:
        return
    module = sys.modules[name] = _LaterFunctions(name, spec)
    vars(sys.modules[parent])[own] = module


class _LaterFunctions(ModuleType):
    """A module whose functions can be imported before it is loaded; the first call of one loads it."""

    def __init__(self, name: str, spec: ModuleSpec) -> None:
        super().__init__(name)
        self.__spec__, self.__loader__, self.__file__ = spec, spec.loader, spec.origin
        self.__package__ = spec.parent
        source = Path(str(spec.origin)).read_text(encoding="utf-8")
        self._functions = frozenset(re.findall(r"^def (\w+)\(", source, re.MULTILINE))
        self._whole: ModuleType | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # asked for by the import system
            raise AttributeError(name)
        if name in self._functions and self._whole is None:
            return lambda *values, **named: getattr(self._load(), name)(*values, **named)
        return getattr(self._load(), name)

    def _load(self) -> ModuleType:
        if self._whole is None:
            spec = cast("ModuleSpec", self.__spec__)
            whole = module_from_spec(spec)
            cast("Loader", spec.loader).exec_module(whole)
            self._whole = whole
        return self._whole


def _prepare(packages: tuple[str, ...]) -> bool:
    """Make packages that load themselves when they are used; the first holds the others. False where one is not there."""
    path, specs = None, []
    for name in packages:
        spec = PathFinder.find_spec(name, path)
        if spec is None or not spec.submodule_search_locations:
            return False
        path = path or list(spec.submodule_search_locations)
        specs.append(spec)
    for spec in specs:
        module = sys.modules[spec.name] = _Later(spec)
        parent, _, own = spec.name.rpartition(".")
        if parent:
            vars(sys.modules[parent])[own] = module
    return True


class _Later(ModuleType):
    """A package whose ``__init__`` runs when one of its own names is first used. Its modules can be imported before that."""

    _lock = threading.RLock()

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(spec.name)
        self.__spec__, self.__loader__, self.__file__ = spec, spec.loader, spec.origin
        self.__path__ = list(spec.submodule_search_locations or ())
        self.__package__ = spec.name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # asked for by the import system
            raise AttributeError(name)
        with self._lock:
            loader = None if self.__spec__ is None else self.__spec__.loader
            if name not in vars(self) and not vars(self).get("_begun") and loader is not None:
                vars(self)["_begun"] = True
                loader.exec_module(self)
        try:
            return vars(self)[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None
