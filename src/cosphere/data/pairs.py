"""Pairs of images for verification: which two rows of a catalogue to compare, and whether they show the same class."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from cosphere._types import Flags, Integers
from cosphere.checks import check_number
from cosphere.data.faces.people import lfw_image
from cosphere.data.listing import is_image
from cosphere.data.names import nfc
from cosphere.data.table_files import load_table
from cosphere.data.text_lists import is_count, read_lines
from cosphere.errors import DataError, SizeError, counted
from cosphere.files import path_of
from cosphere.images import verification_labels

_COLUMNS: dict[str, tuple[str, ...]] = {
    "a": ("path_1", "image_1", "file_1", "left", "first"),
    "b": ("path_2", "image_2", "file_2", "right", "second"),
    "same": ("is_same", "issame", "match", "label"),
    "fold": ("set", "split"),
}
"""Names that a column of a table of pairs may have instead."""
_FOLDS = 10
"""Folds of a verification set that does not say which it has."""


class PairList(NamedTuple):
    """P pairs as a list names them."""

    names: tuple[tuple[str, str], ...]
    same: Flags
    """(P,) whether both images show the same class."""
    folds: Integers | None
    """(P,) int64 from 0, in the order of the list; None where it has no folds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """P pairs of rows of a catalogue.

    Raises:
        SizeError: the parts do not have P entries each.
    """

    rows: Integers
    """(P, 2) int64 row numbers of the two images."""
    same: Flags
    """(P,) whether both rows show the same class."""
    folds: Integers | None = None
    """(P,) int64 from 0: the fold of each pair in cross-validation; None without folds."""
    missing: tuple[str, ...] = ()
    """Names of the list that no path matches; their pairs are left out."""

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.rows.shape[1] != 2:
            raise SizeError(f"want rows of pairs (P, 2), got {self.rows.shape}. Give two row numbers for each pair.")
        for name in ("same", "folds"):
            part = getattr(self, name)
            if part is not None and part.shape != (len(self.rows),):
                raise SizeError(f"want {name} ({len(self.rows)},), one for each pair, got {part.shape}.")

    def __len__(self) -> int:
        """P."""
        return len(self.rows)


def find_pairs(
    listed: PairList,
    paths: Sequence[str],
    *,
    pictures: Sequence[int] | Integers | None = None,
    max_missing: float = 0.0,
) -> Pairs:
    """Find the images of a list among the rows of a catalogue.

    A name matches the path that ends in it, part by part: ``Ann/Ann_0001.jpg`` matches ``/data/lfw/Ann/Ann_0001.jpg``.
    The suffix of an image may differ or be missing, because aligned copies of a data set often have another.

    Args:
        listed: from :func:`read_pairs`, :func:`read_lfw_pairs` or :func:`read_verification_bin`.
        paths: N paths, such as :attr:`Catalogue.paths`; row numbers count from 0.
        pictures: N numbers of the picture that each row shows, such as :meth:`Catalogue.identities`: rows of one picture are one
            image, and the first stands for it. None: each row is an image.
        max_missing: tolerated share of names that match no path, in [0, 1]. Their pairs are left out.

    Raises:
        DataError: too many names match no path, or one matches several.
        SettingsError: ``max_missing`` is out of range.
    """
    check_number("max_missing", max_missing, at_least=0, at_most=1)
    names = {name: _parts(name) for pair in listed.names for name in pair}
    rows: dict[tuple[str, ...], int] = {}
    matches: defaultdict[tuple[str, ...], set[int]] = defaultdict(set)
    numbers = range(len(paths)) if pictures is None else np.asarray(pictures).tolist()
    tails = set(names.values())
    depths = {len(parts) for parts in tails}
    for row, (path, picture) in enumerate(zip(paths, numbers, strict=True)):
        parts = _parts(path)
        for depth in depths:
            tail = parts[-depth:]
            if tail in tails:
                rows.setdefault(tail, row)
                matches[tail].add(picture)
    missing = [name for name, parts in names.items() if parts not in rows]
    if len(missing) > max_missing * len(names):
        most = f" At most {max_missing:.1%} may be missing." if max_missing else ""
        raise DataError(
            f"{len(missing)} of {len(names)} images of the pairs are not among the {counted(len(paths), 'image')}, first "
            f"{missing[0]}.{most} Read the folder that holds them all."
        )
    twice = [name for name, parts in names.items() if len(matches[parts]) > 1]
    if twice:
        raise DataError(
            f"{twice[0]} of the pairs matches {len(matches[names[twice[0]]])} images. Write more of its path, or leave the "
            "others out."
        )
    there = [names[one] in rows and names[two] in rows for one, two in listed.names]
    pairs = np.array(
        [[rows[names[one]], rows[names[two]]] for (one, two), whole in zip(listed.names, there, strict=True) if whole],
        dtype=np.int64,
    )
    return Pairs(
        rows=pairs.reshape(-1, 2),
        same=listed.same[there],
        folds=None if listed.folds is None else listed.folds[there],
        missing=tuple(missing),
    )


def _parts(path: str) -> tuple[str, ...]:
    r"""The parts of a path in one form of characters, the last without the suffix of an image.

    An item's name is a part too (``lfw.bin#17``), and lists written on Windows separate parts by ``\``.
    """
    *folders, name = PurePosixPath(nfc(path).replace("\\", "/").replace("#", "/")).parts or ("",)
    return (*folders, os.path.splitext(name)[0] if is_image(name) else name)  # noqa: PTH122


def read_lfw_pairs(path: str | Path) -> PairList:
    """Read a list in the format of LFW's ``pairs.txt`` and ``pairsDevTrain.txt``.

    The first line is ``folds<TAB>n`` or ``n``. Each fold has n lines ``name<TAB>i<TAB>j`` (two images of one person) and
    n lines ``name<TAB>i<TAB>other<TAB>j``. Image i of a person is called ``name/name_000i.jpg``.

    Args:
        path: the list.

    Raises:
        DataError: the file cannot be read, a line has another form, or the counts differ from the first line.
    """
    path = path_of(path)
    first, *lines = read_lines(path) or [""]
    counts = first.split()
    if len(counts) not in (1, 2) or not all(map(is_count, counts)):
        raise DataError(
            f"{path} cannot be read as a list of LFW pairs: it should begin with 'folds<TAB>n' or 'n', got {first[:80]!r}. "
            "Use LFW's own list."
        )
    names, same = [], []
    for line in lines:
        words = [word.strip() for word in line.split("\t")]
        if len(words) not in (3, 4) or not (is_count(words[1]) and is_count(words[-1])):
            raise DataError(
                f"{path.name}: want 'name<TAB>n<TAB>m' or 'name<TAB>n<TAB>other<TAB>m', got {line[:80]!r}. Use LFW's own list."
            )
        one, other = words[0], words[-2] if len(words) == 4 else words[0]
        names.append((lfw_image(one, int(words[1])), lfw_image(other, int(words[-1]))))
        same.append(len(words) == 3)
    each, folds = int(counts[-1]), int(counts[0]) if len(counts) == 2 else 1
    if not names or len(names) != 2 * folds * each or sum(same) != folds * each:
        raise DataError(
            f"{path.name} promises {folds * each} same and as many different pairs; it has {sum(same)} and "
            f"{len(same) - sum(same)}. Use LFW's own list."
        )
    numbers = np.arange(len(names)) // (2 * each) if len(counts) == 2 else None
    return PairList(tuple(names), np.array(same, dtype=bool), numbers)


def read_verification_bin(path: str | Path) -> PairList:
    """Read the pairs of an InsightFace verification set, such as ``lfw.bin``, ``cfp_fp.bin`` and ``agedb_30.bin``.

    The images are called ``lfw.bin#0``, ``lfw.bin#1`` and so on; images 2 i and 2 i + 1 are pair i. The folds are ten
    contiguous blocks of equal size (the first ones have one more where ten does not divide the pairs), as in InsightFace's
    evaluation. The file is a pickle, and nothing in it is executed.

    Args:
        path: the file, whose name ends with .bin.

    Returns:
        The pairs, without folds where there are fewer than ten.

    Raises:
        DataError: the file is not a verification set, is damaged, or holds anything but images and booleans.
    """
    path = path_of(path)
    same = verification_labels(path)
    names = tuple((f"{path.name}#{2 * pair}", f"{path.name}#{2 * pair + 1}") for pair in range(len(same)))
    folds = None
    if len(same) >= _FOLDS:
        sizes = [len(block) for block in np.array_split(same, _FOLDS)]
        folds = np.repeat(np.arange(_FOLDS, dtype=np.int64), sizes)
    return PairList(names, same, folds)


def read_pairs(path: str | Path) -> PairList:
    """Read a table of pairs: .csv, .tsv or .parquet with the columns ``a``, ``b`` and ``same``, and perhaps ``fold``.

    ``a`` and ``b`` are image paths, ``same`` is true or false (or 1 or 0). Folds may be called anything; they are
    numbered in the order in which they first come.

    Args:
        path: the table.

    Raises:
        DataError: the table cannot be read, a column is missing, or a cell is empty or not true or false.
    """
    file = load_table(path)
    columns = {
        column: next((file.columns[name] for name in (column, *aliases) if name in file.columns), None)
        for column, aliases in _COLUMNS.items()
    }
    missing = [column for column in ("a", "b", "same") if columns[column] is None]
    if missing:
        raise DataError(
            f"{file.name} has no column {missing[0]!r}; it has {', '.join(map(str, file.frame.columns))}. A table of "
            "pairs wants the columns a, b and same."
        )
    if file.frame.empty:
        raise DataError(f"{file.name} has no rows. Give one row for each pair.")
    sides = [file.filled(columns[side], side).tolist() for side in ("a", "b")]
    file.filled(columns["same"], "same")
    same = file.true_or_false(columns["same"], "same")
    folds: Integers | None = None
    if columns["fold"] is not None:
        values = file.filled(columns["fold"], "fold").tolist()
        numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
        folds = np.array([numbers[value] for value in values], dtype=np.int64)
    return PairList(tuple(zip(*sides, strict=True)), same.to_numpy(dtype=bool), folds)
