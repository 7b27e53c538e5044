"""Settings that a call gives in place of the study file's: in both phases and all arms, or for the final runs alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from cosphere.errors import SettingsError
from cosphere.fields import flatten
from cosphere.studies.definition import Arm

V = TypeVar("V")
FINAL = "final."
"""Before a setting of the final runs alone."""
_GIVEN_ELSEWHERE = {
    "seed": "give the number of final runs with --seeds, and the seeds of candidates as search.seeds in the study file",
    "validation.metric": "give it as search.metric in the study file",
    "data.root": "give the images with --data",
    "device": "give it with --device",
}
"""Settings that the study sets by itself, and where to give them."""


def split_changes(changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of all runs, and those of the final runs alone, both by dotted name.

    Raises:
        SettingsError: the study itself sets one of them, so that the change would have no effect.
    """
    flat = flatten(changes)
    check_own(name.removeprefix(FINAL) for name in flat)
    final = {name.removeprefix(FINAL): value for name, value in flat.items() if name.startswith(FINAL)}
    return {name: value for name, value in flat.items() if not name.startswith(FINAL)}, final


def check_own(names: Iterable[str], where: str = "") -> None:
    """Raise if the study itself sets one of the settings, so that giving it would have no effect.

    Args:
        names: dotted.
        where: they are given, for the error.
    """
    for name in names:
        if name in _GIVEN_ELSEWHERE:
            place = f"{where} sets {name}, but " if where else ""
            raise SettingsError(f"{place}a study sets {name} itself; {_GIVEN_ELSEWHERE[name]}.")


def overlap(name: str, other: str) -> bool:
    """Whether two dotted names are one setting, or one is a section that holds the other.

    >>> overlap("loss.settings", "loss.settings.margin"), overlap("loss.settings.margin", "loss.settings.scale")
    (True, False)
    """
    return f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.")


def without(settings: Mapping[str, V], changed: Iterable[str]) -> dict[str, V]:
    """The settings that no change replaces, by dotted name. A change of a section replaces all of it.

    >>> without({"steps": 10, "loss.settings.margin": 1, "loss.name": "triplet"}, ["steps", "loss.settings"])
    {'loss.name': 'triplet'}
    """
    names = tuple(changed)
    return {
        key: value
        for key, value in settings.items()
        if not any(key == name or key.startswith(f"{name}.") for name in names)
    }


def changed_arms(arms: Mapping[str, Arm], changed: Mapping[str, Any]) -> dict[str, Arm]:
    """The arms without what the changes replace: neither set nor tuned by an arm.

    Args:
        arms: of the study file.
        changed: settings of all runs.

    Raises:
        SettingsError: nothing tells two arms apart any longer.
    """
    kept = {
        name: replace(arm, settings=without(arm.settings, changed), tune=without(arm.tune, changed))
        for name, arm in arms.items()
    }
    seen: list[tuple[str, Arm]] = []
    for name, arm in kept.items():
        for other_name, other in seen:
            if _runs(arm) == _runs(other) and _runs(arms[name]) != _runs(arms[other_name]):
                raise SettingsError(
                    f"with {', '.join(changed)} set for all arms, {other_name} and {name} are the same. "
                    "Leave it out, or change the arms in the study file."
                )
        seen.append((name, arm))
    return kept


def _runs(arm: Arm) -> tuple[Any, ...]:
    """What the runs of an arm follow from."""
    return dict(arm.settings), dict(arm.tune), arm.values_of
