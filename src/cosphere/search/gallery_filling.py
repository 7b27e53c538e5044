"""Adding images to a gallery: decode, embed, make thumbnails and commit, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cosphere._types import Progress
from cosphere.errors import DataError, counted
from cosphere.gallery import Added, OnReceipt
from cosphere.gallery.adding import Existing
from cosphere.gallery.interface import ItemStore
from cosphere.models import Embedder
from cosphere.search.gallery_items import Pictures, boxes_of
from cosphere.search.gallery_rows import as_held
from cosphere.search.pictures import Pictured, embed_pictures


def add_pictures(
    store: ItemStore,
    embedder: Embedder,
    table: Pictures,
    *,
    existing: Existing,
    batch_size: int,
    autocast: torch.dtype | None,
    max_unreadable: float,
    progress: Progress | None,
    on_receipt: OnReceipt | None = None,
) -> Added:
    """Add images, each batch in a transaction of its own; see :meth:`cosphere.search.Gallery.add`."""
    from cosphere.data.dataset import UnreadableLog  # with pandas, which a search does not need

    every = len(table.ids)
    unreadable = UnreadableLog(every, max_unreadable)
    new = _missing(store, table.ids)
    if existing == "refuse" and len(new) < every:
        raise DataError(
            f"{every - len(new)} of {counted(every, 'image')} are in the gallery already. Give existing='skip' or 'replace'."
        )
    keep = new if existing == "skip" else list(range(every))
    total, done = Added(0, 0, every - len(keep)), every - len(keep)
    thumbnail = store.thumbnail
    pictures = [table.pictures[place] for place in keep]
    boxes = boxes_of([table.metadata[place] for place in keep], [table.ids[place] for place in keep])
    for batch in embed_pictures(
        embedder, pictures, boxes, batch_size=batch_size, thumbnail=thumbnail, autocast=autocast
    ):
        unreadable.add(batch.skipped)
        if batch.places:
            total = total.and_then(
                _commit(store, table, [keep[place] for place in batch.places], batch, existing, on_receipt)
            )
        done += len(batch.places) + len(batch.skipped)
        if progress is not None:
            progress(done, every)
    return total


def _commit(
    store: ItemStore,
    table: Pictures,
    places: Sequence[int],
    batch: Pictured,
    existing: Existing,
    on_receipt: OnReceipt | None,
) -> Added:
    ids = [table.ids[place] for place in places]
    vectors, codes = as_held(batch.embeddings, store.space(), store.place, ids)
    return store.add(
        ids,
        vectors,
        codes,
        metadata=[table.metadata[place] for place in places],
        thumbnails=batch.thumbnails if any(batch.thumbnails) else None,
        existing=existing,
        on_receipt=on_receipt,
    )


def _missing(store: ItemStore, ids: Sequence[str]) -> list[int]:
    """Positions of the ids that are not there."""
    there = store.known(ids)
    return [place for place, one in enumerate(ids) if one not in there]
