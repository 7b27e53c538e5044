"""The images of a study: all of them, and those that may be read before the last choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cosphere.data import Catalogue, read_catalogue, with_class_splits
from cosphere.data.catalogue import EVERYTHING
from cosphere.errors import DataError, counted
from cosphere.experiment import Listener
from cosphere.experiment.images import TEST, VAL
from cosphere.studies.definition import Study
from cosphere.train import TrainSettings

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
    return catalogue, str(Path(source).absolute())


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
