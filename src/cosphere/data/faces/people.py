"""The people lists of LFW: ``people.txt``, ``peopleDevTrain.txt`` and ``peopleDevTest.txt``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosphere._types import Integers
from cosphere.data.text_lists import is_count, read_lines
from cosphere.errors import DataError, counted
from cosphere.files import path_of


@dataclass(frozen=True, kw_only=True, eq=False)
class People:
    """P people as a list of LFW names them, in its order.

    Attributes:
        names: P names, each the name of a folder. A person may be in several folds; LFW's own lists have none who is.
        counts: (P,) int64, number of images, at least 1. Image i of a person is ``name/name_000i.jpg``.
        folds: (P,) int64 from 0; None for a list without folds (View 1).
    """

    names: tuple[str, ...]
    counts: Integers
    folds: Integers | None = None

    def __len__(self) -> int:
        """P."""
        return len(self.names)

    @property
    def images(self) -> list[str]:
        """The images of all people, in the order of the list: ``name/name_0001.jpg``."""
        pairs = zip(self.names, self.counts.tolist(), strict=True)
        return [lfw_image(name, number) for name, count in pairs for number in range(1, count + 1)]


def lfw_image(person: str, number: int) -> str:
    """The path of an image of LFW.

    >>> lfw_image("Ann_Lee", 12)
    'Ann_Lee/Ann_Lee_0012.jpg'
    """
    return f"{person}/{person}_{number:04d}.jpg"


def read_lfw_people(path: str | Path) -> People:
    """Read a list of people in LFW's format.

    ``people.txt`` begins with the number of folds; each fold has a line with its number of people, then a line
    ``name<TAB>images`` for each. ``peopleDevTrain.txt`` and ``peopleDevTest.txt`` have the number of people and their lines,
    without folds. Names may hold spaces.

    Args:
        path: the list.

    Raises:
        DataError: the file cannot be read, a line has another form, a count differs, or a person is listed twice in a fold.
    """
    path = path_of(path)
    lines = [line.split("\t") for line in read_lines(path)]
    if not lines or not _is_count(lines[0]):
        raise DataError(f"{path.name} should begin with the number of folds or people. Use LFW's own list.")
    has_folds = len(lines) > 1 and _is_count(lines[1])
    folds = int(lines[0][0]) if has_folds else 1
    names: list[str] = []
    counts: list[int] = []
    numbers: list[int] = []
    at = 1 if has_folds else 0
    for fold in range(folds):
        if at >= len(lines) or not _is_count(lines[at]):
            raise DataError(
                f"{path.name} promises {counted(folds, 'fold')}; fold {fold + 1} is missing. Use LFW's own list."
            )
        size = int(lines[at][0])
        people = [_person(cells, path) for cells in lines[at + 1 : at + 1 + size]]
        _check_fold(people, size, path)
        names += [name for name, _ in people]
        counts += [count for _, count in people]
        numbers += [fold] * size
        at += 1 + size
    if at < len(lines):
        raise DataError(
            f"{path.name} has {counted(len(lines) - at, 'line')} more than its counts promise. Use LFW's own list."
        )
    return People(
        names=tuple(names),
        counts=np.array(counts, dtype=np.int64),
        folds=np.array(numbers, dtype=np.int64) if has_folds else None,
    )


def _is_count(cells: list[str]) -> bool:
    return len(cells) == 1 and is_count(cells[0].strip())


def _person(cells: list[str], path: Path) -> tuple[str, int]:
    name, count = cells[0].strip(), cells[-1].strip()
    if len(cells) != 2 or not name or not is_count(count) or int(count) < 1:
        raise DataError(f"{path.name}: want 'name<TAB>images', got {chr(9).join(cells)!r}. Use LFW's own list.")
    if name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise DataError(f"{path.name}: {name!r} is a path, not a name. Use LFW's own list.")
    return name, int(count)


def _check_fold(people: list[tuple[str, int]], size: int, path: Path) -> None:
    if len(people) != size:
        raise DataError(f"{path.name} promises {size} people where only {len(people)} follow. Use LFW's own list.")
    times = Counter(name for name, _ in people)
    twice = next((name for name, number in times.items() if number > 1), None)
    if twice is not None:
        raise DataError(f"{path.name} lists {twice!r} twice. Use LFW's own list.")
