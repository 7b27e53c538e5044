"""The checkpoint that a run is resumed from, found and checked before anything is computed for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cosphere.errors import DamagedError, RunError, counted
from cosphere.runs import RunFolder
from cosphere.train.checkpoint import load_checkpoint
from cosphere.train.settings import TrainSettings
from cosphere.train.state import check_same_run


class SavedState(NamedTuple):
    """A checkpoint of this run."""

    path: Path
    content: Mapping[str, Any]
    last: Path
    """Where the last one should be."""
    damaged: bool = False
    """Whether the last one is there but damaged, so that this is the one of the best model."""

    @property
    def is_last(self) -> bool:
        """False where the last one is missing or damaged and this is the one of the best model."""
        return self.path == self.last

    def set_aside(self, *, writes: bool) -> str:
        """Keep a damaged last checkpoint under another name, where no new one replaces it; in words, why this one is taken.

        Args:
            writes: whether this process writes.

        Raises:
            RunError: it cannot be renamed.
        """
        if not self.damaged:
            return f"{self.last} is missing"
        kept = self.last.with_name(f"{self.last.name}.damaged")
        try:
            if writes:
                self.last.replace(kept)
        except OSError as error:
            raise RunError(f"cannot rename {self.last}: {error.strerror}. Move it away by hand.") from error
        return f"{self.last} is damaged, and is kept as {kept.name}"


def newest_checkpoint(folder: RunFolder) -> SavedState | None:
    """The last checkpoint of a run, or that of the best model where the last is missing or damaged; None without any.

    Raises:
        RunError: none of them can be read; of two damaged ones, the last is named.
    """
    last, best = folder.checkpoints / "last.pt", folder.checkpoints / "best.pt"
    if not last.exists():
        return SavedState(best, load_checkpoint(best), last) if best.exists() else None
    try:
        return SavedState(last, load_checkpoint(last), last)
    except DamagedError as error:
        if not best.exists():
            raise
        try:
            return SavedState(best, load_checkpoint(best), last, damaged=True)
        except DamagedError:
            raise error from None


def saved_state(folder: RunFolder, settings: TrainSettings, about: Mapping[str, Any]) -> SavedState | None:
    """:func:`newest_checkpoint` of a run, if it is one of this run.

    Args:
        folder: of the run.
        settings: that it is resumed with.
        about: of :func:`cosphere.train.state.made_with`, for the images and weights that are there now.

    Returns:
        None for a run that was stopped before its first checkpoint, which starts again from its beginning.

    Raises:
        RunError: every checkpoint is damaged, or the one that is read has more steps, or was made with other settings, from other
            images or on features of other weights; or there is a model without any checkpoint.
    """
    saved = newest_checkpoint(folder)
    if saved is None:
        if folder.model.exists():
            raise RunError(
                f"{folder.path} holds a model but no checkpoint, so the run cannot continue, and starting again would replace the "
                f"model. Put {folder.checkpoints / 'last.pt'} back, or start a new run under another --name."
            )
        return None
    check_same_run(
        saved.content,
        settings.step_identity(),
        about["classes"],
        about["data"],
        config=folder.config,
        validation=about["validation"],
        weights=about["weights"],
    )
    step = saved.content.get("step")
    if isinstance(step, int) and step > settings.steps:
        raise RunError(
            f"{saved.path} has {counted(step, 'step')}; wanted at most the {settings.steps:,} of the settings. "
            f"Give --steps {step} or more."
        )
    return saved
