"""Read any supported data source: a folder, a table, an archive or the root of a published data set."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cosphere.data.catalogue import EVERYTHING, Catalogue
from cosphere.data.folders import read_archive, read_folder
from cosphere.data.layouts import LAYOUTS, find_layout, read_layout
from cosphere.data.listing import is_stray, scan
from cosphere.data.table_files import TABLE_SUFFIXES
from cosphere.data.tables import MAX_MISSING, has_columns, read_table
from cosphere.errors import DataError, SettingsError, did_you_mean
from cosphere.images import container_of
from cosphere.images.containers import Container


def read_catalogue(
    source: str | Path | pd.DataFrame,
    *,
    layout: str = "auto",
    root: str | Path | None = None,
    strict: bool = False,
    max_missing: float = MAX_MISSING,
) -> Catalogue:
    """Read a data source as a catalogue.

    With ``layout="auto"`` the first of these that fits is used: a table file or DataFrame; a zip archive of class
    folders, a RecordIO file or a CIFAR batch; the layout of a published data set, in the folder or in one folder inside
    it; a folder with exactly one table that has a path and a label column; class folders.

    Args:
        source: an image folder, a .csv, .tsv or .parquet file, a DataFrame, a .zip or .rec file, or the root of
            CUB-200-2011, Cars196, Stanford Online Products, In-Shop, CIFAR-10 or CIFAR-100.
        layout: ``auto``, ``folder``, ``table`` or the name of a published data set from :data:`cosphere.data.LAYOUTS`.
        root: folder that the relative paths of a table start from. Defaults to the folder of the table.
        strict: whether a published data set must be exactly as published, with all listed files present.
        max_missing: tolerated share of missing files, in [0, 1].

    Returns:
        The catalogue. Its ``notes`` say what was assumed and ignored, its ``differences`` where it is not as
        published.

    Raises:
        SettingsError: there is no such layout.
        DataError: the source cannot be read as a data set.
    """
    layouts = ["auto", "folder", "table", *LAYOUTS]
    if layout not in layouts:
        raise SettingsError(f"there is no layout {layout!r}. {did_you_mean(layout, layouts)}")
    share = 0.0 if strict else max_missing
    if isinstance(source, pd.DataFrame):
        return read_table(source, root=root, max_missing=share)
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(
            f"{path} does not exist. Give a folder of images, a table, or the root of a published data set."
        )
    container = container_of(path) if path.is_file() else None
    if container is not None and layout in ("auto", "folder"):
        return read_container(container, path)
    if layout == "table" or (path.is_file() and layout == "auto"):
        return read_table(_table_in(path) if path.is_dir() else path, root=root, max_missing=share)
    if not path.is_dir():
        raise DataError(f"{path} is a file, and layout {layout!r} wants a folder.")
    if layout == "folder":
        return read_folder(path)
    return _read_known_or_guess(path, layout, strict=strict, share=share)


def read_container(container: Container, path: Path) -> Catalogue:
    """Read one container as a data set: a zip archive by its folders, other formats by their own labels.

    Args:
        container: the kind of file.
        path: the file.

    Raises:
        DataError: the file is damaged or empty, or its format has no labels.
        MissingExtraError: the format needs an optional package.
    """
    if container.has_paths:
        return read_archive(path)
    if container.labels is None:
        raise DataError(
            f"a {container.name} such as {path.name} holds images without labels. Give a table with path "
            f"({path.name}#1) and label."
        )
    names = [f"{path.name}#{item}" for item in container.items(path)]
    if not names:
        raise DataError(f"there is no image in {path}. Copy or download it again.")
    table = pd.DataFrame({"path": names, "label": container.labels(path), "split": EVERYTHING})
    return Catalogue(table=table, root=path.parent, layout="container")


def _read_known_or_guess(path: Path, layout: str, *, strict: bool, share: float) -> Catalogue:
    published = find_layout(path, None if layout == "auto" else layout)
    if published is not None:
        return read_layout(*published, given=path, strict=strict, max_missing=share)
    tables = _tables(path)
    if len(tables) == 1:
        catalogue = read_table(tables[0], max_missing=share)
        note = f"read from {tables[0].name} inside the folder; layout='folder' reads the class folders instead"
        return Catalogue(table=catalogue.table, root=catalogue.root, layout="table", notes=(note, *catalogue.notes))
    return read_folder(path)


def _tables(folder: Path) -> list[Path]:
    """The tables in a folder that have a path and a label column."""
    files = [Path(entry.path) for entry in scan(folder) if not is_stray(entry.name) and entry.is_file()]
    # A .txt file may be anything, so it is read as a table only if the user names it.
    return sorted(file for file in files if file.suffix.lower() in TABLE_SUFFIXES - {".txt"} and has_columns(file))


def _table_in(folder: Path) -> Path:
    tables = _tables(folder)
    if len(tables) != 1:
        names = ", ".join(table.name for table in tables) or "none"
        raise DataError(f"{folder} should hold one table with path and label, found {names}. Name the table itself.")
    return tables[0]
