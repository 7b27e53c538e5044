"""Divide the classes of a catalogue: hold out validation classes, and split data that has no splits."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from cosphere._types import Flags, Integers
from cosphere.checks import check_number, check_seed
from cosphere.data.catalogue import EVERYTHING, Catalogue
from cosphere.errors import DataError, SettingsError, agreeing, counted

HeldOut = Literal["classes", "images"]
"""What validation holds out of training: whole classes, or images of each class."""


class TrainingParts(NamedTuple):
    """Training and validation images."""

    train: Catalogue
    val: Catalogue | None
    """Images for choosing settings and checkpoints; None without validation."""
    how: str
    """Where the validation images come from, for the log."""


def hold_out_classes(catalogue: Catalogue, *, share: float, seed: int = 0) -> tuple[Catalogue, Catalogue]:
    """Hold out whole classes, so that validation uses classes that are not trained on.

    Only classes with at least two images are held out, because a query needs another image of its class. The choice
    depends on the labels and the seed, not on the order of the rows.

    Args:
        catalogue: N images of C classes.
        share: share of the classes to hold out, in (0, 1). At least 2 classes are held out and at least 2 remain.
        seed: seed of the choice.

    Returns:
        (remaining, held out); the second has split ``val`` in all rows.

    Raises:
        SettingsError: ``share`` is not in (0, 1), or ``seed`` is negative.
        DataError: there are too few classes.
    """
    check_seed(seed)
    check_number("the share of classes to hold out", share, above=0, below=1)
    counts = np.bincount(catalogue.labels)
    candidates = np.flatnonzero(counts >= 2)
    number = min(max(2, round(share * len(counts))), len(counts) - 2)
    if number < 2 or len(candidates) < number:
        raise DataError(
            f"holding out classes wants at least 4 classes, 2 of them with 2 images or more; got "
            f"{counted(len(counts), 'class')}, "
            f"{len(candidates)} with 2 images or more. Add classes, or give the data a 'val' split of its own."
        )
    chosen = np.random.default_rng([seed, len(counts)]).permutation(candidates)[:number]
    held = np.isin(catalogue.labels, chosen)
    return catalogue.rows(np.flatnonzero(~held)), _validation(catalogue, held)


def hold_out_images(catalogue: Catalogue, *, share: float, seed: int = 0) -> tuple[Catalogue, Catalogue]:
    """Hold out some images of each class, so that validation uses the classes of training, as probes of self-supervision do.

    The choice depends on the labels, the paths and the seed, not on the order of the rows. Rows that show one picture stay together.

    Args:
        catalogue: N images of C classes.
        share: share of each class's images to hold out, in (0, 1); at least 2 of a class with 3 or more images, so that they can
            be compared, and none of a smaller class.
        seed: seed of the choice.

    Returns:
        (remaining, held out); the second has split ``val`` in all rows.

    Raises:
        SettingsError: ``share`` is not in (0, 1), or ``seed`` is negative.
        DataError: fewer than two classes have three images.
    """
    check_seed(seed)
    check_number("the share of images to hold out", share, above=0, below=1)
    pictures = catalogue.identities()
    rows = np.unique(pictures, return_index=True)[1]  # the first of each picture, in order
    labels = catalogue.labels[rows]
    counts = np.bincount(labels, minlength=len(catalogue.label_names))
    numbers = np.where(counts >= 3, np.minimum(np.maximum(2, np.rint(share * counts)), counts - 1), 0)
    if int((numbers > 0).sum()) < 2:
        raise DataError(
            f"holding out images wants at least 2 classes with 3 images; got {int((counts >= 3).sum())} of "
            f"{counted(len(counts), 'class')}. Add images, or give the data a 'val' split of its own."
        )
    shuffled = _shuffled(catalogue, rows, seed)
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]  # classes one after another, each shuffled
    rank = np.empty(len(rows), dtype=np.int64)
    rank[order] = np.arange(len(rows)) - (np.cumsum(counts) - counts)[labels[order]]
    held = np.isin(pictures, pictures[rows[rank < numbers[labels]]])
    return catalogue.rows(np.flatnonzero(~held)), _validation(catalogue, held)


def with_class_splits(catalogue: Catalogue, *, val: float = 0.15, test: float = 0.0, seed: int = 0) -> Catalogue:
    """Divide the classes of data without splits into ``train``, ``val`` and ``test``, so that no class is in two splits.

    Args:
        catalogue: data whose split is ``all``.
        val: share of the classes for validation, in [0, 1).
        test: share of the classes for testing, in [0, 1); ``val + test`` is below 1.
        seed: seed of the choice.

    Returns:
        The same rows in the same order with new splits. Each split has at least 2 classes.

    Raises:
        SettingsError: a share is out of range, or ``seed`` is negative.
        DataError: the data already has splits, or has too few classes.
    """
    check_seed(seed)
    if catalogue.split_names != [EVERYTHING]:
        raise DataError(
            f"this data has splits already: {', '.join(catalogue.split_names)}. Use them, or set all to {EVERYTHING!r}."
        )
    for name, share in (("val", val), ("test", test)):
        check_number(name, share, at_least=0, below=1)
    if val + test >= 1:
        raise SettingsError(f"val {val} and test {test} leave no classes to train on. Let them add up to less than 1.")
    counts = np.bincount(catalogue.labels)
    numbers = [max(2, round(share * len(counts))) if share else 0 for share in (val, test)]
    several = np.flatnonzero(counts >= 2)
    if len(counts) - sum(numbers) < 2 or len(several) < sum(numbers):
        raise DataError(
            f"each part wants at least 2 classes, those of val and test with 2 images or more; got "
            f"{counted(len(counts), 'class')}, "
            f"{len(several)} with 2 images or more. Add classes or lower the shares."
        )
    order = np.random.default_rng([seed, len(counts)]).permutation(several)
    parts = np.full(len(counts), "train", dtype=object)
    parts[order[: numbers[0]]] = "val"
    parts[order[numbers[0] : sum(numbers)]] = "test"
    return replace(catalogue, table=catalogue.table.assign(split=parts[catalogue.labels]))


def training_parts(
    catalogue: Catalogue, *, val_share: float = 0.15, seed: int = 0, of: HeldOut = "classes"
) -> TrainingParts:
    """Choose the images that `cosphere train` trains and validates on, never from the test split.

    Uses the ``val`` split if there is one. Otherwise holds out whole classes of ``train``, or of all images for data
    without splits; or images of each class. Of images without labels, a share is held out, by which the health of the
    embedding is watched.

    Args:
        catalogue: data with a ``train`` split, or without splits.
        val_share: share of the training classes, or of the images of each, to hold out if there is no ``val`` split; 0 for no
            validation.
        seed: seed of the choice.
        of: what is held out: ``classes`` or ``images``.

    Fewer classes are held out, or none, where training would keep fewer than 2 classes or no class with 2 images; ``how`` says so.

    Raises:
        DataError: there is no training image.
    """
    train = catalogue.select(EVERYTHING if catalogue.split_names == [EVERYTHING] else "train")
    if "val" in catalogue.split_names:
        return TrainingParts(train, catalogue.select("val"), "validation on the data's own val split")
    if val_share == 0:
        return TrainingParts(train, None, "no validation: no val split, and no classes held out")
    if not train.labelled:
        return _without_labels(train, val_share, seed)
    if of == "images":
        left, held = hold_out_images(train, share=val_share, seed=seed)
        part = f"{counted(len(held), 'image')} of {counted(len(held.label_names), 'training class')}"
        return TrainingParts(left, held, f"validation on {part}, held out with seed {seed}")
    counts = np.bincount(train.labels)
    several = int((counts >= 2).sum())
    most = min(len(counts) - 2, several - 1)
    if most < 2:
        how = (
            f"no validation: {counted(len(counts), 'training class')}, {several} of them with 2 images or more, "
            f"{agreeing(len(counts), 'are')} too few to hold some out, so the last model is kept"
        )
        return TrainingParts(train, None, how)
    left, held = hold_out_classes(train, share=min(val_share, most / len(counts)), seed=seed)
    number = len(held.label_names)
    how = f"validation on {number} of {counted(len(counts), 'training class')}, held out with seed {seed}"
    if number != round(val_share * len(counts)):
        how += f" (a share of {val_share:g} adapted to so few classes)"
    return TrainingParts(left, held, how)


def _without_labels(train: Catalogue, share: float, seed: int) -> TrainingParts:
    """Hold out a share of the images, whatever the order of the rows; none where fewer than 2 would be on either side."""
    pictures = train.identities()
    rows = np.unique(pictures, return_index=True)[1]
    number = max(2, round(share * len(rows)))
    if len(rows) - number < 2:
        return TrainingParts(train, None, f"no validation: {counted(len(train), 'image')} are too few to hold some out")
    held = np.isin(pictures, pictures[rows[_shuffled(train, rows, seed)[:number]]])
    how = f"{counted(number, 'image')} without labels held out with seed {seed}: their health is watched, and the last model is kept"
    return TrainingParts(train.rows(np.flatnonzero(~held)), _validation(train, held), how)


def _shuffled(catalogue: Catalogue, rows: Integers, seed: int) -> Integers:
    """Places of some rows in an order of chance that depends on their paths and the seed, not on their own order."""
    by_path = np.argsort(catalogue.table["path"].to_numpy(dtype=str)[rows], kind="stable")
    return np.asarray(np.random.default_rng([seed, len(rows)]).permutation(by_path), dtype=np.int64)


def _validation(catalogue: Catalogue, held: Flags) -> Catalogue:
    """The held-out rows as split ``val``; compared all with all unless there are both queries and a gallery among them."""
    table = catalogue.rows(np.flatnonzero(held)).table.assign(split="val")
    roles = [name for name in ("is_query", "is_gallery") if name in table]
    if not table[roles].any().all():  # such as a gallery alone: the roles of the test rows say nothing about these
        table = table.drop(columns=roles)
    return replace(catalogue, table=table)
