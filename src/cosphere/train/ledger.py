"""The numbers of each step, accumulated until the next logged line."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from cosphere.errors import DivergenceError
from cosphere.losses import pair_cosines
from cosphere.tensors import lengths, outside_autocast

LOGGED = (
    "loss",
    "loss_metric",
    "loss_sec",
    "norm_mean",
    "norm_var",
    "norm_cv",
    "positive_cosine",
    "negative_cosine",
)
"""What :func:`step_numbers` returns, in order."""


@torch.no_grad()
def step_numbers(embeddings: Tensor, labels: Tensor, total: Tensor, metric: Tensor, constraint: Tensor) -> Tensor:
    """The numbers of one batch, detached, in the order of :data:`LOGGED`. NaN where there is none.

    They stay on the device of ``total``, because reading each of them back would stall it.
    """
    with outside_autocast(embeddings):
        norms = lengths(embeddings)
        mean, variance = norms.mean(), norms.var(correction=0)
    variation = torch.where(mean == 0, 0.0, variance.sqrt() / mean)
    values = (total, metric, constraint, mean, variance, variation, *pair_cosines(embeddings, labels))
    return torch.stack([value.to(total.device, torch.float32) for value in values])


def check_finite(numbers: Tensor, loss: str, *, step: int, batch: str, kept: Path) -> None:
    """Raise when a term of the objective is not finite.

    Args:
        numbers: what :func:`step_numbers` returned, on the CPU.
        loss: name of the metric loss, for the message.
        step: counted from 1, for the message.
        batch: its place and images, for the message.
        kept: folder of the checkpoints, for the message.

    Raises:
        DivergenceError: the metric loss or the SEC term is NaN or infinite; the message names it.
    """
    values = dict(zip(LOGGED, numbers.tolist(), strict=True))
    for key, term in (("loss_metric", f"the metric loss ({loss})"), ("loss_sec", "the SEC term")):
        if not math.isfinite(values[key]):
            raise DivergenceError(
                f"{term} is {values[key]} at step {step} ({batch}; mean length {values['norm_mean']:.4g}). Lower the rates or "
                f"the SEC weight, or set --optimizer.clip_norm 1. The last good checkpoint is kept in {kept}."
            )


class Ledger:
    """Accumulates the steps since the last logged line, and their time."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Drop what was added and restart the clock."""
        self._rows: list[Tensor] = []
        self._images = 0
        self._began = time.monotonic()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Exclude the time of a block, such as a validation, from the images per second. Must not be nested: time would count twice."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._began += time.monotonic() - began

    def add(self, numbers: Tensor, *, images: int) -> None:
        """Add :func:`step_numbers` of one batch of ``images`` images."""
        self._rows.append(numbers)
        self._images += images

    def means(self, sec_weight: float, *, processes: int = 1) -> dict[str, float | None]:
        """Means since the last line, under the keys of metrics.jsonl; then restart. None where there is no number.

        Args:
            sec_weight: weight of SEC; 0 leaves its numbers out.
            processes: number of training processes; images per second counts all of them.
        """
        table = torch.stack(self._rows) if self._rows else torch.full((1, len(LOGGED)), torch.nan)
        means = table.cpu().double().nanmean(dim=0).tolist()  # Not every device has float64.
        values: dict[str, float | None] = {
            f"train/{name}": value if value - value == 0 else None for name, value in zip(LOGGED, means, strict=True)
        }
        metric, constraint = values["train/loss_metric"], values["train/loss_sec"]
        if not sec_weight:
            values["train/loss_sec"] = None
        has_sec = sec_weight and metric and constraint is not None
        values["train/sec_share"] = sec_weight * constraint / metric if has_sec else None  # type: ignore[operator]
        values["train/images_per_second"] = self._images * processes / max(time.monotonic() - self._began, 1e-9)
        self.restart()
        return values
