"""Dividing the classes of a catalogue: held-out classes for validation, and splits for data that comes with none."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from cosphere.checks import check_number, check_whole
from cosphere.data.catalogue import EVERYTHING, Catalogue
from cosphere.errors import DataError, SettingsError


class TrainingParts(NamedTuple):
    """What to train on, and what to choose settings and checkpoints by."""

    train: Catalogue
    val: Catalogue | None
    """None when no validation was asked for."""
    how: str
    """One sentence for the log: where the validation images come from."""


def hold_out_classes(catalogue: Catalogue, *, share: float, seed: int = 0) -> tuple[Catalogue, Catalogue]:
    """Set whole classes aside, so that validation asks about classes that training never saw.

    The classes are drawn among those with at least two images, because the only image of a class can never be found
    again. The draw depends on the labels and the seed, not on the order of the rows.

    Args:
        catalogue: N images of C classes.
        share: of the classes, in (0, 1). At least 2 classes are held out and at least 2 are left.
        seed: chooses the classes.

    Returns:
        (left, held out); the second has split ``val`` in every row.

    Raises:
        SettingsError: ``share`` is not in (0, 1).
        DataError: there are too few classes.
    """
    check_whole("seed", seed, least=0)
    check_number("the share of classes to hold out", share, above=0, below=1)
    counts = np.bincount(catalogue.labels)
    candidates = np.flatnonzero(counts >= 2)
    number = min(max(2, round(share * len(counts))), len(counts) - 2)
    if number < 2 or len(candidates) < number:
        raise DataError(
            f"holding out classes wants at least 4 classes, 2 of them with 2 images or more; got {len(counts)} "
            "classes, "
            f"{len(candidates)} with 2 images or more. Add classes, or give the data a 'val' split of its own."
        )
    chosen = np.random.default_rng([seed, len(counts)]).permutation(candidates)[:number]
    held = np.isin(catalogue.labels, chosen)
    val = catalogue.rows(np.flatnonzero(held))
    return catalogue.rows(np.flatnonzero(~held)), replace(val, table=val.table.assign(split="val"))


def with_class_splits(catalogue: Catalogue, *, val: float = 0.15, test: float = 0.0, seed: int = 0) -> Catalogue:
    """Divide the classes of data that has no splits into ``train``, ``val`` and ``test``; no class is in two of them.

    Args:
        catalogue: data whose split is ``all``.
        val: share of the classes for choosing settings, in [0, 1).
        test: share of the classes for the final score, in [0, 1); together with ``val`` below 1.
        seed: chooses the classes.

    Returns:
        The same rows in the same order with other values in ``split``. Each part has at least 2 classes.

    Raises:
        SettingsError: the shares do not fit.
        DataError: the data has splits already, or too few classes.
    """
    check_whole("seed", seed, least=0)
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
            f"each part wants at least 2 classes, those of val and test with 2 images or more; got {len(counts)} "
            "classes, "
            f"{len(several)} with 2 images or more. Add classes or lower the shares."
        )
    order = np.random.default_rng([seed, len(counts)]).permutation(several)
    parts = np.full(len(counts), "train", dtype=object)
    parts[order[: numbers[0]]] = "val"
    parts[order[numbers[0] : sum(numbers)]] = "test"
    return replace(catalogue, table=catalogue.table.assign(split=parts[catalogue.labels]))


def training_parts(catalogue: Catalogue, *, val_share: float = 0.15, seed: int = 0) -> TrainingParts:
    """What `train` trains on and validates on: never the test split.

    A ``val`` split in the data wins. Without one, whole classes of ``train`` are held out; without any splits, whole
    classes of everything.

    Args:
        catalogue: data with a ``train`` split, or without splits.
        val_share: share of the training classes to hold out when the data has no ``val`` split; 0 holds none out.
        seed: chooses the classes.

    Raises:
        DataError: there is nothing to train on, or too few classes.
    """
    train = catalogue.select(EVERYTHING if catalogue.split_names == [EVERYTHING] else "train")
    if "val" in catalogue.split_names:
        return TrainingParts(train, catalogue.select("val"), "validation on the data's own val split")
    if val_share == 0:
        return TrainingParts(train, None, "no validation: no val split, and no classes held out")
    left, held = hold_out_classes(train, share=val_share, seed=seed)
    how = (
        f"validation on {len(held.label_names)} of {len(train.label_names)} training classes, held out with seed {seed}"
    )
    return TrainingParts(left, held, how)
