"""What a conversion will write: which images in which order, and what each is called."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cosphere._types import Integers
from cosphere.data.catalogue import EVERYTHING, Catalogue
from cosphere.data.converting.names import DistinctNames, safe_name
from cosphere.data.listing import is_image
from cosphere.errors import DataError
from cosphere.images.containers.recordio_writer import MOST

TABLE, PAIRS = "labels.csv", "pairs.csv"
"""The tables in a converted folder."""


@dataclass(frozen=True, eq=False)
class Plan:
    """N different images of a catalogue in the order in which they are written.

    A plan is a function of the catalogue, so a conversion that was killed makes the same one again.
    """

    catalogue: Catalogue
    sources: list[str]
    """N paths or items of containers."""
    names: list[str]
    """N paths in the target, with ``/``; where the source has no suffix of an image, without a suffix."""
    identities: Integers | None
    """(N,) the number of each image's class; None for a target that keeps labels as text."""
    of_row: Integers
    """Of each row of the catalogue, which image it shows."""

    def table(self, references: list[str | None]) -> pd.DataFrame:
        """The catalogue's table with the images under other names.

        Args:
            references: N names for the column ``path``; None for images that were left out, whose rows are dropped.
        """
        paths = np.array(references, dtype=object)[self.of_row]
        table = self.catalogue.table.assign(path=paths)
        empty = [name for name, missing in (("label", ""), ("split", EVERYTHING)) if set(table[name]) == {missing}]
        columns = [name for name in table.columns if name not in empty]
        return table.loc[[path is not None for path in paths], columns].reset_index(drop=True)


def make_plan(catalogue: Catalogue, *, numbered: bool) -> Plan:
    """Plan the conversion of a catalogue.

    An image is called ``split/label/name``, without the split where there is one only and without the label where there are
    none. Labels and names become names that every file system takes; equal ones get numbers.

    Args:
        catalogue: the images.
        numbered: write the images class by class, and number the classes: by their labels where these are whole numbers,
            otherwise from 0 in natural order.

    Raises:
        DataError: classes are to be numbered, and an image has no label.
    """
    of_row, unique = pd.factorize(catalogue.table["path"])
    first = np.unique(of_row, return_index=True)[1]
    order = np.arange(len(unique))
    identities = None
    if numbered:
        identities = _identities(catalogue)[first]
        order = np.argsort(identities, kind="stable")
        identities = identities[order]
        of_row = np.argsort(order, kind="stable")[of_row]
    paths = catalogue.paths
    sources = [paths[row] for row in first[order].tolist()]
    return Plan(
        catalogue=catalogue,
        sources=sources,
        names=_names(sources, _folders(catalogue.rows(first[order].tolist()))),
        identities=identities,
        of_row=np.asarray(of_row, dtype=np.int64),
    )


def _identities(catalogue: Catalogue) -> Integers:
    """The number of each row's class."""
    labels = catalogue.label_names
    if "" in labels:
        raise DataError(
            "some images have no label, and a RecordIO file keeps one for each image. Convert them to a folder or a table."
        )
    plain = all(re.fullmatch(r"0|[1-9]\d{0,7}", label) and int(label) <= MOST for label in labels)
    numbers = [int(label) for label in labels] if plain else range(len(labels))
    return np.array(numbers, dtype=np.int64)[catalogue.labels]


def _folders(catalogue: Catalogue) -> list[str]:
    """The folder of each row, ``""`` or ending with a slash."""
    top = DistinctNames()
    for name in (TABLE, PAIRS):
        top.distinct(name)
    splits = catalogue.split_names
    one_split = len(splits) == 1
    split_folders = {name: "" if one_split else f"{top.distinct(safe_name(name))}/" for name in splits}
    inner = top if one_split else DistinctNames()
    label_folders = {label: f"{inner.distinct(safe_name(label))}/" for label in catalogue.label_names}
    if not catalogue.labelled:
        label_folders = {"": ""}
    rows = zip(catalogue.table["split"], catalogue.table["label"], strict=True)
    return [split_folders[split] + label_folders[label] for split, label in rows]


def _names(sources: list[str], folders: list[str]) -> list[str]:
    """The path of each image in the target. Names stay distinct with whatever suffix an image without one gets."""
    bases = [re.split(r"[/\\#]", source)[-1] for source in sources]
    with_suffix = all(is_image(base) for base in bases)
    inside: dict[str, DistinctNames] = defaultdict(DistinctNames)
    reserved = DistinctNames()
    for name in (TABLE, PAIRS):
        reserved.distinct(name)
    inside[""] = reserved
    names = []
    for base, folder in zip(bases, folders, strict=True):
        stem, suffix = os.path.splitext(base) if is_image(base) else (base, "")  # noqa: PTH122
        name = safe_name(stem)
        if with_suffix:
            names.append(folder + inside[folder].distinct(name + suffix.lower()))
        else:
            names.append(folder + inside[folder].distinct(name) + suffix.lower())
    return names
