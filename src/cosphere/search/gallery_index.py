"""An approximate index over the rows that a gallery holds in memory: caught up with every commit, built again when much changed.

It is made from the rows and never the truth: which rows are alive is asked of the gallery at every search, and given to the index as a
bitmap, together with the filter. On disk it is a file of ``index/``, which a deletion removes, because it holds copies of rows.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from cosphere._types import Integers
from cosphere.checks import plain
from cosphere.errors import RunError, SettingsError, SizeError
from cosphere.files import read_arrays
from cosphere.gallery.indexes import ABOUT, NUMBERS, about_of
from cosphere.gallery.schema import State
from cosphere.rows import UnitRows
from cosphere.search.allowed import Kept
from cosphere.search.engines import ENGINES
from cosphere.search.hamming import BitRows
from cosphere.search.held import Held, Nearest
from cosphere.search.index import REBUILD_SHARE, Index

FEWEST = 1000
"""Rows below which all of them are compared, whatever the kind."""


class GalleryIndex:
    """An index of some kind over a gallery's float rows, or over its codes.

    Args:
        kind: one of :data:`cosphere.search.KINDS`, or ``auto``; of codes one that compares signs.
        options: further arguments of :meth:`Index.build`, such as ``wanted_recall`` or ``ef_search``.
    """

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        self.kind = kind
        self.index: Index | None = None
        self.options = plain(options)
        self.failure = ""
        """Why no index could be built, so that searches compare all rows; empty where none failed."""
        self._failed_at = 0
        """Rows that there were then."""
        self._numbers: Integers = np.zeros(0, np.int64)
        self._alive: Kept | None = None
        self._kept: tuple[Integers, Kept] | None = None
        """The rows of the last filter, and the places that they have."""
        self._known = Held("floats").known

    def refresh(self, held: Held) -> None:
        """Take in what the gallery's rows in memory gained and lost.

        Raises:
            SettingsError, SizeError: the index has to be built, and finds less than is wanted, or has too few rows to train on.
        """
        if held.known == self._known:
            return
        live = held.live_rows()
        moved = held.known.space != self._known.space  # a row keeps its number, so compaction moves nothing here
        last = int(self._numbers[-1]) if len(self._numbers) else 0
        new = live[live > last]
        dead = len(self._numbers) + len(new) - len(live)
        if len(live) < FEWEST:
            self.index, self._numbers, self.failure = None, live[:0], ""
        elif self.index is None or moved or dead > REBUILD_SHARE * (len(self._numbers) + len(new)):
            self._build(held, live)
        elif len(new):
            self.index.add(held.given(new))
            self._numbers = np.concatenate([self._numbers, new])
        whole = len(self._numbers) == len(live)
        self._alive = None if whole else Kept(np.isin(self._numbers, live, assume_unique=True))
        self._known = held.known
        self._kept = None

    def _follow(self, held: Held) -> None:
        """:meth:`refresh` for a search: where no index can be built, all rows are compared until a fifth of them has changed."""
        if held.known == self._known:
            return
        moved = held.known.space != self._known.space
        if not self.failure or moved or abs(len(held) - self._failed_at) > REBUILD_SHARE * self._failed_at:
            try:
                self.refresh(held)
                return
            except (SettingsError, SizeError) as error:
                self.failure, self._failed_at = str(error), len(held)
        self.index, self._numbers, self._alive, self._kept = None, self._numbers[:0], None, None
        self._known = held.known

    def _build(self, held: Held, live: Integers) -> None:
        width = held.space.dim if held.kind == "codes" else None
        self.index = Index.build(held.given(live), self.kind, **{**self.options, "dim": width})
        self._numbers, self.failure = live, ""

    def without_deleted(self, held: Held) -> None:
        """:meth:`refresh`, and build it again where deleted rows are in it.

        Raises:
            SettingsError: it was built again, and finds less than was wanted.
        """
        self.refresh(held)
        if self.index is not None and self._alive is not None:
            self._build(held, held.live_rows())
            self._alive = self._kept = None

    def save(self, path: Path, state: State, held: Held) -> None:
        """Write it beside the old file, which is then replaced. No deleted row is written: with one, it is built again.

        Args:
            path: the file.
            state: of the gallery whose rows it has.
            held: the rows; nothing may be deleted until this returns.

        Raises:
            SettingsError: it was built again, and finds less than was wanted.
            RunError: it cannot be written, or there is nothing to write.
        """
        self.without_deleted(held)
        if self.index is None:
            raise RunError(
                f"{path.parent.parent} has fewer than {FEWEST:,} items, which are searched exactly. Build no index."
            )
        if path.parent.is_symlink():
            raise RunError(f"{path.parent} is a link, behind which a deletion removes nothing. Replace it by a folder.")
        path.parent.mkdir(exist_ok=True)
        about = {"gallery": state.name, "space": state.space, "options": self.options, "asked": self.kind}
        self.index.save(path, images={NUMBERS: self._numbers, ABOUT: np.array(json.dumps(about))})

    @classmethod
    def load(cls, path: Path, state: State) -> Self:
        """Read what :meth:`save` wrote. It holds numbers only, all of which are checked, so a stranger's file runs no code.

        Raises:
            RunError: it is missing or damaged, or of another gallery or of rows that a migration replaced.
        """
        arrays = read_arrays(path, what="an index of a gallery")
        numbers, about = arrays.pop(NUMBERS, None), about_of(arrays.pop(ABOUT, None))
        options, known = about.get("options"), (about.get("gallery"), about.get("space"))
        if numbers is None or not isinstance(options, dict) or known != (state.name, state.space):
            raise RunError(f"{path} is not an index of this gallery's rows. Build it again.")
        index = Index.from_arrays(arrays, path)
        if numbers.dtype != np.int64 or numbers.shape != (len(index),) or (np.diff(numbers, prepend=0) <= 0).any():
            raise RunError(f"{path} is damaged: its row numbers do not fit. Build it again.")
        made = cls(str(about.get("asked")), options)
        made.index, made._numbers = index, numbers
        made._known = replace(made._known, space=state.space)  # so the first search takes in what changed since
        return made

    def search(self, queries: UnitRows | BitRows, k: int, held: Held, rows: Integers | None) -> Nearest:
        """The nearest rows as the index finds them; see :meth:`Held.search`. A place for which it finds none has row number -1."""
        self._follow(held)
        if self.index is None:
            return held.search(queries, k, rows)
        keep = self._alive if rows is None else self._places_of(rows)
        count = len(self._numbers) if keep is None else keep.count
        if not count:
            return held.search(queries, k, rows)
        ids, scores = self.index.search(queries.rows, min(k, count), keep=keep)
        numbers = np.where(ids.numpy() < 0, -1, self._numbers[np.maximum(ids.numpy(), 0)])
        return Nearest(numbers, scores.numpy(), ENGINES[self.index.kind].measure)

    def _places_of(self, rows: Integers) -> Kept:
        """Which places of the index hold these rows. A gallery gives the same array for the same filter until the next commit."""
        if self._kept is None or self._kept[0] is not rows:
            at = np.minimum(np.searchsorted(self._numbers, rows), len(self._numbers) - 1)
            kept = np.zeros(len(self._numbers), dtype=bool)
            kept[at[self._numbers[at] == rows]] = True
            self._kept = rows, Kept(kept if self._alive is None else self._alive.flags & kept)
        return self._kept[1]
