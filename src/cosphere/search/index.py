"""An index: a gallery made ready once, searched often, kept on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosphere.errors import RunError, SettingsError, did_you_mean
from cosphere.files import read_arrays, write_arrays
from cosphere.search.cosines import BLOCK_BYTES, Rows, UnitRows, rounded_up, unit_rows
from cosphere.search.exact import Neighbours, search_units

FORMAT = 1
"""Version of the file. Raised when an older Cosphere can no longer read it."""
KINDS = ("exact",)


class Index:
    """Unit rows of a gallery. Make with :meth:`build` or :meth:`load`.

    Its answers are those of :func:`cosphere.search.search` over the same gallery, bit for bit.
    """

    def __init__(self, rows: UnitRows, kind: str) -> None:
        self._rows = rows
        self.kind = kind

    @classmethod
    def build(cls, embeddings: Rows, kind: str = "exact") -> Index:
        """Make an index.

        Args:
            embeddings: (G, D) float, torch or numpy, any length; a tensor's device does the searching.
            kind: ``exact`` compares with every row.

        Raises:
            SettingsError: there is no such kind.
            SizeError, DataError: the embeddings are not (G, D) finite numbers.
        """
        _check_kind(kind)
        return cls(unit_rows(embeddings, name="gallery"), kind)

    def __len__(self) -> int:
        """Number of rows."""
        return self._rows.size

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self._rows.width

    def search(
        self, queries: Rows, k: int, exclude: Any | None = None, *, block_bytes: int = BLOCK_BYTES
    ) -> Neighbours:
        """The k rows nearest to each query by cosine: see :func:`cosphere.search.search`."""
        return search_units(unit_rows(queries, name="queries"), self._rows, k, exclude, block_bytes)

    def save(self, path: str | Path) -> None:
        """Write one .npz file, all or nothing: unit rows, kind and format version.

        Raises:
            RunError: it cannot be written.
        """
        rows = self._rows.rows.cpu().numpy()
        write_arrays(Path(path), {"format": np.array(FORMAT), "kind": np.array(self.kind), "rows": rows})

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Index:
        """Read what :meth:`save` wrote.

        Raises:
            RunError: there is no such file, it is no index, or it has another format version.
        """
        path = Path(path)
        arrays = read_arrays(path, what="an index")
        if not arrays.keys() >= {"format", "kind", "rows"}:
            raise RunError(f"{path} is not an index: it holds {', '.join(arrays) or 'nothing'}. Build it again.")
        version, kind, rows = arrays["format"].item(), str(arrays["kind"]), arrays["rows"]
        if version != FORMAT:
            raise RunError(f"{path} has index format {version}; this Cosphere reads {FORMAT}. Build it again.")
        _check_kind(kind)
        if rows.ndim != 2 or rows.dtype != np.float32 or not rows.size:
            raise RunError(f"{path} is not an index: rows are {rows.shape} {rows.dtype}. Build it again.")
        # Not normalised again: that would move last bits, and with them ties.
        padded = torch.zeros(rounded_up(len(rows)), rows.shape[1], dtype=torch.float32)
        padded[: len(rows)] = torch.from_numpy(rows)
        return cls(UnitRows(padded.to(device), len(rows)), kind)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise SettingsError(f"there is no index of kind {kind!r}. {did_you_mean(kind, KINDS)}")
