"""Reproducing a published row as one call: train its recipe, score it as the paper does, and compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cosphere.checks import check_whole
from cosphere.data import Catalogue
from cosphere.data.layouts import LAYOUTS
from cosphere.errors import DataError, SettingsError
from cosphere.evaluate import Interval
from cosphere.evaluate.statistics import seeds_summary
from cosphere.experiment.continuing import differing_settings, steps_done
from cosphere.experiment.evaluation import Evaluation, evaluate_run
from cosphere.experiment.images import training_images
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.recipes import Recipe, find_recipe
from cosphere.experiment.training import run
from cosphere.files import path_of, write_json
from cosphere.models import weights_identity
from cosphere.models.origin import is_published_file
from cosphere.runs import provenance
from cosphere.train import Reporter, TrainSettings

Verdict = Literal["inside", "above", "below"]
"""Where our score lies: ``inside`` if the published value is in our interval, else ``above`` or ``below`` the published value."""


@dataclass(frozen=True, kw_only=True)
class ReproducedScore:
    """One published score and ours. All values are fractions."""

    name: str
    published: float
    value: float
    """Ours: the mean over the seeds."""
    interval: Interval | None
    """95 %: Student's t over seeds, or with one seed the bootstrap over queries or classes; None where the score has none."""
    verdict: Verdict | None
    """None without an interval, or where the run cannot be compared with the published row."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Reproduction:
    """A published row beside our runs of its recipe."""

    recipe: Recipe
    scores: tuple[ReproducedScore, ...]
    runs: tuple[Path, ...]
    """Folders of the runs, one for each seed."""
    comparable: bool
    """Whether this is the published data set and the recipe as it is."""
    weights: str
    """Identity of the weights that training began with; see :func:`cosphere.models.weights_identity`."""
    notes: tuple[str, ...]
    """What a reader of the comparison should know, one sentence each."""
    path: Path
    """The JSON file that holds all this."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "recipe": self.recipe.name,
            "about": dict(self.recipe.about),
            "scores": [asdict(score) | {"interval": score.interval and list(score.interval)} for score in self.scores],
            "runs": [str(path) for path in self.runs],
            "comparable": self.comparable,
            "weights": self.weights,
            "notes": list(self.notes),
        }


def reproduce(
    name: str,
    root: str | Path | None = None,
    *,
    seeds: Sequence[int] = (0,),
    runs: str | Path = "runs",
    values: Mapping[str, Any] | None = None,
    device: str = "auto",
    reporter: Callable[[TrainSettings], Reporter] | None = None,
    listener: Listener = SILENT,
) -> Reproduction:
    """Train the recipe of a published row, score it by the paper's protocol, and say where the scores lie.

    Runs that exist are resumed or reused, so an interrupted call goes on where it stopped.

    Args:
        name: of the recipe, such as ``sec/cub/multi_similarity+sec``; see :func:`cosphere.experiment.published_recipes`.
        root: the published data set; None looks at the recipe's own ``data.root``, relative to the working directory.
        seeds: one run for each. One run only gives an interval over queries or classes, not over seeds.
        runs: folder of the runs, and of the JSON file with the comparison.
        values: settings that differ from the recipe, by dotted name. With any that changes a number, such as ``steps``, nothing
            is said about the published row. ``model.weights`` may be the file of the published weights.
        device: "auto", "cpu", "cuda" or "mps".
        reporter: makes the reporter of a run from its settings.
        listener: receives notes and progress.

    Raises:
        SettingsError: there is no such recipe or setting.
        DataError: the data set is not there; the error says what to place where.
        WeightsError: the pretrained weights are not there.
        RunError: a folder holds a run of other settings, on other images or from other weights, or cannot be written.
    """
    recipe = find_recipe(name)
    if not seeds or len(set(seeds)) < len(seeds):
        raise SettingsError(
            f"seeds are {list(seeds)}; wanted at least one, each different. Give seeds such as 0, 1 and 2."
        )
    frozen = recipe.settings
    data, place = path_of(root if root is not None else frozen.data.root), path_of(runs)
    if not data.exists():
        raise DataError(what_to_place(recipe, data))
    settings = frozen.with_values({"data.root": str(data), "device": device, **(values or {})})
    changes, weights = changed_numbers(frozen, settings), weights_identity(settings.model.weights)
    catalogue = training_images(settings)
    listener.listed(catalogue.remarks)
    folders, evaluations = [], []
    for seed in seeds:
        check_whole("seed", seed, least=0)
        folder = place / f"{recipe.name.replace('/', '-')}-seed{seed}"
        _train(recipe, settings.with_values({"seed": seed}), folder, catalogue, reporter, listener)
        evaluations.append(evaluate_run(folder, catalogue, split="test", device=device, listener=listener))
        folders.append(folder)
    result = _compared(recipe, settings, folders, evaluations, changes, place, weights=weights)
    write_json(result.path, {**result.as_dict(), "provenance": provenance()})
    return result


def what_to_place(recipe: Recipe, root: Path) -> str:
    """What the recipe's data set looks like on disk, for the error where it is missing."""
    layout = LAYOUTS[recipe.settings.data.layout]
    parts = ", ".join(f"{part.name} {part.images:,} images of {part.classes:,} classes" for part in layout.parts)
    return (
        f"there is no {root}. The row {recipe.name!r} needs {layout.title}: a folder with {layout.wants} ({parts}). Unpack the "
        f"authors' archive, check it with `cosphere data check ROOT`, then: cosphere reproduce {recipe.name} --data ROOT"
    )


def changed_numbers(frozen: TrainSettings, settings: TrainSettings) -> list[str]:
    """Dotted names of the settings on which a number depends and that differ from the recipe's.

    The seed and the place of the data do not count, nor does a file that may hold the recipe's weights.
    """
    names = [name for name in differing_settings(frozen, settings) if name not in ("seed", "data.root")]
    file = Path(settings.model.weights)
    may_be_the_same = (
        frozen.model.weights == "imagenet"
        and file.is_file()
        and is_published_file(settings.model.backbone, file) is not False
    )
    return [name for name in names if name != "model.weights" or not may_be_the_same]


def _train(
    recipe: Recipe,
    settings: TrainSettings,
    folder: Path,
    catalogue: Catalogue,
    reporter: Callable[[TrainSettings], Reporter] | None,
    listener: Listener,
) -> None:
    """Train the run, or go on with the one that is there."""
    done = steps_done(settings, folder, catalogue)
    run(
        settings,
        folder,
        about=recipe.about,
        evaluation=recipe.evaluation,
        resume=done is not None,
        catalogue=catalogue,
        reporter=None if reporter is None else reporter(settings),
        listener=listener,
    )


def _compared(
    recipe: Recipe,
    settings: TrainSettings,
    folders: Sequence[Path],
    evaluations: Sequence[Evaluation],
    changes: Sequence[str],
    runs: Path,
    *,
    weights: str,
) -> Reproduction:
    as_published = all(evaluation.published for evaluation in evaluations)
    comparable = as_published and not changes
    notes = []
    if not as_published:
        notes.append(
            f"these images are not {recipe.about['dataset']} as published (see `cosphere data check`), so nothing is said about "
            "the published row"
        )
    if changes:
        notes.append(
            f"settings differ from the recipe ({', '.join(changes)}), so nothing is said about the published row"
        )
    if comparable or "model.weights" in changes:
        notes += weights_notes(settings, weights)
    if comparable and len(folders) == 1:
        notes.append(
            "one seed: the interval covers other test images, not other seeds. Give --seeds 3 or more for those"
        )
    scores = tuple(
        reproduced_score(name, published, evaluations, comparable=comparable)
        for name, published in recipe.published.items()
    )
    return Reproduction(
        recipe=recipe,
        scores=scores,
        runs=tuple(folders),
        comparable=comparable,
        weights=weights,
        notes=tuple(notes),
        path=runs / f"{recipe.name.replace('/', '-')}.json",
    )


def weights_notes(settings: TrainSettings, weights: str) -> list[str]:
    """A sentence about a weights file that is not, or may not be, the published one."""
    file = Path(settings.model.weights)
    if weights in ("imagenet", "none") or not file.is_file():
        return []
    published = is_published_file(settings.model.backbone, file)
    if published:
        return []
    file_and_digest = f"{file.name} ({weights[:19]}...)"
    if published is False:
        return [
            f"{file_and_digest} is not the published file of {settings.model.backbone}, whose name has the digits of another SHA-256"
        ]
    return [
        f"{file_and_digest} cannot be checked against the published weights of {settings.model.backbone}; the comparison holds only if "
        "these are in it"
    ]


def reproduced_score(
    name: str, published: float, evaluations: Sequence[Evaluation], *, comparable: bool = True
) -> ReproducedScore:
    """One published score beside that of one evaluation for each seed."""
    values = [evaluation.scores.value(name) for evaluation in evaluations]
    summary = seeds_summary(values)
    interval = summary.share_interval() or evaluations[0].scores.values[name].interval
    verdict: Verdict | None = None
    if comparable and interval is not None:
        verdict = "above" if interval.low > published else "below" if interval.high < published else "inside"
    return ReproducedScore(name=name, published=published, value=summary.mean, interval=interval, verdict=verdict)
