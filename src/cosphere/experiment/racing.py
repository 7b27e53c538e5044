"""Racing the choices of a plan: train all a little, keep the better half, and train that on (successive halving)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cosphere.errors import DataError, RunError
from cosphere.experiment.continuing import steps_done
from cosphere.experiment.images import training_images
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.planning import Choice, Plan
from cosphere.experiment.training import run
from cosphere.files import path_of
from cosphere.runs import RunFolder
from cosphere.train import Reporter, TrainSettings


@dataclass(frozen=True, kw_only=True)
class Lap:
    """One choice after one round."""

    round: int
    """From 1."""
    name: str
    steps: int
    score: float
    """Best validation score up to these steps, a fraction."""
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
    """The winner's run, trained to its last step or beyond."""


def race(
    plan: Plan,
    folder: str | Path,
    *,
    reporter: Callable[[TrainSettings], Reporter] | None = None,
    listener: Listener = SILENT,
) -> Race:
    """Train the choices of a plan by successive halving (Jamieson and Talwalkar 2016) on the validation classes.

    Each round doubles the steps and drops the worse half (of an odd number, the smaller half goes on), until one choice has all
    its steps. An interrupted race goes on where it stopped: a run that is in the folder already is resumed, or judged by its
    scores up to the steps of a round. The test images are not read.

    Args:
        plan: from :func:`cosphere.experiment.plan`.
        folder: holds one run for each choice, by its name; best a folder that no other runs are in.
        reporter: makes the reporter of a run from its settings.
        listener: receives notes.

    Raises:
        DataError: there are no validation images to judge by.
        DivergenceError: see :func:`cosphere.experiment.run`.
        RunError: the folder holds a run of a choice's name with other settings, on other images or from other weights.
    """
    if not plan.summary.val_images:
        raise DataError(
            "a race wants validation images, and these data have too few classes to hold some out. Add classes."
        )
    rounds = len(plan.choices).bit_length()
    running, laps = list(plan.choices), list[Lap]()
    catalogue = training_images(plan.choices[0].settings)  # all choices have the same data
    for choice in plan.choices:  # before an hour is spent on the first of them
        steps_done(choice.settings, path_of(folder) / choice.name, catalogue, but=("steps",))
    for number in range(1, rounds + 1):
        scores: dict[str, float] = {}
        for choice in running:
            settings = choice.settings.with_values({"steps": _steps(choice, 2 ** (rounds - number))})
            path = path_of(folder) / choice.name
            done = steps_done(settings, path, catalogue, but=("steps",))
            if done is None or done < settings.steps:
                listener.note(f"race, round {number} of {rounds}: {choice.name} to step {settings.steps:,}")
                shows = None if reporter is None else reporter(settings)
                run(settings, path, resume=done is not None, catalogue=catalogue, reporter=shows, listener=listener)
            scores[choice.name] = best_score(RunFolder(path), settings)
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
        folder=path_of(folder) / winner.name,
    )


def _steps(choice: Choice, divisor: int) -> int:
    return max(1, choice.settings.steps // divisor)


def best_score(folder: RunFolder, settings: TrainSettings) -> float:
    """The best validation score of a run up to ``settings.steps``, which the run may have passed.

    Raises:
        RunError: the run logged none.
    """
    key = f"val/{settings.validation.metric}"
    scores = [row[key] for row in folder.read_metrics() if key in row and 0 < row.get("step", 0) <= settings.steps]
    if not scores:
        raise RunError(
            f"{folder.metrics} has no validation score up to step {settings.steps}. Give another folder with --runs."
        )
    return float(max(scores))
