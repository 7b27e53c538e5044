"""Time each loss on this machine, relative to the bare product of similarities."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from cosphere.checks import MOST_DIM, check_whole
from cosphere.errors import SettingsError
from cosphere.losses.engine.base import Loss
from cosphere.losses.engine.registry import about, build

__all__ = ["Timing", "time_losses"]

LONGEST = 10.0
"""Seconds after which one loss is not measured again, whatever the number of repeats."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Time and memory of forward and backward of one loss."""

    name: str
    seconds: float
    """Median of one forward and backward."""
    floor_seconds: float
    """Median of forward and backward of ``(x @ x.T).sum()`` for the same batch, measured in turn with the loss."""
    extra_bytes: int | None
    """Peak of memory beyond the batch and the loss's weights. Known on CUDA only: None elsewhere."""
    classes: int | None
    """Classes it was built with; None for a pair loss."""
    repeats: int
    """Number of measurements."""

    @property
    def times_floor(self) -> float:
        """Time as a multiple of the floor."""
        return self.seconds / self.floor_seconds


def time_losses(
    names: Iterable[str],
    *,
    batch: int = 1024,
    dim: int = 512,
    per_class: int = 4,
    device: str | torch.device = "cpu",
    repeats: int = 10,
    progress: Callable[[str], None] | None = None,
) -> list[Timing]:
    """Measure forward and backward of losses with their default settings, in float32.

    The batch is drawn around one centre per class. Losses with class weights get the batch's own classes, ``batch /
    per_class`` of them: timings with many classes differ. One call warms up; then loss and floor are measured in turn
    until ``repeats`` are done or :data:`LONGEST` is spent.

    Args:
        names: as in :func:`cosphere.losses.table`.
        batch: B, embeddings; a multiple of ``per_class``.
        dim: D, embedding dimension.
        per_class: embeddings of each class.
        device: where.
        repeats: at most this many measurements each.
        progress: called with the name of each loss before it is measured.

    Returns:
        One timing per loss, fastest first.

    Raises:
        SettingsError: an unknown loss, or a number out of range.
    """
    names = list(names)
    for name in names:
        about(name)
    for setting, value in (("batch", batch), ("dim", dim), ("per_class", per_class), ("repeats", repeats)):
        check_whole(setting, value, least=1, most=MOST_DIM)
    if batch % per_class:
        fits = max(1, batch // per_class) * per_class
        raise SettingsError(f"batch {batch} does not divide by per_class {per_class}; try {fits}.")
    embeddings, labels = _batch(batch, dim, per_class, torch.device(device))
    timings = []
    for name in names:
        if progress is not None:
            progress(name)
        timings.append(_time_one(name, embeddings, labels, repeats))
    return sorted(timings, key=lambda timing: timing.seconds)


def _batch(count: int, dim: int, per_class: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) // per_class
    centres = torch.randn(count // per_class, dim, generator=generator)
    embeddings = centres[labels] + torch.randn(count, dim, generator=generator)
    return embeddings.to(device), labels.to(device)


def _time_one(name: str, embeddings: Tensor, labels: Tensor, repeats: int) -> Timing:
    classes = int(labels.max()) + 1
    loss = build(name, num_classes=classes, dim=embeddings.shape[1]).to(embeddings.device)

    def floor() -> None:
        leaf = embeddings.clone().requires_grad_()
        torch.autograd.backward((leaf @ leaf.T).sum())

    def both() -> None:
        leaf = embeddings.clone().requires_grad_()
        loss.zero_grad()
        torch.autograd.backward(loss(leaf, labels))

    began = time.perf_counter()
    extra = _peak(both, loss, embeddings.device)
    floor()
    losses: list[float] = []
    floors: list[float] = []
    while len(losses) < repeats and (not losses or time.perf_counter() - began < LONGEST):
        floors.append(_seconds(floor, embeddings.device))
        losses.append(_seconds(both, embeddings.device))
    return Timing(
        name=name,
        seconds=statistics.median(losses),
        floor_seconds=statistics.median(floors),
        extra_bytes=extra,
        classes=classes if loss.about.uses_class_weights else None,
        repeats=len(losses),
    )


def _peak(work: Callable[[], None], loss: Loss, device: torch.device) -> int | None:
    """Run once to warm up, and once more for the peak of memory where it is known."""
    work()
    if device.type != "cuda":
        return None
    for parameter in loss.parameters():
        parameter.grad = None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
