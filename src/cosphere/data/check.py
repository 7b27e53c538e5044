"""Looking over a data set before anything is trained on it: counts, sizes, unreadable files, duplicates, leaks."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cosphere._types import Progress
from cosphere.checks import check_whole
from cosphere.data.catalogue import EVERYTHING, Catalogue, LayoutCheck
from cosphere.data.dataset import Skipped
from cosphere.data.reading import read_catalogue
from cosphere.errors import ImageError
from cosphere.images import find_item, read_image
from cosphere.images.containers import Content


class Spread(NamedTuple):
    """Smallest, middle and largest of some numbers."""

    smallest: float
    median: float
    largest: float

    def __str__(self) -> str:
        return f"{self.smallest:g} / {self.median:g} / {self.largest:g}"


class SplitReport(NamedTuple):
    """One split."""

    name: str
    images: int
    classes: int
    per_class: Spread
    """Images."""
    one_image: int
    """Classes with a single image: it can never be found again."""
    queries: int | None
    gallery: int | None
    """None where the data has no roles."""


class Bin(NamedTuple):
    """One bar of the histogram of images per class."""

    lowest: int
    highest: int
    """Images in a class, both ends included."""
    classes: int


class SharedClasses(NamedTuple):
    """How many classes two splits have in common."""

    one: str
    other: str
    classes: int


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What :func:`check` found. Paths are as in the catalogue's table.

    Attributes:
        layout: how the data was read.
        fingerprint: of the catalogue, 64 hexadecimal digits.
        images: different files (or rows of batches).
        classes: different labels.
        per_class: images per class.
        histogram: images per class in at most 10 bars.
        splits: one entry for each.
        protocol: ``zero-shot`` (no class is in two splits), ``closed-set`` (all are in all), ``mixed`` or ``no
            splits``.
        shared_classes: pairs of splits with classes in common.
        one_image_classes: names of the classes with a single image.
        widths: pixels, of the readable images.
        heights: pixels, of the readable images.
        unreadable: path and reason.
        duplicates: groups of images with exactly the same bytes (or pixels, where a container holds pixels). Copies that
            were saved anew or resized are not found.
        duplicates_across_splits: those groups that reach over two splits, so that a test image was trained on.
        duplicates_across_classes: those groups with two labels, one of which must be wrong.
        checks: expected against found for published data sets, what agrees and what does not.
        notes: of the reading.
    """

    layout: str
    fingerprint: str
    images: int
    classes: int
    per_class: Spread
    histogram: tuple[Bin, ...]
    splits: tuple[SplitReport, ...]
    protocol: str
    shared_classes: tuple[SharedClasses, ...]
    one_image_classes: tuple[str, ...]
    widths: Spread | None
    heights: Spread | None
    unreadable: tuple[Skipped, ...]
    duplicates: tuple[tuple[str, ...], ...]
    duplicates_across_splits: tuple[tuple[str, ...], ...]
    duplicates_across_classes: tuple[tuple[str, ...], ...]
    checks: tuple[LayoutCheck, ...]
    notes: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether every image can be read, none comes twice, and a published data set is as published."""
        return not self.unreadable and not self.duplicates and all(line.agrees for line in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with ``clean`` and named fields."""
        return {"clean": self.clean} | {name: _plain(value) for name, value in vars(self).items()}


def check(
    source: Catalogue | str | Path,
    *,
    layout: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> DataReport:
    """Read every image once and report on the data set. Nothing is changed.

    Args:
        source: a catalogue, or what :func:`cosphere.data.read_catalogue` reads; listed files may then be missing in any
            number short of all, and the notes name them.
        layout: for a path, see :func:`cosphere.data.read_catalogue`.
        threads: that decode side by side. Default: the number of cores, at most 8.
        progress: called with (images done, images in all) in this thread, after each.

    Raises:
        SettingsError: ``threads`` is below 1 or above 256.
        DataError: nothing there can be read as a data set. Bad files are reported, never raised.
    """
    threads = min(8, os.cpu_count() or 1) if threads is None else check_whole("threads", threads, least=1, most=256)
    catalogue = source if isinstance(source, Catalogue) else read_catalogue(source, layout=layout, max_missing=1.0)
    first = catalogue.table.drop_duplicates("path")
    paths = dict(zip(first["path"], [catalogue.paths[row] for row in first.index], strict=True))
    looks = _look_at_all(paths, threads, progress)
    readable = [look for look in looks.values() if isinstance(look, _Look)]
    copies = _copies(paths, looks)
    counts = catalogue.table["label"].value_counts()
    return DataReport(
        layout=catalogue.layout,
        fingerprint=catalogue.fingerprint(),
        images=len(paths),
        classes=len(catalogue.label_names),
        per_class=_required(counts.tolist()),
        histogram=_histogram(counts.tolist()),
        splits=tuple(_split_report(catalogue, name) for name in catalogue.split_names),
        protocol=_protocol(catalogue),
        shared_classes=_shared(catalogue),
        one_image_classes=tuple(
            n for n, label in zip(catalogue.class_names, catalogue.label_names, strict=True) if counts[label] == 1
        ),
        widths=_spread([look.width for look in readable]),
        heights=_spread([look.height for look in readable]),
        unreadable=tuple(Skipped(path, look) for path, look in looks.items() if isinstance(look, str)),
        duplicates=copies,
        duplicates_across_splits=_differing(catalogue, copies, "split"),
        duplicates_across_classes=_differing(catalogue, copies, "label"),
        checks=catalogue.checks,
        notes=catalogue.notes,
    )


class _Look(NamedTuple):
    """What one image tells; an image that cannot be read gives the reason, a str, instead."""

    width: int
    height: int
    key: bytes | int
    """A digest for an item of a container; the number of bytes of a file, which is hashed only if another has as many."""


def _look_at_all(paths: dict[str, str], threads: int, progress: Progress | None) -> dict[str, _Look | str]:
    found: dict[str, _Look | str] = {}
    with ThreadPoolExecutor(threads) as pool:
        for name, look in zip(paths, pool.map(_look_at, paths.values()), strict=True):
            found[name] = look
            if progress is not None:
                progress(len(found), len(paths))
    return found


def _look_at(path: str) -> _Look | str:
    try:
        pixels = read_image(path)
        item = find_item(path)
        key = Path(path).stat().st_size if item is None else hashlib.blake2b(_bytes(item.read())).digest()
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}."
    return _Look(pixels.shape[1], pixels.shape[0], key)


def _bytes(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.tobytes()


def _copies(paths: dict[str, str], looks: dict[str, _Look | str]) -> tuple[tuple[str, ...], ...]:
    """Groups of images with the same content, each and all in the catalogue's order."""
    same_size: dict[bytes | int, list[str]] = defaultdict(list)
    for name, look in looks.items():
        if isinstance(look, _Look):
            same_size[look.key].append(name)
    groups: list[list[str]] = []
    for key, names in same_size.items():
        if len(names) > 1:
            groups += [names] if isinstance(key, bytes) else _same_bytes(names, paths)
    place = {name: number for number, name in enumerate(paths)}
    return tuple(sorted((tuple(group) for group in groups), key=lambda group: place[group[0]]))


def _same_bytes(names: Iterable[str], paths: dict[str, str]) -> list[list[str]]:
    by_digest: dict[bytes, list[str]] = defaultdict(list)
    for name in names:
        with Path(paths[name]).open("rb") as file:
            by_digest[hashlib.file_digest(file, "blake2b").digest()].append(name)
    return [group for group in by_digest.values() if len(group) > 1]


def _differing(catalogue: Catalogue, groups: Sequence[tuple[str, ...]], column: str) -> tuple[tuple[str, ...], ...]:
    """The groups whose members do not all have the same split or label."""
    values = catalogue.table.groupby("path")[column].agg(set)
    return tuple(group for group in groups if len(set().union(*(values[path] for path in group))) > 1)


def _spread(numbers: Sequence[float]) -> Spread | None:
    return _required(numbers) if len(numbers) else None


def _required(numbers: Sequence[float]) -> Spread:
    return Spread(float(min(numbers)), float(np.median(numbers)), float(max(numbers)))


def _histogram(counts: Sequence[int], bars: int = 10) -> tuple[Bin, ...]:
    """At most ``bars`` equally wide bars of whole numbers from the smallest to the largest count."""
    low, high = min(counts), max(counts)
    width = -(-(high - low + 1) // bars)
    edges = range(low, high + 1, width)
    values = np.asarray(counts)
    return tuple(
        Bin(edge, min(edge + width - 1, high), int(((values >= edge) & (values < edge + width)).sum()))
        for edge in edges
    )


def _split_report(catalogue: Catalogue, name: str) -> SplitReport:
    rows = catalogue.table[catalogue.table["split"] == name]
    counts = rows["label"].value_counts()
    roles = [
        int(rows[role].sum()) if role in rows and rows[role].any() else None for role in ("is_query", "is_gallery")
    ]
    return SplitReport(name, len(rows), len(counts), _required(counts.tolist()), int((counts == 1).sum()), *roles)


def _labels_by_split(catalogue: Catalogue) -> dict[str, set[str]]:
    table: pd.DataFrame = catalogue.table
    return {name: set(table.loc[table["split"] == name, "label"]) for name in catalogue.split_names}


def _shared(catalogue: Catalogue) -> tuple[SharedClasses, ...]:
    labels = _labels_by_split(catalogue)
    pairs = (SharedClasses(one, other, len(labels[one] & labels[other])) for one, other in combinations(labels, 2))
    return tuple(pair for pair in pairs if pair.classes)


def _protocol(catalogue: Catalogue) -> str:
    labels = list(_labels_by_split(catalogue).values())
    if len(labels) == 1:
        return "no splits" if catalogue.split_names == [EVERYTHING] else "one split"
    if not _shared(catalogue):
        return "zero-shot"
    return "closed-set" if all(one == labels[0] for one in labels) else "mixed"


def _plain(value: Any) -> Any:
    """Named tuples as dicts, other tuples as lists."""
    if isinstance(value, tuple):
        if hasattr(value, "_asdict"):
            return {name: _plain(field) for name, field in value._asdict().items()}
        return [_plain(one) for one in value]
    return value
