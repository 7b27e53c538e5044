"""Read a table of images: CSV, TSV, Parquet or a DataFrame."""

from __future__ import annotations

import posixpath
from pathlib import Path

import numpy as np
import pandas as pd

from cosphere.data.catalogue import BOX, EVERYTHING, OPTIONAL, Catalogue, normal_split
from cosphere.data.folders import query_and_gallery
from cosphere.data.listing import drop_missing
from cosphere.data.table_files import filled, load_table, texts, true_or_false, where
from cosphere.errors import DataError, did_you_mean

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

MAX_MISSING = 0.01
"""Largest tolerated share of missing files, so that a truncated download is not taken for the whole data set."""


def read_table(
    source: str | Path | pd.DataFrame, *, root: str | Path | None = None, max_missing: float = MAX_MISSING
) -> Catalogue:
    """Read a table with one row per image.

    Required columns: ``path`` and ``label``. Optional columns: ``split``, ``is_query``, ``is_gallery``, ``category``,
    ``sequence``, ``class_name`` and the box ``x_1, y_1, x_2, y_2`` in pixels; these are all columns of
    open-metric-learning's tables. Column names are case-insensitive and may be one of :data:`ALIASES`; the notes say
    which alias was used. Labels may be numbers or text. Without a split column all rows have split ``all``;
    ``validation`` is read as ``val``.

    Relative paths start from ``root`` and must stay inside it: a path that leaves it through ``..`` is refused, so that
    a foreign table cannot reach other files. Absolute paths are used as they are.

    Args:
        source: a .csv, .tsv or .parquet file (comma, semicolon or tab), or a DataFrame.
        root: folder that relative paths start from. Defaults to the folder of the file, or the working directory for a
            DataFrame.
        max_missing: tolerated share of missing files, in [0, 1]; rows without a file are dropped with a note.

    Returns:
        A catalogue with layout ``table`` and rows in the order of the table.

    Raises:
        DataError: the file cannot be read, a column is missing, a label or path is empty, a path leaves the root, or
            too many files are missing.
    """
    frame, first_row, name = load_table(source)
    base = Path(root) if root is not None else (Path.cwd() if isinstance(source, pd.DataFrame) else Path(source).parent)
    if frame.empty:
        raise DataError(f"{name} has no rows. Give one row for each image.")
    notes: list[str] = []
    columns = _columns(frame, name, notes)
    labels, paths = (filled(frame[columns[column]], column, first_row, name) for column in ("label", "path"))
    table = pd.DataFrame({"path": paths, "label": labels})
    table["path"] = _inside(table["path"], first_row, name)
    table["split"] = _splits(frame[columns["split"]], first_row, name) if "split" in columns else EVERYTHING
    for column in OPTIONAL:
        if column in columns:
            table[column] = _optional(frame[columns[column]], column, first_row, name)
    if not all(column in table.columns for column in BOX):
        table = table.drop(columns=[column for column in BOX if column in table.columns])
    table = query_and_gallery(table, notes)
    there, lost = drop_missing(base, table["path"].tolist(), share=max_missing, source=name)
    repeated = int(table.duplicated(["path", *(column for column in BOX if column in table.columns)]).sum())
    if repeated:
        notes.append(f"{repeated} rows repeat an image that the table already has")
    return Catalogue(table=table[there].reset_index(drop=True), root=base, layout="table", notes=(*notes, *lost))


def has_columns(path: Path) -> bool:
    """Whether a file is a table with a path and a label column."""
    try:
        frame, _, name = load_table(path, rows=1)
        _columns(frame, name, [])
    except DataError:
        return False
    return True


def _columns(frame: pd.DataFrame, name: str, notes: list[str]) -> dict[str, str]:
    """Map our name of each column to the table's."""
    given = {str(column).strip().lower(): column for column in reversed(list(frame.columns))}
    columns = {column: given[column] for column in ("path", "label", "split", *OPTIONAL) if column in given}
    for column, aliases in ALIASES.items():
        alias = next((alias for alias in aliases if alias in given), None)
        if column not in columns and alias is not None:
            columns[column] = given[alias]
            notes.append(f"column {given[alias]!r} was read as {column}")
    for column in ("path", "label"):
        if column not in columns:
            names = [str(own) for own in frame.columns]
            raise DataError(
                f"{name} has no column {column!r}; it has {', '.join(names[:12])}. {_nearest_column(column, names)}"
                f"Rename the one that holds the {'image paths' if column == 'path' else 'labels'} to {column!r}."
            )
    return columns


def _nearest_column(column: str, names: list[str]) -> str:
    text = did_you_mean(column, names)
    return f"{text} " if text.startswith("Did") else ""


def _inside(paths: pd.Series, first_row: int, name: str) -> pd.Series:
    plain = pd.Series([posixpath.normpath(path) for path in paths], dtype=object)
    outside = np.flatnonzero([path == ".." or path.startswith("../") or "\0" in path for path in plain])
    if len(outside):
        raise DataError(
            f"{name}: {len(outside)} paths leave the table's folder ({where(outside, first_row)}: "
            f"{paths.iloc[outside[0]]!r}). "
            "Move the table up, give root, or write absolute paths."
        )
    return plain


def _splits(values: pd.Series, first_row: int, name: str) -> pd.Series:
    return filled(values, "split", first_row, name).map(normal_split)


def _optional(values: pd.Series, column: str, first_row: int, name: str) -> pd.Series:
    if column in BOX:
        numbers = pd.to_numeric(texts(values), errors="coerce").astype(float)
        wrong = np.flatnonzero(numbers.isna() & texts(values).notna())
        if len(wrong):
            raise DataError(f"{name}: {column} is no number in {where(wrong, first_row)}. Boxes are pixels.")
        return numbers
    if column in ("is_query", "is_gallery"):
        return true_or_false(values, column, first_row, name)
    return texts(values)
