"""Check a data set before training: counts, image sizes, unreadable files, duplicates and leaks between splits."""

from __future__ import annotations

import contextlib
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
from cosphere.data.boxes import BOX
from cosphere.data.catalogue import EVERYTHING, Catalogue
from cosphere.data.folders import Classes
from cosphere.data.reading import read_catalogue
from cosphere.data.remarks import LayoutCheck, Skipped
from cosphere.errors import DataError, ImageError
from cosphere.images import check_box, container_of, find_item, read_image
from cosphere.images.containers import Content


class Spread(NamedTuple):
    """Minimum, median and maximum."""

    smallest: float
    median: float
    largest: float

    def __str__(self) -> str:
        return f"{self.smallest:g} / {self.median:g} / {self.largest:g}"


class SplitReport(NamedTuple):
    """Counts of one split."""

    name: str
    images: int
    classes: int
    per_class: Spread
    """Images."""
    one_image: int
    """Number of classes with a single image, which no query of its class can find."""
    queries: int | None
    gallery: int | None
    """Numbers of query and gallery images; None for data without these roles."""


class Bin(NamedTuple):
    """One bin of the histogram of images per class."""

    lowest: int
    highest: int
    """Images per class, inclusive."""
    classes: int


class SharedClasses(NamedTuple):
    """Number of classes that two splits share."""

    one: str
    other: str
    classes: int


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """The result of :func:`check`. Paths are written as in the catalogue's table.

    Attributes:
        layout: how the data was read; see :attr:`Catalogue.layout`.
        fingerprint: :meth:`Catalogue.fingerprint`.
        images: number of distinct files (or items of containers).
        classes: number of distinct labels, without ``""``, that of images without one.
        per_class: images per class.
        histogram: images per class in at most 10 bins; empty for images without labels, whose classes are 0.
        splits: counts of each split.
        protocol: ``zero-shot`` (no class is in two splits), ``closed-set`` (every class is in every split), ``mixed``,
            ``one split`` or ``no splits``.
        shared_classes: pairs of splits that share classes.
        one_image_classes: names of the classes with a single image.
        widths: widths of the readable images, in pixels.
        heights: heights of the readable images, in pixels.
        unreadable: images that cannot be read, and boxes that cannot be used or do not fit into their image, with the
            reason.
        duplicates: groups of images with exactly the same bytes (or pixels, if a container stores pixels), and images
            listed in several rows. Re-encoded or resized copies are not detected.
        duplicates_across_splits: groups with images in several splits, such as test images that are trained on.
        duplicates_across_classes: groups with several labels, of which at most one is right.
        checks: expected and actual counts of a published data set.
        notes: :attr:`Catalogue.notes`.
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
        """Whether all images can be read, there are no duplicates, and a published data set is as published."""
        return not self.unreadable and not self.duplicates and all(line.agrees for line in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON, including ``clean``."""
        return {"clean": self.clean} | {name: _plain(value) for name, value in vars(self).items()}


def check(
    source: Catalogue | str | Path,
    *,
    layout: str = "auto",
    classes: Classes = "top",
    threads: int | None = None,
    progress: Progress | None = None,
) -> DataReport:
    """Read every image once and report on the data set. Changes nothing.

    Args:
        source: a catalogue, or any source of :func:`cosphere.data.read_catalogue`; missing files are then tolerated
            unless all are missing, and so are missing labels. The notes name them.
        layout: layout of a source; see :func:`cosphere.data.read_catalogue`.
        classes: see :func:`cosphere.data.read_catalogue`.
        threads: number of decoding threads. Defaults to the number of cores, at most 8.
        progress: called in this thread with (images done, total) after each image.

    Raises:
        SettingsError: ``threads`` is below 1 or above 256.
        DataError: the source cannot be read as a data set. Unreadable images are reported, not raised.
    """
    threads = min(8, os.cpu_count() or 1) if threads is None else check_whole("threads", threads, least=1, most=256)
    catalogue, notes = (source, ()) if isinstance(source, Catalogue) else _read(source, layout, classes)
    first = catalogue.table.drop_duplicates("path")
    paths = dict(zip(first["path"], [catalogue.paths[row] for row in first.index], strict=True))
    looks = _look_at_all(paths, threads, progress)
    readable = [look for look in looks.values() if isinstance(look, _Look)]
    repeats = _repeats(catalogue)
    copies = _copies(paths, looks)
    counts = _labelled(catalogue.table)["label"].value_counts()
    if not catalogue.labelled and not notes:
        notes = ("the images have no labels, so only the files were checked",)
    return DataReport(
        layout=catalogue.layout,
        fingerprint=catalogue.fingerprint(),
        images=len(paths),
        classes=len(counts),
        per_class=_required(counts.tolist() or [0]),
        histogram=_histogram(counts.tolist()) if len(counts) else (),
        splits=tuple(_split_report(catalogue, name) for name in catalogue.split_names),
        protocol=_protocol(catalogue),
        shared_classes=_shared(catalogue),
        one_image_classes=tuple(
            n for n, label in zip(catalogue.class_names, catalogue.label_names, strict=True) if counts.get(label) == 1
        ),
        widths=_spread([look.width for look in readable]),
        heights=_spread([look.height for look in readable]),
        unreadable=(*catalogue.skipped, *_unreadable(catalogue, looks)),
        duplicates=(*copies, *(tuple(rows["path"]) for rows in repeats)),
        duplicates_across_splits=(*_differing(catalogue, copies, "split"), *_repeats_across(repeats, "split")),
        duplicates_across_classes=(
            *_differing(catalogue, copies, "label"),
            *_repeats_across([_labelled(rows) for rows in repeats], "label"),
        ),
        checks=catalogue.checks,
        notes=(*catalogue.notes, *(notes or _untrainable(catalogue))),
    )


def _read(source: str | Path, layout: str, classes: Classes) -> tuple[Catalogue, tuple[str, ...]]:
    """Read a source, without labels where it has none; then with a note about what needs them.

    Raises:
        DataError: it cannot be read either way.
    """
    options: dict[str, Any] = {"layout": layout, "classes": classes, "max_missing": 1.0}
    if _has_no_labels(source):
        return read_catalogue(source, labels="optional", **options), ()
    try:
        return read_catalogue(source, **options), ()
    except DataError as error:
        try:
            catalogue = read_catalogue(source, labels="optional", **options)
        except DataError:
            raise error from None
        return catalogue, (
            f"images without labels can be embedded and searched; training and scores need labels: {error}",
        )


def _untrainable(catalogue: Catalogue) -> list[str]:
    """A note if there are labelled training rows, and too few classes or images to train on."""
    rows = _labelled(catalogue.table)
    counts = rows.loc[rows["split"].isin(("train", EVERYTHING)), "label"].value_counts()
    if len(counts) == 1:
        return ["training compares classes and needs at least 2; these images have 1"]
    if len(counts) and counts.max() == 1:
        return ["training compares two images of a class, and every class here has one image"]
    return []


def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a label."""
    return table[table["label"] != ""]


def _has_no_labels(source: str | Path) -> bool:
    """Whether a source is a container whose format has no labels, such as a verification set."""
    container = container_of(source)
    return container is not None and container.labels is None and not container.has_paths


class _Look(NamedTuple):
    """What the check keeps of a readable image; of an unreadable one it keeps the reason, a str."""

    width: int
    height: int
    key: bytes | int
    """Digest of an item of a container; size in bytes of a file, which is hashed only if another file has that size."""


def _look_at_all(paths: dict[str, str], threads: int, progress: Progress | None) -> dict[str, _Look | str]:
    looks: dict[str, _Look | str] = {}
    with ThreadPoolExecutor(threads) as pool:
        for name, look in zip(paths, pool.map(_look_at, paths.values()), strict=True):
            looks[name] = look
            if progress is not None:
                progress(len(looks), len(paths))
    return looks


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


def _unreadable(catalogue: Catalogue, looks: dict[str, _Look | str]) -> list[Skipped]:
    """The images that cannot be read, and the boxes that do not fit into their image."""
    skipped = [Skipped(path, look) for path, look in looks.items() if isinstance(look, str)]
    for row, path in enumerate(catalogue.table["path"] if catalogue.boxes is not None else ()):
        look, box = looks[path], catalogue.box(row)
        if isinstance(look, _Look) and box is not None:
            try:
                check_box(box, (look.width, look.height), path)
            except ImageError as error:
                skipped.append(Skipped(path, str(error)))
    return skipped


def _bytes(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.tobytes()


def _copies(paths: dict[str, str], looks: dict[str, _Look | str]) -> tuple[tuple[str, ...], ...]:
    """Groups of images with the same content, in the order of the catalogue."""
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
        with contextlib.suppress(OSError), Path(paths[name]).open("rb") as file:  # it may have vanished meanwhile
            by_digest[hashlib.file_digest(file, "blake2b").digest()].append(name)
    return [group for group in by_digest.values() if len(group) > 1]


def _repeats(catalogue: Catalogue) -> list[pd.DataFrame]:
    """The rows that show one image (or one box of it) several times, a group for each."""
    place = [name for name in ("path", *BOX) if name in catalogue.table]
    repeated = catalogue.table[catalogue.table.duplicated(place, keep=False)]
    return [rows for _, rows in repeated.groupby(place, sort=False, dropna=False)]


def _repeats_across(repeats: Sequence[pd.DataFrame], column: str) -> list[tuple[str, ...]]:
    return [tuple(rows["path"]) for rows in repeats if rows[column].nunique() > 1]


def _differing(catalogue: Catalogue, groups: Sequence[tuple[str, ...]], column: str) -> tuple[tuple[str, ...], ...]:
    """The groups whose images differ in ``column``, the split or the label."""
    values = catalogue.table.groupby("path")[column].agg(set)
    return tuple(group for group in groups if len(set().union(*(values[path] for path in group)) - {""}) > 1)


def _spread(numbers: Sequence[float]) -> Spread | None:
    return _required(numbers) if len(numbers) else None


def _required(numbers: Sequence[float]) -> Spread:
    return Spread(float(min(numbers)), float(np.median(numbers)), float(max(numbers)))


def _histogram(counts: Sequence[int], bars: int = 10) -> tuple[Bin, ...]:
    """Histogram with at most ``bars`` bins of equal integer width, from the smallest to the largest count."""
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
    counts = _labelled(rows)["label"].value_counts()
    roles = [
        int(rows[role].sum()) if role in rows and rows[role].any() else None for role in ("is_query", "is_gallery")
    ]
    return SplitReport(
        name, len(rows), len(counts), _required(counts.tolist() or [0]), int((counts == 1).sum()), *roles
    )


def _labels_by_split(catalogue: Catalogue) -> dict[str, set[str]]:
    table = _labelled(catalogue.table)
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
    """Convert named tuples to dicts and other tuples to lists."""
    if isinstance(value, tuple):
        if hasattr(value, "_asdict"):
            return {name: _plain(field) for name, field in value._asdict().items()}
        return [_plain(one) for one in value]
    return value
