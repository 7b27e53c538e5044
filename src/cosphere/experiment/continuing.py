"""Whether a run that is there already is the one that a call would train: then it goes on, or is taken as it is."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cosphere.data import Catalogue
from cosphere.errors import RunError
from cosphere.experiment.images import parts_of_training
from cosphere.fields import flatten
from cosphere.files import path_of
from cosphere.runs import RunFolder
from cosphere.train import TrainSettings
from cosphere.train.resuming import newest_checkpoint
from cosphere.train.state import made_with

_PLACES = ("data.root", "model.weights")
"""Settings that say where something is. What is there is compared instead."""
_PARTS = {"data": "on other images", "validation": "on other validation images", "weights": "from other weights"}
"""What a checkpoint keeps of :func:`made_with` beside its settings, and what is said where it differs."""


def differing_settings(one: TrainSettings, other: TrainSettings) -> list[str]:
    """Dotted names of the settings on which a number depends and that differ, sorted."""
    before, after = flatten(one.identity()), flatten(other.identity())
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def steps_done(
    settings: TrainSettings, folder: str | Path, catalogue: Catalogue, *, but: Collection[str] = ()
) -> int | None:
    """Steps that a run of these settings, images and weights has in its last checkpoint.

    Args:
        settings: of the run that is wanted.
        folder: where it is, if it has begun.
        catalogue: the images at ``data.root``.
        but: dotted names of settings that may differ.

    Returns:
        None if no run has begun there; 0 if it has no checkpoint, so that it starts again.

    Raises:
        RunError: the folder holds a run of other settings, on other images or from other weights, or it cannot be read.
        WeightsError: there are no weights at ``model.weights``.
    """
    run_folder = RunFolder(path_of(folder))
    if not run_folder.has_begun:
        return None
    before = TrainSettings.read(RunFolder.open(folder).config)
    other = [name for name in differing_settings(before, settings) if name not in (*_PLACES, *but)]
    if other:
        shown = ", ".join(other[:3]) + (", ..." if len(other) > 3 else "")
        raise RunError(f"{folder} holds a run with other settings ({shown}). Give another folder with --runs.")
    newest = newest_checkpoint(run_folder)
    if newest is None:
        return 0
    now = made_with(settings, parts_of_training(catalogue, settings))
    # An earlier version kept no identity of the weights, and a word is its own.
    saved = {"weights": before.model.weights, "validation": now["validation"], **newest.content}
    for part, words in _PARTS.items():
        if saved.get(part) != now[part]:
            raise RunError(f"{folder} holds a run that was trained {words}. Give another folder with --runs.")
    return int(saved.get("step", 0))
