"""An index of a gallery: built once, searched many times, stored on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere.checks import check_choice, check_seed, check_whole
from cosphere.codes import bytes_of, to_bits
from cosphere.errors import RunError, SettingsError, SizeError, counted
from cosphere.files import read_arrays, write_arrays
from cosphere.rows import BLOCK_BYTES, Matrix, UnitRows, check_widths, rounded_up, unit_rows
from cosphere.search.asymmetric import SHORTLIST, rerank_bits
from cosphere.search.exact import Neighbours, search_units
from cosphere.search.hamming import BitRows, search_bits
from cosphere.search.self_check import NEIGHBOURS, QUERIES, SelfCheck, check_search, check_wanted_recall
from cosphere.search.storage import (
    Bits,
    Floats,
    Int8,
    ProductQuantiser,
    Storage,
    Stored,
    search_stored,
)

FORMAT = 2
"""Version of the file format. Raised when an older Cosphere can no longer read it."""
KINDS = {
    "exact": "float32 rows, by cosine",
    "float16": "rows in half precision",
    "int8": "rows of one byte per dimension",
    "bits": "packed signs, by Hamming distance; the query becomes bits too",
    "asymmetric": "packed signs; the query keeps its floats",
    "rerank": "packed signs find a shortlist, float32 rows re-rank it",
    "pq": "product quantisation, trained on the gallery",
}
"""Index kinds. All are exhaustive; they differ only in how a row is stored."""


class Index:
    """A gallery of G rows. Create with :meth:`build` or :meth:`load`.

    Kind ``exact`` returns the results of :func:`cosphere.search.search` over the same gallery, bit for bit.
    """

    def __init__(
        self,
        kind: str,
        rows: UnitRows | None,
        stored: Stored | None,
        *,
        shortlist: int = SHORTLIST,
        check: SelfCheck | None = None,
    ) -> None:
        self.kind = kind
        self.shortlist = shortlist
        self.check = check
        """Comparison with exact search that :meth:`build` made; None without a check."""
        self.model_id = ""
        """:attr:`Embedder.id` of the model that made the embeddings; empty where unknown. Saved with the index."""
        self._rows = rows
        self._stored = stored

    @classmethod
    def build(
        cls,
        embeddings: Matrix,
        kind: str = "exact",
        *,
        shortlist: int = SHORTLIST,
        parts: int | None = None,
        check_queries: int = QUERIES,
        wanted_recall: float | None = None,
        seed: int = 0,
    ) -> Index:
        """Build an index and compare its answers with exact search.

        Args:
            embeddings: (G, D) float, torch or numpy, any length; the search runs on a tensor's device.
            kind: one of :data:`KINDS`.
            shortlist: of kind ``rerank``: codes that are re-ranked.
            parts: of kind ``pq``: bytes per row; None takes ceil(D / 8), as many as packed bits.
            check_queries: gallery rows used as queries of the check; 0 for no check.
            wanted_recall: in [0, 1]; a lower recall of the check is an error.
            seed: of the check and of the training of ``pq``.

        Raises:
            SettingsError: there is no such kind, a setting is out of range, or the recall is below ``wanted_recall``.
            SizeError, DataError: the embeddings are not (G, D) finite numbers, or too few to train on.
        """
        check_kind(kind)
        check_wanted_recall(wanted_recall)
        check_whole("shortlist", shortlist, least=1)
        check_whole("check_queries", check_queries, least=0)
        check_seed(seed)
        if wanted_recall is not None and not check_queries:
            raise SettingsError("wanted_recall needs a check, but check_queries is 0. Leave check_queries out.")
        rows = unit_rows(embeddings, name="gallery")
        stored = None if kind == "exact" else Stored.of(rows, _storage(kind, rows, parts, seed))
        index = cls(kind, rows if kind in ("exact", "rerank") else None, stored, shortlist=shortlist)
        if check_queries:
            index.check = index._checked(rows, None, NEIGHBOURS, check_queries, wanted_recall, seed)
        return index

    def __len__(self) -> int:
        """Number of rows."""
        return self._rows.size if self._rows is not None else len(self._kept)

    @property
    def _kept(self) -> Stored:
        return cast(Stored, self._stored)  # there for every kind but exact

    @property
    def _floats(self) -> UnitRows:
        return cast(UnitRows, self._rows)  # there for exact and rerank

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self._rows.width if self._rows is not None else self._kept.storage.dim

    @property
    def bytes_per_image(self) -> int:
        """Bytes stored per row, in memory and on disk, without what all rows share, such as the codebooks of ``pq``."""
        floats = 4 * self.dim if self._rows is not None else 0
        return floats + (self._stored.storage.bytes_per_row if self._stored is not None else 0)

    def rows(self) -> Tensor:
        """(G, D) float32 unit vectors of the stored rows. Takes 4 D bytes for each."""
        return self._kept.rows() if self._rows is None else self._rows.rows

    def search(
        self, queries: Matrix, k: int, exclude: Any | None = None, *, block_bytes: int = BLOCK_BYTES
    ) -> Neighbours:
        """Find the k stored rows nearest to each query: see :func:`cosphere.search.search`.

        Args:
            queries: (Q, D) float, whatever the kind.
            k: neighbours; for ``rerank`` at most the shortlist.
            exclude: (Q,) integers, a row that each query must not return, -1 for none.
            block_bytes: bound of the working memory in bytes.

        Raises:
            SizeError: shapes or k do not fit.
            DataError: a query holds NaN or infinity.
        """
        rows = unit_rows(queries, name="queries")
        if self.kind == "exact":
            return search_units(rows, self._floats, k, exclude, block_bytes)
        check_widths(rows.width, self.dim)
        if self.kind == "bits":
            bits = to_bits(rows.rows)
            return search_bits(BitRows(bits, rows.size), self._codes, k, exclude, self.dim, block_bytes)
        if self.kind == "rerank":
            return rerank_bits(rows, self._codes, self._floats, k, self.shortlist, exclude, block_bytes)
        return search_stored(rows, self._kept, k, exclude, block_bytes)

    @property
    def _codes(self) -> BitRows:
        return BitRows(self._kept.kept, len(self._kept))

    def self_check(
        self,
        embeddings: Matrix,
        queries: Matrix | None = None,
        *,
        k: int = NEIGHBOURS,
        count: int = QUERIES,
        wanted: float | None = None,
        seed: int = 0,
    ) -> SelfCheck:
        """Compare with exact search over the float rows: see :func:`cosphere.search.self_check.check_search`.

        Args:
            embeddings: (G, D) float, the rows that the index was built from.
            queries: (q, D) float; None draws ``count`` rows of the gallery, each of which excludes itself.
            k: neighbours; at most the size of the gallery.
            count: how many rows to draw.
            wanted: in [0, 1]; a lower recall is an error. None for no lower bound.
            seed: of the draw.

        Raises:
            SettingsError: the recall is below what was wanted.
            SizeError: other rows than the index was built from.
        """
        rows = unit_rows(embeddings, name="embeddings")
        if (rows.size, rows.width) != (len(self), self.dim):
            raise SizeError(
                f"the index has {counted(len(self), 'row')} of {counted(self.dim, 'dimension')}, got {rows.size} of {rows.width}. "
                "Give the rows that it was built from."
            )
        return self._checked(rows, queries, k, count, wanted, seed)

    def _checked(
        self, rows: UnitRows, queries: Matrix | None, k: int, count: int, wanted_recall: float | None, seed: int
    ) -> SelfCheck:
        most = min(k, self.shortlist) if self.kind == "rerank" else k
        check = check_search(self.search, rows, queries, k=most, count=count, seed=seed)
        return check if wanted_recall is None else check.require(wanted_recall, f"an index of kind {self.kind!r}")

    def save(self, path: str | Path, *, images: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
        """Write one .npz file atomically: rows, kind, check, model and format version.

        Args:
            path: the file.
            images: further arrays that describe the rows, under names of their own; see
                :func:`cosphere.search.gallery.save_gallery`. :meth:`load` does not read them.

        Raises:
            RunError: it cannot be written.
        """
        arrays: dict[str, npt.NDArray[Any]] = {
            **(images or {}),
            "format": np.array(FORMAT),
            "kind": np.array(self.kind),
            "dim": np.array(self.dim),
            "shortlist": np.array(self.shortlist),
        }
        if self._rows is not None:
            arrays["rows"] = self._rows.rows.cpu().numpy()
        if self._stored is not None:
            arrays["kept"] = self._stored.kept.cpu().numpy()
            if isinstance(self._stored.storage, ProductQuantiser):
                arrays["words"] = self._stored.storage.words
        if self.check is not None:
            arrays["check"] = np.array([self.check.recall, self.check.k, self.check.queries], dtype=np.float64)
        if self.model_id:
            arrays["model_id"] = np.array(self.model_id)
        write_arrays(Path(path), arrays)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Index:
        """Read a file of :meth:`save`. It holds numbers only, so loading an untrusted file runs no code.

        Raises:
            RunError: the file is missing, is not an index, or has another format version.
        """
        path = Path(path)
        return cls.from_arrays(read_arrays(path, what="an index"), path, device)

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]], path: Path, device: str | torch.device = "cpu") -> Index:
        """The index in the arrays of a file of :meth:`save`; ``path`` is named in errors. Raises as :meth:`load` does."""
        if not arrays.keys() >= {"format", "kind"}:
            raise RunError(f"{path} is not an index: it holds {', '.join(arrays) or 'nothing'}. Build it again.")
        try:
            version, kind = arrays["format"].item(), str(arrays["kind"])
            if version != FORMAT:
                raise RunError(f"{path} has index format {version}; this Cosphere reads {FORMAT}. Build it again.")
            check_kind(kind)
            rows, stored = _read(kind, arrays, device)
            check = arrays.get("check")
            self_check = None if check is None else SelfCheck(float(check[0]), int(check[1]), int(check[2]))
            index = cls(kind, rows, stored, shortlist=int(arrays["shortlist"]), check=self_check)
            index.model_id = str(arrays.get("model_id", ""))
            return index
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            text = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise RunError(f"{path} is not an index: {text}. Build it again.") from None


def check_kind(kind: str) -> None:
    """Raise unless it is one of :data:`KINDS`."""
    check_choice("index of kind", kind, KINDS)


def _storage(kind: str, rows: UnitRows, parts: int | None, seed: int) -> Storage:
    if kind == "pq":
        return ProductQuantiser.train(rows.rows, bytes_of(rows.width) if parts is None else parts, seed=seed)
    return _simple_storage(kind, rows.width)


def _simple_storage(kind: str, dim: int) -> Storage:
    if kind == "float16":
        return Floats(dim, torch.float16)
    return Int8(dim) if kind == "int8" else Bits(dim)


def _read(
    kind: str, arrays: dict[str, npt.NDArray[Any]], device: str | torch.device
) -> tuple[UnitRows | None, Stored | None]:
    """The parts of an index, checked for type and shape.

    Raises:
        KeyError, ValueError: one is missing or does not fit.
    """
    dim = int(arrays["dim"])
    rows = stored = None
    if kind in ("exact", "rerank"):
        unit = _array(arrays, "rows", np.float32, dim)
        # Not normalised again: that would change last bits, and with them ties.
        padded = torch.zeros(rounded_up(len(unit)), dim, dtype=torch.float32)
        padded[: len(unit)] = torch.from_numpy(unit)
        rows = UnitRows(padded.to(device), len(unit))
    if kind != "exact":
        storage = _simple_storage(kind, dim)
        if kind == "pq":
            words = arrays["words"]
            if words.ndim != 3 or words.dtype != np.float32 or words.shape[1] != 256 or words[:, 0].size < dim:
                raise ValueError(f"words are {words.shape} {words.dtype}")
            _check_finite(words, "words")
            storage = ProductQuantiser(dim, words)
        dtype = {"float16": np.float16, "int8": np.int8}.get(kind, np.uint8)
        wide = storage.bytes_per_row // np.dtype(dtype).itemsize
        stored = Stored(storage, torch.from_numpy(_array(arrays, "kept", dtype, wide)).to(device))
    if rows is not None and stored is not None and rows.size != len(stored):
        raise ValueError(f"{rows.size} rows and {len(stored)} codes")
    return rows, stored


def _array(arrays: dict[str, npt.NDArray[Any]], name: str, dtype: Any, width: int) -> npt.NDArray[Any]:
    array = arrays[name]
    if array.ndim != 2 or array.dtype != dtype or not array.size or array.shape[1] != width:
        raise ValueError(f"{name} are {array.shape} {array.dtype}")
    _check_finite(array, name)
    return array


def _check_finite(values: npt.NDArray[Any], name: str) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"{name} hold NaN or infinity")
