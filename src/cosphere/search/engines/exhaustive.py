"""Kinds that compare every row: they differ in how a row is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere.checks import FEW_KEPT
from cosphere.codes import bytes_of
from cosphere.rows import UnitRows, check_widths, rounded_up
from cosphere.search.allowed import Allowed
from cosphere.search.asymmetric import SHORTLIST, rerank_bits
from cosphere.search.engines.base import Arrays, array_of
from cosphere.search.engines.settings import IndexSettings
from cosphere.search.exact import Neighbours, search_units
from cosphere.search.hamming import BitRows, Rows, SignRows, float_rows, packed_signs, search_bits
from cosphere.search.storage import Bits, Floats, Int8, ProductQuantiser, Storage, Stored, search_stored


def padded(rows: Tensor, device: str | torch.device = "cpu") -> UnitRows:
    """Rows that are of unit length already. Not normalised again: that would change last bits, and with them ties."""
    wide = torch.zeros(rounded_up(len(rows)), rows.shape[1], dtype=torch.float32, device=device)
    wide[: len(rows)] = rows
    return UnitRows(wide, len(rows))


def _some(rows: UnitRows, kept: Tensor) -> UnitRows:
    return padded(rows.rows[kept.to(rows.device)], rows.device)


class Exhaustive:
    """Float rows, encoded rows or both."""

    def __init__(self, floats: UnitRows | None, stored: Stored | None) -> None:
        self.floats = floats
        self.stored = stored

    @property
    def size(self) -> int:
        """G."""
        return self.floats.size if self.floats is not None else len(self._encoded)

    @property
    def dim(self) -> int:
        """D."""
        return self.floats.width if self.floats is not None else self._encoded.storage.dim

    @property
    def bytes_per_row(self) -> int:
        """Of floats and of encoded rows."""
        floats = 4 * self.dim if self.floats is not None else 0
        return floats + (self.stored.storage.bytes_per_row if self.stored is not None else 0)

    @property
    def _encoded(self) -> Stored:
        if self.stored is None:
            raise AttributeError("this kind keeps no encoded rows")
        return self.stored

    def rows(self) -> Tensor:
        """(G, D)."""
        return self._encoded.rows() if self.floats is None else self.floats.rows

    def search(self, queries: Rows, k: int, allowed: Allowed, block_bytes: int) -> Neighbours:
        """Compare with every allowed row; where these are few, only they are read."""
        check_widths(queries.width, self.dim)
        if allowed.keep is None or allowed.share >= FEW_KEPT:
            return self.compare(queries, k, allowed, block_bytes)
        k = allowed.check_k(k)
        found = self.part(torch.from_numpy(allowed.rows)).compare(queries, k, allowed.within_kept(), block_bytes)
        return Neighbours(torch.from_numpy(allowed.rows)[found.ids], found.scores)

    def compare(self, queries: Rows, k: int, allowed: Allowed, block_bytes: int) -> Neighbours:
        """The search itself; here by cosine of the rows that are kept."""
        queries = float_rows(queries)
        if self.floats is not None:
            return search_units(queries, self.floats, k, allowed.exclude, block_bytes, allowed.kept)
        return search_stored(queries, self._encoded, k, allowed.exclude, block_bytes, allowed.kept)

    def part(self, rows: Tensor) -> Exhaustive:
        """An engine of some of the rows."""
        floats = None if self.floats is None else _some(self.floats, rows)
        kept = self.stored
        return self._like(floats, None if kept is None else Stored(kept.storage, kept.kept[rows.to(kept.kept.device)]))

    def _like(self, floats: UnitRows | None, stored: Stored | None) -> Exhaustive:
        return type(self)(floats, stored)

    def add(self, rows: Rows) -> None:
        """Append rows; a product quantiser keeps its words."""
        if self.floats is not None:
            new = float_rows(rows).rows.to(self.floats.device)
            self.floats = padded(torch.cat([self.floats.rows, new]), self.floats.device)
        if self.stored is not None:
            more = _stored(rows, self.stored.storage).kept.to(self.stored.kept.device)
            self.stored = Stored(self.stored.storage, torch.cat([self.stored.kept, more]))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """``rows``, ``kept`` and ``words``, as far as the kind has them."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        if self.floats is not None:
            arrays["rows"] = self.floats.rows.cpu().numpy()
        if self.stored is not None:
            arrays["kept"] = self.stored.kept.cpu().numpy()
            if isinstance(self.stored.storage, ProductQuantiser):
                arrays["words"] = self.stored.storage.words
        return arrays


class PackedSigns(Exhaustive):
    """Kind ``bits``: the query becomes bits too."""

    def compare(self, queries: Rows, k: int, allowed: Allowed, block_bytes: int) -> Neighbours:
        """By Hamming distance."""
        bits = BitRows(torch.from_numpy(packed_signs(queries)).to(queries.device), queries.size)
        return search_bits(bits, codes_of(self._encoded), k, allowed.exclude, self.dim, block_bytes, allowed.kept)


class Reranked(Exhaustive):
    """Kind ``rerank``: bits find a shortlist, floats rank it."""

    effort: int = SHORTLIST
    """Rows on the shortlist."""

    @property
    def most_effort(self) -> int:
        """All rows."""
        return self.size

    def compare(self, queries: Rows, k: int, allowed: Allowed, block_bytes: int) -> Neighbours:
        """By Hamming distance, then by cosine; by cosine alone where k is above the shortlist."""
        queries = float_rows(queries)
        floats, shortlist = self.floats, self.effort
        if floats is None:
            raise AttributeError("this kind keeps float rows")
        if k > shortlist:
            return super().compare(queries, k, allowed, block_bytes)
        codes = codes_of(self._encoded)
        return rerank_bits(queries, codes, floats, k, shortlist, allowed.exclude, block_bytes, allowed.kept)

    def _like(self, floats: UnitRows | None, stored: Stored | None) -> Exhaustive:
        part = Reranked(floats, stored)
        part.effort = self.effort
        return part


def codes_of(stored: Stored) -> BitRows:
    """Encoded rows as checked codes."""
    return BitRows(stored.kept, len(stored))


_ENGINES: dict[str, type[Exhaustive]] = {"bits": PackedSigns, "rerank": Reranked}


def builder(kind: str) -> Callable[[Rows, IndexSettings, int], Exhaustive]:
    """How an exhaustive kind is built from rows, settings and a seed."""

    def build(rows: Rows, settings: IndexSettings, seed: int) -> Exhaustive:
        stored = None if kind == "exact" else _stored(rows, _storage(kind, rows, settings.parts, seed))
        return _engine(kind, float_rows(rows) if kind in ("exact", "rerank") else None, stored, settings)

    return build


def reader(kind: str) -> Callable[[Arrays, IndexSettings, str | torch.device], Exhaustive]:
    """How an exhaustive kind is read from the arrays of a file, checked for type and shape.

    Raises:
        KeyError, ValueError: one is missing or does not fit.
    """

    def read(arrays: Arrays, settings: IndexSettings, device: str | torch.device) -> Exhaustive:
        dim = int(arrays["dim"])
        rows = stored = None
        if kind in ("exact", "rerank"):
            rows = padded(torch.from_numpy(array_of(arrays, "rows", np.float32, dim)), device)
        if kind != "exact":
            storage = _stored_quantiser(arrays, dim) if kind == "pq" else _simple_storage(kind, dim)
            dtype = {"float16": np.float16, "int8": np.int8}.get(kind, np.uint8)
            wide = storage.bytes_per_row // np.dtype(dtype).itemsize
            stored = Stored(storage, torch.from_numpy(array_of(arrays, "kept", dtype, wide)).to(device))
        if rows is not None and stored is not None and rows.size != len(stored):
            raise ValueError(f"{rows.size} rows and {len(stored)} codes")
        return _engine(kind, rows, stored, settings)

    return read


def _engine(kind: str, rows: UnitRows | None, stored: Stored | None, settings: IndexSettings) -> Exhaustive:
    engine = _ENGINES.get(kind, Exhaustive)(rows, stored)
    if isinstance(engine, Reranked):
        engine.effort = settings.shortlist or SHORTLIST
    return engine


def _stored(rows: Rows, storage: Storage) -> Stored:
    """Encoded rows; packed codes are encoded already."""
    if isinstance(rows, SignRows) and isinstance(storage, Bits):
        return Stored(storage, rows.rows)
    return Stored.of(float_rows(rows), storage)


def _storage(kind: str, rows: Rows, parts: int | None, seed: int) -> Storage:
    if kind == "pq":
        return ProductQuantiser.train(rows.rows, bytes_of(rows.width) if parts is None else parts, seed=seed)
    return _simple_storage(kind, rows.width)


def _simple_storage(kind: str, dim: int) -> Storage:
    if kind == "float16":
        return Floats(dim, torch.float16)
    return Int8(dim) if kind == "int8" else Bits(dim)


def _stored_quantiser(arrays: Arrays, dim: int) -> ProductQuantiser:
    words = arrays["words"]
    if words.ndim != 3 or words.dtype != np.float32 or words.shape[1] != 256 or words[:, 0].size < dim:
        raise ValueError(f"words are {words.shape} {words.dtype}")
    if not np.isfinite(words).all():
        raise ValueError("words hold NaN or infinity")
    return ProductQuantiser(dim, words)
