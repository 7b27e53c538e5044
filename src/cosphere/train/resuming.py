"""The checkpoint that a run is resumed from, found and checked before anything is computed for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cosphere.errors import RunError, counted
from cosphere.runs import RunFolder
from cosphere.train.checkpoint import load_checkpoint
from cosphere.train.settings import TrainSettings
from cosphere.train.state import check_same_run


class SavedState(NamedTuple):
    """A checkpoint of this run."""

    path: Path
    content: Mapping[str, Any]
    is_last: bool
    """False where the last one is missing and this is the one of the best model."""


def saved_state(folder: RunFolder, settings: TrainSettings, about: Mapping[str, Any]) -> SavedState | None:
    """The last checkpoint of a run, or that of the best model when the last is missing.

    Args:
        folder: of the run.
        settings: that it is resumed with.
        about: of :func:`cosphere.train.state.made_with`, for the images and weights that are there now.

    Returns:
        None for a run that was stopped before its first checkpoint, which starts again from its beginning.

    Raises:
        RunError: a checkpoint is damaged, has more steps, or was made with other settings, from other images or on features of
            other weights; or there is a model without any checkpoint.
    """
    last, best = folder.checkpoints / "last.pt", folder.checkpoints / "best.pt"
    path = next((file for file in (last, best) if file.exists()), None)
    if path is None:
        if folder.model.exists():
            raise RunError(
                f"{folder.path} holds a model but no checkpoint, so the run cannot continue, and starting again would replace the "
                f"model. Put {last} back, or start a new run under another --name."
            )
        return None
    content = load_checkpoint(path)
    check_same_run(
        content,
        settings.step_identity(),
        about["classes"],
        about["data"],
        config=folder.config,
        weights=about["weights"],
    )
    step = content.get("step")
    if isinstance(step, int) and step > settings.steps:
        raise RunError(
            f"{path} has {counted(step, 'step')}; wanted at most the {settings.steps:,} of the settings. "
            f"Give --steps {step} or more."
        )
    return SavedState(path, content, path == last)
