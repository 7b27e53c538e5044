"""The embeddings of a set of images: the table, its file, selections of its rows, and its split into queries and gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cosphere._types import Flags, Float32s, Integers
from cosphere.codes import is_codes
from cosphere.data.remarks import Skipped
from cosphere.errors import DataError, RunError, SizeError, counted
from cosphere.files import path_of, read_arrays, write_arrays

WHOLE_IMAGE = (-1, -1, -1, -1)
"""The box of a row that shows its whole image."""


@dataclass(frozen=True, eq=False)
class Sides:
    """Q queries and the G gallery rows that they are ranked against."""

    query_rows: Integers
    """(Q,) rows of the embeddings, ascending."""
    gallery_rows: Integers
    """(G,) rows of the embeddings, ascending."""
    exclude: Integers
    """(Q,) position in the gallery of the query itself, which it must not meet; -1 where it is not in the gallery."""
    query_groups: Integers | None
    """(Q,) group of each query; None without groups."""
    gallery_groups: Integers | None
    """(G,) group of each gallery row; None without groups."""
    query_identities: Integers | None
    """(Q,) picture of each query, see :meth:`Embeddings.identities`; None if all rows show different pictures."""
    gallery_identities: Integers | None
    """(G,) picture of each gallery row; None if all rows show different pictures."""
    is_whole: bool
    """Whether every row is a query and in the gallery."""

    @classmethod
    def of_all(cls, count: int, groups: Integers | None = None, identities: Integers | None = None) -> Sides:
        """Every row a query, and in the gallery of all others."""
        rows = np.arange(count)
        return cls(rows, rows, rows, groups, groups, identities, identities, is_whole=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class Embeddings:
    """N embeddings with the label, path and box of each. Saved as ``embeddings/<split>.npz`` of a run.

    Raises:
        SizeError: the parts do not have N rows.
    """

    embeddings: Float32s
    """(N, D) raw, any length, float64 only where a file holds that; or (N, bytes) uint8, packed bits."""
    labels: Integers
    """(N,) int64 in [0, C)."""
    paths: tuple[str, ...]
    """N absolute paths of the images."""
    class_names: tuple[str, ...]
    """C names."""
    is_query: Flags | None = None
    """(N,) which rows are queries; None: all."""
    is_gallery: Flags | None = None
    """(N,) which rows can be found; None: all."""
    boxes: Integers | None = None
    """(N, 4) pixels (left, top, right, bottom), -1 for the whole image; None: all whole."""
    groups: Integers | None = None
    """(N,) such as the camera or sequence: a query does not meet images of its class and group. None: no groups."""
    group_names: tuple[str, ...] | None = None
    """Names of the groups 0, 1, ...; a larger number is a group without a name. None: no group has one."""
    files: tuple[str, ...] | None = None
    """N keys of the image files, equal for links to one file: rows with one key and box show the same picture. None takes
    ``paths``."""
    ids: tuple[str, ...] | None = None
    """N ids of items, in a file that a gallery was exported to; None elsewhere."""
    model_id: str = ""
    """:attr:`Embedder.id` of the model; empty where unknown."""
    fingerprint: str = ""
    """:meth:`Catalogue.fingerprint` of the images; empty where unknown."""
    skipped: tuple[Skipped, ...] = ()
    """The images that could not be read. Not written to the file."""

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2:
            raise SizeError(f"want embeddings (N, D), got {self.embeddings.shape}. Give one row for each image.")
        for name in ("labels", "paths", "files", "ids", *_OPTIONAL):
            part = getattr(self, name)
            if part is not None and len(part) != len(self.embeddings):
                raise SizeError(
                    f"want one of {name} for each of {counted(len(self.embeddings), 'embedding')}, got {len(part)}. "
                    "Take both from the same images."
                )

    def __len__(self) -> int:
        """N."""
        return len(self.embeddings)

    def save(self, path: str | Path) -> None:
        """Write one .npz atomically. It holds no pickled objects.

        Raises:
            RunError: it cannot be written.
        """
        write_arrays(path_of(path), self.arrays())

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a file of :meth:`save`, by name."""
        arrays: dict[str, Any] = {
            "embeddings": self.embeddings,
            "labels": self.labels,
            "paths": np.array(self.paths, dtype=np.str_),
            "class_names": np.array(self.class_names, dtype=np.str_),
        }
        optional = {name: getattr(self, name) for name in _OPTIONAL}
        arrays |= {name: part for name, part in optional.items() if part is not None}
        texts = {name: getattr(self, name) for name in ("group_names", "files", "ids", "model_id", "fingerprint")}
        return arrays | {name: np.array(text, dtype=np.str_) for name, text in texts.items() if text}

    @classmethod
    def load(cls, path: str | Path) -> Embeddings:
        """Read a file of :meth:`save`, or one with the same arrays.

        Rows of float64, which other programs write, stay float64.

        Raises:
            RunError: the file is missing, holds no embeddings, or has a label without a class name.
        """
        return cls.from_arrays(read_arrays(path_of(path), what="a file of embeddings; cosphere embed makes one"), path)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], path: str | Path) -> Embeddings:
        """The embeddings in the arrays of a file of :meth:`save`; ``path`` is named in errors. Raises as :meth:`load` does."""
        missing = [name for name in ("embeddings", "labels", "paths", "class_names") if name not in arrays]
        if missing:
            raise RunError(f"{path} is not a file of embeddings: it has no {', '.join(missing)}. Embed again.")
        rows, labels, names = arrays["embeddings"], arrays["labels"], arrays["class_names"]
        optional: dict[str, Any] = {name: arrays.get(name) for name in _OPTIONAL}
        optional |= {name: tuple(arrays[name].tolist()) for name in ("group_names", "files", "ids") if name in arrays}
        optional |= {name: str(arrays[name]) for name in ("model_id", "fingerprint") if name in arrays}
        if rows.dtype.kind not in "fui" or rows.ndim != 2:
            raise RunError(f"{path} holds no rows of numbers. Embed again.")
        if not len(rows) or labels.dtype.kind not in "iu" or not np.isin(labels, np.arange(len(names))).all():
            raise RunError(f"{path} holds no image, or a label without a class name. Embed again.")
        return cls(
            embeddings=rows if is_codes(rows) else _of_file(rows),
            labels=labels.astype(np.int64),
            paths=tuple(arrays["paths"].tolist()),
            class_names=tuple(names.tolist()),
            **optional,
        )

    def rows(self, selection: Any) -> Embeddings:
        """Some rows as embeddings of their own. Classes keep their numbers and names.

        Args:
            selection: row numbers in the wanted order, an (N,) bool mask, or a slice.

        Raises:
            SizeError: a row number is out of range, or the mask has another length.

        >>> table = Embeddings(embeddings=np.eye(3, dtype=np.float32), labels=np.arange(3), paths=tuple("abc"), class_names=tuple("xyz"))
        >>> table.rows([2, 0]).paths
        ('c', 'a')
        """
        try:
            rows = np.arange(len(self))[selection]
        except IndexError as error:
            raise SizeError(
                f"the selection does not fit {counted(len(self), 'embedding')}: {error}. Give rows from 0 to {len(self) - 1}."
            ) from error
        optional: dict[str, Any] = {name: getattr(self, name) for name in _OPTIONAL}
        optional = {name: None if part is None else part[rows] for name, part in optional.items()}
        return replace(
            self,
            embeddings=self.embeddings[rows],
            labels=self.labels[rows],
            paths=tuple(self.paths[row] for row in rows.tolist()),
            files=None if self.files is None else tuple(self.files[row] for row in rows.tolist()),
            ids=None if self.ids is None else tuple(self.ids[row] for row in rows.tolist()),
            **optional,
        )

    @classmethod
    def concat(cls, parts: Sequence[Embeddings]) -> Embeddings:
        """Join parts row by row. Classes of the same name become one, numbered in the order in which the parts name them.

        Missing columns take their defaults: every row a query, every row in the gallery, the whole image, a group of its own.
        Groups of the same name become one; groups without a name are never the same in two parts.

        Args:
            parts: at least one, with embeddings of the same width and type.

        Raises:
            SizeError: no part, or embeddings that do not fit together.
        """
        if not parts:
            raise SizeError("there are no embeddings to join. Give at least one part.")
        kinds = sorted({(str(part.embeddings.dtype), part.embeddings.shape[1]) for part in parts})
        if len(kinds) > 1:
            shown = " and ".join(f"{kind} of width {width}" for kind, width in kinds)
            raise SizeError(f"embeddings to join must be of one width and type; got {shown}. Embed all with one model.")
        groups, group_names = _joined_groups(parts)
        names = tuple(dict.fromkeys(name for part in parts for name in part.class_names))
        number = {name: at for at, name in enumerate(names)}
        return cls(
            embeddings=np.concatenate([part.embeddings for part in parts]),
            labels=np.concatenate(
                [np.array([number[name] for name in part.class_names], np.int64)[part.labels] for part in parts]
            ),
            paths=tuple(path for part in parts for path in part.paths),
            files=tuple(file for part in parts for file in part.files or part.paths),
            model_id=_common([part.model_id for part in parts]),
            class_names=names,
            skipped=tuple(one for part in parts for one in part.skipped),
            is_query=_joined([part.is_query for part in parts], [np.ones(len(part), dtype=bool) for part in parts]),
            is_gallery=_joined([part.is_gallery for part in parts], [np.ones(len(part), dtype=bool) for part in parts]),
            boxes=_joined([part.boxes for part in parts], [np.tile(WHOLE_IMAGE, (len(part), 1)) for part in parts]),
            groups=groups,
            group_names=group_names,
        )

    def identities(self) -> Integers:
        """(N,) int64 number of the picture that each row shows: one number for rows with the same file and box.

        Two rows of a table may name one file, directly or through a link. They are the same picture, so a query must not meet
        the other one, and the two are not a pair to compare.
        """
        boxes = [WHOLE_IMAGE] * len(self) if self.boxes is None else map(tuple, self.boxes.tolist())
        numbers: dict[Any, int] = {}
        keys = zip(self.files or self.paths, boxes, strict=True)
        return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)

    def distinct(self) -> Embeddings:
        """One row for each picture, the first. A picture with two labels is left out: its class is unknown."""
        rows = distinct_rows(self.identities(), self.labels)
        return self if len(rows) == len(self) else self.rows(rows)

    def sides(self) -> Sides:
        """Split into queries and gallery by ``is_query`` and ``is_gallery``. A query that is in the gallery excludes itself.

        Raises:
            DataError: no row is a query, or none is in the gallery.
        """
        pictures = self.identities()
        identities = pictures if len(np.unique(pictures)) < len(self) else None
        if self.is_query is None and self.is_gallery is None:
            return Sides.of_all(len(self), self.groups, identities)
        count = len(self)
        query_rows = np.arange(count) if self.is_query is None else np.flatnonzero(self.is_query)
        gallery_rows = np.arange(count) if self.is_gallery is None else np.flatnonzero(self.is_gallery)
        for name, rows in (("is_query", query_rows), ("is_gallery", gallery_rows)):
            if not len(rows):
                raise DataError(f"no image has {name} set. Mark some, or leave the column out to compare all with all.")
        position = np.full(count, -1)
        position[gallery_rows] = np.arange(len(gallery_rows))
        return Sides(
            query_rows,
            gallery_rows,
            position[query_rows],
            None if self.groups is None else self.groups[query_rows],
            None if self.groups is None else self.groups[gallery_rows],
            None if identities is None else identities[query_rows],
            None if identities is None else identities[gallery_rows],
            is_whole=len(query_rows) == len(gallery_rows) == count,
        )


_OPTIONAL = ("is_query", "is_gallery", "boxes", "groups")
"""Columns that may be None."""


def _of_file(rows: npt.NDArray[Any]) -> Any:
    """Rows as float32, or as float64 where float32 does not hold them: close neighbours would tie."""
    kind = np.result_type(rows.dtype, np.float32)
    return np.asarray(rows, dtype=np.float64 if kind.itemsize > 4 else np.float32)


def distinct_rows(identities: Integers, labels: Integers) -> Integers:
    """The first row of each picture, in order, without pictures that have two labels.

    Args:
        identities: (N,) number of the picture that each row shows, such as :meth:`Embeddings.identities`.
        labels: (N,)
    """
    pictures, first, numbers = np.unique(identities, return_index=True, return_inverse=True)
    pairs = np.unique(np.stack([numbers.ravel(), labels], axis=1), axis=0)
    counts = np.bincount(pairs[:, 0], minlength=len(pictures))
    return np.asarray(np.sort(first[counts == 1]), dtype=np.int64)


def _common(texts: Sequence[str]) -> str:
    """The text that all share; empty where they differ."""
    return texts[0] if len(set(texts)) == 1 else ""


def _joined(columns: Sequence[Any], defaults: Sequence[Any]) -> Any:
    """One column of all parts; None where no part has it."""
    if all(column is None for column in columns):
        return None
    return np.concatenate([d if c is None else c for c, d in zip(columns, defaults, strict=True)])


def _joined_groups(parts: Sequence[Embeddings]) -> tuple[Integers | None, tuple[str, ...] | None]:
    """Groups of all parts under one numbering, named ones first, and the names."""
    if all(part.groups is None for part in parts):
        return None, None
    keys: list[str | tuple[int, int]] = []  # a name, or part and number where there is none
    for at, part in enumerate(parts):
        names = part.group_names or ()
        numbers = range(len(names), len(names) + len(part)) if part.groups is None else part.groups.tolist()
        keys += [names[number] if 0 <= number < len(names) else (at, number) for number in numbers]
    named = tuple(dict.fromkeys(key for key in keys if isinstance(key, str)))
    order = dict.fromkeys([*named, *keys])
    place = {key: number for number, key in enumerate(order)}
    return np.array([place[key] for key in keys], dtype=np.int64), named or None
