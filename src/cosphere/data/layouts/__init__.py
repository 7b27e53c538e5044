"""Layouts of published data sets. To add one, add a file here, a test, and an entry in :data:`LAYOUTS`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cosphere.data.catalogue import Catalogue
from cosphere.data.layouts.cars import LAYOUT as CARS
from cosphere.data.layouts.cifar import CIFAR_10, CIFAR_100
from cosphere.data.layouts.cub import LAYOUT as CUB
from cosphere.data.layouts.in_shop import LAYOUT as IN_SHOP
from cosphere.data.layouts.lfw import LAYOUT as LFW
from cosphere.data.layouts.published import Contents, Layout, Part, compare
from cosphere.data.layouts.sop import LAYOUT as SOP
from cosphere.data.listing import drop_missing, is_folder, is_stray, list_images, scan
from cosphere.errors import DataError, agreeing, counted

__all__ = ["LAYOUTS", "Contents", "Layout", "Part", "find_layout", "read_layout"]

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (CUB, CARS, SOP, IN_SHOP, CIFAR_10, CIFAR_100, LFW)}
"""All layouts by name, in the order in which they are tried."""

_MOST_FOLDERS = 30
"""Folders with more subfolders are assumed to hold classes rather than data sets, and are not searched."""


def find_layout(path: Path, name: str | None = None) -> tuple[Layout, Path] | None:
    """Find the published data set whose root is ``path`` or the only such folder inside ``path``.

    Args:
        path: an existing folder.
        name: name of the layout to look for; None for any.

    Returns:
        (layout, root), or None if ``name`` is None and there is no such data set.

    Raises:
        DataError: the named layout is not there, or ``path`` contains several data sets.
    """
    layouts = [LAYOUTS[name]] if name is not None else list(LAYOUTS.values())
    inside = sorted(entry.name for entry in scan(path) if is_folder(entry) and not is_stray(entry.name))
    places = [path, *(path / folder for folder in inside)] if len(inside) <= _MOST_FOLDERS else [path]
    matches = [(layout, place) for place in places for layout in layouts if _recognises(layout, place)]
    if matches and matches[0][1] == path:
        return matches[0]
    if len({layout.name for layout, _ in matches}) > 1:
        raise DataError(
            f"{path} holds several data sets: {', '.join(place.name for _, place in matches)}. Name one of them."
        )
    if not matches and name is not None:
        raise DataError(f"{path} is no root of {layouts[0].title}: want {layouts[0].wants}.")
    return matches[0] if matches else None


def _recognises(layout: Layout, place: Path) -> bool:
    """Whether a folder has a layout; False where it may not be read."""
    try:
        return layout.recognise(place)
    except OSError:
        return False


def read_layout(
    layout: Layout, root: Path, *, given: Path | None = None, strict: bool = False, max_missing: float = 0.01
) -> Catalogue:
    """Read a published data set and compare it with what was published.

    Args:
        layout: from :func:`find_layout`.
        root: from :func:`find_layout`.
        given: folder that the user named; a note is added if the root lies inside it.
        strict: whether any difference from the published data set is an error.
        max_missing: tolerated share of missing files, in [0, 1].

    Returns:
        A catalogue with expected and actual counts in ``checks``. Subsets in the same layout can be read as well.

    Raises:
        DataError: lists or images are missing or wrong, or with ``strict`` differ from the published data set.
    """
    contents = layout.read(root)
    notes = list(contents.notes)
    if given is not None and given != root:
        notes.insert(0, f"{layout.title} was found one folder down, in {root.name}/")
    table = contents.table
    if contents.folders:
        there, lost = drop_missing(contents.root, table["path"].tolist(), share=max_missing, source=layout.title)
        notes += [*lost, *_left_over(contents)]
        table = table[np.asarray(there)].reset_index(drop=True)
    checks = compare(table, layout.parts)
    catalogue = Catalogue(table=table, root=contents.root, layout=layout.name, notes=tuple(notes), checks=checks)
    if strict and catalogue.differences:
        lines = "; ".join(
            f"{check.what}: expected {check.expected}, found {check.found}" for check in catalogue.differences
        )
        raise DataError(
            f"{root} is not {layout.title} as published: {lines}. Unpack the archive again, or leave strict out."
        )
    return catalogue


def _left_over(contents: Contents) -> list[str]:
    """Notes about stray files and about images that are not in any list."""
    listed = set(contents.table["path"])
    extra: list[str] = []
    stray = 0
    for folder in contents.folders:
        if (contents.root / folder).is_dir():
            listing = list_images(contents.root / folder)
            stray += listing.stray
            prefix = f"{folder}/" if folder else ""
            extra += [prefix + path for path in listing.images if prefix + path not in listed]
    notes = []
    if stray:
        lie = f"{counted(stray, 'hidden or stray file')} (such as ._name) {agreeing(stray, 'lie')}"
        notes.append(f"{lie} among the images and {agreeing(stray, 'were')} left out")
    if extra:
        first = ", ".join(extra[:3]) + (", ..." if len(extra) > 3 else "")
        notes.append(f"left out: {counted(len(extra), 'image')} not named by the lists, {first}")
    return notes
