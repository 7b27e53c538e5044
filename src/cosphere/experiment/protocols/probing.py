"""Which images a probe learns from and which it is tested on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cosphere._types import Float32s, Integers
from cosphere.data import Catalogue
from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, counted
from cosphere.experiment.images import TEST, take_split
from cosphere.experiment.protocols.base import Subject

TRAIN = "train"


class ProbeData(NamedTuple):
    """Features of training and test images whose labels have the same numbers."""

    train: Float32s
    """(N, D) raw."""
    train_labels: Integers
    """(N,)"""
    test: Float32s
    """(M, D) raw."""
    test_labels: Integers
    """(M,)"""
    notes: tuple[str, ...]
    data: Mapping[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """For a part of the result."""
        return {
            "train_images": len(self.train),
            "test_images": len(self.test),
            "classes": len(np.unique(self.train_labels)),
        }


def probe_data(subject: Subject, name: str) -> ProbeData:
    """The train and test split of data whose test classes are trained on; or, where a split is named, two halves of it.

    Args:
        subject: the model and its images.
        name: of the protocol, for errors.

    Raises:
        DataError: there are no labels, there is no train or no test split, or a test class is not in train.
    """
    catalogue = subject.catalogue()
    if not catalogue.labelled:
        raise DataError(
            f"{name} wants images with labels, and those in {catalogue.root} have none. Give class folders, or a table with path and "
            "label."
        )
    if subject.split is not None:
        return halves(subject.embed(take_split(catalogue, subject.split).images), subject.split, name)
    split = split_to_halve(catalogue)
    if split not in (None, TEST):
        raise DataError(
            f"{name} wants a train and a test split; {catalogue.root} has only {', '.join(map(repr, catalogue.split_names))}. "
            f"Give --split {split}: half of its images of each class then train the probe."
        )
    (train, test), notes = _apart(catalogue)
    new = sorted(set(test.label_names) - set(train.label_names))
    if new:
        raise DataError(
            f"{name} wants the test classes in train; {len(new)} of {counted(len(test.label_names), 'test class')} "
            f"{'is' if len(new) == 1 else 'are'} not, first {new[0]!r}. Give --split test: half of its images of each class then train "
            "the probe."
        )
    both = [subject.embed(part) for part in (train, test)]
    number = {label: at for at, label in enumerate(train.label_names)}
    labels = [
        np.array([number[label] for label in part.label_names], dtype=np.int64)[table.labels]
        for part, table in zip((train, test), both, strict=True)
    ]
    return ProbeData(both[0].embeddings, labels[0], both[1].embeddings, labels[1], notes, _data(*both))


def _apart(catalogue: Catalogue) -> tuple[tuple[Catalogue, Catalogue], tuple[str, ...]]:
    """The train and test split without pictures that both have, which would be their own neighbours; and what was left out.

    Raises:
        DataError: no picture is in train only.
    """
    splits, pictures = catalogue.splits, catalogue.identities()
    of_train, of_test = splits == TRAIN, splits == TEST
    shared = of_train & np.isin(pictures, pictures[of_test])
    count = int(shared.sum())
    if count == int(of_train.sum()):
        raise DataError(
            f"every picture of train is in test too, so nothing is left to learn from ({counted(count, 'row')}). List each picture once."
        )
    parts = catalogue.rows(np.flatnonzero(of_train & ~shared)), catalogue.select(TEST)
    left_out = f"{counted(count, 'row')} of train left out: test has the same {'picture' if count == 1 else 'pictures'}"
    return parts, (left_out,) if count else ()


def split_to_halve(images: Catalogue) -> str | None:
    """The split of labelled images that a probe halves by class; None where it learns from train and is tested on test."""
    if not {TRAIN, TEST} <= set(images.split_names):
        return images.split_names[0]
    classes = [set(images.select(split).label_names) for split in (TRAIN, TEST)]
    return None if classes[1] <= classes[0] else TEST


def halves(table: Embeddings, split: str, name: str) -> ProbeData:
    """Two halves of some images: of each class, every second image in order trains the probe, and the others test it.

    Classes with one image are left out.

    Raises:
        DataError: fewer than two classes have two images.
    """
    table = table.distinct()
    order = np.argsort(table.labels, kind="stable")
    sizes = np.bincount(table.labels)
    rank = np.empty(len(table), dtype=np.int64)
    rank[order] = np.arange(len(table)) - (np.cumsum(sizes) - sizes)[table.labels[order]]
    several = sizes[table.labels] >= 2
    if len(np.unique(table.labels[several])) < 2:
        raise DataError(
            f"{name} wants two classes with two images each; the images have {int((sizes >= 2).sum())}. Give more images."
        )
    train, test = several & (rank % 2 == 0), several & (rank % 2 == 1)
    notes = [f"half of the images of each class of {split} train the probe, the others test it"]
    alone = int((sizes == 1).sum())
    if alone:
        notes.append(f"{counted(alone, 'class')} with one image left out")
    rows, labels = table.embeddings, table.labels
    return ProbeData(rows[train], labels[train], rows[test], labels[test], tuple(notes), _data(table))


def _data(*tables: Embeddings) -> dict[str, Any]:
    return {
        "fingerprint": " ".join(table.fingerprint for table in tables),
        "images": sum(map(len, tables)),
        "skipped_images": [{"path": one.path, "reason": one.reason} for table in tables for one in table.skipped],
    }


def chance(name: str, classes: int) -> float:
    """The accuracy of guessing one of so many equal classes."""
    return 1 / max(classes, 1)
