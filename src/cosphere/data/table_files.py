"""Load table files as DataFrames of text, and check single columns; errors name the lines."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cosphere._types import Integers
from cosphere.data.listing import is_image
from cosphere.disk import check_waits
from cosphere.errors import DataError, agreeing, counted
from cosphere.files import is_utf8, path_of, printable

MOST_REPEATED_ROWS = 1_000_000
"""Rows that a Parquet file may have whatever its size."""
TABLE_SUFFIXES = {".csv", ".tsv", ".txt", ".parquet", ".pq"}

# The mark of UTF-32 begins with that of UTF-16, so it comes first.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    **dict.fromkeys((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),
    **dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
}
_EXCEL_SEPARATOR = re.compile(r'\s*"?sep=(.)"?[,;]* *', re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class TableFile:
    """A table as it was read, with what messages need."""

    frame: pd.DataFrame
    name: str
    """Of the file, or "the DataFrame"."""
    lines: Integers | None
    """(N,) the line of each row in the file, from 1; None for tables without lines, whose rows count from 0."""
    notes: list[str] = field(default_factory=list)
    """What was assumed, one sentence each."""

    def where(self, rows: Integers) -> str:
        """Format row numbers for a message, as lines of the file where it has lines: ``lines 3, 4``."""
        numbers = rows if self.lines is None else self.lines[rows]
        unit = "row" if self.lines is None else "line"
        shown = ", ".join(map(str, numbers[:5].tolist())) + (", ..." if len(numbers) > 5 else "")
        return f"{unit}{'s' if len(numbers) > 1 else ''} {shown}"

    def column(self, name: str) -> object | None:
        """The table's own name of a column, ignoring case; None where there is no such column."""
        return self.columns.get(name)

    @property
    def columns(self) -> dict[str, object]:
        """The table's own name of each column by its lower-case name; of two equal names the first."""
        return {_plain(column).lower(): column for column in reversed(list(self.frame.columns))}

    def filled(self, column: object, what: str) -> pd.Series:
        """Convert the cells of a required column to text.

        Raises:
            DataError: some cells are empty; the error names their lines.
        """
        cells = texts(self.frame[column])
        empty = np.flatnonzero(cells.isna())
        if len(empty):
            raise DataError(
                f"{self.name}: {len(empty)} of {counted(len(cells), 'row')} {agreeing(len(cells), 'have')} no {what} "
                f"({self.where(empty)}). Fill them in or remove the rows."
            )
        return cells

    def true_or_false(self, column: object, what: str) -> pd.Series:
        """Convert a column of true, false, yes, no, 1 or 0 to booleans.

        Empty cells are False: open-metric-learning leaves those of training rows empty.

        Raises:
            DataError: a cell has another value.
        """
        values_of = dict.fromkeys(("true", "1", "1.0", "yes"), True)  # pandas writes 1.0 in a column with gaps
        values_of |= dict.fromkeys(("false", "0", "0.0", "no", "nan"), False)
        cells = texts(self.frame[column]).map(lambda text: "false" if text is None else text.lower())
        wrong = np.flatnonzero(~cells.isin(values_of))
        if len(wrong):
            raise DataError(
                f"{self.name}: {what} is {cells.iloc[wrong[0]]!r} in {self.where(wrong)}. Write True or False."
            )
        return cells.map(values_of).astype(bool)


def texts(values: pd.Series) -> pd.Series:
    """Convert cells to text: whole numbers without ``.0``, empty and missing cells as None.

    Raises:
        DataError: a cell is not UTF-8, such as a name that the disk has in another encoding.
    """
    if pd.api.types.is_float_dtype(values) and (whole := values.dropna()).mod(1).eq(0).all():
        # pandas reads a column of ids with a gap as 7.0; above 2^53 a float does not hold every whole number
        values = values.astype("Int64") if whole.abs().le(2**53).all() else values
    cells = [None if missing else _text(value) for value, missing in zip(values, values.isna(), strict=True)]
    odd = [row for row, cell in enumerate(cells) if cell is not None and not is_utf8(cell)]
    if odd:  # only a DataFrame can hold them; pandas and Arrow cannot store them as text
        rows = f"row{'s' * (len(odd) > 1)} {', '.join(map(str, odd[:5]))}{', ...' if len(odd) > 5 else ''}"
        raise DataError(
            f"column {str(values.name)!r} has names that are not UTF-8 in {rows}, first {printable(cells[odd[0]] or '')}. Rename them, "
            "for example with: convmv -f latin1 -t utf8 -r --notest FOLDER"
        )
    return pd.Series([cell or None for cell in cells], dtype=object)


def _text(value: Any) -> str:
    """A cell as text; 7.0 among other values is 7, as in Python, where they are equal."""
    if isinstance(value, float | np.floating | Decimal) and abs(float(value)) <= 2**53 and value == int(value):
        value = int(value)
    return str(value).strip()


_ARCHIVES = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")


def _instead(path: Path) -> str:
    """What to give instead of a file that is no table."""
    suffix = path.suffix.lower()
    if suffix in _ARCHIVES:
        return "It looks like an archive: unpack it, or pack the images as .zip."
    if suffix in _SHEETS:
        return "It looks like a spreadsheet: save it as CSV."
    if is_image(path.name):
        return "It looks like an image: give the folder that holds the images."
    return "Give .csv, .tsv or .parquet."


def load_table(source: str | Path | pd.DataFrame, *, header_only: bool = False) -> TableFile:
    """Load a table.

    Text may be UTF-8, UTF-16 or Windows-1252, with commas, semicolons, tabs or ``|`` between cells, and may begin with Excel's
    ``sep=;``. Cells are not converted: class 007 is not class 7, and a class may be named NA or None.

    Args:
        source: a .csv, .tsv, .txt or .parquet file, or a DataFrame.
        header_only: read no row but the first.

    Raises:
        DataError: the file cannot be read as a table.
    """
    if isinstance(source, pd.DataFrame):
        return _each_column_once(TableFile(source.reset_index(drop=True), "the DataFrame", None))
    path = path_of(source)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(f"{path.name} is no table that Cosphere reads. {_instead(path)}")
    try:
        check_waits(path)
        if path.suffix.lower() in {".parquet", ".pq"}:
            return TableFile(_read_parquet(path), path.name, None)
        with path.open("rb") as file:
            content = file.read(2**16 if header_only else -1)
        return _each_column_once(_parse(content, path.name, 1 if header_only else None))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check the path.") from None
    except PermissionError:
        raise DataError(f"{path} may not be read: permission denied. Change its rights.") from None
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        raise DataError(f"{path.name} cannot be read as a table: {str(error).strip().splitlines()[0]}.") from error


def _read_parquet(path: Path) -> pd.DataFrame:
    """The rows of a Parquet file.

    Raises:
        ValueError: a few bytes stand for many rows, which would fill the memory. Rows that name different images take a byte or more.
    """
    from pyarrow import parquet

    rows = parquet.read_metadata(path).num_rows
    if rows > max(MOST_REPEATED_ROWS, path.stat().st_size):
        raise ValueError(
            f"it has {path.stat().st_size:,} bytes and stands for {rows:,} rows, so they are nearly all equal"
        )
    return pd.read_parquet(path)


def _each_column_once(file: TableFile) -> TableFile:
    """Keep the first of several columns of one name, with a note."""
    again = file.frame.columns.duplicated()
    if not again.any():
        return file
    names = list(dict.fromkeys(str(name) for name in file.frame.columns[again]))
    several = ", ".join(map(repr, names))
    first = "its first one was" if len(names) == 1 else "the first one of each was"
    file.notes.append(
        f"column{'s' * (len(names) > 1)} {several} {agreeing(len(names), 'are')} there more than once; {first} read"
    )
    return replace(file, frame=file.frame.loc[:, ~again])


def _parse(content: bytes, name: str, rows: int | None) -> TableFile:
    """Parse a file of separated cells.

    Raises:
        ValueError: the text cannot be decoded, is empty, or a row has more cells than the header.
    """
    notes: list[str] = []
    text, _ = decoded(content, notes, whole=rows is None)
    skip, separator = separation(text)
    # A quote after a space still quotes: path, "a"
    reader = csv.reader(lines_of(text)[skip:], delimiter=separator, skipinitialspace=True)
    header = [_plain(cell) for cell in next(reader)]
    cells: list[list[str]] = []
    numbers: list[int] = []
    for row in reader:
        if any(row):
            cells.append(_fitted(row, len(header), reader.line_num + skip))
            numbers.append(reader.line_num + skip)
            if rows is not None and len(cells) == rows:
                break
    table = np.array(cells, dtype=object).reshape(-1, len(header))  # a frame of many empty columns takes seconds
    filled = (table != "").any(axis=0)
    keep = [place for place, column in enumerate(header) if column or filled[place]]
    frame = pd.DataFrame(table[:, keep], columns=[header[place] for place in keep], dtype=object)
    return TableFile(frame, name, np.array(numbers, dtype=np.int64), notes)


def lines_of(text: str) -> list[str]:
    """Lines with their ends; ``str.splitlines`` also breaks at form feeds and Unicode's separators, which are characters of a cell."""
    return list(io.StringIO(text, newline=""))


def separation(text: str) -> tuple[int, str]:
    """How many lines stand before the header, and what separates cells.

    Raises:
        ValueError: there is no header.
    """
    lines = [line.rstrip("\r\n") for line in lines_of(text)]
    separator = None
    skip = next((place for place, line in enumerate(lines) if line.strip()), len(lines))
    own = _EXCEL_SEPARATOR.fullmatch(lines[skip]) if skip < len(lines) else None
    if own is not None:
        separator, skip = own[1], skip + 1  # Excel's own line; the next one is the header
    if len(lines) <= skip or not lines[skip].strip():
        raise ValueError("it has no header")
    return skip, separator or max("\t;,|", key=lines[skip].count)


def _fitted(row: list[str], width: int, line: int) -> list[str]:
    """The cells of a row, brought to the width of the header; a comma at the end of a line adds empty cells."""
    if any(row[width:]):
        raise ValueError(f"line {line} has {len(row)} cells, and the header has {width}")
    return row[:width] + [""] * (width - len(row))


def decoded(content: bytes, notes: list[str], *, whole: bool) -> tuple[str, str]:
    """Decode by byte order mark, as UTF-8, as UTF-16 (every other byte is 0) or as Windows-1252, with a note; and the encoding.

    Raises:
        ValueError: it is none of them, or holds characters 0.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)
    if encoding is None:
        zeros = content[:64:2].count(0), content[1:64:2].count(0)
        if max(zeros) and 3 * max(zeros) >= len(
            content[:64]
        ):  # a third, because letters of other alphabets have no byte of 0
            encoding = "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    try:
        # A part of a file may end inside a character.
        text = codecs.getincrementaldecoder(encoding or "utf-8")().decode(content, final=whole)
    except UnicodeDecodeError as error:
        if encoding is not None:
            raise ValueError(f"it begins as {encoding.upper()} and is not. Save it as UTF-8") from error
        encoding, text = "cp1252", _from_windows(content)
    if "\0" in text:
        raise ValueError("it holds bytes of 0, so it was cut off or is no text; copy it again")
    if encoding != "cp1252":
        return text, encoding or "utf-8"
    notes.append("the table is not UTF-8 and was read as Windows-1252; save it as UTF-8 if names look wrong")
    return text, "cp1252"


def _from_windows(content: bytes) -> str:
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8, UTF-16 or Windows-1252. Save it as UTF-8") from error


def _plain(cell: object) -> str:
    return unicodedata.normalize("NFC", str(cell).strip())
