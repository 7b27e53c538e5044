"""Checkpoint files: everything that training needs to resume exactly, and no code."""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from cosphere.errors import DamagedError, RunError
from cosphere.files import write_atomic

FORMAT = 1
"""Raised when a checkpoint written by an older Cosphere can no longer be read."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) atomically: a crash or a full disk leaves the old file whole."""
    content = {"format": FORMAT, **state}
    write_atomic(path, lambda part: torch.save({**content, "digest": digest(content)}, part))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote, on the CPU. Only plain values are unpickled (`weights_only`).

    Raises:
        RunError: no file, one that cannot be read, or one of another version.
        DamagedError: a damaged file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Whatever torch warns about is rejected below.
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(
            f"there is no checkpoint at {path}, so the run cannot go on. Start it again under another --name."
        ) from None
    except (OSError, MemoryError) as error:  # of the disk or the machine: the file may be whole
        raise RunError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}. Check its rights, and try again."
        ) from error
    except Exception as error:  # torch's reader can raise almost anything on a damaged file.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "weights only" in reason.lower():  # torch's own words name the switch that would run the code
            reason = "it holds more than plain values, which could run code"
        raise DamagedError(
            f"{path} is not a checkpoint that can be read ({reason}). Start the run again under another --name."
        ) from error
    version = state.get("format") if isinstance(state, dict) else None
    if version != FORMAT:
        raise RunError(
            f"{path} is a checkpoint of format {version!r}; this Cosphere reads format {FORMAT}. Use the Cosphere that wrote it."
        )
    content = {key: value for key, value in state.items() if key != "digest"}
    if state.get("digest") != digest(content):
        raise DamagedError(
            f"{path} is damaged: its contents do not match the digest that was stored with them. Start the run again under "
            "another --name."
        )
    return content


def digest(content: Any) -> str:
    """SHA-256 over nested dicts, lists, tuples, tensors and plain values, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    _update(total, content)
    return total.hexdigest()


def _update(total: hashlib._Hash, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        total.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        total.update(f"dict {len(value)} ".encode())
        for key, part in value.items():
            total.update(f"{key!r} ".encode())
            _update(total, part)
    elif isinstance(value, list | tuple):
        total.update(f"list {len(value)} ".encode())
        for part in value:
            _update(total, part)
    else:
        total.update(f"{value!r} ".encode())


def random_state() -> dict[str, Any]:
    """The state of every global random generator: torch (CPU and each GPU), numpy, python."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = cast("tuple[Any, ...]", np.random.get_state(legacy=True))  # noqa: NPY002  the legacy global one is what others use
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        # One tensor: 625 numbers are slow to pickle and to digest one by one.
        "python": [version, torch.tensor(internal), gauss],
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
    internal = internal.tolist() if isinstance(internal, torch.Tensor) else internal  # a tuple in older checkpoints
    random.setstate((version, tuple(internal), gauss))
