"""The layouts of published data sets. A new one is a file here, a test, and a line in :data:`LAYOUTS`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cosphere.data.catalogue import Catalogue
from cosphere.data.layouts.cars import LAYOUT as CARS
from cosphere.data.layouts.cifar import CIFAR_10, CIFAR_100
from cosphere.data.layouts.cub import LAYOUT as CUB
from cosphere.data.layouts.in_shop import LAYOUT as IN_SHOP
from cosphere.data.layouts.published import Contents, Layout, Part, compare
from cosphere.data.layouts.sop import LAYOUT as SOP
from cosphere.data.listing import drop_missing, is_stray, list_images, scan
from cosphere.errors import DataError

__all__ = ["LAYOUTS", "Contents", "Layout", "Part", "find_layout", "read_layout"]

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (CUB, CARS, SOP, IN_SHOP, CIFAR_10, CIFAR_100)}
"""By name, in the order in which they are tried."""

_MOST_FOLDERS = 30
"""A folder with more folders inside holds classes, not data sets; looking into each would be slow for nothing."""


def find_layout(path: Path, name: str | None = None) -> tuple[Layout, Path] | None:
    """The published data set whose root is ``path``, or the one folder inside ``path`` that is such a root.

    Args:
        path: an existing folder.
        name: look for this one only.

    Returns:
        (layout, root), or None when there is none and none was asked for.

    Raises:
        DataError: the one asked for is not there, or several data sets lie side by side.
    """
    layouts = [LAYOUTS[name]] if name is not None else list(LAYOUTS.values())
    inside = sorted(entry.name for entry in scan(path) if entry.is_dir() and not is_stray(entry.name))
    places = [path, *(path / folder for folder in inside)] if len(inside) <= _MOST_FOLDERS else [path]
    found = [(layout, place) for place in places for layout in layouts if layout.recognise(place)]
    if found and found[0][1] == path:
        return found[0]
    if len({layout.name for layout, _ in found}) > 1:
        raise DataError(
            f"{path} holds several data sets: {', '.join(place.name for _, place in found)}. Name one of them."
        )
    if not found and name is not None:
        raise DataError(f"{path} is no root of {layouts[0].title}: want {layouts[0].wants}.")
    return found[0] if found else None


def read_layout(
    layout: Layout, root: Path, *, given: Path | None = None, strict: bool = False, max_missing: float = 0.01
) -> Catalogue:
    """Read a published data set and compare it with what was published.

    Args:
        layout: from :func:`find_layout`.
        root: from :func:`find_layout`.
        given: the folder that the user named, for a note when the root lies inside it.
        strict: whether any difference is an error.
        max_missing: share in [0, 1] of the listed files that may be missing.

    Returns:
        A catalogue whose ``checks`` hold expected and found counts. Small stand-ins in the same layout are welcome.

    Raises:
        DataError: lists or images are missing or wrong; with ``strict`` also any difference.
    """
    found = layout.read(root)
    notes = list(found.notes)
    if given is not None and given != root:
        notes.insert(0, f"{layout.title} was found one folder down, in {root.name}/")
    table = found.table
    if found.folders:
        there, lost = drop_missing(found.root, table["path"].tolist(), share=max_missing, source=layout.title)
        notes += [*lost, *_left_over(found)]
        table = table[np.asarray(there)].reset_index(drop=True)
    checks = compare(table, layout.parts)
    catalogue = Catalogue(table=table, root=found.root, layout=layout.name, notes=tuple(notes), checks=checks)
    if strict and catalogue.differences:
        lines = "; ".join(
            f"{check.what}: expected {check.expected}, found {check.found}" for check in catalogue.differences
        )
        raise DataError(
            f"{root} is not {layout.title} as published: {lines}. Unpack the archive again, or leave strict out."
        )
    return catalogue


def _left_over(found: Contents) -> list[str]:
    """Notes about stray files and about images that no list names."""
    listed = set(found.table["path"])
    extra: list[str] = []
    stray = 0
    for folder in found.folders:
        if (found.root / folder).is_dir():
            listing = list_images(found.root / folder)
            stray += listing.stray
            extra += [f"{folder}/{path}" for path in listing.images if f"{folder}/{path}" not in listed]
    notes = [f"{stray} hidden or stray files (such as ._name) lie among the images and were left out"] if stray else []
    if extra:
        first = ", ".join(extra[:3]) + (", ..." if len(extra) > 3 else "")
        notes.append(f"{len(extra)} images that the lists do not name were left out: {first}")
    return notes
