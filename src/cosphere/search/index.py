"""An index of a gallery: built once, searched many times, stored on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosphere._types import Flags
from cosphere.codes import is_codes
from cosphere.errors import RunError, SettingsError, SizeError, counted
from cosphere.files import path_of, read_arrays, write_arrays
from cosphere.rows import BLOCK_BYTES, Matrix, check_block_bytes
from cosphere.search.allowed import Allowed, Kept, kept_of, kept_rows
from cosphere.search.asymmetric import SHORTLIST
from cosphere.search.build_options import BuildOptions
from cosphere.search.choosing import choose
from cosphere.search.engines import ENGINES, Engine, IndexSettings, Tunable
from cosphere.search.engines.settings import COARSE_SHORTLIST
from cosphere.search.exact import Neighbours
from cosphere.search.hamming import BitRows, Rows, SignRows
from cosphere.search.kinds import AUTO, check_kind, rows_for
from cosphere.search.self_check import NEIGHBOURS, QUERIES, SelfCheck, check_search

FORMAT = 3
"""Version of the file format. Raised when an older Cosphere can no longer read it."""
_READABLE = (2, FORMAT)
WANTED_RECALL = 0.95
"""Recall that kind ``auto`` wants where none is given."""
REBUILD_SHARE = 0.2
"""Share of deleted rows above which an index should be built again."""


class Index:
    """A gallery of G rows. Create with :meth:`build` or :meth:`load`.

    Kind ``exact`` returns the results of :func:`cosphere.search.search` over the same gallery, bit for bit.
    """

    def __init__(
        self,
        kind: str,
        engine: Engine,
        settings: IndexSettings,
        *,
        check: SelfCheck | None = None,
        dead: Flags | None = None,
        reason: str = "",
    ) -> None:
        self.kind = kind
        self.settings = settings
        """As the index was built, with the effort that :meth:`build` found necessary."""
        self.check = check
        """Comparison with exact search that :meth:`build` made; None without a check."""
        self.reason = reason
        """Why kind ``auto`` chose this one; empty where the kind was given."""
        self.model_id = ""
        """:attr:`Embedder.id` of the model that made the embeddings; empty where unknown. Saved with the index."""
        self._engine = engine
        self._dead = dead
        self._last: tuple[Kept | None, Kept] | None = None
        """A filter, and its rows that are not deleted."""

    @classmethod
    def build(
        cls,
        embeddings: Matrix,
        kind: str = "exact",
        *,
        dim: int | None = None,
        check_queries: int = QUERIES,
        wanted_recall: float | None = None,
        most_bytes: float | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Index:
        """Build an index and compare its answers with exact search.

        Args:
            embeddings: (G, D) float, torch or numpy, any length; an exhaustive kind searches on a tensor's device. Or
                (G, ceil(D / 8)) uint8 codes, for the kinds that compare signs: ``bits``, ``coarse-bits``, ``hnsw-bits``, ``ivf-bits``.
            kind: one of :data:`KINDS`, or "auto": the fastest on this machine of those that find enough, chosen by measuring.
            dim: of codes: D, the number of packed signs; None takes all bits of the bytes.
            check_queries: gallery rows used as queries of the check; 0 for no check.
            wanted_recall: in [0, 1]; a lower recall of the check is an error. A kind that looks at a part of the gallery looks at
                more until it finds as much, unless its effort (``ef_search``, ``nprobe``, ``shortlist``) is given. Kind ``auto``
                takes 0.95 where none is given.
            most_bytes: of kind ``auto``: bound of the index in memory.
            seed: of the check, and of what is trained or drawn.
            settings: of the kind, see :class:`IndexSettings`: ``shortlist``, ``parts``, ``coarse_bits``, ``m``,
                ``ef_construction``, ``ef_search``, ``nlist``, ``nprobe``.

        Raises:
            SettingsError: there is no such kind, a setting is out of range, or the recall is below ``wanted_recall``.
            SizeError, DataError: the embeddings are not (G, D) finite numbers, or too few to train on.
        """
        check_queries, _, _, seed, chosen = BuildOptions.of(
            kind,
            check_queries=check_queries,
            wanted_recall=wanted_recall,
            most_bytes=most_bytes,
            seed=seed,
            **settings,
        )
        rows = rows_for(kind, embeddings, "gallery", dim)
        if isinstance(rows, SignRows):  # the caller may change them later
            rows = SignRows(BitRows(rows.rows.clone(), rows.size), rows.dim)
        if kind == AUTO:
            wanted = WANTED_RECALL if wanted_recall is None else wanted_recall
            return cls._chosen(rows, chosen, max(1, check_queries), wanted, most_bytes, seed)
        index = cls(kind, ENGINES[kind].build(rows, chosen, seed), chosen)
        if check_queries:
            index._measure(rows, check_queries, wanted_recall, seed)
            if wanted_recall is not None and index.check is not None:
                index.check.require(wanted_recall, f"an index of kind {kind!r}")
        return index

    @classmethod
    def _chosen(
        cls,
        rows: Rows,
        settings: IndexSettings,
        check_queries: int,
        wanted: float,
        most_bytes: float | None,
        seed: int,
    ) -> Index:
        """The index of the first proposed kind that finds as much as wanted over all rows."""
        passed: list[str] = []
        for kind, reason in choose(rows, settings, wanted, most_bytes, seed):
            index = cls(kind, ENGINES[kind].build(rows, settings, seed), settings)
            index._measure(rows, check_queries, wanted, seed)
            if index.check is not None and index.check.recall >= wanted:
                index.reason = "; ".join([reason, *passed])
                return index
            passed.append(f"{kind} was built too, and found {0 if index.check is None else index.check.recall:.3f}")
        bound = "" if most_bytes is None else f" in {most_bytes:,.0f} bytes"
        raise SettingsError(
            f"no kind of index reaches a recall of {wanted} for {counted(rows.size, 'row')}{bound}: {'; '.join(passed)}. "
            "Lower wanted_recall, or allow more bytes."
        )

    def _measure(self, rows: Rows, count: int, wanted: float | None, seed: int) -> None:
        """Measure the recall; where some is wanted and the effort was not given, double the effort until it is reached."""
        effort = ENGINES[self.kind].effort
        self.check = self._checked(rows, None, NEIGHBOURS, count, None, seed)
        if wanted is None or not effort or getattr(self.settings, effort) is not None:
            return
        engine = cast(Tunable, self._engine)
        while self.check.recall < wanted and engine.effort < engine.most_effort:
            engine.effort = min(2 * engine.effort, engine.most_effort)
            self.check = self._checked(rows, None, NEIGHBOURS, count, None, seed)
        self.settings = replace(self.settings, **{effort: engine.effort})

    def __len__(self) -> int:
        """Number of rows, deleted ones too: a row keeps its number."""
        return self._engine.size

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self._engine.dim

    @property
    def shortlist(self) -> int:
        """Rows that kinds ``rerank`` and ``coarse-bits`` rank again."""
        return self.settings.shortlist or (COARSE_SHORTLIST if self.kind == "coarse-bits" else SHORTLIST)

    @property
    def bytes_per_image(self) -> int:
        """Bytes stored per row, in memory and on disk, without what all rows share, such as the codebooks of ``pq``."""
        return self._engine.bytes_per_row

    def rows(self) -> Tensor:
        """(G, D) float32 unit vectors of the stored rows. Takes 4 D bytes for each."""
        return self._engine.rows()

    @property
    def dead(self) -> Flags:
        """(G,) which rows are deleted."""
        return np.zeros(len(self), dtype=bool) if self._dead is None else self._dead.copy()

    def delete(self, rows: Any) -> None:
        """Mark rows as deleted: no search returns them from now on. Their vectors stay until the index is built again.

        Args:
            rows: row numbers, or a (G,) bool mask.

        Raises:
            SizeError: a row number is out of range, also below 0, or the mask has another length.
        """
        dead = self.dead
        dead[self._numbers_of(rows)] = True
        self._dead, self._last = dead, None

    def _numbers_of(self, rows: Any) -> npt.NDArray[Any]:
        """Row numbers or a mask that numpy reads as what they are: -1 is not the last row, and ``()`` or None not all of them."""
        given = rows.detach().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
        if given.dtype == np.bool_ and given.shape == (len(self),):
            return given
        if not given.size and given.dtype != np.bool_:
            return np.zeros(0, dtype=np.int64)
        what = f"{given.shape} {given.dtype}" if given.dtype.kind in "biuf" else type(rows).__name__
        if given.dtype.kind in "iu":
            least, most = int(given.min()), int(given.max())
            if least >= 0 and most < len(self):
                return given
            what = str(least if least < 0 else most)
        raise SizeError(
            f"rows to delete do not fit {counted(len(self), 'row')}: got {what}. Give numbers from 0 to {len(self) - 1}, or a mask "
            f"({len(self)},) of bool."
        )

    @property
    def wants_rebuild(self) -> bool:
        """Whether more than a fifth of the rows is deleted: each search passes through them."""
        return self._dead is not None and float(self._dead.mean()) > REBUILD_SHARE

    def add(self, embeddings: Matrix) -> None:
        """Append rows. What was trained, such as centres and codebooks, stays; :attr:`check` is of the rows before.

        Args:
            embeddings: (n, D) float, any length; or codes, of a kind that compares signs.

        Raises:
            SizeError, DataError: the embeddings are not (n, D) finite numbers.
        """
        rows = self._rows(embeddings, "new rows")
        if rows.width != self.dim:
            raise SizeError(f"new rows have {rows.width} dimensions, the index {self.dim}. Embed both with one model.")
        self._engine.add(rows)
        if self._dead is not None:
            self._dead = np.concatenate([self._dead, np.zeros(rows.size, dtype=bool)])
            self._last = None

    def search(
        self,
        queries: Matrix,
        k: int,
        exclude: Any | None = None,
        *,
        keep: Any | None = None,
        block_bytes: int = BLOCK_BYTES,
    ) -> Neighbours:
        """Find the k stored rows nearest to each query: see :func:`cosphere.search.search`.

        Deleted rows are never returned. Equal scores are ordered by row; a kind that looks at a part of the gallery may miss some of
        the rows that tie at the last place.

        Args:
            queries: (Q, D) float, whatever the kind; or (Q, ceil(D / 8)) uint8 codes, of a kind that compares signs.
            k: neighbours. Above its shortlist, ``rerank`` compares the float rows of all, and ``coarse-bits`` ranks k codes.
            exclude: (Q,) integers, a row that each query must not return, -1 for none.
            keep: (G,) bool, the rows that may be returned, or what :meth:`kept` made of it; None for all. Below 5 % of them, an
                exact search over these rows answers, whatever the kind.
            block_bytes: bound of the working memory in bytes.

        Raises:
            SizeError: shapes or k do not fit.
            DataError: a query holds NaN or infinity.
        """
        check_block_bytes(block_bytes)
        rows = self._rows(queries, "queries")
        allowed = Allowed.of(len(self), rows.size, self._living(kept_of(keep, len(self))), exclude)
        return self._engine.search(rows, k, allowed, block_bytes)

    def kept(self, keep: Any) -> Kept:
        """A filter for ``keep`` of many searches: what they derive from it is made once.

        Args:
            keep: (G,) bool, the rows that may be returned; copied.

        Raises:
            SizeError: shape or type do not fit.
        """
        return Kept(np.array(kept_rows(keep, len(self))))

    def _living(self, kept: Kept | None) -> Kept | None:
        """The kept rows that are not deleted; those of the last filter are remembered."""
        if self._dead is None or not self._dead.any():
            return kept
        if self._last is None or self._last[0] is not kept:
            self._last = kept, Kept(~self._dead if kept is None else kept.flags & ~self._dead)
        return self._last[1]

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
        """Compare with exact search over the float rows that are not deleted: see :func:`cosphere.search.self_check.check_search`.

        Args:
            embeddings: (G, D) float or codes, the rows that the index was built from.
            queries: likewise; None draws ``count`` rows of the gallery, each of which excludes itself.
            k: neighbours; at most the size of the gallery.
            count: how many rows to draw.
            wanted: in [0, 1]; a lower recall is an error. None for no lower bound.
            seed: of the draw.

        Raises:
            SettingsError: the recall is below what was wanted.
            SizeError: other rows than the index was built from.
        """
        rows = self._rows(embeddings, "embeddings")
        if (rows.size, rows.width) != (len(self), self.dim):
            raise SizeError(
                f"the index has {counted(len(self), 'row')} of {counted(self.dim, 'dimension')}, got {rows.size} of {rows.width}. "
                "Give the rows that it was built from."
            )
        return self._checked(rows, queries, k, count, wanted, seed)

    def _checked(
        self, rows: Rows, queries: Matrix | None, k: int, count: int, wanted_recall: float | None, seed: int
    ) -> SelfCheck:
        most = min(k, cast(Tunable, self._engine).effort) if self.kind == "rerank" else k
        living = None if self._dead is None else torch.from_numpy(np.flatnonzero(~self._dead))
        check = check_search(self.search, rows, queries, k=most, count=count, seed=seed, living=living)
        return check if wanted_recall is None else check.require(wanted_recall, f"an index of kind {self.kind!r}")

    def _rows(self, values: Any, name: str) -> Rows:
        """Rows to add or search with, in a form that the kind takes."""
        return rows_for(self.kind, values, name, self.dim if is_codes(values) else None)

    def save(self, path: str | Path, *, images: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
        """Write one .npz file atomically, beside the old one, which is then replaced: rows, kind, check, model and format version.

        Args:
            path: the file.
            images: further arrays that describe the rows, under names of their own; see
                :func:`cosphere.search.save_gallery`. :meth:`load` does not read them.

        Raises:
            RunError: it cannot be written.
        """
        arrays: dict[str, npt.NDArray[Any]] = {
            **(images or {}),
            **self._engine.arrays(),
            **self.settings.arrays(),
            "format": np.array(FORMAT),
            "kind": np.array(self.kind),
            "dim": np.array(self.dim),
        }
        if self.check is not None:
            arrays["check"] = np.array([self.check.recall, self.check.k, self.check.queries], dtype=np.float64)
        if self._dead is not None:
            arrays["dead"] = self._dead
        texts = {"model_id": self.model_id, "reason": self.reason}
        arrays |= {name: np.array(text) for name, text in texts.items() if text}
        write_arrays(path_of(path), arrays)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Index:
        """Read a file of :meth:`save`. It holds numbers only, all of which are checked, so an untrusted file runs no code.

        Raises:
            RunError: the file is missing, is not an index, or has another format version.
        """
        path = path_of(path)
        return cls.from_arrays(read_arrays(path, what="an index"), path, device)

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]], path: Path, device: str | torch.device = "cpu") -> Index:
        """The index in the arrays of a file of :meth:`save`; ``path`` is named in errors. Raises as :meth:`load` does."""
        if not arrays.keys() >= {"format", "kind"}:
            raise RunError(f"{path} is not an index: it holds {', '.join(arrays) or 'nothing'}. Build it again.")
        try:
            version, kind = arrays["format"].item(), str(arrays["kind"])
            if version not in _READABLE:
                known = " and ".join(map(str, _READABLE))
                raise RunError(f"{path} has index format {version}; this Cosphere reads {known}. Build it again.")
            check_kind(kind)
            settings = IndexSettings.from_arrays(arrays)
            engine = ENGINES[kind].read(arrays, settings, device)
            check, dead = arrays.get("check"), arrays.get("dead")
            self_check = None if check is None else SelfCheck(float(check[0]), int(check[1]), int(check[2]))
            index = cls(kind, engine, settings, check=self_check, dead=kept_rows(dead, engine.size, "dead"))
            index.model_id, index.reason = (str(arrays.get(name, "")) for name in ("model_id", "reason"))
            return index
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            text = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise RunError(f"{path} is not an index: {text}. Build it again.") from None
