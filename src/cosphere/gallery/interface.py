"""What a store of items offers, wherever it lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from cosphere.gallery.adding import Added, Existing
from cosphere.gallery.blocks import Rows
from cosphere.gallery.items import Item
from cosphere.gallery.receipt_file import OnReceipt
from cosphere.gallery.schema import Space
from cosphere.gallery.where import Where


class Compacted(NamedTuple):
    """What a compaction did."""

    before: int
    """Bytes of the file, or of the table and its indexes, before."""
    after: int


class ItemStore(Protocol):
    """Items in a folder (:class:`cosphere.gallery.Store`) or on a server (:class:`cosphere.gallery.postgres.PostgresStore`)."""

    @property
    def place(self) -> str:
        """Where it lies, for messages."""

    @property
    def thumbnail(self) -> int:
        """Longer side of thumbnails in pixels; 0 keeps none."""

    def space(self) -> Space:
        """What the rows are."""

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are there."""

    def add(
        self,
        ids: Sequence[Any],
        vectors: npt.NDArray[Any] | None = None,
        codes: npt.NDArray[Any] | None = None,
        *,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        thumbnails: Sequence[bytes | None] | None = None,
        existing: Existing = "refuse",
        on_receipt: OnReceipt | None = None,
    ) -> Added:
        """Add items, all or none. When it returns, they are committed. A server gives no receipts, and refuses ``on_receipt``."""

    def count(self, where: Where | None = None) -> int:
        """Number of items that meet a filter."""

    def vectors(self) -> Iterator[tuple[list[Item], Rows]]:
        """All items with their rows, some at a time, all of one committed state."""

    def __len__(self) -> int: ...

    def __contains__(self, id_: object) -> bool: ...

    def __iter__(self) -> Iterator[Item]: ...
