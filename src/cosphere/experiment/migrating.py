"""Moving a gallery to another model as one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cosphere.checks import check_switches, check_whole
from cosphere.data.dataset import UnreadableLog
from cosphere.data.listing import exists
from cosphere.data.remarks import MAX_UNREADABLE, Skipped
from cosphere.errors import DataError, agreeing, counted
from cosphere.experiment.embedding import say_how
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.models import load_model
from cosphere.files import path_of
from cosphere.gallery import Item, OnReceipt, Space, Store, migration
from cosphere.gallery.address import NO_MIGRATION, folder_of
from cosphere.gallery.values import quoted, shown
from cosphere.models import Embedder
from cosphere.search.gallery_items import box_of
from cosphere.search.gallery_rows import as_held, space_of
from cosphere.search.pictures import embed_pictures


def migrate_index(
    gallery: str | Path,
    model: str | Path,
    *,
    holds: str | None = None,
    drop_unreadable: bool = False,
    max_unreadable: float = MAX_UNREADABLE,
    on_receipt: OnReceipt | None = None,
    device: str = "auto",
    batch_size: int = 64,
    listener: Listener = SILENT,
) -> int:
    """Move a gallery to another model: its images are embedded again, and all searches change over at once.

    Until then searches see the old embeddings. A call that was killed goes on with the images that are missing. Where the gallery holds
    rows of the model already, nothing is done, and a note says so.

    Args:
        gallery: its folder. Every item must have the ``path`` of its image.
        model: a run's folder or a bundle.
        holds: ``floats``, ``codes`` or ``both``; None keeps what the gallery holds.
        drop_unreadable: delete items whose image is missing or cannot be read, instead of stopping.
        max_unreadable: share of the items that may be deleted, in [0, 1]; above 0, one always may. Where more images are missing,
            as on a disk that is not mounted, nothing is deleted.
        on_receipt: called with the receipt of what is deleted, before each commit; see :meth:`cosphere.gallery.Store.delete`.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images that are read together, see :meth:`cosphere.models.Embedder.encode`.
        listener: receives progress and notes.

    Returns:
        the number of items.

    Raises:
        DataError: an item has no image file, or it cannot be read; or more than ``max_unreadable`` of them cannot.
        RunError, WeightsError: there is no gallery or model, another process writes, or a migration to another model is under way.
        SettingsError: ``max_unreadable`` is not in [0, 1].
    """
    check_switches(drop_unreadable=drop_unreadable)
    check_whole("batch_size", batch_size, least=1)
    folder = folder_of(gallery, "a migration", NO_MIGRATION)
    embedder = load_model(model, device)
    with Store.open(folder) as store:
        target = space_of(embedder, holds or store.space().holds, path_of(model).absolute())
        if migration.is_done(store, target):
            listener.note(f"{store.folder} holds rows of this model already; nothing is left to migrate")
            return len(store)
        _check_paths(store)
        unreadable = _Unreadable(store, drop_unreadable, max_unreadable, on_receipt, listener)
        if migration.begin(store, target):
            listener.note("going on with a migration that was stopped")
        try:
            _stage_all(store, embedder, target, unreadable, batch_size, listener)
        finally:
            unreadable.report()
        say_how(embedder, listener)
        migration.switch(store)
        return len(store)


class _Unreadable:
    """What happens to items whose image cannot be read."""

    def __init__(
        self, store: Store, drop: bool, share: float, on_receipt: OnReceipt | None, listener: Listener
    ) -> None:
        self.total = len(store)
        self.allowed = UnreadableLog(self.total, share).allowed
        self._store, self._drop, self._share = store, drop, share
        self._on_receipt, self._listener = on_receipt, listener
        self._dropped: list[str] = []

    def check_there(self, paths: Sequence[str]) -> None:
        """Raise where more images are missing than may be deleted, before anything is.

        Raises:
            DataError: they are too many.
        """
        if self._drop:
            missing = [path for path, there in zip(paths, exists(Path(), paths).tolist(), strict=True) if not there]
            self._check(len(missing), [f"{quoted(one)} does not exist" for one in missing[:3]])

    def _check(self, count: int, reasons: Sequence[str]) -> None:
        found = len(self._dropped) + count
        if found > self.allowed:
            raise DataError(
                f"the images of {found:,} of {counted(self.total, 'item')} cannot be read, and at most {self.allowed:,} may be deleted "
                f"(--max_unreadable {self._share:g}): {'; '.join(reasons)}. No further item was deleted. Mount the disk or put the "
                "images back, and go on with the same command, or raise --max_unreadable."
            )

    def drop(self, items: Sequence[Item], skipped: Sequence[Skipped]) -> None:
        """Delete items.

        Raises:
            DataError: that was not asked for, or they are too many.
        """
        reasons = [one.reason.rstrip(".") for one in skipped[:3]]
        if not self._drop:
            raise DataError(
                f"{counted(len(skipped), 'image')} cannot be read: {'; '.join(reasons)}. Put them back and go "
                "on with the same command, or delete their items with --drop_unreadable true."
            )
        self._check(len(items), reasons)
        deleted = self._store.delete([item.id for item in items], on_receipt=self._on_receipt)
        self._dropped += deleted.ids
        if deleted.problem:
            self._listener.note(deleted.problem)

    def report(self) -> None:
        """Say what was deleted."""
        count = len(self._dropped)
        if count:
            self._listener.note(
                f"{shown(self._dropped, 'item')} {agreeing(count, 'were')} deleted: the image is missing or cannot be read"
            )


def _check_paths(store: Store) -> None:
    bare = store.rows({"path": ("exists", False)})
    if len(bare):
        raise DataError(
            f"{len(bare):,} of {counted(len(store), 'item')} have no image file in their metadata (column path), so they cannot be "
            "embedded again. Delete them with --where, or make a gallery of the new model's embeddings."
        )


def _stage_all(
    store: Store, embedder: Embedder, target: Space, unreadable: _Unreadable, batch_size: int, listener: Listener
) -> None:
    """Embed the images of all blocks that have no new rows yet."""
    waiting = [str(item.metadata["path"]) for block in migration.waiting(store) for item in block.items]
    unreadable.check_there(waiting)
    done, total = unreadable.total - len(waiting), unreadable.total
    with listener.progress("embedding again") as progress:
        for block in migration.waiting(store):
            for count in _stage(store, block, embedder, target, unreadable, batch_size):
                if progress is not None:
                    progress(done + count, total)
            done += len(block.items)


def _stage(
    store: Store,
    block: migration.Waiting,
    embedder: Embedder,
    target: Space,
    unreadable: _Unreadable,
    batch_size: int,
) -> Iterator[int]:
    """Embed the images of one block and keep their rows; gives the number of images done so far after each batch."""
    paths = [str(item.metadata["path"]) for item in block.items]
    boxes = [box_of(item.metadata) for item in block.items]
    rows = np.zeros((len(paths), embedder.output_dim), np.float32)
    read = np.zeros(len(paths), bool)
    skipped: list[Skipped] = []
    for batch in embed_pictures(embedder, paths, boxes, batch_size=batch_size):
        rows[batch.places], read[batch.places] = batch.embeddings, True
        skipped += batch.skipped
        yield int(read.sum()) + len(skipped)
    if skipped:
        unreadable.drop([block.items[place] for place in np.flatnonzero(~read).tolist()], skipped)
        block, rows = block._replace(items=[block.items[place] for place in np.flatnonzero(read).tolist()]), rows[read]
    if block.items:
        migration.stage(store, block, *as_held(rows, target, store.place, [item.id for item in block.items]))
