"""A gallery: a collection of images on disk that is searched while it changes.

    with Gallery.create("photos.gallery", embedder=Embedder.load("runs/first")) as gallery:
        gallery.add(paths)
        gallery.search("query.jpg", k=8, where={"label": "mug"})

The folder is :class:`cosphere.gallery.Store`'s; this class adds the search and the model.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import numpy as np
import numpy.typing as npt

from cosphere._types import Float32s, Progress
from cosphere.checks import MOST_IMAGES, check_choice, check_whole
from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, SettingsError, counted
from cosphere.gallery import Added, Compacted, Deleted, Item, Space, Store, Where, check_all, compact, parse
from cosphere.gallery.items import find, read, read_thumbnails
from cosphere.gallery.sqlite import Connection
from cosphere.gallery.store import Existing
from cosphere.gallery.where import matching
from cosphere.models import Embedder
from cosphere.rows import as_array
from cosphere.search.gallery_export import export
from cosphere.search.gallery_filling import add_pictures
from cosphere.search.gallery_items import as_table, columns_of_table, is_numbers, per_item
from cosphere.search.gallery_rows import as_held, as_queries, check_model, other_model, space_of
from cosphere.search.held import Held

Precision = Literal["floats", "codes"]
MOST_K = 2**20


@dataclass(frozen=True)
class GalleryHit:
    """One item in the answer to a query."""

    id: str
    score: float
    """Cosine; of codes ``1 - 2 distance / D``."""
    metadata: Mapping[str, Any]
    same: bool | None = None
    """Whether the cosine is above the model's calibrated threshold; None where there is none."""


@dataclass(frozen=True)
class GalleryItem:
    """One item, whole."""

    id: str
    metadata: Mapping[str, Any]
    embedding: Float32s | None
    """(D,) as it was added, of any length; None in a gallery of codes."""
    code: npt.NDArray[np.uint8] | None
    """(ceil(D / 8),) packed bits; None in a gallery of floats."""
    thumbnail: bytes | None
    """A JPEG file."""


class Gallery:
    """A searched collection. Made with :meth:`create` and :meth:`open`; use it in a ``with`` statement, or :meth:`close` it.

    Any number of processes may search it while one adds and deletes. A search sees the last committed state, whole. The first call
    that writes makes this process the one writer, until the gallery is closed.
    """

    def __init__(self, store: Store, embedder: Embedder | None = None) -> None:
        self.store = store
        self.embedder = embedder
        self._held: dict[str, Held] = {}
        self._guard = threading.RLock()
        if embedder is not None:
            check_model(store.space(), embedder, store.folder)

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
        if embedder is None and dim is None:
            raise SettingsError("how wide are the embeddings? Give dim, or the embedder that makes them.")
        if embedder is not None and dim not in (None, embedder.output_dim):
            raise SettingsError(f"dim is {dim}, but the embedder makes {embedder.output_dim} numbers. Leave dim out.")
        space = (
            Space(dim=cast(int, dim), holds=holds, model_id=model_id, model=str(model))
            if embedder is None
            else space_of(embedder, holds, model)
        )
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write, and free the memory. A later call opens the gallery again."""
        with self._guard:
            self._held.clear()
            self.store.close()

    @property
    def path(self) -> Path:
        """The folder."""
        return self.store.folder

    @property
    def space(self) -> Space:
        """Width, kind and model of the rows."""
        return self.store.space()

    def __len__(self) -> int:
        """Number of items."""
        return len(self.store)

    def __contains__(self, id_: object) -> bool:
        """Whether there is an item of this id."""
        return id_ in self.store

    def __iter__(self) -> Iterator[Item]:
        """Every item's id and metadata, in the order in which they were added."""
        return iter(self.store)

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

    def add(
        self,
        items: Any,
        ids: Sequence[Any] | None = None,
        metadata: Any = None,
        *,
        existing: Existing = "refuse",
        batch_size: int = 64,
        max_unreadable: float = 0.0,
        progress: Progress | None = None,
    ) -> Added:
        """Add items. What is acknowledged is on disk: embeddings all or none, images batch by batch.

        Args:
            items: (N, D) float embeddings, torch or numpy; (N, ceil(D / 8)) uint8 codes; an
                :class:`~cosphere.embeddings.Embeddings`; or N images, see :meth:`Embedder.encode`, if the gallery has an embedder.
            ids: N texts, each once; by default the path of an image. Numbers become texts.
            metadata: N mappings, or a mapping or DataFrame of columns with N values each: texts, numbers, truth values. Of an
                image, ``path`` is added; columns ``x_1, y_1, x_2, y_2`` are its box in pixels.
            existing: what happens to an id that is there: ``refuse``, ``skip``, or ``replace`` it.
            batch_size: images in one forward pass, and in one transaction.
            max_unreadable: tolerated share of unreadable images, in [0, 1]; these are left out.
            progress: called with the number of images done.

        Raises:
            DataError: an id is there or twice, a row holds NaN or is zero, a value cannot be kept, or images cannot be read.
            SizeError: widths or counts do not fit.
            RunError: another process writes, the disk is full, or the folder is read-only.
        """
        if isinstance(items, Embeddings):
            return self._add_table(items, ids, metadata, existing)
        if is_numbers(items):
            rows = as_array(items)
            if ids is None:
                raise DataError(f"want an id for each of {counted(len(rows), 'embedding')}; give ids, a list of texts.")
            return self._add_numbers(rows, ids, per_item(metadata, len(rows)), existing)
        check_whole("batch_size", batch_size, least=1, most=MOST_IMAGES)
        return add_pictures(
            self.store,
            self._needed_embedder("to add images"),
            as_table(items, ids, metadata),
            existing=existing,
            batch_size=batch_size,
            max_unreadable=max_unreadable,
            progress=progress,
        )

    def upsert(self, items: Any, ids: Sequence[Any] | None = None, metadata: Any = None, **options: Any) -> Added:
        """:meth:`add`; an item whose id is there takes the place of the old one, metadata included."""
        return self.add(items, ids, metadata, existing="replace", **options)

    def _add_table(self, table: Embeddings, ids: Sequence[Any] | None, metadata: Any, existing: Existing) -> Added:
        space = self.space
        if table.model_id and space.model_id and table.model_id != space.model_id:
            raise other_model(self.path, space, table.model_id)
        own = columns_of_table(table)
        given = per_item(metadata, len(table))
        merged = [one | dict(more or {}) for one, more in zip(own, given, strict=True)]
        return self._add_numbers(table.embeddings, table.paths if ids is None else ids, merged, existing)

    def _add_numbers(
        self,
        rows: npt.NDArray[Any],
        ids: Sequence[Any],
        metadata: Sequence[Mapping[str, Any] | None],
        existing: Existing,
    ) -> Added:
        vectors, codes = as_held(rows, self.space, self.path)
        return self.store.add(ids, vectors, codes, metadata=metadata, existing=existing)

    def delete(self, ids: Sequence[str] | str | None = None, *, where: Where | None = None) -> Deleted:
        """Delete items: from vectors, codes, thumbnails, metadata and index files. See :meth:`Store.delete`."""
        return self.store.delete([ids] if isinstance(ids, str) else ids, where=where)

    def compact(self, progress: Progress | None = None) -> Compacted:
        """Take deleted rows out of the file; see :func:`cosphere.gallery.compact`."""
        return compact(self.store, progress)

    def check(self, progress: Progress | None = None) -> None:
        """Read everything and compare it with its digests; see :func:`cosphere.gallery.check_all`."""
        check_all(self.store, progress)

    def export(self, path: str | Path) -> Path:
        """Write all items as .parquet, .npz or .faiss; see :func:`cosphere.search.gallery_export.export`."""
        return export(self.store, Path(path))

    # Searching

    def refresh(self) -> int:
        """Bring the rows in memory up to the last commit, and return its generation. A search does this by itself."""
        with self._guard, self.store.reading() as connection:
            for held in self._held.values():
                held.refresh(self.store, connection)
            return self.store.state().generation

    def search(
        self,
        query: Any = None,
        k: int = 10,
        where: Where | None = None,
        *,
        id: str | None = None,
        precision: Precision | None = None,
    ) -> list[GalleryHit]:
        """The k items nearest to one query, nearest first; equal scores in the order in which they were added.

        Args:
            query: an image, see :meth:`Embedder.encode`, if the gallery has an embedder; a (D,) float embedding; or a
                (ceil(D / 8),) uint8 code.
            k: items; fewer are found where the gallery, or the filter, has fewer.
            where: a filter of metadata, see :mod:`cosphere.gallery.where`.
            id: search with this item instead, which is not found itself.
            precision: compare ``floats`` or ``codes``, where the gallery holds both; floats by default.

        Raises:
            DataError: the query is of another model, holds NaN or is zero; or the filter is wrong.
            SizeError: the query has another width, or is a code where floats are held.
        """
        if (query is None) == (id is None):
            raise DataError("a search wants one query: an image, an embedding, or the id of an item.")
        if id is not None:
            return self._search_own(id, k, where, precision)
        numbers = query if is_numbers(query, one=True) else None
        queries = [query] if numbers is None else as_array(numbers)[None]
        return self.search_many(queries, k, where, precision=precision)[0]

    def search_many(
        self, queries: Any, k: int = 10, where: Where | None = None, *, precision: Precision | None = None
    ) -> list[list[GalleryHit]]:
        """:meth:`search` for Q queries at once: images, (Q, D) embeddings, or (Q, ceil(D / 8)) codes."""
        check_whole("k", k, least=1, most=MOST_K)
        kind = self._kind(precision)
        if not is_numbers(queries):
            queries = self._needed_embedder("to search with images").encode(list(queries), normalize=False)
        rows = as_queries(as_array(queries), kind, self.space, self.path)
        wanted = None if where is None else parse(where)
        with self._guard, self.store.reading() as connection:
            held = self._current(kind, connection)
            self._check_width(held.space)
            kept = None if wanted is None else matching(connection, wanted, held.live_rows)
            found = held.search(rows, k, kept)
            items = {item.row: item for item in read(connection, np.unique(found.rows).tolist())}
        return [
            [self._hit(items[row], score, kind) for row, score in zip(rows_, scores, strict=True)]
            for rows_, scores in zip(found.rows.tolist(), found.scores.tolist(), strict=True)
        ]

    def _search_own(self, id_: str, k: int, where: Where | None, precision: Precision | None) -> list[GalleryHit]:
        check_whole("k", k, least=1, most=MOST_K)
        item = self.get(id_)
        own = item.code if self._kind(precision) == "codes" else item.embedding
        found = self.search_many(cast(npt.NDArray[Any], own)[None], k + 1, where, precision=precision)[0]
        return [hit for hit in found if hit.id != id_][:k]

    def _current(self, kind: str, connection: Connection) -> Held:
        held = self._held.setdefault(kind, Held(kind))
        held.refresh(self.store, connection)
        return held

    def _check_width(self, space: Space) -> None:
        if self.embedder is not None:
            check_model(space, self.embedder, self.path)

    def _kind(self, precision: Precision | None) -> str:
        space = self.space
        if precision is None:
            return "floats" if space.has_floats else "codes"
        check_choice("precision", precision, ["floats", "codes"])
        if space.holds not in (precision, "both"):
            raise SettingsError(f"{self.path} holds {space.holds}, not {precision}. Leave precision out.")
        return precision

    def _hit(self, item: Item, score: float, kind: str) -> GalleryHit:
        calibration = None if self.embedder is None or kind != "floats" else self.embedder.calibration
        return GalleryHit(item.id, score, item.metadata, None if calibration is None else bool(calibration.same(score)))

    def _row_of(self, connection: Connection, id_: str) -> int:
        row = find(connection, [id_]).get(id_) if isinstance(id_, str) else None
        if row is None:
            raise DataError(f"{id_!r} is no id of {self.path}. `cosphere index info` shows some.")
        return row

    def _needed_embedder(self, purpose: str) -> Embedder:
        if self.embedder is None:
            raise SettingsError(f"the gallery was opened without a model, which is needed {purpose}. Give embedder.")
        return self.embedder
