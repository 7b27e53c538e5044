"""A gallery: a collection of images on disk that is searched while it changes.

    with Gallery.create("photos.gallery", embedder=Embedder.load("runs/first")) as gallery:
        gallery.add(paths)
        gallery.search("query.jpg", k=8, where={"label": "mug"})

The folder is :class:`cosphere.gallery.Store`'s; this class adds the search and the model.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from cosphere._types import Float32s, Integers, Progress
from cosphere.errors import DataError, RunError, SettingsError
from cosphere.gallery import Compacted, Deleted, OnReceipt, Space, Store, Where, check_all, compact, parse
from cosphere.gallery.items import find, read, read_thumbnails
from cosphere.gallery.sqlite import Connection
from cosphere.gallery.values import as_id
from cosphere.gallery.where import Filter, matching
from cosphere.models import Embedder
from cosphere.rows import UnitRows
from cosphere.search.any_gallery import AnyGallery, GalleryHit, GalleryItem, Precision, Ranking
from cosphere.search.build_options import BuildOptions
from cosphere.search.gallery_index import GalleryIndex
from cosphere.search.gallery_rows import check_model, new_space
from cosphere.search.hamming import BitRows
from cosphere.search.held import Held, Nearest
from cosphere.search.index import Index
from cosphere.search.kinds import check_takes_codes

__all__ = ["Gallery", "GalleryHit", "GalleryItem"]

COMPARES_ALL = {"floats": ("exact",), "codes": ("exact", "bits")}
"""Kinds that need no index, because a gallery compares all rows in this way by itself."""
_FILTERS = 4
"""Filters whose rows are remembered between two commits."""


class Gallery(AnyGallery):
    """A searched collection. Made with :meth:`create` and :meth:`open`; use it in a ``with`` statement, or :meth:`close` it.

    Any number of processes may search it while one adds and deletes. A search sees the last committed state, whole. The first call
    that writes makes this process the one writer, until the gallery is closed.
    """

    def __init__(self, store: Store, embedder: Embedder | None = None) -> None:
        super().__init__(store, embedder)
        self.store = store
        self._held: dict[str, Held] = {}
        self._indexes: dict[str, GalleryIndex | None] = {}
        """Of floats and of codes; None where all rows are compared, no entry before the folder was looked at."""
        self._filtered: dict[Filter, Integers] = {}
        self._filtered_at = -1
        self._guard = threading.RLock()

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        dim: int | None = None,
        holds: str = "floats",
        embedder: Embedder | None = None,
        model: str | Path = "",
        model_id: str = "",
        thumbnail: int = 0,
    ) -> Gallery:
        """Make an empty gallery.

        Args:
            path: its folder.
            dim: D, numbers in an embedding; of an embedder's by default.
            holds: ``floats``, ``codes`` (one bit for each number) or ``both``.
            embedder: the model whose embeddings it will hold; images can then be added and searched with.
            model: where the model lies, for commands that load it.
            model_id: :attr:`Embedder.id` of the model, where no embedder is given; empty where unknown.
            thumbnail: longer side in pixels of the thumbnails to keep of added images; 0 for none.

        Raises:
            SettingsError: a setting is out of range, or neither a width nor an embedder is given.
            RunError: there is a gallery already, or the folder cannot be written.
        """
        space = new_space(embedder, dim, holds, model, model_id)
        return cls(Store.create(path, space, thumbnail=thumbnail), embedder)

    @classmethod
    def open(cls, path: str | Path, *, embedder: Embedder | None = None) -> Gallery:
        """Open a gallery. Its rows are read into memory with the first search.

        Args:
            path: its folder, which may be read-only.
            embedder: the model that its embeddings are of, to add and search with images.

        Raises:
            RunError: there is no gallery, or its file is damaged.
            DataError: its embeddings are of another model.
        """
        store = Store.open(path)
        try:
            return cls(store, embedder)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Let another process write, and free the memory. A later call opens the gallery again."""
        with self._guard:
            self._held.clear()
            self._filtered.clear()
            for kind, index in self._indexes.items():
                self._indexes[kind] = None if index is None else GalleryIndex(index.kind, index.options)
            self.store.close()

    @property
    def path(self) -> Path:
        """The folder."""
        return self.store.folder

    def get(self, id_: str) -> GalleryItem:
        """One item, whole.

        Raises:
            DataError: there is none of this id.
        """
        with self.store.reading() as connection:
            row = self._row_of(connection, id_)
            (item,) = read(connection, [row])
            rows = self.store.numbers_of(row)
            thumbnail = read_thumbnails(connection, [row]).get(row)
        vector, code = (None if part is None else part[0].copy() for part in rows[1:])
        return GalleryItem(
            item.id, item.metadata, cast(Float32s | None, vector), cast(npt.NDArray[np.uint8] | None, code), thumbnail
        )

    # Changing

    def delete(
        self,
        ids: Sequence[Any] | str | None = None,
        *,
        where: Where | None = None,
        on_receipt: OnReceipt | None = None,
    ) -> Deleted:
        """Delete items: from vectors, codes, thumbnails, metadata and index files. See :meth:`Store.delete`."""
        return self.store.delete(ids, where=where, on_receipt=on_receipt)

    def compact(self, progress: Progress | None = None) -> Compacted:
        """Take deleted rows out of the file; see :func:`cosphere.gallery.compact`."""
        return compact(self.store, progress)

    def check(self, progress: Progress | None = None) -> None:
        """Read everything and compare it with its digests; see :func:`cosphere.gallery.check_all`."""
        check_all(self.store, progress)

    # Searching

    @property
    def held_bytes(self) -> int:
        """Bytes of the rows in memory."""
        return sum(held.nbytes for held in self._held.values())

    def load(self, precision: Precision | None = None) -> int:
        """Read the rows into memory, which otherwise the first search does; returns the generation of the last commit."""
        with self._guard, self.store.reading() as connection:
            return self._current(self._kind(precision), connection).known.generation

    def refresh(self) -> int:
        """Bring the rows in memory up to the last commit, and return its generation. A search does this by itself."""
        with self._guard, self.store.reading() as connection:
            for held in self._held.values():
                held.refresh(self.store, connection)
            return self.store.state().generation

    def _nearest(self, queries: UnitRows | BitRows, kind: str, k: int, where: Where | None) -> Ranking:
        wanted = None if where is None else parse(where)
        with self._guard, self.store.reading() as connection:
            held = self._current(kind, connection)
            self._check_width(held.space)
            kept = None if wanted is None else self._kept(connection, wanted, held)
            found = self._found(queries, k, held, kept)
            items = {item.row: item for item in read(connection, np.unique(found.rows[found.rows > 0]).tolist())}
        answers = [
            [(items[row], score) for row, score in zip(rows, scores, strict=True) if row in items]
            for rows, scores in zip(found.rows.tolist(), found.scores.tolist(), strict=True)
        ]
        return Ranking(answers, found.measure)

    def _found(self, queries: UnitRows | BitRows, k: int, held: Held, kept: Integers | None) -> Nearest:
        index = self._index_of(held.kind)
        return held.search(queries, k, kept) if index is None else index.search(queries, k, held, kept)

    def use_index(self, kind: str = "auto", *, precision: Precision | None = None, **options: Any) -> Index | None:
        """Search through an index from now on, instead of comparing all rows.

        It is built in memory, takes in each commit, and is built again when a fifth of its rows is deleted. A filter that keeps
        less than 5 % is answered exactly. Galleries of fewer than 1000 items are searched exactly all the same.

        Args:
            kind: one of :data:`cosphere.search.KINDS`, of codes one that compares signs (``hnsw-bits``, ``ivf-bits``,
                ``coarse-bits``); ``auto`` measures and chooses; ``exact`` goes back to comparing all rows.
            precision: which rows, ``floats`` or ``codes``, where the gallery holds both; floats by default.
            options: further arguments of :meth:`Index.build`, such as ``wanted_recall`` or ``ef_search``.

        Returns:
            the index, with its measured recall in ``check`` and why it was chosen in ``reason``; None where all rows are compared.

        Raises:
            SettingsError: there is no such kind, or the gallery does not hold such rows.
            SizeError: the kind compares floats, and the rows are codes.
        """
        options.pop("dim", None)  # the gallery knows its width
        BuildOptions.of(kind, **options)  # a gallery that is small as yet would find a mistake much later
        rows = self._kind(precision)
        if kind == "exact":
            self._indexes[rows] = None
            return None
        if rows == "codes":
            check_takes_codes(kind, f"the rows of {self.path}")
        index = GalleryIndex(kind, options)
        with self._guard, self.store.reading() as connection:
            index.refresh(self._current(rows, connection))
            self._indexes[rows] = index
        return index.index

    def build_index(self, kind: str = "auto", *, precision: Precision | None = None, **options: Any) -> Index:
        """:meth:`use_index`, and keep the index in the folder, for every process that opens the gallery.

        Whoever opens it takes the file and catches up with what was added since. A deletion removes the file, because it holds copies
        of rows, and so does a migration; searches of processes that then open the gallery are exact until it is built again.

        Args:
            kind: as for :meth:`use_index`, except ``exact``. Where ``auto`` finds that comparing all rows is quick enough, no file is
                written, and the index that is returned is of kind ``exact``, or ``bits`` of codes.
            precision: likewise.
            options: likewise; plain values.

        Raises:
            SettingsError: there is no such kind, or the gallery does not hold such rows.
            SizeError: the kind compares floats, and the rows are codes.
            RunError: another process writes, there are fewer than 1000 items, or the file cannot be written.
        """
        rows = self._kind(precision)
        if kind in COMPARES_ALL[rows]:
            raise SettingsError(
                f"a search of kind {kind!r} compares all rows and needs no index. `cosphere index search --exact` passes an index by; "
                "`Gallery.remove_index` removes it."
            )
        with self._guard:
            with self.store.writing():
                pass  # another writer is refused now, and not after the index was built
            self.use_index(kind, precision=precision, **options)
            with self.store.writing() as (connection, state, _):  # nobody deletes meanwhile
                index = cast(GalleryIndex, self._indexes[rows])
                held = self._current(rows, connection)
                index.without_deleted(held)
                if index.index is not None and index.index.kind in COMPARES_ALL[rows]:
                    self._indexes[rows] = None
                    self.store.index_file(rows).unlink(missing_ok=True)
                    return index.index
                index.save(self.store.index_file(rows), state, held)
            return cast(Index, index.index)

    def remove_index(self) -> None:
        """Remove the indexes that :meth:`build_index` made: searches compare all rows again.

        Raises:
            RunError: another process writes.
        """
        with self._guard, self.store.writing():
            self.store.remove_indexes()
            self._indexes = dict.fromkeys(COMPARES_ALL)

    @property
    def index(self) -> Index | None:
        """The index that searches without ``precision`` go through; None where all rows are compared."""
        with self._guard:
            found = self._index_of(self._kind(None))
            return None if found is None else found.index

    def index_failure(self, precision: Precision | None = None) -> str:
        """Why searches compare all rows although an index was made for them; empty where nothing failed.

        An index that has to be built again after many deletions may find less than ``wanted_recall``: searches are exact then.

        Args:
            precision: of which rows, ``floats`` or ``codes``, where the gallery holds both; floats by default.
        """
        with self._guard:
            found = self._index_of(self._kind(precision))
            return "" if found is None else found.failure

    def _index_of(self, kind: str) -> GalleryIndex | None:
        """The index of floats or codes; the folder is looked at once. What is damaged there, or of other rows, is passed by."""
        if self.exact:
            return None
        if kind not in self._indexes:
            self._indexes[kind] = None
            with contextlib.suppress(RunError):
                self._indexes[kind] = GalleryIndex.load(self.store.index_file(kind), self.store.state())
        return self._indexes[kind]

    def _kept(self, connection: Connection, wanted: Filter, held: Held) -> Integers:
        """Row numbers that a filter keeps; those of the last filters are remembered until the next commit."""
        generation = held.known.generation
        if self._filtered_at != generation:
            self._filtered.clear()
            self._filtered_at = generation
        if wanted not in self._filtered:
            while len(self._filtered) >= _FILTERS:
                del self._filtered[next(iter(self._filtered))]
            self._filtered[wanted] = matching(connection, wanted, held.live_rows)
        return self._filtered[wanted]

    def _current(self, kind: str, connection: Connection) -> Held:
        held = self._held.setdefault(kind, Held(kind))
        held.refresh(self.store, connection)
        return held

    def _check_width(self, space: Space) -> None:
        if self.embedder is not None:
            check_model(space, self.embedder, self.path)

    def _row_of(self, connection: Connection, id_: str) -> int:
        name = as_id(id_)
        row = None if name is None else find(connection, [name]).get(name)
        if row is None:
            raise DataError(f"{id_!r} is not an id of {self.path}. `cosphere index info` shows some.")
        return row
