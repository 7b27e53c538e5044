"""Read any supported data source: a folder, a table, an archive or the root of a published data set."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd

from cosphere.checks import check_number, check_switches
from cosphere.data.catalogue import EVERYTHING, Catalogue
from cosphere.data.folders import Classes, Labels, query_and_gallery, read_archive, read_folder, read_listed, splits_of
from cosphere.data.layouts import LAYOUTS, find_layout, read_layout
from cosphere.data.listing import Listing, is_stray, list_images, scan
from cosphere.data.table_files import TABLE_SUFFIXES
from cosphere.data.tables import MAX_MISSING, has_columns, read_table
from cosphere.errors import DataError, SettingsError, agreeing, counted, did_you_mean
from cosphere.files import is_address, is_utf8, path_of, printable
from cosphere.images import container_of
from cosphere.images.containers import Container

_OWN_TABLES = {"suspects.csv", "classes.csv", "patch.csv"}
"""Tables that an evaluation writes: copied into a folder of images, they are still no list of its images."""


def read_catalogue(
    source: str | Path | pd.DataFrame,
    *,
    layout: str = "auto",
    root: str | Path | None = None,
    strict: bool = False,
    max_missing: float = MAX_MISSING,
    classes: Classes = "top",
    labels: Labels = "required",
    all_columns: bool = False,
) -> Catalogue:
    """Read a data source as a catalogue.

    With ``layout="auto"`` the first of these that fits is used: a table file or DataFrame; a zip archive of class
    folders, a RecordIO file or a CIFAR batch; the layout of a published data set, in the folder or in one folder inside
    it; a folder with exactly one table with a path and a label column; class folders. A table in a folder does not replace
    class folders if it has no labels, or names only a part of their images and labels them by the folder. Where it does, a
    note counts the images that it leaves out. A table in a folder that has no splits of its own takes those of the folders:
    ``train``, ``val`` and ``test``, and ``query`` and ``gallery``. Tables that `cosphere evaluate` writes are never taken for data.

    Args:
        source: an image folder, a .csv, .tsv or .parquet file, a DataFrame, a .zip, .rec, .pdf or .bin file, or the root of
            CUB-200-2011, Cars196, Stanford Online Products, In-Shop, CIFAR-10, CIFAR-100 or LFW.
        layout: ``auto``, ``folder``, ``table`` or the name of a published data set from :data:`cosphere.data.LAYOUTS`.
        root: folder that the relative paths of a table start from. Defaults to the folder of the table.
        strict: whether a published data set must be exactly as published, with all listed files present.
        max_missing: tolerated share of missing files and of unusable boxes, in [0, 1].
        classes: which of nested class folders is the class, ``top`` or ``leaf``; see :func:`read_folder`.
        labels: ``required``, or ``optional`` for images that are embedded or searched only: images without class folders,
            pages of a PDF, verification sets and tables without a label column then have the label ``""``.
        all_columns: keep the other columns of a table too; see :func:`read_table`.

    Returns:
        The catalogue. Its ``notes`` say what was assumed and ignored, its ``differences`` where it is not as
        published.

    Raises:
        SettingsError: there is no such layout, or another argument is out of range.
        DataError: the source cannot be read as a data set.
    """
    check_switches(strict=strict, all_columns=all_columns)
    layouts = ["auto", "folder", "table", *LAYOUTS]
    if layout not in layouts:
        raise SettingsError(f"there is no layout {layout!r}. {did_you_mean(layout, layouts)}")
    check_number("max_missing", max_missing, at_least=0, at_most=1)
    share = 0.0 if strict else max_missing
    options: _Options = {"classes": classes, "labels": labels}
    table_options: _TableOptions = {"max_missing": share, "labels": labels, "all_columns": all_columns}
    if isinstance(source, pd.DataFrame):
        return read_table(source, root=root, **table_options)
    path = _existing(source)
    container = container_of(path) if path.is_file() else None
    if container is not None and layout in ("auto", "folder"):
        return read_container(container, path, **options)
    if layout == "table" or (path.is_file() and layout == "auto"):
        if not path.is_dir():
            return read_table(path, root=root, **table_options)
        file = table_in(path, labels)
        table = read_table(file, root=root, **table_options)
        return table if root is not None else _with_splits_of_folders(table, path, file.name)
    if not path.is_dir():
        raise DataError(f"{path} is a file, and layout {layout!r} wants a folder.")
    if layout == "folder":
        return read_folder(path, **options)
    published = find_layout(path, None if layout == "auto" else layout)
    if published is not None:
        return read_layout(*published, given=path, strict=strict, max_missing=share)
    return _read_unknown(path, options, table_options)


class _TableOptions(TypedDict):
    """How a table is read."""

    max_missing: float
    labels: Labels
    all_columns: bool


class _Options(TypedDict):
    """How images without a published layout are read."""

    classes: Classes
    labels: Labels


def _existing(source: Any) -> Path:
    """The path of a source.

    Raises:
        DataError: it does not exist, cannot be reached or is not UTF-8.
    """
    if isinstance(source, list | tuple | set):
        raise DataError(
            f"a {type(source).__name__} is no data set; wanted a folder, a table or a DataFrame. Of a list of images, give "
            "pandas.DataFrame({'path': paths, 'label': labels})."
        )
    path = path_of(source)
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:  # no rights, or too long a name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{printable(source)} cannot be read: {reason}. Check the path.") from error
    if not is_utf8(str(path)):
        raise DataError(f"the name {printable(path)} is not UTF-8. Rename it, or link to it under another name.")
    if not exists and is_address(path):
        raise DataError(f"{source} is an address; wanted a folder or a file on this machine. Download it first.")
    if not exists:
        raise DataError(
            f"{path} does not exist. Give a folder of images, a table, or the root of a published data set."
        )
    return path


def read_container(
    container: Container, path: Path, *, classes: Classes = "top", labels: Labels = "required"
) -> Catalogue:
    """Read one container as a data set: a zip archive by its folders, other formats by their own labels.

    Args:
        container: the kind of file.
        path: the file.
        classes: see :func:`read_folder`.
        labels: see :func:`read_folder`.

    Raises:
        DataError: the file is damaged or empty, or labels are required and its format has none.
        MissingExtraError: the format needs an optional package.
    """
    if container.has_paths:
        return read_archive(path, classes=classes, labels=labels)
    if container.labels is None and labels == "required":
        raise DataError(
            f"a {container.name} such as {path.name} holds images without labels. Give a table with path "
            f"({path.name}#1) and label."
        )
    names = [f"{path.name}#{item}" for item in container.items(path)]
    if not names:
        raise DataError(f"there is no image in {path}. Copy or download it again.")
    own = "" if container.labels is None else container.labels(path)
    table = pd.DataFrame({"path": names, "label": own, "split": EVERYTHING})
    return Catalogue(table=table, root=path.parent, layout="container")


def _read_unknown(path: Path, options: _Options, table_options: _TableOptions) -> Catalogue:
    """Read a folder by the one table in it, unless that adds nothing to its class folders; otherwise by its class folders."""
    tables = _tables(path, options["labels"])
    if len(tables) != 1:
        try:
            return read_folder(path, **options)
        except DataError:
            unlabelled = [] if tables else _tables(path, "optional")
            if len(unlabelled) == 1:
                read_table(unlabelled[0], **table_options)  # says which column is missing
            raise
    name = tables[0].name
    listing, folder = None, None
    try:
        listing = list_images(path)
        folder = read_listed(path, listing, **options)
    except DataError:
        pass
    try:
        table = read_table(tables[0], **table_options)
    except DataError as error:
        if folder is None or len(folder.label_names) < 2:
            raise
        return _with_note(folder, f"the class folders were read, because {str(error).rstrip('.')}")
    if folder is not None and _adds_nothing(table, folder):
        note = f"the class folders were read; {name} names {len(table)} of the {len(folder)} images, and --layout table reads it"
        return _with_note(folder, note)
    table = _with_splits_of_folders(table, path, name)
    part = "" if listing is None else _part_of(listing, table, path)
    instead = "; --layout folder reads the class folders instead" if folder is not None and folder.labelled else ""
    return _with_note(table, f"read from {name} inside the folder{part}{instead}")


def _adds_nothing(table: Catalogue, folder: Catalogue) -> bool:
    """Whether a table has no labels, or names only a part of the images in class folders: part of a class, or whole classes.

    Folders are classes if the images of each have a label of their own, whatever its name.
    """
    if folder.labelled and not table.labelled:
        return True
    listed = {os.path.abspath(path): label for path, label in zip(table.paths, table.table["label"], strict=True)}  # noqa: PTH100
    images = [os.path.abspath(path) for path in folder.paths]  # noqa: PTH100
    if len(folder.label_names) < 2 or listed.keys() >= set(images):
        return False
    rows = list(zip(images, folder.table["label"], strict=True))
    named = {label for path, label in rows if path in listed}
    pairs = {(label, listed[path]) for path, label in rows if path in listed}
    one_to_one = len(pairs) == len(named) == len({label for _, label in pairs})
    return one_to_one or any(label in named for path, label in rows if path not in listed)


def _part_of(listing: Listing, table: Catalogue, folder: Path) -> str:
    """How many of the images in a folder a table names, for a note; empty if it names all."""
    named = {*_inside(table, folder), *(skipped.path for skipped in table.skipped)}
    lost = sum(image not in named for image in listing.images)
    if not lost:
        return ""
    count = len(listing.images)
    return f", which names {count - lost} of the {counted(count, 'image')}: {lost} {agreeing(lost, 'are')} left out"


def _inside(table: Catalogue, folder: Path) -> list[str]:
    """The paths of a table, relative to the folder that it lies in."""
    start = os.path.abspath(folder)  # noqa: PTH100
    return [os.path.relpath(path, start) if os.path.isabs(path) else path for path in table.table["path"]]  # noqa: PTH117


def _with_splits_of_folders(table: Catalogue, folder: Path, name: str) -> Catalogue:
    """A table in a folder, with what the folders say and it does not: the split of each image, and the roles of queries and gallery."""
    splits = splits_of(_inside(table, folder))
    if splits is None:
        return table
    rows, notes, taken = table.table, list[str](), list[str]()
    try:
        by_folder = query_and_gallery(rows.assign(split=splits), notes)
    except DataError as error:
        return _with_note(table, f"the splits of the folders were not used: {str(error).rstrip('.')}")
    if table.split_names == [EVERYTHING]:
        rows, taken = rows.assign(split=by_folder["split"]), ["splits"]
        beside = splits.count(EVERYTHING)
        if beside:
            notes.append(f"{counted(beside, 'image')} beside the split folders {agreeing(beside, 'are')} in no split")
    roles = ["is_query", "is_gallery"]
    # Only split folders that are queries and gallery set both columns.
    if {"query", "gallery"} <= set(splits) and not set(roles) & set(rows):
        given = by_folder[by_folder[roles].any(axis=1)]
        if (rows.loc[given.index, "split"] == "test").all():
            rows, taken = rows.assign(**by_folder[roles]), [*taken, "queries and gallery"]
    if not taken:
        return table
    words = f"{name} has no {' and no '.join(taken)}, so those of the folders are used"
    return replace(table, table=rows, notes=(words, *notes, *table.notes))


def _with_note(catalogue: Catalogue, note: str) -> Catalogue:
    return replace(catalogue, notes=(note, *catalogue.notes))


def _tables(folder: Path, labels: Labels = "required") -> list[Path]:
    """The tables in a folder that have a path and a label column; if labels are optional and there are none, those with paths."""
    # A .txt file may be anything, so it is read as a table only if the user names it.
    files = sorted(
        Path(entry.path)
        for entry in scan(folder)
        if os.path.splitext(entry.name)[1].lower() in TABLE_SUFFIXES - {".txt"}  # noqa: PTH122
        and not is_stray(entry.name)
        and entry.name.lower() not in _OWN_TABLES
        and _is_file(entry)
    )
    labelled = [file for file in files if has_columns(file)]
    return labelled or ([] if labels == "required" else [file for file in files if has_columns(file, labels)])


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file or a link to one; a pipe would be waited for without end."""
    try:
        return entry.is_file()
    except OSError:
        return False


def table_in(folder: Path, labels: Labels = "required") -> Path:
    """The one table in a folder that names images and, if required, labels. Tables that `cosphere evaluate` writes are passed over.

    Raises:
        DataError: there is none, or several.
    """
    tables = _tables(folder, labels)
    if len(tables) != 1:
        names = ", ".join(table.name for table in tables) or "none"
        columns = "path and label" if labels == "required" else "path"
        raise DataError(f"{folder} should hold one table with {columns}, found {names}. Name the table itself.")
    return tables[0]
