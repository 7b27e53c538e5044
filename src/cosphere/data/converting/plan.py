"""What a conversion will write: which images in which order, and what each is called."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from cosphere._types import Integers
from cosphere.data.catalogue import EVERYTHING, Catalogue
from cosphere.data.converting.names import DistinctNames, safe_name
from cosphere.data.converting.working import Done
from cosphere.data.listing import is_image
from cosphere.errors import DataError, agreeing, counted
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
    """N paths in the target, with ``/`` and without suffixes."""
    suffixes: list[str]
    """N suffixes; empty where that of the written image is used."""
    identities: Integers | None
    """(N,) the number of each image's class; None for a target that keeps labels as text."""
    of_row: Integers
    """Of each row of the catalogue, which image it shows."""
    notes: tuple[str, ...]
    """How the source was read, and what the target cannot hold."""

    @cached_property
    def mark(self) -> str:
        """What stands between a name and a number where several images are made of one; no name holds it."""
        mark = "-face"
        while any(mark in name for name in self.names):
            mark += "_"
        return mark

    def table(self, done: list[Done]) -> pd.DataFrame:
        """The catalogue's table with the images under other names: a row for each that was made of an image, none for others.

        Args:
            done: what became of the N images.
        """
        table: pd.DataFrame = self.catalogue.table
        empty = [name for name, missing in (("label", ""), ("split", EVERYTHING)) if set(table[name]) == {missing}]
        made: list[list[tuple[str, dict[str, Any]]]] = [[(one, {})] if isinstance(one, str) else one for one in done]
        numbers = np.array([len(pieces) for pieces in made], dtype=np.int64)[self.of_row]
        rows = np.repeat(np.arange(len(table)), numbers)
        pieces = [piece for image in self.of_row.tolist() for piece in made[image]]
        new = table.drop(columns=empty).iloc[rows].reset_index(drop=True)
        new["path"] = [name for name, _ in pieces]
        own = dict.fromkeys(column for _, columns in pieces for column in columns)
        return new.assign(**{column: [columns.get(column) for _, columns in pieces] for column in own})


def make_plan(catalogue: Catalogue, *, numbered: bool, suffixes: bool = True) -> Plan:
    """Plan the conversion of a catalogue.

    An image is called ``split/label/name``, without the split where there is one only and without the label where there are
    none. Labels and names become names that every file system takes; equal ones get numbers.

    Args:
        catalogue: the images.
        numbered: write the images class by class, and number the classes: by their labels where these are whole numbers,
            otherwise from 0 in natural order.
        suffixes: keep the suffixes of the sources.

    Raises:
        DataError: classes are to be numbered, and an image has no label.
    """
    of_row, unique = pd.factorize(catalogue.table["path"])
    first = np.unique(of_row, return_index=True)[1]
    order = np.arange(len(unique))
    identities, notes = None, catalogue.notes
    if numbered:
        identities = _identities(catalogue)
        several = len(np.unique(of_row[identities != identities[first][of_row]]))
        if several:
            held = f"{counted(several, 'image')} {agreeing(several, 'have')} several labels"
            notes += (f"{held}; a RecordIO file keeps the first of each image, the table beside it keeps all",)
        identities = identities[first]
        order = np.argsort(identities, kind="stable")
        identities = identities[order]
        of_row = np.argsort(order, kind="stable")[of_row]
    paths = catalogue.paths
    sources = [paths[row] for row in first[order].tolist()]
    names, own = _names(sources, _folders(catalogue.rows(first[order].tolist())), suffixes)
    return Plan(
        catalogue=catalogue,
        sources=sources,
        names=names,
        suffixes=own,
        identities=identities,
        of_row=np.asarray(of_row, dtype=np.int64),
        notes=notes,
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


def _names(sources: list[str], folders: list[str], keep: bool) -> tuple[list[str], list[str]]:
    """The path of each image in the target and its suffix. Names stay distinct with whatever suffix an image without one gets."""
    parts = [_split(re.split(r"[/\\#]", source)[-1], keep) for source in sources]
    all_known = all(suffix for _, suffix in parts)
    inside: dict[str, DistinctNames] = defaultdict(DistinctNames)
    for name in (TABLE, PAIRS):
        inside[""].distinct(name)
        inside[""].distinct(os.path.splitext(name)[0])  # noqa: PTH122
    names = []
    for (stem, suffix), folder in zip(parts, folders, strict=True):
        end = suffix if all_known else ""  # 1.jpg and 1.png are two names
        name = inside[folder].distinct(safe_name(stem) + end).removesuffix(end)
        names.append(folder + name)
    return names, [suffix for _, suffix in parts]


def _split(name: str, keep: bool) -> tuple[str, str]:
    """Stem and suffix of a file's name; no suffix where it is not one of an image, or is not kept."""
    if not is_image(name):
        return name, ""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    return stem, suffix.lower() if keep else ""
