"""Reproducing a published row as one call: train its recipe, score it as the paper does, and compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cosphere.checks import check_whole
from cosphere.data.layouts import LAYOUTS
from cosphere.errors import DataError, RunError, SettingsError
from cosphere.evaluate import Interval
from cosphere.evaluate.statistics import seeds_summary
from cosphere.experiment.evaluation import Evaluation, evaluate_run
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.recipes import Recipe, find_recipe
from cosphere.experiment.training import resume_run, run
from cosphere.files import write_json
from cosphere.runs import RunFolder, provenance
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
            is said about the published row. ``model.weights`` is where the published weights are, so it may be given.
        device: "auto", "cpu", "cuda" or "mps".
        reporter: makes the reporter of a run from its settings.
        listener: receives notes and progress.

    Raises:
        SettingsError: there is no such recipe or setting.
        DataError: the data set is not there; the error says what to place where.
        WeightsError: the pretrained weights are not there.
        RunError: a folder holds a run of other settings, or cannot be written.
    """
    recipe = find_recipe(name)
    if not seeds or len(set(seeds)) < len(seeds):
        raise SettingsError(
            f"seeds are {list(seeds)}; wanted at least one, each different. Give seeds such as 0, 1 and 2."
        )
    frozen = recipe.settings
    data = Path(root if root is not None else frozen.data.root)
    if not data.exists():
        raise DataError(what_to_place(recipe, data))
    settings = frozen.with_values({"data.root": str(data), "device": device, **(values or {})})
    changes = changed_numbers(frozen, settings)
    folders, evaluations = [], []
    for seed in seeds:
        check_whole("seed", seed, least=0)
        folder = Path(runs) / f"{recipe.name.replace('/', '-')}-seed{seed}"
        _train(recipe, settings.with_values({"seed": seed}), folder, reporter, listener)
        evaluations.append(evaluate_run(folder, data, split="test", device=device, listener=listener))
        folders.append(folder)
    return _compared(recipe, folders, evaluations, changes, Path(runs))


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

    The seed, the place of the data and the place of the weights do not count.
    """
    ours, theirs = _flat(settings.identity()), _flat(frozen.identity())
    placed = {"seed", "data.root", "model.weights", "device"}
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key) and key not in placed)


def _flat(content: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in content.items():
        values |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return values


def _train(
    recipe: Recipe,
    settings: TrainSettings,
    folder: Path,
    reporter: Callable[[TrainSettings], Reporter] | None,
    listener: Listener,
) -> None:
    """Train the run, or go on with the one that is there."""
    shows = None if reporter is None else reporter(settings)
    if not RunFolder(folder).has_begun:
        run(settings, folder, about=recipe.about, evaluation=recipe.evaluation, reporter=shows, listener=listener)
        return
    before = TrainSettings.read(RunFolder.open(folder).config)
    different = changed_numbers(before, settings)
    if different:
        raise RunError(
            f"{folder} holds a run with other settings ({', '.join(different[:3])}). Give another folder with --runs."
        )
    resume_run(folder, reporter=shows, listener=listener)


def _compared(
    recipe: Recipe, folders: Sequence[Path], evaluations: Sequence[Evaluation], changes: Sequence[str], runs: Path
) -> Reproduction:
    comparable = all(evaluation.published for evaluation in evaluations) and not changes
    notes = []
    if not all(evaluation.published for evaluation in evaluations):
        notes.append(
            f"these images are not {recipe.about['dataset']} as published (see `cosphere data check`), so nothing is said about "
            "the published row"
        )
    if changes:
        notes.append(
            f"settings differ from the recipe ({', '.join(changes)}), so nothing is said about the published row"
        )
    if comparable and len(folders) == 1:
        notes.append(
            "one seed: the interval covers other test images, not other seeds. Give --seeds 3 or more for those"
        )
    scores = tuple(
        reproduced_score(name, published, evaluations, comparable=comparable)
        for name, published in recipe.published.items()
    )
    path = runs / f"{recipe.name.replace('/', '-')}.json"
    result = Reproduction(
        recipe=recipe, scores=scores, runs=tuple(folders), comparable=comparable, notes=tuple(notes), path=path
    )
    write_json(path, {**result.as_dict(), "provenance": provenance()})
    return result


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
