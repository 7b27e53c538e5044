"""Which settings differ between the arms of a comparison, and inside an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosphere.fields import flatten
from cosphere.runs import RunFolder
from cosphere.train import TrainSettings


def setting_notes(groups: Mapping[str, Sequence[str | Path]], baseline: str) -> tuple[list[str], set[str]]:
    """Sentences about the settings in which arms, and runs inside an arm, differ; and the arms whose runs do.

    Seeds, and settings that change no number, are left out.

    Raises:
        RunError, SettingsError: a folder is no run, or has no readable settings.
    """
    arms = {}
    for arm, paths in groups.items():
        settings = [TrainSettings.read(RunFolder.open(path).config) for path in paths]
        arms[arm] = [flatten(without_seed(one)) for one in settings]
    notes, mixed = [], set()
    for arm, runs in arms.items():
        inside = _differing(runs)
        if inside:
            mixed.add(arm)
            notes.append(f"The runs of {arm} differ in more than the seed: {inside}.")
        between = _differing([runs[0], arms[baseline][0]]) if arm != baseline else ""
        if between:
            notes.append(f"{arm} against {baseline} differs in {between}.")
    return notes, mixed


def _differing(runs: Sequence[Mapping[str, Any]], most: int = 6) -> str:
    """Names and values of the settings in which runs differ: ``steps (150, 100)``; empty where they agree."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    values = {name: list(dict.fromkeys(repr(run.get(name)) for run in runs)) for name in names}
    odd = [f"{name} ({', '.join(different)})" for name, different in values.items() if len(different) > 1]
    return ", ".join(odd[:most]) + (f" and {len(odd) - most} more" if len(odd) > most else "")


def without_seed(settings: TrainSettings) -> dict[str, Any]:
    """What tells two arms apart."""
    identity = settings.identity()
    del identity["seed"]
    return identity
