"""Loss registry: look up a loss by name, and build one from settings."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from cosphere._elsewhere import loss_meant
from cosphere.errors import SettingsError, did_you_mean, no_own_setting
from cosphere.losses.engine.base import About, Loss

KINDS: dict[str, type[Loss]] = {}
"""Losses by name. ``cosphere.losses`` registers what it exports, so one export line there adds a loss."""


def register(exported: Iterable[object]) -> None:
    """Register the losses among ``exported`` by their names, in this order."""
    KINDS.update({kind.about.name: kind for kind in exported if isinstance(kind, type) and hasattr(kind, "about")})


def table() -> list[About]:
    """One description per loss, in the order of ``cosphere.losses.__all__``."""
    return [kind.about for kind in KINDS.values()]


def about(name: str) -> About:
    """The description of one loss.

    Raises:
        SettingsError: there is no such loss; the message names the nearest one.
    """
    return kind(name).about


def build(name: str, *, num_classes: int, dim: int, **settings: Any) -> Loss:
    """Build a loss from its name and settings, as given by a recipe or the command line.

    Args:
        name: as in :func:`table`, for example "multi_similarity".
        num_classes: number of training classes. Only losses with class weights use it.
        dim: width D of the embedding. Only losses with class weights use it.
        settings: keyword settings of the class; see :attr:`About.defaults`.

    Raises:
        SettingsError: unknown loss, unknown setting, or a value that the loss does not allow.
        SizeError: the learners of an ensemble do not fit the width.

    >>> build("triplet", num_classes=100, dim=512, margin=0.2)
    TripletLoss(margin=0.2, squared=True, reduction='mean_all')
    """
    loss_class = kind(name)
    defaults = loss_class.about.defaults
    for setting in settings:
        if setting not in defaults:
            raise SettingsError(no_own_setting(f"the loss {name}", setting, defaults))
    known_here = {"num_classes": num_classes, "embedding_dim": dim}
    parameters = inspect.signature(loss_class.__init__).parameters
    loss = loss_class(**{name: value for name, value in known_here.items() if name in parameters}, **settings)
    loss.groups(dim)  # fail here, not at the first batch
    return loss


def kind(name: str) -> type[Loss]:
    """The class of a loss by its name in :func:`table`. Raises a SettingsError that names the nearest."""
    if name not in KINDS:
        raise SettingsError(
            f"no loss is called {name!r}. {loss_meant(name, KINDS) or did_you_mean(name, KINDS, cutoff=0.75)}"
        )
    return KINDS[name]
