"""Loading a model onto the device that the user asked for."""

from __future__ import annotations

from pathlib import Path

import torch

from cosphere.errors import SettingsError
from cosphere.models import Embedder
from cosphere.train.memory import keep_freed_memory


def choose_device(name: str = "auto") -> str:
    """The device to run on: the named one, or with "auto" the GPU if there is one.

    Raises:
        SettingsError: there is no such device here.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [device for device, there in available.items() if there]
    if name == "auto":
        return usable[0]
    if name not in usable:
        raise SettingsError(f"there is no device {name!r} here; there is {', '.join(usable)}.")
    return name


def load_model(path: str | Path, device: str = "auto") -> Embedder:
    """The model of a run's folder, or a bundle, in evaluation mode.

    Raises:
        RunError, WeightsError: there is no model, or it is damaged.
        SettingsError: there is no such device here.
    """
    return Embedder.load(path, ready(device))


def ready(device: str = "auto") -> str:
    """:func:`choose_device`, with the memory allocator set for repeated forward passes.

    Embedding frees and asks for the same large blocks again and again, as training does: see
    :func:`cosphere.train.memory.keep_freed_memory`.
    """
    chosen = choose_device(device)
    if chosen == "cpu":
        keep_freed_memory()
    return chosen
