"""Read images whose folder names are the labels: ``class/*.jpg`` or ``split/class/*.jpg``."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from cosphere.checks import check_choice
from cosphere.data.catalogue import EVERYTHING, Catalogue, normal_split
from cosphere.data.listing import Listing, list_images, list_members, scan
from cosphere.data.names import named_in_nfc
from cosphere.errors import DataError, agreeing, counted
from cosphere.files import path_of
from cosphere.images import container_of

SPLIT_FOLDERS = {"train", "val", "test", "query", "gallery"}
"""Names of split folders, as normalised by :func:`cosphere.data.catalogue.normal_split`."""

Classes = Literal["top", "leaf"]
"""Which of nested folders is the class of an image."""
Labels = Literal["required", "optional"]

_ADVICE = (
    "Put the images of each class in a folder of its own (class/*.jpg or train/class/*.jpg), "
    "or give a table with path and label."
)


def read_folder(folder: str | Path, *, classes: Classes = "top", labels: Labels = "required") -> Catalogue:
    """Read ``class/*.jpg`` or ``split/class/*.jpg``.

    A folder at the top level is a class, with the images at any depth below it. If the top-level folders are named
    train, val, valid, validation, test, query or gallery and contain class folders, they are the splits and the folders
    inside them the classes; a class in several splits has the same folder name in each. ``query`` and ``gallery``
    become split ``test`` with ``is_query`` and ``is_gallery``. A single folder around everything is skipped. Without
    split folders, all rows have split ``all``.

    Args:
        folder: the folder. Hidden files, ``._name``, ``Thumbs.db`` and ``__MACOSX`` are ignored and counted in the
            notes.
        classes: which folder is the class of an image in nested folders: the ``top`` one, or the ``leaf``, the one that
            contains the image. A leaf's label is its path below the split.
        labels: whether images without class folders are an error (``required``) or get the label ``""`` (``optional``),
            which is enough to embed and to search them.

    Returns:
        A catalogue with layout ``folder``, rows sorted by path.

    Raises:
        DataError: the folder does not exist, cannot be read, or has no images or no class folders.
    """
    root = path_of(folder)
    return read_listed(root, list_images(root), classes=classes, labels=labels)


def read_listed(root: Path, listing: Listing, *, classes: Classes = "top", labels: Labels = "required") -> Catalogue:
    """:func:`read_folder` of a folder whose images are listed already.

    Raises:
        DataError: there are no images or no class folders.
    """
    wrapper, table, notes = _table(root, listing, classes, labels)
    return Catalogue(table=table, root=root / wrapper, layout="folder", notes=tuple(notes))


def splits_of(paths: list[str]) -> list[str] | None:
    """The split of each image by the folder that it lies in, where labels come from elsewhere.

    Args:
        paths: relative to the folder of the data set, with ``/``.

    Returns:
        N names of :data:`SPLIT_FOLDERS`, ``all`` for images beside them; None where no folders are splits: as in
        :func:`read_folder`, but two or more folders that are all named so need no class folders inside.

    >>> splits_of(["train/1.jpg", "valid/2.jpg"]), splits_of(["bus/1.jpg", "train/2.jpg"])
    (['train', 'val'], None)
    """
    _, images = _step_in(paths, [])
    tops = [normal_split(path.split("/")[0]) if "/" in path else "" for path in images]
    nested = {top for top, path in zip(tops, images, strict=True) if path.count("/") > 1}
    named = SPLIT_FOLDERS.intersection(tops)
    if not named.issuperset(tops):
        named &= nested
    if len(named) < 2 and not (nested and named.issuperset(tops)):
        return None
    return [top if top in named else EVERYTHING for top in tops]


def read_archive(path: str | Path, *, classes: Classes = "top", labels: Labels = "required") -> Catalogue:
    """Read a zip archive of class folders without unpacking it, by the rules of :func:`read_folder`.

    Args:
        path: a .zip file. Its images are named ``photos.zip#bus/1.jpg`` in the catalogue.
        classes: see :func:`read_folder`.
        labels: see :func:`read_folder`.

    Raises:
        DataError: the file is not an archive, is damaged, or has no class folders with images.
    """
    path = path_of(path)
    container = container_of(path)
    if container is None or not container.has_paths:
        raise DataError(f"{path} is no archive that Cosphere reads. Give a .zip file.")
    wrapper, table, notes = _table(path, list_members(container, path), classes, labels)
    table = table.assign(path=[f"{path.name}#{wrapper}{name}" for name in table["path"]])
    return Catalogue(table=table, root=path.parent, layout="folder", notes=tuple(notes))


def _table(root: Path, listing: Listing, classes: Classes, labels: Labels) -> tuple[str, pd.DataFrame, list[str]]:
    """Return the folder around the classes (``""`` or ``"photos/"``), the rows with paths relative to it, and notes."""
    check_choice("classes", classes, get_args(Classes))
    check_choice("labels", labels, get_args(Labels))
    if not listing.images:
        raise DataError(f"there is no image in {root}. {_passed_over(listing)}{_container_in(root) or _ADVICE}")
    notes = listing.notes()
    wrapper, images = _step_in(listing.images, notes)
    unlabelled = _without_classes(images, notes) if labels == "optional" else None
    if unlabelled is not None:
        notes.append("there are no class folders, so the images have no labels")
        return wrapper, query_and_gallery(unlabelled, notes), notes
    root = root / wrapper
    loose = [path for path in images if "/" not in path]
    if len(loose) == len(images):
        raise DataError(f"{root} holds {counted(len(images), 'image')} but no class folders. {_ADVICE}")
    if loose:
        notes.append(f"left out: {counted(len(loose), 'image')} in no class folder, {_first(loose)}")
    parts = [path.split("/", 2) for path in images if "/" in path]
    splits = _split_folders(root, parts)
    if splits:
        parts = _inside_splits(parts, splits, notes)
    table = pd.DataFrame({"path": ["/".join(part) for part in parts]})
    depth = 1 if splits else 0
    table["label"] = _labels(table["path"].tolist(), depth, classes, notes)
    table["split"] = [normal_split(part[0]) for part in parts] if splits else EVERYTHING
    if classes == "leaf":
        table["class_name"] = [label.rpartition("/")[2] for label in table["label"]]
    return wrapper, named_in_nfc(query_and_gallery(table, notes), notes), notes


def _without_classes(images: list[str], notes: list[str]) -> pd.DataFrame | None:
    """The rows of images that lie in no folder, or directly in split folders; None where there are other folders."""
    folders = {path.split("/")[0] for path in images if "/" in path}
    if any(path.count("/") > 1 for path in images) or any(normal_split(name) not in SPLIT_FOLDERS for name in folders):
        return None
    loose = [path for path in images if "/" not in path]
    if folders and loose:
        lie = f"{counted(len(loose), 'image')} beside the split folders {agreeing(len(loose), 'are')}"
        notes.append(f"{lie} in no split, {_first(loose)}")
    splits = [normal_split(path.split("/")[0]) if "/" in path else EVERYTHING for path in images]
    return pd.DataFrame({"path": images, "label": "", "split": splits})


def _labels(paths: list[str], depth: int, classes: Classes, notes: list[str]) -> list[str]:
    """The label of each path, whose class folder is at this depth; a note where class folders contain folders."""
    folders = [path.split("/")[depth:-1] for path in paths]
    leaves = ["/".join(folder) for folder in folders]
    nested = len(set(leaves))
    tops = [folder[0] for folder in folders]
    if nested > len(set(tops)):
        deepest = max(leaves, key=lambda leaf: leaf.count("/"))
        other = (
            f"{counted(len(set(tops)), 'class')}; --classes leaf takes the folder of each image: {counted(nested, 'class')}"
            if classes == "top"
            else f"{counted(nested, 'class')} by the folder of each image; --classes top takes {counted(len(set(tops)), 'top folder')}"
        )
        notes.append(f"class folders contain folders, such as {deepest}; read as {other}")
    return tops if classes == "top" else leaves


def _inside_splits(parts: list[list[str]], splits: set[str], notes: list[str]) -> list[list[str]]:
    """The paths in class folders of a split, with notes about the others."""
    loose = ["/".join(part) for part in parts if part[0] in splits and len(part) == 2]
    other = sorted({part[0] for part in parts if part[0] not in splits})
    if loose:
        notes.append(
            f"left out: {counted(len(loose), 'image')} in a split folder but in no class folder, {_first(loose)}"
        )
    if other:
        notes.append(f"folders beside the splits were left out: {_first(other)}")
    return [part for part in parts if part[0] in splits and len(part) == 3]


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


def _container_in(root: Path) -> str:
    """What to do with a folder such as InsightFace's, whose images lie in one file: preferably one that has labels."""
    entries = scan(root) if root.is_dir() else []
    kinds = [(kind.labels is None, entry.name) for entry in entries if (kind := container_of(entry.name)) is not None]
    return f"Give the file that holds them: {root / min(kinds)[1]}" if kinds else ""


def _passed_over(listing: Listing) -> str:
    notes = listing.notes()
    return f"({'; '.join(notes)}.) " if notes else ""


def _first(names: list[str], number: int = 3) -> str:
    return ", ".join(names[:number]) + (", ..." if len(names) > number else "")
