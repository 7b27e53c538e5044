"""What a gallery does wherever it lies: add items of every form, and search with images, embeddings and ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, cast

import numpy as np
import numpy.typing as npt
import torch

from cosphere._types import Float32s, Progress
from cosphere.checks import MOST_IMAGES, check_choice, check_whole
from cosphere.embeddings import Embeddings
from cosphere.errors import DataError, SettingsError, SizeError, counted
from cosphere.files import path_of
from cosphere.gallery import Added, Item, OnReceipt, Space, Where
from cosphere.gallery.adding import Existing
from cosphere.gallery.interface import ItemStore
from cosphere.gallery.values import in_order
from cosphere.models import Embedder
from cosphere.rows import UnitRows, as_array
from cosphere.search.engines import COSINE
from cosphere.search.gallery_export import export
from cosphere.search.gallery_filling import add_pictures
from cosphere.search.gallery_items import (
    Described,
    as_table,
    columns_of_table,
    described,
    is_numbers,
    odd_numbers,
    per_item,
)
from cosphere.search.gallery_rows import as_held, as_queries, check_model, other_model
from cosphere.search.hamming import BitRows

Precision = Literal["floats", "codes"]
MOST_K = 2**20


@dataclass(frozen=True)
class GalleryHit:
    """One item in the answer to a query."""

    id: str
    score: float
    """Larger is nearer: see :attr:`measure`."""
    metadata: Mapping[str, Any]
    same: bool | None = None
    """Whether the score is above the model's calibrated threshold; None where none applies."""
    measure: str = COSINE
    """What the score is: the cosine of whole embeddings, to which alone a threshold applies; of codes
    ``1 - 2 x share of differing bits``; of an index that keeps rounded rows or signs, what its kind gives."""


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


class Ranking(NamedTuple):
    """The nearest items of Q queries."""

    answers: list[list[tuple[Item, float]]]
    """Of each query, its items with their scores, nearest first."""
    measure: str
    """What the scores are."""


class AnyGallery(ABC):
    """The methods that every gallery has. A subclass says where items lie, and how the nearest are found.

    Attributes:
        embedder: the model of its embeddings; None without one.
        exact: compare all rows, also where there is an index.
    """

    def __init__(self, store: ItemStore, embedder: Embedder | None = None) -> None:
        if isinstance(store, str | Path):
            name = type(self).__name__
            raise SettingsError(
                f"{name} is made by {name}.open or {name}.create; got {str(store)!r}. Call one of them."
            )
        self._items = store
        self.embedder = embedder
        self.exact = False
        if embedder is not None:
            check_model(store.space(), embedder, store.place)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open. A later call opens the gallery again."""

    @abstractmethod
    def get(self, id_: str) -> GalleryItem:
        """One item, whole.

        Raises:
            DataError: there is none of this id.
        """

    @abstractmethod
    def _nearest(self, queries: UnitRows | BitRows, kind: str, k: int, where: Where | None) -> Ranking:
        """The nearest items of each query, and what their scores are."""

    @property
    def space(self) -> Space:
        """Width, kind and model of the rows."""
        return self._items.space()

    def __len__(self) -> int:
        """Number of items."""
        return len(self._items)

    def __contains__(self, id_: object) -> bool:
        """Whether there is an item of this id."""
        return id_ in self._items

    def __iter__(self) -> Iterator[Item]:
        """Every item's id and metadata, in the order in which they were added."""
        return iter(self._items)

    def add(
        self,
        items: Any,
        ids: Sequence[Any] | None = None,
        metadata: Any = None,
        *,
        existing: Existing = "refuse",
        batch_size: int = 64,
        autocast: torch.dtype | None = None,
        max_unreadable: float = 0.0,
        progress: Progress | None = None,
        on_receipt: OnReceipt | None = None,
    ) -> Added:
        """Add items. What is acknowledged is on disk: embeddings all or none, images batch by batch.

        Args:
            items: (N, D) float embeddings, torch or numpy; (N, ceil(D / 8)) uint8 codes; an
                :class:`~cosphere.embeddings.Embeddings`; or N images, see :meth:`Embedder.encode`, if the gallery has an embedder;
                those of an iterator are held in memory.
            ids: N texts, each once; by default the path of an image. Numbers become texts. Of embeddings those that they have, or the
                paths, with ``@left,top,right,bottom`` where there is a box; of rows that show one picture the first is added then.
            metadata: N mappings, or a mapping or DataFrame of columns with N values each: texts, numbers, truth values. Of an
                image, ``path`` is added; columns ``x_1, y_1, x_2, y_2`` are its box in pixels.
            existing: what happens to an id that is there: ``refuse``, ``skip``, or ``replace`` it.
            batch_size: images that are read together and added in one transaction.
            autocast: of images, compute in this type, such as torch.bfloat16; see :meth:`Embedder.encode`.
            max_unreadable: tolerated share of unreadable images, in [0, 1]; these are left out.
            progress: called with the number of images done.
            on_receipt: called with the receipt of what each commit replaces, before that commit; in a folder. To keep receipts, give
                :meth:`cosphere.gallery.ReceiptFile.append`.

        Raises:
            DataError: an id is there or twice, a row holds NaN or is zero, a value cannot be kept, or images cannot be read.
            SizeError: widths or counts do not fit.
            RunError: another process writes, the disk is full, or the folder is read-only.
        """
        ids = None if ids is None else in_order(ids, "ids")
        if isinstance(items, Embeddings):
            return self._add_table(items, ids, metadata, existing, on_receipt)
        if is_numbers(items):
            rows = as_array(items)
            if ids is None:
                raise DataError(f"want an id for each of {counted(len(rows), 'embedding')}; give ids, a list of texts.")
            return self._add_numbers(rows, ids, per_item(metadata, len(rows)), existing, on_receipt)
        check_whole("batch_size", batch_size, least=1, most=MOST_IMAGES)
        return add_pictures(
            self._items,
            self._needed_embedder("to add images", items),
            as_table(items, ids, metadata),
            existing=existing,
            batch_size=batch_size,
            autocast=autocast,
            max_unreadable=max_unreadable,
            progress=progress,
            on_receipt=on_receipt,
        )

    def upsert(self, items: Any, ids: Sequence[Any] | None = None, metadata: Any = None, **options: Any) -> Added:
        """:meth:`add`; an item whose id is there takes the place of the old one, metadata included."""
        return self.add(items, ids, metadata, existing="replace", **options)

    def count(self, where: Where | None = None) -> int:
        """Number of items, or of those that meet a filter.

        Raises:
            DataError: the filter is wrong.
        """
        return self._items.count(where)

    def _add_table(
        self,
        table: Embeddings,
        ids: Sequence[Any] | None,
        metadata: Any,
        existing: Existing,
        on_receipt: OnReceipt | None,
    ) -> Added:
        space = self.space
        if table.model_id and space.model_id and table.model_id != space.model_id:
            raise other_model(self._items.place, space, table.model_id)
        own, every = described(table), per_item(metadata, len(table))
        if ids is not None:
            own = Described(list(range(len(table))), list(ids), columns_of_table(table))
        merged = [one | dict(every[row] or {}) for row, one in zip(own.rows, own.metadata, strict=True)]
        rows = table.embeddings if len(own.rows) == len(table) else table.embeddings[own.rows]
        return self._add_numbers(rows, own.ids, merged, existing, on_receipt)

    def _add_numbers(
        self,
        rows: npt.NDArray[Any],
        ids: Sequence[Any],
        metadata: Sequence[Mapping[str, Any] | None],
        existing: Existing,
        on_receipt: OnReceipt | None,
    ) -> Added:
        vectors, codes = as_held(rows, self.space, self._items.place, ids)
        return self._items.add(ids, vectors, codes, metadata=metadata, existing=existing, on_receipt=on_receipt)

    def export(self, path: str | Path) -> Path:
        """Write all items as .parquet, .npz or .faiss; see :func:`cosphere.search.gallery_export.export`."""
        return export(self._items, path_of(path))

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
        return self._answers(queries, k, where, precision)

    def _answers(
        self, queries: Any, k: int, where: Where | None, precision: Precision | None
    ) -> list[list[GalleryHit]]:
        kind = self._kind(precision)
        if not is_numbers(queries):
            queries = self._needed_embedder("to search with images", queries).encode(queries, normalize=False)
        if not len(queries):
            return []
        rows = as_queries(as_array(queries), kind, self.space, self._items.place)
        found = self._nearest(rows, kind, k, where)
        return [[self._hit(item, score, found.measure) for item, score in answer] for answer in found.answers]

    def _search_own(self, id_: str, k: int, where: Where | None, precision: Precision | None) -> list[GalleryHit]:
        check_whole("k", k, least=1, most=MOST_K)
        item = self.get(id_)
        own = item.code if self._kind(precision) == "codes" else item.embedding
        found = self._answers(cast(npt.NDArray[Any], own)[None], k + 1, where, precision)[0]
        return [hit for hit in found if hit.id != item.id][:k]

    def _kind(self, precision: Precision | None) -> str:
        space = self.space
        if precision is None:
            return "floats" if space.has_floats else "codes"
        check_choice("precision", precision, ["floats", "codes"])
        if space.holds not in (precision, "both"):
            raise SettingsError(f"{self._items.place} holds {space.holds}, not {precision}. Leave precision out.")
        return precision

    def _hit(self, item: Item, score: float, measure: str) -> GalleryHit:
        calibration = None if self.embedder is None or measure != COSINE else self.embedder.calibration
        same = None if calibration is None else bool(calibration.same(score))
        return GalleryHit(item.id, score, item.metadata, same, measure)

    def _needed_embedder(self, purpose: str, given: Any) -> Embedder:
        if self.embedder is None:
            came = odd_numbers(given)
            if came:
                raise SizeError(
                    f"want embeddings as an array or tensor (N, D), got {came}. Give one row for each item; images need a gallery "
                    "that was opened with an embedder."
                )
            raise SettingsError(
                f"the gallery was opened without a model, which is needed {purpose}. Give embedder; or give numbers as an array or "
                "tensor: (N, D) embeddings, a (D,) query."
            )
        return self.embedder
