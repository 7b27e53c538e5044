"""Evaluating a run as one call: from a run's folder to scores, tables and embeddings in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cosphere import fields
from cosphere.checks import check_made, check_switches
from cosphere.data import Catalogue, Classes, read_catalogue
from cosphere.embeddings import number_classes
from cosphere.evaluate import Embeddings, EvaluationSettings, Scores, evaluate, likely_mislabelled
from cosphere.evaluate.equal_bytes import EqualBytes, equal_bytes
from cosphere.evaluate.settings import DEFAULT_KS, stored_settings
from cosphere.experiment.class_tables import CLASSES, SUSPECTS, as_csv, class_table, suspects_table
from cosphere.experiment.embedding import check_embedding, store_of, tolerated
from cosphere.experiment.images import (
    OTHER_IMAGES,
    VAL,
    as_trained,
    choose_images,
    how_read,
    trained_classes_note,
    trained_pictures_note,
)
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.models import ready
from cosphere.files import check_writable, read_json, write_json, write_text
from cosphere.models import Embedder
from cosphere.runs import RunFolder, provenance
from cosphere.train import TrainSettings, untrained_model
from cosphere.train.beside import read_beside
from cosphere.train.features import feature_cache

UNTRAINED = "scores-untrained.json"
"""The scores of the untrained backbone, in a run's folder."""
CODES, CODES_UNTRAINED = "codes.json", "codes-untrained.json"
"""The equal-bytes table, in a run's folder."""


class ClassTables(NamedTuple):
    """What `classes.csv` and `suspects.csv` hold."""

    classes: pd.DataFrame
    suspects: pd.DataFrame


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """An evaluated run: what was measured and where it was written."""

    folder: RunFolder
    split: str
    """Name of the split that was scored."""
    scores: Scores
    path: Path
    """The file that holds the scores."""
    untrained: bool
    """Whether the scores are those of the untrained backbone."""
    published: Mapping[str, float]
    """Published scores in percent, where the run's recipe names them."""
    tables: ClassTables | None
    """None for the untrained backbone."""
    codes: EqualBytes | None
    """None unless asked for."""

    @property
    def name(self) -> str:
        """What was scored, in words."""
        return "untrained backbone" if self.untrained else self.folder.path.name


def evaluate_run(
    folder: str | Path,
    source: str | Path | Catalogue | None = None,
    *,
    split: str | None = None,
    layout: str = "auto",
    classes: Classes | None = None,
    settings: EvaluationSettings | None = None,
    untrained: bool = False,
    codes: bool = False,
    tables: bool = True,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    max_unreadable: float | None = None,
    listener: Listener = SILENT,
) -> Evaluation:
    """Score a run's model and write the scores, embeddings and class tables into its folder.

    Args:
        folder: of the run.
        source: the images, listed already or not; None takes those that the run was trained from.
        split: see :func:`cosphere.experiment.choose_images`.
        layout: how the source is laid out; for the images that the run was trained from, "auto" takes what it was trained with.
        classes: which of nested class folders is the class, "top" or "leaf"; None takes what the run was trained with.
        settings: what to measure and how; None takes the run's own, see :func:`own_settings`.
        untrained: score the untrained backbone instead. Its scores go to `scores-untrained.json`, and into `scores.json` as
            `baseline_scores` where both are of the same images.
        codes: also compare smaller forms of the embeddings: `codes.json`.
        tables: write the class tables: `classes.csv` and `suspects.csv`.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images that are read together, see :meth:`cosphere.models.Embedder.encode`.
        workers: processes that decode.
        max_unreadable: tolerated share of unreadable images, in [0, 1]; None takes what the run was trained with.
        listener: receives notes and progress.

    Raises:
        RunError: there is no run, or a file in it cannot be read or written.
        DataError: there is no such split, too many images cannot be read, or no query has anything to find.
        SettingsError, SizeError: a setting is unknown, or a K is larger than what a query ranks.
    """
    check_switches(untrained=untrained, codes=codes, tables=tables)
    check_embedding(batch_size, workers, max_unreadable)
    if settings is not None:
        check_made("settings", settings, EvaluationSettings, "EvaluationSettings(ks=(1, 2, 4, 8))")
    run_folder = RunFolder.open(folder)
    for written in (run_folder.scores, run_folder.embeddings(split or VAL)):
        check_writable(written)
    settings = own_settings(run_folder) if settings is None else settings
    trained_with, device = TrainSettings.read(run_folder.config), ready(device)
    if isinstance(source, Catalogue):
        catalogue = source
    else:
        how = how_read(source, layout, classes, trained_with)
        catalogue = read_catalogue(source or trained_with.data.root, layout=how.layout, classes=how.classes)
        listener.listed(catalogue.remarks)
        for note in how.notes:
            listener.note(note)
    chosen = choose_images(catalogue, split, trained_with)
    for note in chosen.notes:
        listener.note(note)
    if untrained:
        embedder = untrained_model(trained_with).to(device)
    else:
        embedder = Embedder.load(run_folder.model, device)
        if chosen.split == VAL and not as_trained(embedder, catalogue, trained_with):
            listener.note(OTHER_IMAGES)
        for note in (
            *trained_classes_note(embedder, chosen.images),
            *trained_pictures_note(embedder, catalogue, chosen, trained_with),
        ):
            listener.note(note)
    with listener.progress("embedding") as progress:
        scores = evaluate(
            embedder,
            chosen.images,
            settings,
            batch_size=batch_size,
            workers=workers,
            max_unreadable=tolerated(max_unreadable, trained_with),
            store=store_of(run_folder.path),
            features=feature_cache(trained_with, run_folder.path),
            progress=progress,
        )
    numbered = number_classes(scores.embeddings, chosen.images, catalogue)
    path = save_scores(run_folder, scores, chosen.split, numbered, untrained=untrained, listener=listener)
    return Evaluation(
        folder=run_folder,
        split=chosen.split,
        scores=scores,
        path=path,
        untrained=untrained,
        published={} if untrained else published_scores(run_folder, catalogue, chosen.split, bits=settings.bits),
        tables=save_class_tables(run_folder, scores) if tables and not untrained else None,
        codes=save_codes(run_folder, scores.embeddings, chosen.split, settings, untrained=untrained, listener=listener)
        if codes
        else None,
    )


def own_settings(folder: RunFolder) -> EvaluationSettings:
    """How a run's recipe wants the run to be evaluated, so that a paper's row is scored as the paper does; else the defaults.

    A recipe that names the default K leaves out those that do not fit, as the default does: its images may be fewer than the paper's.

    Raises:
        RunError, SettingsError: `config.yaml` cannot be read, or its block `evaluation` has an unknown setting.
    """
    settings = fields.build(EvaluationSettings, read_beside(folder.config, "evaluation"), section="evaluation.")
    return replace(settings, ks=None) if settings.ks == DEFAULT_KS else settings


def published_scores(folder: RunFolder, catalogue: Catalogue, split: str, *, bits: bool) -> dict[str, float]:
    """Scores in percent that the run's recipe quotes, where they can be compared with what was measured; else empty.

    That is on the published data set of the recipe, with the published number of images and classes, on its test split, and in
    the form of the published row (``about.form``: ``floats``, the default, or ``bits``).
    """
    about = read_beside(folder.config, "about")
    form = "bits" if bits else "floats"
    own_data = catalogue.layout == TrainSettings.read(folder.config).data.layout  # not another published set
    as_published = own_data and bool(catalogue.checks) and not catalogue.differences
    comparable = split == "test" and as_published and about.get("form", "floats") == form
    return dict(about.get("published") or {}) if comparable else {}


def save_scores(
    folder: RunFolder,
    scores: Scores,
    split: str,
    embeddings: Embeddings,
    *,
    untrained: bool = False,
    listener: Listener = SILENT,
) -> Path:
    """Write `scores.json` and the embeddings, or `scores-untrained.json`; return the file of the scores.

    The embeddings are those of the scores, with classes numbered over the whole catalogue: one number is one class in the files of
    all splits.

    Where both are of the same split and images, and measured alike, `scores.json` also holds the untrained scores as `baseline_scores`,
    so that a report can show the improvement.

    Raises:
        RunError: a file cannot be written or read.
    """
    content: dict[str, Any] = {
        "split": split,
        **scores.as_dict(),
        "provenance": provenance(),
        "settings": TrainSettings.read(folder.config).as_dict(),
    }
    baseline = folder.path / UNTRAINED
    if untrained:
        write_json(baseline, content)
        if not folder.scores.exists():
            return baseline
        content = read_json(folder.scores, what="a run's scores")
    else:
        embeddings.save(folder.embeddings(split))
    if baseline.exists():
        before = read_json(baseline, what="a run's scores")
        content.pop("baseline_scores", None)
        if before["split"] == content["split"] and before["data"]["fingerprint"] == content["data"]["fingerprint"]:
            other = _measured_otherwise(stored_settings(before), stored_settings(content))
            if other is None:
                content["baseline_scores"] = before["scores"]
            else:
                listener.note(f"the untrained scores were measured with {other}, so they are not set beside these")
    write_json(folder.scores, content)
    return baseline if untrained else folder.scores


def _measured_otherwise(before: EvaluationSettings, now: EvaluationSettings) -> str | None:
    """The first setting, with both values, for which scores cannot be set side by side; None without any."""
    for name in ("bits", "ties", "group_rule", "clustering_preset"):
        old, new = (str(getattr(settings, name)).lower() for settings in (before, now))
        if old != new:
            return f"--{name} {old} and the trained ones with {new}"
    return None


def save_class_tables(folder: RunFolder, scores: Scores) -> ClassTables:
    """Write `classes.csv`, weakest first, and `suspects.csv`, most suspicious first.

    Raises:
        RunError: a file cannot be written.
    """
    table = scores.embeddings
    suspects = likely_mislabelled(table.embeddings, table.labels, identities=table.identities())
    tables = ClassTables(class_table(scores), suspects_table(scores, suspects))
    write_text(folder.path / CLASSES, as_csv(tables.classes))
    write_text(folder.path / SUSPECTS, as_csv(tables.suspects))
    return tables


def save_codes(
    folder: RunFolder,
    embeddings: Embeddings,
    split: str,
    settings: EvaluationSettings,
    *,
    untrained: bool = False,
    listener: Listener = SILENT,
) -> EqualBytes:
    """Compare smaller forms of the embeddings and write the table to `codes.json`.

    Raises:
        RunError: the file cannot be written.
    """
    with listener.progress("smaller forms") as progress:
        table = equal_bytes(embeddings, group_rule=settings.group_rule, seed=settings.seed, progress=progress)
    path = folder.path / (CODES_UNTRAINED if untrained else CODES)
    write_json(path, {"split": split, "level": 0.95, **table.as_dict(), "provenance": provenance()})
    return table
