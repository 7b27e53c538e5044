"""The output of a run while it trains: metrics.jsonl and messages for the reporter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from cosphere.data import TrainingParts
from cosphere.errors import counted
from cosphere.runs import RunFolder
from cosphere.train.progress import Reporter
from cosphere.train.settings import TrainSettings
from cosphere.train.setup import bfloat16_is_native
from cosphere.train.state import RunState


class Journal:
    """Writes the run's numbers and passes its messages on.

    Args:
        folder: the run's folder.
        reporter: shows numbers and messages.
        state: of the run; gives the step, and remembers which warnings were given.
        writes: whether this process writes metrics.jsonl; one process of a run does.
    """

    def __init__(self, folder: RunFolder, reporter: Reporter, state: RunState, *, writes: bool) -> None:
        self.folder, self.reporter, self.state, self.writes = folder, reporter, state, writes

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line of numbers at the current step."""
        if self.writes:
            self.folder.append_metrics({"step": self.state.step, **values})

    def say(self, text: str) -> None:
        """Forward a message."""
        self.reporter.said(text)

    def warn_once(self, kind: str, text: str) -> None:
        """Give a warning unless one of its kind was given before, in this process or before a resumption."""
        if kind not in self.state.warned:
            self.state.warned.add(kind)
            self.reporter.said(f"warning: at step {self.state.step}{text}")


def greeting(
    settings: TrainSettings, images: TrainingParts, notes: tuple[str, ...], device: torch.device
) -> Iterator[str]:
    """What a run says before its first step."""
    train = images.train
    classes = f"of {counted(len(train.class_names), 'class')}" if train.labelled else "without labels"
    yield (f"training on {counted(len(train), 'image')} {classes}; {images.how}; {device.type}, {settings.precision}")
    yield from notes
    if settings.precision == "bf16" and device.type == "cpu" and not bfloat16_is_native():
        yield "note: this CPU has no bfloat16 instructions and emulates them slowly; --precision float32 is many times faster"
    if settings.model.weights == "none" and settings.freeze_norm and not settings.features.copies:
        yield "note: the backbone starts from random weights and its batch norms are frozen; --freeze_norm false trains them"
    if settings.batch.accumulate > 1:
        yield (
            f"gradients of {settings.batch.accumulate} batches are added; each batch's loss still sees only its own "
            f"{counted(settings.batch.size, 'image')}"
        )
