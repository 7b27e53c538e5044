"""Running a model at test time: evaluation mode for a block, and the one forward pass behind all stored embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cosphere.errors import DivergenceError


class EmbedsInputs(Protocol):
    """An embedder, as far as :func:`infer` needs it."""

    def embed_inputs(self, inputs: Tensor) -> Tensor:
        """See :meth:`cosphere.models.Embedder.embed_inputs`."""


class PoolsInputs(Protocol):
    """An embedder, as far as :func:`infer_features` needs it."""

    def pooled(self, inputs: Tensor) -> Tensor:
        """See :meth:`cosphere.models.Embedder.pooled`."""


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Put models in evaluation mode for the block. On exit each module returns to its own mode: frozen batch norms stay frozen."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


_PART = 32
"""Images in one forward pass on a CPU. 64 are not faster, and the system hands over what a network holds at a time page by page: with 64
a process that embeds with EfficientNet-Lite0 at 128 px peaks 0.24 GB higher, and spends half as much time again in the kernel."""


@torch.inference_mode()
def infer(
    model: EmbedsInputs, inputs: Tensor, *, autocast: torch.dtype | None = None, part: int | None = None
) -> Tensor:
    """Embeddings of a batch as they are stored and compared: raw length, float32, on the CPU.

    Args:
        model: in evaluation mode, see :func:`evaluation_mode`.
        inputs: (B, 3, H, W) network input, or (B, W) pooled features, on the model's device.
        autocast: compute in this type, such as ``torch.bfloat16``; None keeps float32.
        part: images in one forward pass; None takes 32 on a CPU and the whole batch elsewhere.

    Returns:
        (B, D') float32 on the CPU.

    Raises:
        DivergenceError: an embedding is NaN or infinite.
    """
    with torch.autocast(inputs.device.type, dtype=autocast, enabled=autocast is not None):
        embeddings = _in_parts(model.embed_inputs, inputs, part)
    return _finite(model, inputs, embeddings, "embeddings")


@torch.inference_mode()
def infer_features(model: PoolsInputs, inputs: Tensor) -> Tensor:
    """Pooled features of a batch as they are stored: float32, on the CPU.

    Args:
        model: in evaluation mode, see :func:`evaluation_mode`.
        inputs: (B, 3, H, W) network input on the model's device.

    Returns:
        (B, W) float32 on the CPU.

    Raises:
        DivergenceError: a feature is NaN or infinite.
    """
    return _finite(model, inputs, model.pooled(inputs), "rows of features")


def rows_of(batches: Iterable[Tensor], embed: Callable[[Tensor], Tensor], dim: int) -> Tensor:
    """Embeddings of all batches, (N, dim). Warns where images that differ have one and the same embedding."""
    parts, silent = [torch.zeros(0, dim)], False
    for batch in batches:
        parts.append(embed(batch))
        silent |= bool((parts[-1] == parts[-1][:1]).all()) and not bool((batch == batch[:1]).all())
    rows = torch.cat(parts)
    if silent and one_row(rows):
        warnings.warn(ONE_ROW.format(len(rows)), RuntimeWarning, stacklevel=3)
    return rows


ONE_ROW = (
    "all {} embeddings are equal, so the model tells no two images apart: its training diverged, or its weights are damaged. "
    "Take an earlier checkpoint, or train again with a lower learning rate."
)


def one_row(rows: Any) -> bool:
    """Whether two or more rows (N, D), of torch or numpy, are all equal, bit for bit."""
    # The second row nearly always settles it; only then is a comparison as large as the table made.
    return len(rows) > 1 and bool((rows[1] == rows[0]).all()) and bool((rows == rows[:1]).all())


def _in_parts(forward: Callable[[Tensor], Tensor], inputs: Tensor, part: int | None) -> Tensor:
    """One forward pass after another; pooled features, which have two dimensions, take one."""
    if part is None:
        part = _PART if inputs.device.type == "cpu" else len(inputs)
    if inputs.ndim != 4 or len(inputs) <= part:
        return forward(inputs)
    return torch.cat([forward(some) for some in torch.split(inputs, part)])


def _finite(model: object, inputs: Tensor, values: Tensor, what: str) -> Tensor:
    rows = values.float().cpu()
    if not bool(rows.isfinite().all()):
        raise DivergenceError(_reason(model, inputs, rows, what))
    return rows


def _reason(model: object, inputs: Tensor, rows: Tensor, what: str) -> str:
    """What made rows NaN or infinite, and what to do."""
    count = int((~rows.isfinite()).any(dim=1).sum())
    start = f"{count} of {len(rows)} {what} are not finite"
    if not bool(inputs.isfinite().all()):
        return f"{start}, because the input holds NaN or infinity. Check what produced it."
    state = model.state_dict() if isinstance(model, nn.Module) else {}
    broken = next((name for name, value in state.items() if not bool(value.isfinite().all())), None)
    if broken is not None:
        return (
            f"{start}, because {broken} of the model holds NaN or infinity: its training diverged. "
            "Take an earlier checkpoint, or train again with a lower learning rate."
        )
    return f"{start} although all weights are: values overflow in the network. Embed in float32."
