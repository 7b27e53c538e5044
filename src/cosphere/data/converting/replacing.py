"""Whether a target may be written: it must not lie among the images, nor replace what a conversion did not write."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cosphere.data.catalogue import Catalogue
from cosphere.data.listing import walk
from cosphere.data.table_files import load_table
from cosphere.errors import DataError, RunError
from cosphere.files import check_writable, is_there
from cosphere.images import find_item


def check_free(outputs: Iterable[Path], table: Path, *, overwrite: bool) -> None:
    """Raise if something is there already.

    Args:
        outputs: what is to be written.
        table: where the table of images is, or would be.
        overwrite: whether files and converted folders may be replaced.

    Raises:
        RunError: something is there and may not be replaced, or cannot be looked at.
    """
    for path in outputs:
        if not is_there(path) or (path.is_dir() and not any(path.iterdir())):
            continue
        if not overwrite:
            raise RunError(f"{path} exists. Choose another name, or set overwrite (--overwrite).")
        if path.is_dir() and not _only_converted(path, table):
            raise RunError(
                f"{path} holds more than a conversion wrote, so it is not replaced. Choose another name, or delete it yourself."
            )


def check_apart(outputs: Iterable[Path], catalogue: Catalogue, source: object) -> None:
    """Raise if an output is among what is read, or cannot be written.

    Args:
        outputs: what is to be written.
        catalogue: the images that are read.
        source: where it was read from.

    Raises:
        RunError: an output is or holds an image, a container, the table or their folder, lies in the folder that is read, or
            cannot be written.
    """
    folders = {os.path.dirname(path) for path in catalogue.paths if "#" not in path}  # noqa: PTH120
    given = [str(source)] if isinstance(source, str | Path) else []
    read = {os.path.realpath(path) for path in (*folders, *containers(catalogue.paths), *given)}
    listed = [os.path.realpath(path) for path in given if Path(path).is_dir()]
    if not given and catalogue.layout not in ("table", "container"):
        listed = [os.path.realpath(catalogue.root)]
    for output in outputs:
        real = Path(os.path.realpath(output))
        if any(Path(one).is_relative_to(real) for one in read) or any(real.is_relative_to(one) for one in listed):
            raise RunError(f"{output} lies among the images that are read. Choose a place outside of {catalogue.root}.")
        check_writable(output.with_name(f".{output.name}.converting") / "state.json")


def containers(paths: Iterable[str]) -> set[str]:
    """The container files that images lie in."""
    files: set[str] = set()
    for path in paths:
        file, mark, _ = path.partition("#")
        if mark and file not in files:
            item = find_item(path)
            if item is not None:
                files.add(str(item.file))
    return files


def _only_converted(folder: Path, table: Path) -> bool:
    """Whether a folder holds the images of a table and the tables, and nothing else."""
    try:
        frame = load_table(table).frame
        named = {os.path.realpath(table.parent / path) for path in frame["path"]}
    except (DataError, KeyError):
        return False
    tables = {os.path.realpath(table), os.path.realpath(table.with_name("pairs.csv"))}
    return all(kind == "file" and os.path.realpath(entry.path) in named | tables for _, entry, kind in walk(folder))
