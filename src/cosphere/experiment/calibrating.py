"""Choosing a run's match threshold as one call: on validation images, checked on the test images, stored in the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cosphere.checks import check_seed, check_switches
from cosphere.data import Classes, read_catalogue
from cosphere.embeddings import Embeddings, embed
from cosphere.errors import DataError, RunError, agreeing, counted
from cosphere.evaluate import OpenSetScores, PairRates, calibrate, open_set, pair_rates
from cosphere.evaluate.calibration import check_far
from cosphere.evaluate.comparison import FEW_CLASSES
from cosphere.experiment.embedding import check_embedding, store_of, tolerated
from cosphere.experiment.images import (
    ALL,
    OTHER_IMAGES,
    TEST,
    VAL,
    Chosen,
    as_trained,
    how_read,
    trained_classes_note,
    trained_pictures_note,
    validation_images,
)
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.models import ready
from cosphere.files import check_writable
from cosphere.models import Calibration, Embedder, stored_model_id
from cosphere.runs import RunFolder
from cosphere.train import TrainSettings
from cosphere.train.features import feature_cache

ENOUGH = 30
"""False accepts at which a rate is known to within about a third of itself, were pairs independent."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Tested:
    """A threshold applied to images that it was not chosen on."""

    images: int
    rates: PairRates
    """Over all pairs."""
    open_set: OpenSetScores
    """Half of the classes known, the others unknown."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CalibratedRun:
    """A run whose model now holds a match threshold."""

    folder: RunFolder
    calibration: Calibration
    split: str
    """Name of the split that the threshold was chosen on."""
    notes: tuple[str, ...]
    """What a reader of the threshold should know, one sentence each."""
    tested: Tested | None
    """None where it was not tested; a note says why."""


def calibrate_run(
    folder: str | Path,
    source: str | Path | None = None,
    *,
    far: float = 1e-3,
    split: str | None = None,
    test: bool = True,
    layout: str = "auto",
    classes: Classes | None = None,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    max_unreadable: float | None = None,
    listener: Listener = SILENT,
) -> CalibratedRun:
    """Choose the cosine above which two images match, for a target false-accept rate, and store it in the run's model.

    Args:
        folder: of the run.
        source: the images; None takes those that the run was trained from.
        far: target false-accept rate of pairs, in (0, 1).
        split: split to choose on, or ``all``; None takes the validation images.
        test: also measure the threshold on the test split, if there is one.
        layout: how the source is laid out; for the images that the run was trained from, "auto" takes what it was trained with.
        classes: which of nested class folders is the class, "top" or "leaf"; None takes what the run was trained with.
        seed: of the intervals and of the known classes.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images that are read together, see :meth:`cosphere.models.Embedder.encode`.
        workers: processes that decode.
        max_unreadable: tolerated share of unreadable images, in [0, 1]; None takes what the run was trained with.
        listener: receives notes of the data, and progress.

    Raises:
        RunError: there is no run, or its model cannot be read or written; a process trains it, or its model was replaced meanwhile.
        DataError: there is no such split, no validation image, or too few pairs.
        SettingsError: ``far`` is out of range, or another setting.
    """
    check_switches(test=test)
    check_far(far)  # before minutes of embedding
    check_seed(seed)
    check_embedding(batch_size, workers, max_unreadable)
    run_folder = RunFolder.open(folder)
    check_writable(run_folder.model / "bundle.json")
    with RunFolder.claim(folder, resume=True):
        pass  # a run that trains now is refused before minutes of embedding
    trained_with, device = TrainSettings.read(run_folder.config), ready(device)
    read = how_read(source, layout, classes, trained_with)
    catalogue = read_catalogue(source or trained_with.data.root, layout=read.layout, classes=read.classes)
    listener.listed(catalogue.remarks)
    for note in read.notes:
        listener.note(note)
    chosen = validation_images(catalogue, split, trained_with)
    embedder = Embedder.load(run_folder.model, device)
    how: dict[str, Any] = {
        "batch_size": batch_size,
        "workers": workers,
        "max_unreadable": tolerated(max_unreadable, trained_with),
        "store": store_of(run_folder.path),
        "features": feature_cache(trained_with, run_folder.path),
    }
    with listener.progress("embedding") as progress:
        table = embed(embedder, chosen.images, **how, progress=progress)
    images, notes = _distinct(table, chosen.split)
    with listener.progress("comparing all pairs") as progress:
        calibration = calibrate(
            images.embeddings, images.labels, far, data=chosen.images.fingerprint(), seed=seed, progress=progress
        )
    _store(run_folder, embedder, calibration)
    notes += [*calibration_notes(calibration, chosen.split), *trained_classes_note(embedder, chosen.images)]
    notes += trained_pictures_note(embedder, catalogue, chosen, trained_with)
    if chosen.split == VAL and not as_trained(embedder, catalogue, trained_with):
        notes.append(OTHER_IMAGES)
    tested = None
    if test and chosen.split not in (TEST, ALL) and TEST in catalogue.split_names:
        test_images = catalogue.select(TEST)
        with listener.progress("embedding the test images") as progress:
            table = embed(embedder, test_images, **how, progress=progress)
        unseen, more = _distinct(table, TEST)
        notes += [*more, *trained_classes_note(embedder, test_images, "of the test split")]
        notes += trained_pictures_note(
            embedder, catalogue, Chosen(test_images, TEST), trained_with, "of the test split"
        )
        try:
            tested = apply_threshold(unseen, calibration.threshold, seed=seed)
        except DataError as error:
            notes.append(f"no open-set scores of the test split: {error}")
        else:
            calibration = replace(calibration, tested_far=tested.rates.far, tested_pairs=tested.rates.different_pairs)
            _store(run_folder, embedder, calibration)
    return CalibratedRun(
        folder=run_folder, calibration=calibration, split=chosen.split, notes=tuple(notes), tested=tested
    )


def _store(folder: RunFolder, embedder: Embedder, calibration: Calibration) -> None:
    """Write the calibration into the run's model, unless that is no longer the one that was calibrated.

    Raises:
        RunError: a process trains the run, its model was replaced meanwhile, or it cannot be written.
    """
    with RunFolder.claim(folder.path, resume=True):  # so that no training saves a better model in between
        now = stored_model_id(folder.model)
        if now and now != embedder.id:
            raise RunError(
                f"the model in {folder.model} was replaced while it was calibrated, so nothing was stored. Calibrate it again."
            )
        embedder.calibration = calibration
        embedder.save(folder.model)


def _distinct(table: Embeddings, split: str) -> tuple[Embeddings, list[str]]:
    """One row for each picture, and a note where that leaves rows out."""
    pictures = table.distinct()
    left_out = len(table) - len(pictures)
    if not left_out:
        return pictures, []
    return pictures, [
        f"left out: {counted(left_out, 'row')} of split {split} whose picture is that of another row, or has two labels"
    ]


def apply_threshold(images: Embeddings, threshold: float, *, seed: int = 0) -> Tested:
    """What a threshold gives on these images: over pairs, and as an open set.

    Raises:
        DataError: too few classes or images for an open set.
    """
    return Tested(
        images=len(images),
        rates=pair_rates(images.embeddings, images.labels, threshold),
        open_set=open_set(images.embeddings, images.labels, threshold=threshold, seed=seed),
    )


def calibration_notes(calibration: Calibration, split: str) -> list[str]:
    """What a reader of the threshold should know, one sentence each."""
    notes = []
    if split == VAL:
        notes.append("the model was chosen on these classes, which may flatter the rates a little")
    if split in ("train", ALL):
        among = "" if split == "train" else ", if these are among them"
        notes.append(
            f"classes that the model was trained on lie farther apart than new ones: expect more false accepts{among}"
        )
    if calibration.classes < FEW_CLASSES:
        low, high = calibration.far_interval
        notes.append(
            f"{counted(calibration.classes, 'class')} {agreeing(calibration.classes, 'are')} few: with "
            f"other classes the false accept rate may lie anywhere from "
            f"{100 * low:.2g} to {100 * high:.2g} %, and with so few classes this interval is too narrow itself"
        )
    if calibration.tar == 0:
        notes.append(
            "no pair of one class lies above the threshold, so it accepts nothing: take a higher --far, and look for one picture "
            "under two labels"
        )
    if calibration.wanted_far * calibration.different_pairs < ENOUGH:
        notes.append(
            f"{counted(calibration.different_pairs, 'pair')} {agreeing(calibration.different_pairs, 'are')} few "
            f"for a rate of {calibration.wanted_far:g}: want at least "
            f"{ENOUGH / calibration.wanted_far:,.0f}, so take more images or a higher --far"
        )
    return notes
