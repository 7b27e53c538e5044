"""Training as one call: from settings to a run's folder."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from cosphere import fields
from cosphere.checks import check_made, check_switches
from cosphere.data import Catalogue
from cosphere.embeddings import Embeddings, FeatureCache, embed
from cosphere.errors import SettingsError, did_you_mean
from cosphere.evaluate import EvaluationSettings, evaluate
from cosphere.evaluate.clustering import SCORES as CLUSTERING_SCORES
from cosphere.evaluate.metrics import METRICS, find_metric
from cosphere.experiment.images import parts_of_training, training_images
from cosphere.experiment.listener import SILENT, Listener, SilentReporter
from cosphere.experiment.models import ready
from cosphere.experiment.protocols import PROTOCOLS, split_score
from cosphere.files import path_of
from cosphere.health import embedding_health
from cosphere.images import Augmentation
from cosphere.models import Embedder
from cosphere.runs import RunFolder, is_first_process, unused_folder
from cosphere.tensors import length_histogram
from cosphere.train import (
    Evaluate,
    Reporter,
    TrainResult,
    TrainSettings,
    Validation,
    build_model,
    decoding_workers,
    scoring_precision,
    train,
)
from cosphere.train.batches import pixel_cache
from cosphere.train.beside import read_beside
from cosphere.train.features import feature_cache, training_features
from cosphere.train.progress import Spoken


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
    check_switches(resume=resume, numbered=numbered)
    check_made("settings", settings, TrainSettings, "TrainSettings().with_values({'steps': 400})")
    if not settings.data.root:
        raise SettingsError(
            "what should be trained on? Give a folder, a table or a benchmark's root: cosphere train photos/"
        )
    settings = settings.with_absolute_paths()
    validation_scores(settings)  # Reject an unknown score before the images are listed.
    fields.build(EvaluationSettings, evaluation or {}, section="evaluation.")  # Reject a wrong block before training.
    if catalogue is None:
        catalogue = training_images(settings)
        listener.listed(catalogue.remarks)
    listener.training_on(catalogue)
    path = unused_folder(path_of(folder)) if numbered and not resume else path_of(folder)
    with RunFolder.claim(path, resume=resume) as run_folder:
        listener.began(run_folder)
        if not resume and is_first_process():
            settings.write(run_folder.config, about=about, evaluation=evaluation)
        return train(
            settings,
            catalogue,
            run_folder,
            reporter=reporter or SilentReporter(),
            evaluate=validation_scores(settings, features=feature_cache(settings, path)),
            resume=resume,
            restored=functools.partial(_keep_settings, settings, run_folder),
        )


def _keep_settings(settings: TrainSettings, folder: RunFolder) -> None:
    """Write the settings that a run is resumed with into its `config.yaml`."""
    if is_first_process() and settings != TrainSettings.read(folder.config):
        own = {name: read_beside(folder.config, name) for name in ("about", "evaluation")}
        settings.write(folder.config, **own)


def prepare_features(
    settings: TrainSettings,
    folder: str | Path,
    *,
    catalogue: Catalogue | None = None,
    reporter: Reporter | None = None,
    listener: Listener = SILENT,
    check: Callable[[float], None] | None = None,
) -> None:
    """Compute the cached features that a run with these settings trains and validates on, so that several runs find them there.

    Runs that start together need no preparation: the first one computes, the others wait for it. The test images are not read.
    Features that are there already cost nothing.

    Args:
        settings: of the run, with ``features.copies`` of at least 1.
        folder: of the run; the features lie beside it unless ``features.folder`` is given. It is not made.
        catalogue: the images, where they are listed already; None lists them.
        reporter: notified of how many features are computed.
        listener: receives what was noticed while the images were listed.
        check: called every ten seconds with the seconds that are left; what it raises ends the computation.

    Raises:
        DataError, SettingsError, WeightsError: a run could not start with these settings.
        DivergenceError: a feature is NaN or infinite.
    """
    check_made("settings", settings, TrainSettings, "TrainSettings().with_values({'steps': 400})")
    settings = settings.with_absolute_paths()
    cache = feature_cache(settings, path_of(folder))
    if cache is None:
        raise SettingsError("features.copies is 0, so there are no features to prepare. Set it to at least 1.")
    if catalogue is None:
        catalogue = training_images(settings)
        listener.listed(catalogue.remarks)
    images = parts_of_training(catalogue, settings)
    embedder, augmentation = starting_model(settings)
    say = (reporter or SilentReporter()).said
    training_features(settings, embedder, images.train, augmentation, cache, Spoken("features", say, check=check))
    if images.val is not None:
        workers = decoding_workers(settings, next(embedder.parameters()).device)
        cache.table(
            embedder,
            images.val,
            workers=workers,
            cache=pixel_cache(settings, embedder.preprocessing),
            max_unreadable=settings.data.max_unreadable,
            progress=Spoken("features of the validation images", say, check=check),
        )


def starting_model(settings: TrainSettings) -> tuple[Embedder, Augmentation]:
    """The model that a run with these settings begins with, on its device, and its augmentation. Draws no random number of the caller."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # Random backbone weights are those of the run.
        embedder, augmentation = build_model(settings)
    return embedder.to(ready(settings.device)), augmentation


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


def validation_scores(settings: TrainSettings, *, features: FeatureCache | None = None) -> Evaluate:
    """What the training loop calls to score a model: Recall@1, MAP@R, R-precision and ``validation.metric``, no intervals.

    Args:
        settings: of the run.
        features: of the run's frozen backbone; None embeds the images each time.

    Raises:
        SettingsError: there is no score of the name ``validation.metric``.
    """
    metric = settings.validation.metric
    by_protocol = validation_metric(metric)
    names = ("recall@1", "map@r", "r_precision", *([] if by_protocol is not None else [metric]))
    names = tuple(dict.fromkeys(names))
    measured = settings_for(names)

    def score(embedder: Embedder, catalogue: Catalogue) -> Validation:
        if not catalogue.labelled:
            return health_without_labels(settings, embedder, catalogue, features)
        scores = evaluate(
            embedder,
            catalogue,
            measured,
            workers=decoding_workers(settings, next(embedder.parameters()).device),
            precision=scoring_precision(settings),
            cache=pixel_cache(settings, embedder.preprocessing),
            max_unreadable=settings.data.max_unreadable,
            features=features,
        )
        spread = length_histogram(torch.from_numpy(scores.embeddings.embeddings))
        values = {name: scores.value(name) for name in names}
        if by_protocol is not None:
            values[metric] = by_protocol(scores.embeddings)
        return Validation(values, scores.health, spread)

    return score


def validation_metric(name: str) -> Callable[[Embeddings], float] | None:
    """What computes a protocol's score of labelled embeddings, such as ``pairs/auc`` or ``knn/accuracy``; None for other scores.

    Raises:
        SettingsError: there is no such protocol or score, or the protocol needs more than labelled images.
    """
    found = split_score(name)
    if found is None:
        return None
    entry, own = found
    if entry.label_scores is None:
        able = ", ".join(name for name, one in PROTOCOLS.items() if one.label_scores is not None)
        raise SettingsError(
            f"validation.metric is {name!r}; the protocol {entry.name} wants {entry.wants}, which validation images do not have. "
            f"Take a score of {able}, such as 'pairs/auc'."
        )
    scores = entry.label_scores
    without_intervals = (
        {"samples": 0} if any(one.name == "samples" for one in dataclasses.fields(entry.settings)) else {}
    )
    how = entry.settings(**without_intervals)
    return lambda embeddings: scores(embeddings, how).value(own)


def health_without_labels(
    settings: TrainSettings, embedder: Embedder, catalogue: Catalogue, features: FeatureCache | None = None
) -> Validation:
    """What can be said of a model on images without labels: how its embeddings use their space, and their lengths; no score."""
    table = embed(
        embedder,
        catalogue,
        workers=decoding_workers(settings, next(embedder.parameters()).device),
        precision=scoring_precision(settings),
        cache=pixel_cache(settings, embedder.preprocessing),
        max_unreadable=settings.data.max_unreadable,
        features=features,
    )
    return Validation({}, embedding_health(table.embeddings), length_histogram(torch.from_numpy(table.embeddings)))


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
