"""Load table files as DataFrames of text, and check single columns; errors name the lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cosphere._types import Integers
from cosphere.errors import DataError

TABLE_SUFFIXES = {".csv", ".tsv", ".txt", ".parquet", ".pq"}


def load_table(source: str | Path | pd.DataFrame, rows: int | None = None) -> tuple[pd.DataFrame, int, str]:
    """Load a table unchanged; also return the line number of its first row and its name, for messages.

    Args:
        source: a .csv, .tsv, .txt or .parquet file (comma, semicolon or tab), or a DataFrame.
        rows: number of rows to read; None for all.

    Raises:
        DataError: the file cannot be read as a table.
    """
    if isinstance(source, pd.DataFrame):
        return source.reset_index(drop=True), 0, "the DataFrame"
    path = Path(source)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(f"{path.name} is no table that Cosphere reads. Give .csv, .tsv or .parquet.")
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            return pd.read_parquet(path), 0, path.name
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max("\t;,", key=header.count)
        # All cells as text: class 007 is not class 7, and a class may be named NA or None.
        frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", nrows=rows)
        return frame, 2, path.name
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check the path.") from None
    except PermissionError:
        raise DataError(f"{path} may not be read: permission denied. Change its rights.") from None
    except (OSError, ValueError) as error:  # pandas' and pyarrow's parser errors are ValueErrors
        raise DataError(f"{path.name} cannot be read as a table: {str(error).strip().splitlines()[0]}.") from error


def texts(values: pd.Series) -> pd.Series:
    """Convert cells to text: whole numbers without ``.0``, empty and missing cells as None."""
    if pd.api.types.is_float_dtype(values) and values.dropna().mod(1).eq(0).all():
        values = values.astype("Int64")  # pandas reads a column of ids with a gap as 7.0
    cells = [None if missing else str(value).strip() for value, missing in zip(values, values.isna(), strict=True)]
    return pd.Series([cell or None for cell in cells], dtype=object)


def where(rows: Integers, first_row: int) -> str:
    """Format row numbers for a message, counted as an editor shows them: ``lines 3, 4``."""
    shown = ", ".join(str(row + first_row) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    return f"{'line' if first_row else 'row'}{'s' if len(rows) > 1 else ''} {shown}"


def filled(values: pd.Series, column: str, first_row: int, name: str) -> pd.Series:
    """Convert the cells of a required column to text.

    Raises:
        DataError: some cells are empty; the error names their lines.
    """
    cells = texts(values)
    empty = np.flatnonzero(cells.isna())
    if len(empty):
        raise DataError(
            f"{name}: {len(empty)} of {len(cells)} rows have no {column} ({where(empty, first_row)}). Fill them in or "
            "remove the rows."
        )
    return cells


def true_or_false(values: pd.Series, column: str, first_row: int, name: str) -> pd.Series:
    """Convert a column of true, false, yes, no, 1 or 0 to booleans.

    Empty cells are False: open-metric-learning leaves those of training rows empty.

    Raises:
        DataError: a cell has another value.
    """
    values_of = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "nan": False}
    cells = texts(values).map(lambda text: "false" if text is None else text.lower())
    wrong = np.flatnonzero(~cells.isin(values_of))
    if len(wrong):
        raise DataError(
            f"{name}: {column} is {cells.iloc[wrong[0]]!r} in {where(wrong, first_row)}. Write True or False."
        )
    return cells.map(values_of).astype(bool)
