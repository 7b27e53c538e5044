"""Checks of what :meth:`cosphere.models.Embedder.encode` is called with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch

from cosphere.checks import MOST_IMAGES, check_choice, check_switch, check_whole
from cosphere.errors import SettingsError, did_you_mean

Precision = Literal["float32", "bits"]

_NAMES = ("batch_size", "normalize", "precision", "progress", "autocast", "fast")
_OTHERS = {
    "normalize_embeddings": "use normalize=, which is True by default",
    "show_progress_bar": "use progress=",
    "convert_to_numpy": "leave it out: rows are a NumPy array",
    "convert_to_tensor": "pass the rows to torch.from_numpy",
    "device": "move the model with embedder.to(device), or load it there with Embedder.load(path, device)",
    "num_workers": "leave it out: threads read the images",
}
"""Arguments of sentence-transformers and of loaders, and what to do here."""


def check_arguments(
    *,
    batch_size: int,
    normalize: bool,
    precision: str,
    progress: bool,
    autocast: torch.dtype | None,
    fast: bool | None,
    others: Mapping[str, object],
) -> None:
    """Raise a SettingsError for an argument that does not exist, is out of range or of another type."""
    for name in others:
        advice = f"In Cosphere, {_OTHERS[name]}." if name in _OTHERS else did_you_mean(name, _NAMES)
        raise SettingsError(f"encode has no argument {name!r}. {advice}")
    if precision in ("binary", "ubinary"):
        raise SettingsError(
            f"precision is {precision!r}, a name of sentence-transformers; its 'ubinary' is 'bits' here. Use precision='bits'."
        )
    check_choice("precision", precision, get_args(Precision))
    check_whole("batch_size", batch_size, least=1, most=MOST_IMAGES)
    check_switch("normalize", normalize)
    check_switch("progress", progress)
    if fast is not None:
        check_switch("fast", fast)
    if autocast is not None and not isinstance(autocast, torch.dtype):
        raise SettingsError(f"autocast must be a type of torch or None; got {autocast!r}. Give torch.bfloat16.")
