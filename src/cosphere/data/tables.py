"""Read a table of images: CSV, TSV, Parquet or a DataFrame."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from cosphere._types import Flags
from cosphere.checks import check_switches
from cosphere.data.boxes import BOX, BOX_NAMES, box_columns, box_names, faults
from cosphere.data.catalogue import EVERYTHING, OPTIONAL, Catalogue, normal_split
from cosphere.data.folders import Labels, query_and_gallery
from cosphere.data.listing import drop_missing, is_image
from cosphere.data.names import named_in_nfc
from cosphere.data.remarks import Skipped
from cosphere.data.spelling import matching_paths
from cosphere.data.table_files import TableFile, load_table, texts
from cosphere.errors import DataError, agreeing, counted, did_you_mean

ALIASES: dict[str, tuple[str, ...]] = {
    "path": (
        *("image_path", "filepath", "file_path", "img_path", "relative_path", "image", "file", "filename", "file_name"),
        *("image_name", "img", "fname"),
    ),
    "label": (
        "class",
        "class_id",
        "target",
        "class_name",
        "category_id",
        "identity",
        "person_id",
        "product_id",
        "item_id",
        "y",
    ),
    "split": ("subset", "partition", "set", "evaluation_status"),
}
"""Alternative column names; the first one that exists is used."""

TRAIN_FLAGS = {
    **dict.fromkeys(("is_train", "is_training", "is_training_image", "is_train_image"), ("train", "test")),
    **dict.fromkeys(("is_test", "is_testing", "is_test_image"), ("test", "train")),
    **dict.fromkeys(("is_valid", "is_val", "is_validation"), ("val", "train")),
}
"""Columns of true and false that are read as the split where a table has none, and the splits that these mean."""

_IN_LIST = re.compile(r",|['\"]\s+['\"]|\d\s+\d")
"""What stands between the values in the text of a list or an array."""
_IN_TUPLE = re.compile(r"['\"],\s*['\"]")
"""What stands between the texts in the text of a tuple or a set."""

MAX_MISSING = 0.01
"""Largest tolerated share of missing files, so that a truncated download is not taken for the whole data set."""


def read_table(
    source: str | Path | pd.DataFrame,
    *,
    root: str | Path | None = None,
    max_missing: float = MAX_MISSING,
    labels: Labels = "required",
    all_columns: bool = False,
) -> Catalogue:
    """Read a table with one row per image.

    Required columns: ``path`` and ``label``. Optional columns: ``split``, ``is_query``, ``is_gallery``, ``category``,
    ``sequence``, ``class_name`` and the box ``x_1, y_1, x_2, y_2`` in pixels (or ``xmin, ymin, xmax, ymax``, or
    ``x, y, w, h``); these are all columns of open-metric-learning's tables. Column names are case-insensitive and may be
    one of :data:`ALIASES`; the notes say which alias was used. Labels may be numbers or text. ``validation`` is read as split
    ``val``. Without a split column, one of :data:`TRAIN_FLAGS` tells training rows from others, else all rows have split ``all``.

    Relative paths start from ``root`` and must stay inside it: a path that leaves it through ``..`` is refused, so that
    a foreign table cannot reach other files. Absolute paths are used as they are.

    Args:
        source: a .csv, .tsv or .parquet file (comma, semicolon, tab or ``|``), or a DataFrame.
        root: folder that relative paths start from. Defaults to the folder of the file, or the working directory for a
            DataFrame.
        max_missing: tolerated share of missing files, and of rows whose box cannot be used, in [0, 1]; such rows are
            dropped with a note.
        labels: ``required``, or ``optional`` for images that are embedded or searched only: rows without a label then have
            the label ``""``.
        all_columns: keep the table's other columns too, as text under their own names.

    Returns:
        A catalogue with layout ``table`` and rows in the order of the table.

    Raises:
        DataError: the file cannot be read, a column is missing, a label or path is empty, a path leaves the root, or
            too many files are missing or boxes unusable.
    """
    check_switches(all_columns=all_columns)
    file = load_table(source)
    base = Path(root) if root is not None else (Path.cwd() if isinstance(source, pd.DataFrame) else Path(source).parent)
    columns = table_columns(file, labels)
    if file.frame.empty:
        raise DataError(f"{file.name} has no rows. Give one row for each image.")
    if labels == "required":
        label: object = file.filled(columns["label"], "label")
    else:
        label = texts(file.frame[columns["label"]]).fillna("") if "label" in columns else ""
    table = pd.DataFrame({"path": file.filled(columns["path"], "path"), "label": label})
    table["path"] = _inside(table["path"], file)
    table["split"] = _splits(file, columns)
    for name in OPTIONAL:
        if name in columns and name not in BOX:
            flag = name in ("is_query", "is_gallery")
            table[name] = file.true_or_false(columns[name], name) if flag else texts(file.frame[columns[name]])
    boxes = _boxes(file)
    if all_columns:
        used = {str(column) for column in columns.values()} | (set() if boxes is None else BOX_NAMES)
        others = [column for column in file.frame if str(column) not in used and str(column).lower() not in used]
        table = table.assign(
            **{str(column): texts(file.frame[column]) for column in others if str(column) not in table}
        )
    notes = file.notes
    table = query_and_gallery(table if boxes is None else table.join(boxes), notes)
    paths, exist, respelled = matching_paths(base, table["path"].tolist())
    table = named_in_nfc(table.assign(path=paths), notes)
    there, lost = drop_missing(base, paths, share=max_missing, source=file.name, there=exist)
    usable, skipped = _usable_boxes(table, file, max_missing)
    there &= usable
    if skipped:
        notes.append(
            f"{len(skipped)} of {counted(len(table), 'row')} {agreeing(len(table), 'have')} a box that cannot be used and "
            f"{agreeing(len(table), 'were')} left out"
        )
    table = table[there].reset_index(drop=True)
    repeated = int(table.duplicated(["path", *(column for column in BOX if column in table.columns)]).sum())
    if repeated:
        notes.append(f"{counted(repeated, 'row')} repeat{'s' * (repeated == 1)} an image that the table already has")
    notes += [*respelled, *lost, *_several_labels(table)]
    return Catalogue(table=table, root=base, layout="table", notes=tuple(notes), skipped=skipped)


def _splits(file: TableFile, columns: Mapping[str, object]) -> pd.Series | str:
    """The split of each row, or the one of all rows; a note where that is read from flags, or names neither training nor test rows."""
    if "split" in columns:
        splits = file.filled(columns["split"], "split").map(normal_split)
        names = sorted(set(splits))
        if not {"train", "val", "test", EVERYTHING} & set(names):
            shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
            file.notes.append(
                f"no split is called train or test: they are {shown}. Write train and test for those that are"
            )
        return splits
    flag = next((name for name in TRAIN_FLAGS if name in file.columns), None)
    if flag is None:
        return EVERYTHING
    own = file.columns[flag]
    file.filled(own, flag)  # an empty cell is no answer here
    yes, no = TRAIN_FLAGS[flag]
    file.notes.append(f"column {own!r} was read as split: true is {yes}, false is {no}")
    return file.true_or_false(own, flag).map({True: yes, False: no})


def _several_labels(table: pd.DataFrame) -> list[str]:
    """A note about labels that look like lists, because an image has one label."""
    labels = table["label"].unique()
    several = [label for label in labels if any(mark in label.strip(";|") for mark in ";|") or _is_list(label)]
    if not several:
        return []
    words = (
        "1 label looks like several in one cell and is one class"
        if len(several) == 1
        else (f"{len(several)} labels look like several in one cell and are one class each")
    )
    return [f"{words}, such as {several[0]!r}"]


def _is_list(label: str) -> bool:
    """Whether it is the text of a list, an array, a tuple or a set of several values. One expression for all would take its square."""
    inside = label[1:-1]
    if label.startswith("[") and label.endswith("]"):
        return _IN_LIST.search(inside) is not None
    return label.startswith(("(", "{")) and label.endswith((")", "}")) and _IN_TUPLE.search(inside) is not None


def _boxes(file: TableFile) -> pd.DataFrame | None:
    """The box columns as numbers, with corners; None without boxes."""
    columns = box_columns(file.frame, file.columns, file.notes)
    if columns is None:
        return None
    boxes = pd.DataFrame({str(name): _numbers(columns[name], str(name), file) for name in columns})
    if "w" in boxes:
        boxes = boxes.assign(x_2=boxes["x_1"] + boxes["w"], y_2=boxes["y_1"] + boxes["h"])
    return boxes[list(BOX)]


def _numbers(values: pd.Series, column: str, file: TableFile) -> pd.Series:
    cells = texts(values)
    numbers = pd.to_numeric(cells, errors="coerce").astype(float)
    wrong = np.flatnonzero(numbers.isna() & cells.notna())
    if len(wrong):
        raise DataError(f"{file.name}: {column} is no number in {file.where(wrong)}. Boxes are pixels.")
    return numbers


def _usable_boxes(table: pd.DataFrame, file: TableFile, max_share: float) -> tuple[Flags, tuple[Skipped, ...]]:
    """Which rows have no box or a usable one, (N,) bool, and the others with the reason.

    Raises:
        DataError: no box can be used, or more than ``max_share`` of the rows have one that cannot.
    """
    usable = np.ones(len(table), dtype=bool)
    if not all(column in table for column in BOX):
        return usable, ()
    wrong = faults(table[list(BOX)].to_numpy(dtype=np.float64))
    usable[list(wrong)] = False
    if len(wrong) > max_share * len(table) or (wrong and not usable.any()):
        row, reason = next(iter(wrong.items()))
        raise DataError(
            f"{file.name}: {len(wrong)} of {counted(len(table), 'box')} cannot be used, first in {file.where(np.array([row]))}: "
            f"{reason}. Boxes are x_1, y_1, x_2, y_2 in pixels, right and bottom exclusive."
        )
    paths = table["path"].tolist()
    return usable, tuple(Skipped(paths[row], reason) for row, reason in wrong.items())


def has_columns(path: Path, labels: Labels = "required") -> bool:
    """Whether a file is a table with a path and, if required, a label column."""
    try:
        table_columns(load_table(path, header_only=True), labels)
    except DataError:
        return False
    return True


def table_columns(file: TableFile, labels: Labels) -> dict[str, object]:
    """Map our name of each column to the table's.

    Raises:
        DataError: there is no path column, or labels are required and there is no label column.
    """
    given = file.columns
    columns = {column: given[column] for column in ("path", "label", "split", *OPTIONAL) if column in given}
    form = box_names(given)
    taken = () if form is None else form[0]  # y of a box is no label
    for column, aliases in ALIASES.items():
        alias = next((alias for alias in aliases if alias in given and alias not in taken), None)
        if column not in columns and alias is not None:
            columns[column] = given[alias]
            file.notes.append(f"column {given[alias]!r} was read as {column}")
    names = [str(own) for own in file.frame.columns]
    if not {"path", "label"} & set(columns) and any(is_image(name) for name in names):
        raise DataError(
            f"{file.name} has no header: its first line is {', '.join(names[:12])}. Add a first line that names the "
            "columns, such as path,label."
        )
    _check_separated(names, columns, file.name)
    for column in ("path", "label") if labels == "required" else ("path",):
        if column not in columns:
            raise DataError(
                f"{file.name} has no column {column!r}; it has {', '.join(names[:12])}. {_nearest_column(column, names)}"
                f"Rename the one that holds the {'image paths' if column == 'path' else 'labels'} to {column!r}."
            )
    return columns


def _check_separated(names: list[str], columns: Mapping[str, object], name: str) -> None:
    """Raise for a table whose lines are one cell each.

    Such as ``a/0.png 0``, since a path may hold spaces, so they separate nothing; or whole lines in quotes, as spreadsheets write cells
    that hold lines of a CSV file.
    """
    cells = names[0].split() if len(names) == 1 and not columns else []
    known = {alias for column, aliases in ALIASES.items() for alias in (column, *aliases)}
    parts = re.split(r"[\t;,|]", names[0]) if cells else []
    if len(parts) > 1 and any(part.strip().lower() in known or is_image(part) for part in parts):
        raise DataError(
            f"{name} has its whole first line {names[0]!r} in one cell: there are quotes around whole lines. Take them out, or split the "
            "cells into columns before saving."
        )
    if len(cells) > 1 and any(is_image(cell) or cell.lower() in known for cell in cells):
        raise DataError(
            f"{name} has spaces between its cells: its first line is {names[0]!r}. Put commas or tabs there, and begin with a line that "
            "names the columns, such as path,label."
        )


def _nearest_column(column: str, names: list[str]) -> str:
    text = did_you_mean(column, names)
    return f"{text} " if text.startswith("Did") else ""


def _inside(paths: pd.Series, file: TableFile) -> pd.Series:
    """Normalise paths and refuse those that leave the table's folder, written with / or with Windows' backslash."""
    plain = pd.Series([posixpath.normpath(path) for path in paths], dtype=object)
    outside = np.flatnonzero([_leaves(path) or _leaves(path.replace("\\", "/")) for path in plain])
    if len(outside):
        raise DataError(
            f"{file.name}: {len(outside)} paths leave the table's folder ({file.where(outside)}: "
            f"{paths.iloc[outside[0]]!r}). "
            "Move the table to the folder that its paths start from, or write absolute paths."
        )
    return plain


def _leaves(path: str) -> bool:
    path = posixpath.normpath(path)
    return path == ".." or path.startswith("../") or "\0" in path
