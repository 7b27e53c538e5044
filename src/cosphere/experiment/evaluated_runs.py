"""Evaluated runs before their embeddings are loaded: how each was scored, and whether they can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cosphere.errors import CosphereError, DataError, RunError
from cosphere.evaluate.settings import EvaluationSettings, stored_settings
from cosphere.files import read_json
from cosphere.models import stored_model_id
from cosphere.runs import RunFolder
from cosphere.train import TrainSettings

_RANKING = ("bits", "ties", "group_rule")
"""The settings of an evaluation that decide how a query ranks the images."""


class EvaluatedRun(NamedTuple):
    """What an evaluated run says of itself."""

    folder: RunFolder
    split: str
    content: Mapping[str, Any]
    """scores.json"""
    seed: int
    settings: EvaluationSettings
    """How it was evaluated."""

    @property
    def name(self) -> str:
        """Its folder."""
        return str(self.folder.path)

    @property
    def ranking(self) -> dict[str, Any]:
        """How its queries rank the images, by the name of the setting."""
        return {name: getattr(self.settings, name) for name in _RANKING}

    @property
    def fingerprint(self) -> str | None:
        """None if the split is not the one that was evaluated last."""
        data = self.content.get("data")
        belongs = self.content.get("split") == self.split and isinstance(data, Mapping)
        return data.get("fingerprint") if belongs and isinstance(data, Mapping) else None


def open_evaluated(path: str | Path, split: str | None) -> EvaluatedRun:
    """A run that was evaluated on a split; None takes the one that was evaluated last.

    Raises:
        RunError: it is not a run, was never evaluated, or not on this split.
    """
    folder = RunFolder.open(path)
    if not folder.scores.exists():
        raise RunError(f"{path} was never evaluated. Run: cosphere evaluate {path}.")
    content = read_json(folder.scores, what="a run's scores")
    if not isinstance(content, Mapping) or not isinstance(content.get("split"), str):
        raise RunError(f"{folder.scores} names no split. Run: cosphere evaluate {path}.")
    chosen = split or content["split"]
    if not folder.embeddings(chosen).exists():
        there = folder.splits()
        available = f"it has {', '.join(there)}" if there else "it has none"
        raise RunError(
            f"{path} has no embeddings of split {chosen!r}; {available}. Run: cosphere evaluate {path} --split {chosen}."
        )
    try:
        settings = stored_settings(content)
    except RunError as error:
        raise RunError(f"{path}: {error}") from error
    return EvaluatedRun(folder, chosen, content, TrainSettings.read(folder.config).seed, settings)


def outdated_note(folder: RunFolder, model_id: str, options: str) -> list[str]:
    """A note if a run's model is no longer the one that was scored, as after more steps of training; else empty.

    Args:
        folder: of the run.
        model_id: of the model that was scored; empty where unknown.
        options: of the command that scores it again.
    """
    try:
        now = stored_model_id(folder.model) if model_id else ""
    except CosphereError:  # no model, or a damaged one: the scores can be shown all the same
        return []
    if now in ("", model_id):
        return []
    command = f"cosphere evaluate {folder.path} {options}"
    return [f"scored before the run's last steps of training. For scores of the model as it is now, run: {command}."]


def check_same_split(runs: Sequence[EvaluatedRun]) -> None:
    """Raise a RunError unless all runs were evaluated on one split."""
    other = next((run for run in runs if run.split != runs[0].split), None)
    if other is not None:
        raise RunError(
            f"{runs[0].name} was evaluated on split {runs[0].split!r}, {other.name} on {other.split!r}. "
            f"Name one that both have with --split, or run: cosphere evaluate {other.name} --split {runs[0].split}."
        )


def check_same_ranking(runs: Sequence[EvaluatedRun]) -> None:
    """Raise a RunError unless the queries of all runs rank the images by the same rules."""
    first = runs[0]
    other = next((run for run in runs if run.ranking != first.ranking), None)
    if other is not None:
        name = next(name for name in _RANKING if first.ranking[name] != other.ranking[name])
        mine, theirs = (json.dumps(run.ranking[name]).strip('"') for run in (first, other))
        raise RunError(
            f"{first.name} was evaluated with {name} {mine}, {other.name} with {theirs}, so their scores cannot be compared. "
            f"Evaluate one of them again: cosphere evaluate {other.name} --{name} {mine}."
        )


def ranking_note(ranking: Mapping[str, Any]) -> list[str]:
    """How the images were ranked, where that is not the default."""
    default = EvaluationSettings()
    other = [
        f"{name} {json.dumps(value)}".replace('"', "")
        for name, value in ranking.items()
        if value != getattr(default, name)
    ]
    return [f"Ranked as the runs were evaluated: {', '.join(other)}."] if other else []


def check_same_images(runs: Sequence[EvaluatedRun], shared_only: bool) -> str:
    """The common fingerprint; empty if there are several and that is allowed.

    Raises:
        DataError: the runs were scored on different images, and that is not allowed.
    """
    fingerprinted = [run for run in runs if run.fingerprint]
    other = next((run for run in fingerprinted if run.fingerprint != fingerprinted[0].fingerprint), None)
    if other is None:
        return fingerprinted[0].fingerprint or "" if fingerprinted else ""
    if not shared_only:
        raise DataError(
            f"{fingerprinted[0].name} and {other.name} were scored on different images (fingerprints "
            f"{str(fingerprinted[0].fingerprint)[:12]} and {str(other.fingerprint)[:12]}). Evaluate both on the same, or compare "
            "the images that they share with --shared true."
        )
    return ""
