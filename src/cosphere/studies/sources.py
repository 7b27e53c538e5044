"""The images and weights of a study: all of them, those that may be read before the last choice, and what identifies their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cosphere.data import Catalogue, read_catalogue, with_class_splits
from cosphere.data.catalogue import EVERYTHING
from cosphere.errors import DataError, RunError, counted
from cosphere.experiment import Listener
from cosphere.experiment.images import TEST, VAL
from cosphere.files import path_of
from cosphere.models import weights_identity
from cosphere.studies.definition import Study
from cosphere.train import TrainSettings
from cosphere.train.state import fingerprints

TEST_SHARE = 0.3
"""Share of the classes that is kept for the test in data without splits."""


def listed(study: Study, source: str | Path | Catalogue, listener: Listener) -> tuple[Catalogue, str]:
    """The images, and what to name as their source."""
    if isinstance(source, Catalogue):
        return source, str(source.root)
    data = (
        TrainSettings()
        .with_values({name: value for name, value in study.base.items() if name in ("data.layout", "data.classes")})
        .data
    )
    catalogue = read_catalogue(source, layout=data.layout, classes=data.classes)
    listener.listed(catalogue.remarks)
    return catalogue, str(path_of(source).absolute())


def parts(catalogue: Catalogue, listener: Listener) -> tuple[Catalogue, Catalogue]:
    """All images, and those that may be read before the last choice.

    Raises:
        DataError: there is no test split.
    """
    if catalogue.split_names == [EVERYTHING]:
        catalogue = with_class_splits(catalogue, val=0.0, test=TEST_SHARE)
        listener.note(
            f"the data has no splits, so {len(catalogue.select(TEST).label_names)} of its "
            f"{counted(len(catalogue.label_names), 'class')}, "
            "drawn with seed 0, are kept for the test"
        )
    if TEST not in catalogue.split_names:
        raise DataError(
            f"{catalogue.root} has the splits {', '.join(catalogue.split_names)}; a study wants train and test. Add a test split."
        )
    return catalogue, catalogue.rows(np.flatnonzero(np.isin(catalogue.splits, ["train", VAL])))


def image_files(images: Catalogue) -> str:
    """A digest of the sizes and ends of the image files: the fingerprint of a catalogue does not cover what the pictures show."""
    return hashlib.sha256("\n".join(fingerprints(images).values()).encode()).hexdigest()


def rules_of(study: Study, whole: Catalogue, data: Mapping[str, str]) -> dict[str, Any]:
    """What the records in a study's folder depend on, by name.

    Args:
        study: the study.
        whole: all images.
        data: of :class:`cosphere.studies.jobs.Context`.

    Raises:
        RunError, WeightsError: a file of weights cannot be read.
    """
    names = {
        study.settings(arm, values, 0, final=final).model.weights
        for arm in study.arms
        for values in study.extremes(arm)
        for final in (False, True)
    }
    files = sorted(name for name in names if name not in ("imagenet", "none"))
    return {
        "settings, arms or candidates": study.identity(),
        "images": whole.fingerprint(),
        "image files": data["training files"],
        **({"files of weights": [weights_identity(name) for name in files]} if files else {}),
    }


def check_files(records: Iterable[Mapping[str, Any]], data: Mapping[str, str], folder: Path) -> None:
    """Raise unless the records that say which image files they are of are of these. Older ones do not say.

    Args:
        records: of finished runs.
        data: digests by name, as ``data`` of a record.
        folder: of the study, for the message.

    Raises:
        RunError: a run has seen other images.
    """
    for record in records:
        if any(record["data"].get(name, digest) != digest for name, digest in data.items()):
            raise RunError(
                f"{folder} holds a study with other image files ({record['arm']} {record['run']}); its runs cannot be compared with new "
                "ones. Put the images back as they were, or choose another name with --name."
            )
