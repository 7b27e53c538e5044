"""Training as one call: from settings to a run's folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosphere import fields
from cosphere.data import Catalogue, read_catalogue
from cosphere.errors import SettingsError, did_you_mean
from cosphere.evaluate import EvaluationSettings, evaluate
from cosphere.evaluate.clustering import SCORES as CLUSTERING_SCORES
from cosphere.evaluate.metrics import METRICS, find_metric
from cosphere.experiment.listener import SILENT, Listener, SilentReporter
from cosphere.images import PixelCache
from cosphere.models import Embedder
from cosphere.runs import RunFolder, is_first_process, unused_folder
from cosphere.train import (
    Evaluate,
    Reporter,
    TrainResult,
    TrainSettings,
    Validation,
    decoding_workers,
    scoring_precision,
    train,
)
from cosphere.train.beside import read_beside


def run(
    settings: TrainSettings,
    folder: str | Path,
    *,
    about: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    resume: bool = False,
    numbered: bool = False,
    catalogue: Catalogue | None = None,
    reporter: Reporter | None = None,
    listener: Listener = SILENT,
) -> TrainResult:
    """Train an embedder on the images at ``settings.data.root`` and leave it in a run's folder.

    Args:
        settings: all settings. Relative paths are written to `config.yaml` as absolute ones.
        folder: of the run; it must not hold one yet, unless ``resume``.
        about: what a recipe says of itself, stored in `config.yaml`.
        evaluation: settings of :class:`cosphere.evaluate.EvaluationSettings` by name, which :func:`evaluate_run` uses for this
            run unless others are given.
        resume: go on from the last checkpoint of the run in ``folder``; see :func:`resume_run`, which takes its settings too.
        numbered: where the folder exists, take the first of ``folder-2``, ``folder-3``, ... that does not.
        catalogue: the images, where they are listed already, as several runs on one data set have them; None lists them.
        reporter: notified of every step, validation and warning.
        listener: receives the folder of the run, and what was noticed while the images were listed.

    Raises:
        DataError, SettingsError, WeightsError: the run cannot start with these settings.
        DivergenceError: the loss became NaN or infinite; the last good checkpoint is kept.
        RunError: the folder is taken, another process trains in it, or it cannot be written or read.
    """
    if not settings.data.root:
        raise SettingsError(
            "what should be trained on? Give a folder, a table or a benchmark's root: cosphere train photos/"
        )
    settings = settings.with_absolute_paths()
    evaluate_model = validation_scores(settings)
    fields.build(EvaluationSettings, evaluation or {}, section="evaluation.")  # Reject a wrong block before training.
    if catalogue is None:
        catalogue = read_catalogue(settings.data.root, layout=settings.data.layout, classes=settings.data.classes)
        listener.listed(catalogue)
    path = unused_folder(Path(folder)) if numbered and not resume else Path(folder)
    with RunFolder.claim(path, resume=resume) as run_folder:
        listener.began(run_folder)
        if not resume and is_first_process():
            settings.write(run_folder.config, about=about, evaluation=evaluation)
        elif is_first_process() and settings != TrainSettings.read(run_folder.config):
            own = {name: read_beside(run_folder.config, name) for name in ("about", "evaluation")}
            settings.write(run_folder.config, **own)
        return train(
            settings,
            catalogue,
            run_folder,
            reporter=reporter or SilentReporter(),
            evaluate=evaluate_model,
            resume=resume,
        )


def resume_run(
    folder: str | Path, *, steps: int | None = None, reporter: Reporter | None = None, listener: Listener = SILENT
) -> TrainResult:
    """Resume a run with its own settings from its last checkpoint. See :func:`run` for other arguments and errors.

    Args:
        folder: of the run.
        steps: train to this step instead of the one in `config.yaml`, which is updated; schedules span the new length.
        reporter: notified of every step, validation and warning.
        listener: receives what was noticed while the images were listed.
    """
    settings = TrainSettings.read(RunFolder.open(folder).config)
    if steps is not None:
        settings = settings.with_values({"steps": steps})
    return run(settings, folder, resume=True, reporter=reporter, listener=listener)


def validation_scores(settings: TrainSettings) -> Evaluate:
    """What the training loop calls to score a model: Recall@1, MAP@R, R-precision and ``validation.metric``, no intervals.

    Raises:
        SettingsError: there is no score of the name ``validation.metric``.
    """
    metric = settings.validation.metric
    names = tuple(dict.fromkeys(("recall@1", "map@r", "r_precision", metric)))
    measured = settings_for(names)

    def score(embedder: Embedder, catalogue: Catalogue) -> Validation:
        cache = PixelCache(settings.data.cache, rule=embedder.preprocessing.rule) if settings.data.cache else None
        scores = evaluate(
            embedder,
            catalogue,
            measured,
            workers=decoding_workers(settings, next(embedder.parameters()).device),
            precision=scoring_precision(settings),
            cache=cache,
            max_unreadable=settings.data.max_unreadable,
        )
        return Validation({name: scores.value(name) for name in names}, scores.health)

    return score


def settings_for(names: tuple[str, ...]) -> EvaluationSettings:
    """The settings that measure these scores and no more, without intervals.

    Raises:
        SettingsError: there is no such score; the error names the nearest.

    >>> settings_for(("recall@5", "mrr", "nmi")).metrics
    ('mrr',)
    """
    for name in names:
        metric = find_metric(name)
        if name not in CLUSTERING_SCORES and (metric is None or metric.summary == "median"):
            raise SettingsError(f"there is no score {name!r} to validate by. {did_you_mean(name, _known_scores())}")
    extra = [metric.name for name in names if (metric := find_metric(name)) is not None and not metric.default]
    ks = {int(name.rsplit("@", 1)[1]) for name in names if re.search(r"@\d+$", name)}
    return EvaluationSettings(
        ks=tuple(sorted(ks)) or (1,),
        metrics=tuple(dict.fromkeys(extra)),
        clustering=any(name in CLUSTERING_SCORES for name in names),
        bootstrap_samples=0,
        ties="expected",  # Optimistic ties would score a collapsed model 100 %.
    )


def _known_scores() -> list[str]:
    ranked = [f"{metric.name}@1" if metric.at_k else metric.name for metric in METRICS if metric.summary == "mean"]
    return [*ranked, *CLUSTERING_SCORES]
