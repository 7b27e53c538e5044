"""Racing the choices of a plan: train all a little, keep the better half, and train that on (successive halving)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cosphere.errors import DataError
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.planning import Choice, Plan
from cosphere.experiment.training import resume_run, run
from cosphere.runs import RunFolder
from cosphere.train import Reporter, TrainResult, TrainSettings


@dataclass(frozen=True, kw_only=True)
class Lap:
    """One choice after one round."""

    round: int
    """From 1."""
    name: str
    steps: int
    score: float
    """Best validation score so far, a fraction."""
    kept: bool
    """Whether it goes on."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Race:
    """The laps of a race, and its winner."""

    laps: tuple[Lap, ...]
    metric: str
    """Name of the validation score."""
    winner: Choice
    folder: Path
    """The winner's run, trained to its last step."""


def race(
    plan: Plan,
    folder: str | Path,
    *,
    reporter: Callable[[TrainSettings], Reporter] | None = None,
    listener: Listener = SILENT,
) -> Race:
    """Train the choices of a plan by successive halving (Jamieson and Talwalkar 2016) on the validation classes.

    Each round doubles the steps and drops the worse half (of an odd number, the smaller half goes on), until one choice has all
    its steps. Runs that exist are resumed, so an interrupted race goes on where it stopped. The test images are not read.

    Args:
        plan: from :func:`cosphere.experiment.plan`.
        folder: holds one run for each choice, by its name.
        reporter: makes the reporter of a run from its settings.
        listener: receives notes.

    Raises:
        DataError: there are no validation images to judge by.
        DivergenceError, RunError: see :func:`cosphere.experiment.run`.
    """
    if not plan.summary.val_images:
        raise DataError(
            "a race wants validation images, and these data have too few classes to hold some out. Add classes."
        )
    rounds = len(plan.choices).bit_length()
    running, laps = list(plan.choices), list[Lap]()
    for number in range(1, rounds + 1):
        scores: dict[str, float] = {}
        for choice in running:
            result = _train(choice, Path(folder) / choice.name, 2 ** (rounds - number), reporter, listener)
            scores[choice.name] = result.best_scores[choice.settings.validation.metric]
        ranked = sorted(
            running, key=lambda choice: scores[choice.name], reverse=True
        )  # stable: the cheaper of equal ones
        staying = ranked[: max(1, len(ranked) // 2)]
        for choice in running:
            steps = _steps(choice, 2 ** (rounds - number))
            laps.append(
                Lap(round=number, name=choice.name, steps=steps, score=scores[choice.name], kept=choice in staying)
            )
        running = staying
    winner = running[0]
    return Race(
        laps=tuple(laps),
        metric=winner.settings.validation.metric,
        winner=winner,
        folder=Path(folder) / winner.name,
    )


def _steps(choice: Choice, divisor: int) -> int:
    return max(1, choice.settings.steps // divisor)


def _train(
    choice: Choice,
    folder: Path,
    divisor: int,
    reporter: Callable[[TrainSettings], Reporter] | None,
    listener: Listener,
) -> TrainResult:
    """Train to a share of the choice's steps, from where an earlier round stopped."""
    settings = choice.settings.with_values({"steps": _steps(choice, divisor)})
    shows = None if reporter is None else reporter(settings)
    if RunFolder(folder).has_begun:
        return resume_run(folder, steps=settings.steps, reporter=shows, listener=listener)
    return run(settings, folder, reporter=shows, listener=listener)
