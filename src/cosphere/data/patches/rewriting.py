"""A table with changed labels: lines that do not change stay as they are."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cosphere.data.names import nfc
from cosphere.data.patches.proposal import REMOVE, Change
from cosphere.data.spelling import matching_paths
from cosphere.data.table_files import TableFile, decoded, lines_of, separation, texts
from cosphere.data.tables import table_columns
from cosphere.errors import DataError


class _Places(NamedTuple):
    """The columns that a patch reads and writes, by number."""

    path: int
    label: int
    name: int | None
    """Of the class's display name, which changes with the label."""


def rewritten(path: Path, before: bytes, changes: Sequence[Change], root: Path) -> bytes:
    """The bytes of a table after a patch.

    Args:
        path: of the table, for its kind.
        before: its bytes.
        changes: of images in it.
        root: folder that its paths start from.

    Raises:
        DataError: it cannot be read as a table, or a change fits none of its lines.
    """
    by_image = {(change.path, change.label): change for change in changes}
    if path.suffix.lower() in {".parquet", ".pq"}:
        return _parquet(before, by_image, path.name, root)
    try:
        text, encoding = decoded(before, [], whole=True)
        skip, separator = separation(text)
    except ValueError as error:
        raise DataError(f"{path.name} cannot be read as a table: {error}.") from error
    lines = lines_of(text)
    reader = csv.reader(lines[skip:], delimiter=separator, skipinitialspace=True)
    places = _places(next(reader), path.name)
    kept, start, rows = lines[: skip + reader.line_num], reader.line_num, []
    for row in reader:
        rows.append((row, lines[skip + start : skip + reader.line_num]))
        start = reader.line_num
    keys = _keys(root, *zip(*(_image(row, places) for row, _ in rows), strict=True))
    _check_found(by_image, keys, path.name)
    names = _display_names([row for row, _ in rows], keys, places)
    for (row, here), key in zip(rows, keys, strict=True):
        change = by_image.get(key)
        if change is None:
            kept += here
        elif change.action != REMOVE:
            row[places.label] = change.new_label
            if places.name is not None:
                row[places.name] = names.get(change.new_label, change.new_label)
            kept.append(_line(row, separator, here[-1]))
    return "".join(kept).encode(encoding)


def _keys(root: Path, paths: Sequence[str], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Path and label of each line as the catalogue has them; the disk may write a path in another way."""
    found, _, _ = matching_paths(root, [posixpath.normpath(path) for path in paths])
    return list(zip(found, map(nfc, labels), strict=True))


def _check_found(by_image: Mapping[tuple[str, str], Change], keys: Sequence[tuple[str, str]], name: str) -> None:
    lost = set(by_image).difference(keys)
    if lost:
        image, label = min(lost)
        raise DataError(f"{name} has no line for {image} with label {label!r} as written there. Change it by hand.")


def _places(header: list[str], name: str) -> _Places:
    file = TableFile(pd.DataFrame([], columns=[cell.strip() for cell in header]), name, None)
    columns = table_columns(file, "required")
    order = [cell.strip() for cell in header]
    display = columns.get("class_name")
    path, label = (order.index(str(columns[one])) for one in ("path", "label"))
    name_place = None if display is None or display == columns["label"] else order.index(str(display))
    return _Places(path, label, name_place)


def _image(row: list[str], places: _Places) -> tuple[str, str]:
    """The cells of path and label; empty ones of a short line."""
    if len(row) <= max(places.path, places.label):
        return "", ""
    return row[places.path].strip(), row[places.label].strip()


def _display_names(rows: list[list[str]], keys: Sequence[tuple[str, str]], places: _Places) -> dict[str, str]:
    """The display name of each label."""
    place = places.name
    if place is None:
        return {}
    return {label: row[place] for row, (_, label) in zip(rows, keys, strict=True) if len(row) > place}


def _line(row: list[str], separator: str, last: str) -> str:
    """A line of a table, ended as the line that it replaces."""
    ending = last[len(last.rstrip("\r\n")) :]
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=ending).writerow(row)
    return text.getvalue()


def _parquet(before: bytes, by_image: Mapping[tuple[str, str], Change], name: str, root: Path) -> bytes:
    """In the types of Arrow: pandas would lose an index, and turn whole numbers beside an empty cell into floats."""
    from pyarrow import array, parquet

    table = parquet.ParquetFile(io.BytesIO(before)).read()
    frame = table.to_pandas()
    columns = table_columns(TableFile(frame, name, None), "required")
    keys = _keys(root, *([cell or "" for cell in texts(frame[columns[one]])] for one in ("path", "label")))
    _check_found(by_image, keys, name)
    changes = [by_image.get(key) for key in keys]
    labels = {row: one.new_label for row, one in enumerate(changes) if one is not None and one.action != REMOVE}
    display = columns.get("class_name")
    if display is not None and display != columns["label"]:
        names = dict(zip((label for _, label in keys), table.column(str(display)).to_pylist(), strict=True))
        table = _with_cells(table, str(display), {row: names.get(new, new) for row, new in labels.items()}, name)
    table = _with_cells(table, str(columns["label"]), labels, name)
    kept = [change is None or change.action != REMOVE for change in changes]
    written = io.BytesIO()
    parquet.write_table(table if all(kept) else table.filter(array(kept)), written)
    return written.getvalue()


def _with_cells(table: Any, column: str, cells: Mapping[int, Any], name: str) -> Any:
    """An Arrow table with other cells in some rows of a column, whose type stays.

    Raises:
        DataError: a text cannot be converted to the type.
    """
    import pyarrow

    place = table.schema.get_field_index(column)
    field, values = table.schema.field(place), table.column(place).to_pylist()
    kind = field.type.value_type if pyarrow.types.is_dictionary(field.type) else field.type
    for row, cell in cells.items():
        try:
            values[row] = pyarrow.scalar(cell).cast(kind).as_py() if isinstance(cell, str) else cell
        except pyarrow.ArrowException as error:
            raise DataError(
                f"{name} holds values of type {kind} in column {column!r}; {cell!r} is not one. Give a label of that type."
            ) from error
    return table.set_column(place, field, pyarrow.array(values, type=field.type))
