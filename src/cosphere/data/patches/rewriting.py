"""A table with changed labels: lines that do not change stay as they are."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cosphere.data.names import nfc
from cosphere.data.patches.proposal import REMOVE, Change
from cosphere.data.table_files import TableFile, decoded, separation, texts
from cosphere.data.tables import table_columns
from cosphere.errors import DataError


class _Places(NamedTuple):
    """The columns that a patch reads and writes, by number."""

    path: int
    label: int
    name: int | None
    """Of the class's display name, which changes with the label."""


def rewritten(path: Path, before: bytes, changes: Sequence[Change]) -> bytes:
    """The bytes of a table after a patch.

    Args:
        path: of the table, for its kind.
        before: its bytes.
        changes: of images in it.

    Raises:
        DataError: it cannot be read as a table.
    """
    if path.suffix.lower() in {".parquet", ".pq"}:
        return _parquet(before, changes, path.name)
    try:
        text, encoding = decoded(before, [], whole=True)
        skip, separator = separation(text)
    except ValueError as error:
        raise DataError(f"{path.name} cannot be read as a table: {error}.") from error
    lines = text.splitlines(keepends=True)
    kept = lines[:skip]
    reader = csv.reader(lines[skip:], delimiter=separator, skipinitialspace=True)
    header = next(reader)
    kept += lines[skip : skip + reader.line_num]
    places = _places(header, path.name)
    by_image = {(change.path, change.label): change for change in changes}
    names = _display_names(lines[skip:], separator, places)
    start = reader.line_num
    for row in reader:
        here = lines[skip + start : skip + reader.line_num]
        start = reader.line_num
        change = by_image.get(_key(row, places))
        if change is None:
            kept += here
        elif change.action != REMOVE:
            row[places.label] = change.new_label
            if places.name is not None:
                row[places.name] = names.get(change.new_label, change.new_label)
            kept.append(_line(row, separator, here[-1]))
    return "".join(kept).encode(encoding)


def _places(header: list[str], name: str) -> _Places:
    file = TableFile(pd.DataFrame([], columns=[cell.strip() for cell in header]), name, None)
    columns = table_columns(file, "required")
    order = [cell.strip() for cell in header]
    display = columns.get("class_name")
    path, label = (order.index(str(columns[one])) for one in ("path", "label"))
    name_place = None if display is None or display == columns["label"] else order.index(str(display))
    return _Places(path, label, name_place)


def _key(row: list[str], places: _Places) -> tuple[str, str]:
    """Path and label of a line as the catalogue has them."""
    if len(row) <= max(places.path, places.label):
        return "", ""
    return posixpath.normpath(row[places.path].strip()), nfc(row[places.label].strip())


def _display_names(lines: list[str], separator: str, places: _Places) -> dict[str, str]:
    """The display name of each label."""
    if places.name is None:
        return {}
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    next(rows)
    return {_key(row, places)[1]: row[places.name] for row in rows if len(row) > places.name}


def _line(row: list[str], separator: str, last: str) -> str:
    """A line of a table, ended as the line that it replaces."""
    ending = last[len(last.rstrip("\r\n")) :]
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=ending).writerow(row)
    return text.getvalue()


def _parquet(before: bytes, changes: Sequence[Change], name: str) -> bytes:
    frame = pd.read_parquet(io.BytesIO(before))
    columns = table_columns(TableFile(frame, name, None), "required")
    paths = [posixpath.normpath(cell or "") for cell in texts(frame[columns["path"]])]
    labels = [nfc(cell or "") for cell in texts(frame[columns["label"]])]
    by_image = {(change.path, change.label): change for change in changes}
    found = [by_image.get(key) for key in zip(paths, labels, strict=True)]
    new: list[Any] = frame[columns["label"]].tolist()
    kind = frame[columns["label"]].dtype
    for row, change in enumerate(found):
        if change is not None and change.action != REMOVE:
            new[row] = change.new_label
    try:
        frame[columns["label"]] = pd.Series(new, index=frame.index).astype(kind)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{name} holds labels of type {kind}, and a new one is none: {error}. Give a label of that type."
        ) from error
    display = columns.get("class_name")
    if display is not None and display != columns["label"]:
        names = dict(zip(labels, frame[display], strict=True))
        frame[display] = [
            old if change is None or change.action == REMOVE else names.get(change.new_label, change.new_label)
            for old, change in zip(frame[display], found, strict=True)
        ]
    frame = frame[[change is None or change.action != REMOVE for change in found]]
    return bytes(frame.to_parquet(index=False))
