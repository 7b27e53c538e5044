"""Read images whose folder names are the labels: ``class/*.jpg`` or ``split/class/*.jpg``."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pandas as pd

from cosphere.data.catalogue import EVERYTHING, Catalogue, normal_split
from cosphere.data.listing import Listing, list_images, list_members
from cosphere.errors import DataError
from cosphere.images import container_of

SPLIT_FOLDERS = {"train", "val", "test", "query", "gallery"}
"""Names of split folders, as normalised by :func:`cosphere.data.catalogue.normal_split`."""

_ADVICE = (
    "Put the images of each class in a folder of its own (class/*.jpg or train/class/*.jpg), "
    "or give a table with path and label."
)


def read_folder(folder: str | Path) -> Catalogue:
    """Read ``class/*.jpg`` or ``split/class/*.jpg``.

    A folder at the top level is a class, with the images at any depth below it. If the top-level folders are named
    train, val, valid, validation, test, query or gallery and contain class folders, they are the splits and the folders
    inside them the classes; a class in several splits has the same folder name in each. ``query`` and ``gallery``
    become split ``test`` with ``is_query`` and ``is_gallery``. A single folder around everything is skipped. Without
    split folders, all rows have split ``all``.

    Args:
        folder: the folder. Hidden files, ``._name``, ``Thumbs.db`` and ``__MACOSX`` are ignored and counted in the
            notes.

    Returns:
        A catalogue with layout ``folder``, rows sorted by path.

    Raises:
        DataError: the folder does not exist, cannot be read, or has no images or no class folders.
    """
    root = Path(folder)
    wrapper, table, notes = _table(root, list_images(root))
    return Catalogue(table=table, root=root / wrapper, layout="folder", notes=tuple(notes))


def read_archive(path: str | Path) -> Catalogue:
    """Read a zip archive of class folders without unpacking it, by the rules of :func:`read_folder`.

    Args:
        path: a .zip file. Its images are named ``photos.zip#bus/1.jpg`` in the catalogue.

    Raises:
        DataError: the file is not an archive, is damaged, or has no class folders with images.
    """
    path = Path(path)
    container = container_of(path)
    if container is None or not container.has_paths:
        raise DataError(f"{path} is no archive that Cosphere reads. Give a .zip file.")
    wrapper, table, notes = _table(path, list_members(container, path))
    table = table.assign(path=[f"{path.name}#{wrapper}{name}" for name in table["path"]])
    return Catalogue(table=table, root=path.parent, layout="folder", notes=tuple(notes))


def _table(root: Path, listing: Listing) -> tuple[str, pd.DataFrame, list[str]]:
    """Return the folder around the classes (``""`` or ``"photos/"``), the rows with paths relative to it, and notes."""
    if not listing.images:
        raise DataError(f"there is no image in {root}. {_passed_over(listing)}{_ADVICE}")
    notes = listing.notes()
    wrapper, images = _step_in(listing.images, notes)
    root = root / wrapper
    loose = [path for path in images if "/" not in path]
    if len(loose) == len(images):
        raise DataError(f"{root} holds {len(images)} images but no class folders. {_ADVICE}")
    if loose:
        notes.append(f"{len(loose)} images that lie in no class folder were left out: {_first(loose)}")
    inside = [path.split("/", 2) for path in images if "/" in path]
    splits = _split_folders(root, inside)
    return wrapper, _by_split(inside, splits, notes) if splits else _by_class(inside), notes


def _by_class(parts: list[list[str]]) -> pd.DataFrame:
    return pd.DataFrame(
        {"path": ["/".join(part) for part in parts], "label": [part[0] for part in parts], "split": EVERYTHING}
    )


def _by_split(parts: list[list[str]], splits: set[str], notes: list[str]) -> pd.DataFrame:
    inside = [part for part in parts if part[0] in splits and len(part) == 3]
    loose = ["/".join(part) for part in parts if part[0] in splits and len(part) == 2]
    other = sorted({part[0] for part in parts if part[0] not in splits})
    if loose:
        notes.append(
            f"{len(loose)} images that lie in a split folder but in no class folder were left out: {_first(loose)}"
        )
    if other:
        notes.append(f"folders beside the splits were left out: {_first(other)}")
    raw = [normal_split(part[0]) for part in inside]
    table = pd.DataFrame(
        {"path": ["/".join(part) for part in inside], "label": [part[1] for part in inside], "split": raw}
    )
    return query_and_gallery(table, notes)


def query_and_gallery(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Convert the splits ``query`` and ``gallery`` to split ``test`` with ``is_query`` and ``is_gallery``.

    Raises:
        DataError: there is also a ``test`` split.
    """
    roles = {"query", "gallery"} & set(table["split"])
    if not roles:
        return table
    if "test" in set(table["split"]):
        raise DataError("this data has a test split beside query and gallery. Keep one of the two forms.")
    if len(roles) == 1:
        notes.append(
            f"there is a {roles.pop()} split but not its other half, so its images can be searched only among "
            "themselves"
        )
        return table.assign(split=table["split"].replace({"query": "test", "gallery": "test"}))
    return table.assign(
        is_query=table["split"] == "query",
        is_gallery=table["split"] == "gallery",
        split=table["split"].replace({"query": "test", "gallery": "test"}),
    )


def _split_folders(root: Path, parts: list[list[str]]) -> set[str]:
    """The top-level folders that are splits; empty if they are classes.

    A class may be named ``train``, so such a folder is a split only if it contains class folders.
    """
    deep: dict[str, int] = defaultdict(int)
    for part in parts:
        deep[part[0]] += len(part) == 3
    named = {name for name in deep if normal_split(name) in SPLIT_FOLDERS}
    splits = {name for name in named if deep[name]}
    if named == set(deep) and not splits:
        raise DataError(f"{root} holds the splits {', '.join(sorted(named))}, but no class folders in them. {_ADVICE}")
    # A folder train/ with subfolders is a class beside bus/ and car/, and a split beside test/.
    return splits if len(splits) > 1 or named == set(deep) else set()


def _step_in(images: list[str], notes: list[str]) -> tuple[str, list[str]]:
    """Step into a single folder around the classes, as archives often have: return its path and the paths inside it."""
    wrapper = ""
    while True:
        first = {path.split("/", 1)[0] for path in images}
        second = {path.split("/")[1] for path in images if path.count("/") >= 2}
        if len(first) > 1 or any(path.count("/") < 2 for path in images):
            return wrapper, images
        (name,) = first
        if normal_split(name) in SPLIT_FOLDERS and not any(normal_split(inner) in SPLIT_FOLDERS for inner in second):
            return wrapper, images
        wrapper += f"{name}/"
        images = [path.removeprefix(f"{name}/") for path in images]
        notes.append(f"the classes were found one folder down, in {name}/")


def _passed_over(listing: Listing) -> str:
    notes = listing.notes()
    return f"({'; '.join(notes)}.) " if notes else ""


def _first(names: list[str], number: int = 3) -> str:
    return ", ".join(names[:number]) + (", ..." if len(names) > number else "")
