"""The cached features of a study: computed before its first run, within its budget."""

from __future__ import annotations

from cosphere.errors import duration
from cosphere.experiment import Listener, prepare_features
from cosphere.experiment.listener import SilentReporter
from cosphere.studies.budget import Clock
from cosphere.studies.jobs import Context
from cosphere.train import TrainSettings


class _Spoken(SilentReporter):
    """Passes on what is said while features are computed, which takes minutes."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    def said(self, text: str) -> None:
        """As a note."""
        self.listener.note(text)


class _TooLong(Exception):
    """The features would not be there within the budget."""


def features_ready(settings: TrainSettings, context: Context, clock: Clock, listener: Listener) -> bool:
    """Compute the features of a study's first run and say whether they are there; if the budget ends before, no run may start.

    Args:
        settings: of the first run, with ``features.copies`` of at least 1.
        context: of the study.
        clock: of the study.
        listener: receives how long the features take.

    Raises:
        CosphereError: the features cannot be computed.
    """

    def check(left: float) -> None:
        if clock.budget is not None and clock.elapsed + left > clock.budget:
            raise _TooLong(
                f"the features take about {duration(left)} more, and the budget ends before; no run was started"
            )

    try:
        prepare_features(
            settings, context.folder / "any", catalogue=context.training, reporter=_Spoken(listener), check=check
        )
    except _TooLong as error:
        listener.note(f"{error}. Give a longer --budget, or none.")
        clock.stop()
        return False
    return True
