"""The catalogue: one table of images with their labels and splits."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cosphere._types import Flags, Floats, Integers
from cosphere.data.boxes import BOX, NO_BOX, edges, faults
from cosphere.data.listing import file_keys
from cosphere.data.names import ByName, nfc
from cosphere.data.remarks import LayoutCheck, Remarks, Skipped
from cosphere.errors import DataError, agreeing, counted, did_you_mean

NEEDED = ("path", "label", "split")
OPTIONAL = ("is_query", "is_gallery", "category", "sequence", "class_name", *BOX)
EVERYTHING = "all"
"""The split of data without splits, and the name with which :meth:`Catalogue.select` selects all rows."""

_SPLITS = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalogue:
    """N images with their labels and splits.

    Row numbers (0 .. N-1) of :attr:`table` identify images in samplers, data sets and search results.

    Attributes:
        table: one row per image (or per box of an image), never modified. Columns: ``path`` (str, relative to ``root``
            or absolute; ``file#item`` is an image inside a container), ``label`` (str, the class), ``split`` (str:
            ``train``, ``val``, ``test`` or another name; ``all`` for data without splits) and, where the source has
            them, ``is_query``, ``is_gallery`` (bool), ``category``, ``sequence``, ``class_name`` (str) and the box
            ``x_1, y_1, x_2, y_2`` in pixels (left, top, right, bottom; missing in rows without a box).
        root: folder that relative paths start from.
        layout: how the source was read: ``folder``, ``table``, ``container`` or the name of a published data set.
        notes: remarks for the user about how the data was read, one sentence each.
        checks: expected and actual counts, for published data sets.
        skipped: rows that were dropped while reading because their box cannot be used.

    Raises:
        DataError: a required column is missing, there are no rows, or a box cannot be used.
    """

    table: pd.DataFrame
    root: Path
    layout: str = "table"
    notes: tuple[str, ...] = ()
    checks: tuple[LayoutCheck, ...] = field(default=(), repr=False)
    skipped: tuple[Skipped, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        missing = [name for name in NEEDED if name not in self.table.columns]
        if missing:
            raise DataError(f"a catalogue wants the columns {', '.join(NEEDED)}; {', '.join(missing)} not there.")
        if self.table.empty:
            raise DataError("a catalogue wants at least one image, got none. Check the path and the split.")
        values = self._box_values()
        wrong = {} if values is None else faults(values)
        if wrong:
            row, reason = next(iter(wrong.items()))
            raise DataError(f"{len(wrong)} of {counted(len(self), 'box')} cannot be used: {reason} (row {row}).")

    def __len__(self) -> int:
        """N, the number of rows (images or boxes)."""
        return len(self.table)

    @cached_property
    def paths(self) -> list[str]:
        """N image paths, joined to :attr:`root` unless absolute."""
        # str, because creating 60 000 Path objects is slow.
        return [os.path.join(self.root, path) for path in self.table["path"]]  # noqa: PTH118

    @cached_property
    def label_names(self) -> list[str]:
        """The C labels as written in the source, in natural order: class_2 before class_10."""
        return sorted(self.table["label"].unique(), key=natural_key)

    @property
    def labelled(self) -> bool:
        """Whether any row has a label; images that are only embedded or searched may have none (label ``""``)."""
        return self.label_names != [""]

    @cached_property
    def class_names(self) -> list[str]:
        """C display names in the order of :attr:`labels`: ``class_name`` if every label has exactly one, else the label."""
        if "class_name" not in self.table.columns:
            return self.label_names
        pairs = self.table[["label", "class_name"]].drop_duplicates()
        names = dict(zip(pairs["label"], pairs["class_name"], strict=True))
        one_to_one = len(pairs) == len(names) == len(set(names.values())) and all(
            isinstance(n, str) for n in names.values()
        )
        return [names[label] for label in self.label_names] if one_to_one else self.label_names

    @cached_property
    def labels(self) -> Integers:
        """(N,) int64 in [0, C): class index of each row; contiguous within this catalogue, so selections renumber."""
        codes = pd.Categorical(self.table["label"], categories=self.label_names).codes
        return np.asarray(codes, dtype=np.int64)

    @property
    def splits(self) -> NDArray[np.object_]:
        """(N,) str: the split of each row."""
        return self.table["split"].to_numpy(dtype=object)

    @cached_property
    def split_names(self) -> list[str]:
        """The names of the splits: train, val, test first, then others alphabetically."""
        usual = ("train", "val", "test")
        names = set(self.table["split"])
        return [name for name in usual if name in names] + sorted(names.difference(usual))

    @cached_property
    def boxes(self) -> Integers | None:
        """(N, 4) int64 pixels (left, top, right, bottom), -1 in rows without a box; None for data without boxes.

        Right and bottom are exclusive.
        """
        values = self._box_values()
        return None if values is None else edges(values)

    def _box_values(self) -> Floats | None:
        """(N, 4) float: the box columns, NaN in rows without a box; None for data without boxes."""
        if not all(name in self.table.columns for name in BOX):
            return None
        return self.table[list(BOX)].to_numpy(dtype=np.float64)

    def box(self, row: int) -> tuple[int, int, int, int] | None:
        """The box of one row in pixels (left, top, right, bottom), or None for the whole image."""
        if self.boxes is None or self.boxes[row, 0] == NO_BOX:
            return None
        left, top, right, bottom = self.boxes[row].tolist()
        return left, top, right, bottom

    @property
    def remarks(self) -> Remarks:
        """What a user should know about how the data was read."""
        return Remarks(root=self.root, layout=self.layout, notes=self.notes, checks=self.checks)

    @property
    def differences(self) -> tuple[LayoutCheck, ...]:
        """The checks that failed: where the data differs from the published data set."""
        return self.remarks.differences

    def select(self, split: str | None = None, classes: Iterable[str] | None = None) -> Catalogue:
        """Select the rows of a split, of some classes, or both; row numbers and labels are renumbered from 0.

        Args:
            split: ``train``, ``val`` (or ``validation``, ``valid``), ``test`` or another existing split; None or
                ``all`` selects all rows.
            classes: labels, or names from :attr:`class_names`.

        Raises:
            DataError: there is no such split or class, or no row has both.
        """
        keep = np.ones(len(self), dtype=bool)
        if split is not None and normal_split(split) != EVERYTHING:
            keep &= self._in_split(normal_split(split))
        if classes is not None:
            keep &= self._in_classes(list(classes))
        if not keep.any():
            raise DataError(f"no image of the classes asked for is in split {split!r}. Check both.")
        return self.rows(np.flatnonzero(keep))

    def rows(self, rows: Sequence[int] | Integers) -> Catalogue:
        """Return a catalogue of the given rows, in the given order.

        Query and gallery flags are dropped where no row has either, as in the training rows of data with a query/gallery test:
        these rows are then compared all with all.
        """
        table = self.table.iloc[list(rows)].reset_index(drop=True)
        roles = [name for name in ("is_query", "is_gallery") if name in table]
        if not table[roles].to_numpy(dtype=bool).any():
            table = table.drop(columns=roles)
        return replace(self, table=table)

    def relabelled(self, mapping: Mapping[str, str]) -> Catalogue:
        """Return the same rows under other labels, such as the random meta-classes that DREML trains on.

        Drops ``class_name``, because a group of classes has no name.

        Args:
            mapping: new label of every label; several labels may map to the same new one.

        Raises:
            DataError: a label is missing from ``mapping``.
        """
        new = ByName(mapping)
        missing = [label for label in self.label_names if label not in new]
        if missing:
            raise DataError(
                f"{len(missing)} of {counted(len(self.label_names), 'label')} {agreeing(len(self.label_names), 'have')} no new label, "
                f"first {missing[0]!r}. Map them all."
            )
        table = self.table.assign(label=[str(new[label]) for label in self.table["label"]])
        return replace(self, table=table.drop(columns="class_name", errors="ignore"))

    def _in_split(self, split: str) -> Flags:
        if split not in self.split_names:
            if self.split_names == [EVERYTHING]:
                raise DataError(
                    f"this data has no splits, so no split {split!r}. Use split {EVERYTHING!r}, put the images under "
                    "train/ and "
                    "test/, add a column 'split', or let with_class_splits divide the classes."
                )
            raise DataError(f"there is no split {split!r} in this data. {did_you_mean(split, self.split_names)}")
        return np.asarray(self.table["split"] == split)

    def _in_classes(self, names: list[str]) -> Flags:
        displayed = dict(zip(self.class_names, self.label_names, strict=True))
        by_name = ByName(displayed | {label: label for label in self.label_names})
        for name in names:
            if str(name) not in by_name:
                raise DataError(f"there is no class {str(name)!r} in this data. {_nearest(str(name), list(by_name))}")
        return np.asarray(self.table["label"].isin({by_name[str(name)] for name in names}))

    def identities(self) -> Integers:
        """(N,) int64: a number for what each row shows, equal in rows that show the same box of the same file.

        Links, symbolic or hard, count as the file that they lead to. A retrieval query must not find its own file.
        """
        numbers: dict[tuple[object, ...], int] = {}
        return np.array([numbers.setdefault(key, len(numbers)) for key in self.pictures()], dtype=np.int64)

    def pictures(self) -> list[tuple[object, ...]]:
        """N keys of what each row shows, see :meth:`identities`: the file and, of data with boxes, the box."""
        boxes = [(NO_BOX,) * 4] * len(self) if self.boxes is None else self.boxes.tolist()
        return [(key, *box) for key, box in zip(file_keys(self.paths), boxes, strict=True)]

    def fingerprint(self) -> str:
        """SHA-256 of the rows in any order, as 64 hexadecimal digits.

        Covers paths (relative ones as they are, so a moved folder keeps its fingerprint), labels, splits, query and
        gallery flags and boxes, but not the bytes of the images, because reading them all would take minutes.
        """
        columns = [name for name in (*NEEDED, "is_query", "is_gallery", *BOX) if name in self.table.columns]
        text = [self.table[name].map(_plain).tolist() for name in columns]
        lines = sorted("\x1f".join(row) for row in zip(*text, strict=True))
        return hashlib.sha256("\n".join(["\x1f".join(columns), *lines]).encode()).hexdigest()


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Case-insensitive sort key that compares digits as numbers.

    >>> sorted(["class_10", "class_2", "Class_1"], key=natural_key)
    ['Class_1', 'class_2', 'class_10']
    """
    parts: list[str | int] = [_number(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", text)]
    return parts, text


def _number(digits: str) -> int:
    """Digits as a number to sort by; Python parses no more than 4300 of them, so longer ones count by their length."""
    return int(digits) if len(digits) < 1000 else 10 ** len(digits)


def normal_split(name: str) -> str:
    """Normalise the name of a split: lower case, NFC, ``training`` -> ``train``, ``validation`` and ``valid`` -> ``val``."""
    plain = nfc(name.strip().lower())
    return _SPLITS.get(plain, plain)


def _plain(value: Any) -> str:
    """Convert a cell to text that does not depend on whether the column was read as int, float or bool."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _nearest(name: str, names: list[str]) -> str:
    """:func:`did_you_mean`, without listing a thousand classes."""
    text = did_you_mean(name, names)
    if len(names) <= 20 or text.startswith("Did"):
        return text
    return f"There are {len(names)}, from {names[0]!r} to {names[-1]!r}."
