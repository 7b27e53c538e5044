"""Embedding the images that lists of pairs name, with their mirror images where they are compared too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cosphere._types import Floats, Integers
from cosphere.data import Catalogue, PairList, Pairs, find_pairs
from cosphere.errors import DataError, agreeing, counted
from cosphere.experiment.protocols.base import Subject
from cosphere.experiment.protocols.verifying import Flip, ScoredPairs, VerificationSettings, combined, score_pairs


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """The embeddings of M images, and lists of pairs of them."""

    rows: Floats
    """(M, D') raw: what is compared."""
    paths: tuple[str, ...]
    labels: npt.NDArray[np.object_]
    """(M,) the class of each image, ``""`` where there is none."""
    pairs: Mapping[str, Pairs]
    """The pairs of each list, as rows of these embeddings."""
    notes: tuple[str, ...]
    data: Mapping[str, Any]
    """For the file of scores: the fingerprint of the images, how many were embedded, and those that could not be read."""

    def scored(self, name: str) -> ScoredPairs:
        """The cosines of one list."""
        return score_pairs(self.rows, self.pairs[name], self.paths)

    def people(self, name: str) -> npt.NDArray[np.object_]:
        """(P, 2) the class of each image of a list's pairs."""
        return self.labels[self.pairs[name].rows]


class Embedded:
    """Raw embeddings of some rows of a catalogue, original and mirror image combined.

    Attributes:
        rows: (M, D') of type ``dtype``.
        paths: M absolute paths.
        place: (N,) the row here of each row of the images; -1 where an image cannot be read.
        data: see :class:`Compared`.

    Raises:
        DataError: an image cannot be read any more when its mirror image is embedded.
    """

    def __init__(
        self, subject: Subject, images: Catalogue, flip: Flip, dtype: type[np.floating[Any]] = np.float64
    ) -> None:
        plain = subject.embed(images)
        lost = {os.path.abspath(one.path) for one in plain.skipped}  # noqa: PTH100
        read = np.array([os.path.abspath(path) not in lost for path in images.paths], dtype=bool)  # noqa: PTH100
        mirrored = None
        if (
            flip != "none"
        ):  # of the images that were read, so that both have the same rows and each failure is logged once
            again = subject.embed(images.rows(np.flatnonzero(read)) if lost else images, mirrored=True)
            if again.skipped:
                raise DataError(f"{again.skipped[0].path} could be read once and then no more. Check the disk.")
            mirrored = again.embeddings
        self.rows = combined(plain.embeddings, mirrored, flip, dtype)
        self.paths = plain.paths
        self.place: Integers = np.where(read, np.cumsum(read) - 1, -1)
        self.data: dict[str, Any] = {
            "fingerprint": plain.fingerprint,
            "images": len(plain),
            "skipped_images": [{"path": one.path, "reason": one.reason} for one in plain.skipped],
        }


def compare_lists(
    subject: Subject, catalogue: Catalogue, lists: Mapping[str, PairList], settings: VerificationSettings
) -> Compared:
    """Embed the images of some lists of pairs, each once.

    Args:
        subject: the model.
        catalogue: where the images are.
        lists: pairs by the name of their list.
        settings: the flip, and how many images may be missing.

    Raises:
        DataError: too many images of a list are missing or cannot be read.
    """
    pictures = catalogue.identities()
    found = {
        name: find_pairs(listed, catalogue.paths, pictures=pictures, max_missing=settings.max_missing)
        for name, listed in lists.items()
    }
    used = np.unique(np.concatenate([pairs.rows.ravel() for pairs in found.values()]))
    images = catalogue.rows(used)
    embedded = Embedded(subject, images, settings.flip)
    place = np.full(len(catalogue), -1)
    place[used] = embedded.place
    notes = [
        f"{name}: {counted(len(pairs.missing), 'image')} {agreeing(len(pairs.missing), 'are')} missing, first {pairs.missing[0]}; "
        f"{counted(len(lists[name].names) - len(pairs), 'pair')} left out"
        for name, pairs in found.items()
        if pairs.missing
    ]
    readable: dict[str, Pairs] = {}
    for name, pairs in found.items():
        rows = place[pairs.rows]
        whole = (rows >= 0).all(axis=1)
        if not whole.all():
            notes.append(f"{name}: {counted(int((~whole).sum()), 'pair')} left out, of images that cannot be read")
        notes += [f"{name}: {text}" for text in _odd_pairs(pairs.rows)]
        folds = None if pairs.folds is None else pairs.folds[whole]
        readable[name] = Pairs(rows=rows[whole], same=pairs.same[whole], folds=folds)
    labels = images.table["label"].to_numpy(dtype=object)[embedded.place >= 0]
    return Compared(
        rows=embedded.rows,
        paths=embedded.paths,
        labels=labels,
        pairs=readable,
        notes=tuple(notes),
        data=embedded.data,
    )


def _odd_pairs(rows: Integers) -> list[str]:
    """What is odd about pairs: those of one image with itself, and those that are listed again."""
    alone = int((rows[:, 0] == rows[:, 1]).sum())
    again = len(rows) - len(np.unique(np.sort(rows, axis=1), axis=0))
    notes = [f"{counted(alone, 'pair')} {agreeing(alone, 'compare')} an image with itself"] if alone else []
    return notes + ([f"{counted(again, 'pair')} {agreeing(again, 'are')} listed more than once"] if again else [])
