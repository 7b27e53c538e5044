"""Any number of rows that vary as real embeddings do, for benchmarks of search.

A row is a real embedding, centred, plus half of the difference of two images of one class. A tenth of the images are for queries only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from embedded import embedded

from cosphere._types import Float32s, Integers

PERTURBATION = 0.5


class Drawn:
    """Rows made of real embeddings."""

    def __init__(self, data: str, run: str | None) -> None:
        table = embedded(data, run=run)
        rows = table.embeddings / np.linalg.norm(table.embeddings, axis=1, keepdims=True)
        self._rows = rows - rows.mean(axis=0)
        self._labels = table.labels
        held = np.random.default_rng(0).permutation(len(rows))
        self._sources = {"queries": held[: len(rows) // 10], "gallery": held[len(rows) // 10 :]}
        self.images = len(rows)
        by_class = np.argsort(self._labels, kind="stable")
        self._by_class = by_class
        self._first = np.searchsorted(self._labels[by_class], np.arange(len(table.class_names) + 1))

    def rows(self, which: str, count: int, seed: int, transform: Callable[[Float32s], Any]) -> Any:
        """``count`` made rows, transformed block by block."""
        random = np.random.default_rng(seed)
        parts = []
        for start in range(0, count, 50_000):
            size = min(50_000, count - start)
            source = self._rows[random.choice(self._sources[which], size)]
            one, other = self._pairs(size, random)
            parts.append(transform(source + np.float32(PERTURBATION) * (self._rows[one] - self._rows[other])))
        return np.concatenate(parts)

    def _pairs(self, count: int, random: np.random.Generator) -> tuple[Integers, Integers]:
        """Two images of one class, ``count`` times."""
        sizes = np.diff(self._first)
        label = random.choice(np.flatnonzero(sizes > 1), count)
        places = [self._first[label] + random.integers(0, sizes[label]) for _ in range(2)]
        return self._by_class[places[0]], self._by_class[places[1]]

    @property
    def key(self) -> str:
        """A digest of the real rows, for names of files."""
        return hashlib.sha256(self._rows.tobytes()).hexdigest()[:12]

    def sample(self) -> Float32s:
        """The real rows."""
        return self._rows


def kept(cache: str | None, name: str, make: Callable[[], Any]) -> Any:
    """An array that takes long to make, from a file of the folder ``cache`` if it is there; without a folder it is made."""
    if cache is None:
        return make()
    path = Path(cache) / f"{name}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = make()
        with path.with_suffix(".part").open("wb") as file:
            np.save(file, made)
        path.with_suffix(".part").rename(path)
    return np.load(path)
