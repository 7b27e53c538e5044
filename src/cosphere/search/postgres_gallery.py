"""A gallery on a PostgreSQL server with pgvector, with the methods of one in a folder.

with PostgresGallery.create("postgresql://user@host/database", "photos", embedder=embedder) as gallery:
gallery.add(paths)
gallery.build_index()
gallery.search("query.jpg", k=8, where={"label": "mug"})
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from cosphere._types import Float32s
from cosphere.errors import DataError, SettingsError
from cosphere.gallery import Item, Where
from cosphere.gallery.interface import Compacted
from cosphere.gallery.postgres import PostgresStore, Removed, build_index, drop_index, indexes, search
from cosphere.models import Embedder
from cosphere.rows import UnitRows
from cosphere.search.any_gallery import AnyGallery, GalleryItem, Ranking
from cosphere.search.engines import COSINE, ENGINES, SIGNS
from cosphere.search.gallery_rows import new_space
from cosphere.search.hamming import BitRows
from cosphere.search.kinds import AUTO

_KINDS = ("hnsw", AUTO)


class PostgresGallery(AnyGallery):
    """A searched collection on a server. Made with :meth:`create` and :meth:`open`.

    Any number of processes on any number of machines add, delete and search at once. The server searches: exactly, until
    :meth:`build_index` makes an HNSW index. Deletion is the server's: bytes stay in its log and backups, so nothing proves it.

    Attributes:
        exact: compare all rows, also where there is an index.
        ef_search: candidates of the index without a filter, 1 to 1000: more find more, and take longer.
    """

    def __init__(self, store: PostgresStore, embedder: Embedder | None = None) -> None:
        super().__init__(store, embedder)
        self.store = store
        self.ef_search = 100

    @classmethod
    def create(
        cls,
        address: str,
        name: str,
        *,
        dim: int | None = None,
        holds: str = "floats",
        embedder: Embedder | None = None,
        model: str | Path = "",
        model_id: str = "",
        stored: Literal["float32", "float16"] = "float32",
        thumbnail: int = 0,
    ) -> PostgresGallery:
        """Make an empty gallery.

        Args:
            address: of the database, as libpq takes it: ``postgresql://user@host/database``.
            name: of the gallery, and of the schema that holds it.
            dim: D, numbers in an embedding; of an embedder's by default.
            holds: ``floats``, ``codes`` (one bit for each number) or ``both``.
            embedder: the model whose embeddings it will hold.
            model: where the model lies, for commands that load it.
            model_id: :attr:`Embedder.id` of the model, where no embedder is given; empty where unknown.
            stored: number format of the vectors; "float16" takes half the space.
            thumbnail: longer side in pixels of the thumbnails to keep of added images; 0 for none.

        Raises:
            SettingsError: a setting is out of range, or neither a width nor an embedder is given.
            RunError: the name is taken, or the server cannot be reached or lacks pgvector >= 0.8.4.
        """
        space = new_space(embedder, dim, holds, model, model_id)
        return cls(PostgresStore.create(address, name, space, stored=stored, thumbnail=thumbnail), embedder)

    @classmethod
    def open(cls, address: str, name: str, *, embedder: Embedder | None = None) -> PostgresGallery:
        """Open a gallery.

        Raises:
            RunError: there is none of this name, or the server cannot be reached.
            DataError: its embeddings are of another model.
        """
        store = PostgresStore.open(address, name)
        try:
            return cls(store, embedder)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Close the connection. A later call opens it again."""
        self.store.close()

    def get(self, id_: str) -> GalleryItem:
        """One item, whole.

        Raises:
            DataError: there is none of this id.
        """
        found = self.store.whole(id_)
        if found is None:
            raise DataError(f"{id_!r} is not an id of {self.store.place}. Check its spelling.")
        item, rows, thumbnail = found
        vector, code = (None if part is None else part[0] for part in rows[1:])
        return GalleryItem(
            item.id, item.metadata, cast(Float32s | None, vector), cast(npt.NDArray[np.uint8] | None, code), thumbnail
        )

    def delete(self, ids: Sequence[Any] | str | None = None, *, where: Where | None = None) -> Removed:
        """Delete items, all or none; see :meth:`PostgresStore.delete`."""
        return self.store.delete(ids, where=where)

    def compact(self) -> Compacted:
        """Rewrite the table without what was deleted; see :meth:`PostgresStore.compact`."""
        return self.store.compact()

    def build_index(self, kind: str = AUTO, **settings: Any) -> None:
        """Make an HNSW index of every column; see :func:`cosphere.gallery.postgres.build_index`.

        Args:
            kind: ``hnsw`` or ``auto``, which is the same here.
            settings: ``m``, ``ef_construction``, ``memory_mb``.

        Raises:
            SettingsError: another kind or setting, or a value out of range.
            RunError: the server refuses.
        """
        if kind not in _KINDS:
            raise SettingsError(f"a server's index is of kind 'hnsw'; got {kind!r}. Leave the kind out.")
        known = sorted(inspect.signature(build_index).parameters.keys() - {"store"})
        for name in settings:
            if name not in known:
                raise SettingsError(
                    f"a server's index has no setting {name!r}; it has {', '.join(known)}. Leave it out."
                )
        build_index(self.store, **settings)

    def drop_index(self) -> None:
        """Remove the HNSW index: every search is exact afterwards."""
        drop_index(self.store)

    @property
    def indexes(self) -> tuple[str, ...]:
        """The columns that have an HNSW index: "vector", "code"."""
        return indexes(self.store)

    def _nearest(self, queries: UnitRows | BitRows, kind: str, k: int, where: Where | None) -> Ranking:
        by_code = isinstance(queries, BitRows)
        found = search(
            self.store,
            None if by_code else queries.rows.numpy(),
            queries.rows.numpy() if by_code else None,
            k=k,
            by="codes" if by_code else "floats",
            where=where,
            exact=self.exact,
            ef_search=self.ef_search,
        )
        dim = self.space.dim
        answers = [
            [(Item(one.row, one.id, one.metadata), 1 + 2 * one.score / dim if by_code else one.score) for one in answer]
            for answer in found
        ]
        of_floats = COSINE if self.store.about().stored == "float32" else ENGINES["float16"].measure
        return Ranking(answers, SIGNS if by_code else of_floats)
