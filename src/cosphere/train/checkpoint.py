"""Checkpoint files: everything that training needs to resume exactly, and no code."""

from __future__ import annotations

import pickle
import random
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from cosphere.errors import RunError
from cosphere.files import write_atomic

FORMAT = 1
"""Raised when a checkpoint written by an older Cosphere can no longer be read."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) atomically: a crash or a full disk leaves the old file whole."""
    write_atomic(path, lambda part: torch.save({"format": FORMAT, **state}, part))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote, on the CPU. Only plain values are unpickled (`weights_only`).

    Raises:
        RunError: no file, a damaged file, or one of another version.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What torch warns about is rejected below.
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(
            f"there is no checkpoint at {path}, so the run cannot go on. Start it anew under another --name."
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "weights only" in reason.lower():  # torch's own words name the switch that would run the code
            reason = "it holds more than plain values, which could run code"
        raise RunError(
            f"{path} is not a checkpoint that can be read ({reason}). Start the run anew under another --name."
        ) from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise RunError(
            f"{path} is a checkpoint of format {found!r}; this Cosphere reads format {FORMAT}. Use the Cosphere that wrote it."
        )
    return dict(state)


def random_state() -> dict[str, Any]:
    """The state of every global random generator: torch (CPU and each GPU), numpy, python."""
    name, keys, position, has_gauss, cached = cast("tuple[Any, ...]", np.random.get_state(legacy=True))  # noqa: NPY002  the legacy global one is what others use
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` returned, for as many GPUs as there are."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda_state, device)
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
