"""Compaction and the full check: blocks without deleted rows, a file without free pages, and every byte against its digest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from cosphere._types import Progress
from cosphere.errors import RunError
from cosphere.gallery import blocks, items
from cosphere.gallery.blocks import Extent
from cosphere.gallery.folder import reading_only
from cosphere.gallery.interface import Compacted
from cosphere.gallery.postgres.store import PostgresStore
from cosphere.gallery.schema import BLOCK_ROWS, damaged, read_state, write_state
from cosphere.gallery.sqlite import Connection
from cosphere.gallery.store import Store, vectors_of
from cosphere.gallery.values import Value

_TOGETHER = 16
"""Blocks that are rewritten in one transaction."""


def compact(store: Store | PostgresStore, progress: Progress | None = None) -> Compacted:
    """Take deleted rows out of the blocks, merge short blocks, and rewrite the file without free pages.

    Files of ``index/`` that are not indexes of live rows are removed. On a server, rewrite the table and its indexes. Items keep their
    row numbers. Other processes go on reading; a kill at any moment leaves the gallery whole.

    Raises:
        RunError: a migration is under way, another process writes, or the disk is full.
    """
    if isinstance(store, PostgresStore):
        return store.compact()
    store.flush()
    store.remove_flawed_indexes()
    before, after = store.file.stat().st_size, 0
    highest = 0
    for after, highest in _merged(store):
        if progress is not None:
            progress(after, max(highest, 1))
    store.vacuum()
    store.flush()
    if progress is not None:
        progress(max(highest, 1), max(highest, 1))
    return Compacted(before, store.file.stat().st_size)


def _merged(store: Store) -> Iterator[tuple[int, int]]:
    """Rewrite one group of blocks after another; gives the row up to which that is done, and the highest row."""
    after = 0
    while True:
        with store.writing() as (connection, state, space):
            if state.staged is not None:
                raise RunError(
                    f"{store.folder} is being migrated. Finish that, or give it up with `migrate --abandon`."
                )
            every = blocks.extents(connection)
            group = _next_group(connection, every, after)
            if not group:
                return
            number = blocks.merge(connection, state, space, group)
            write_state(
                connection,
                replace(state, next_block=number, epoch=state.epoch + 1, generation=state.generation + 1),
            )
            now = blocks.extents(connection)
            full = [one.last for one in now if one.last <= group[-1].last and one.live == BLOCK_ROWS]
        after = max([after, *full])
        yield after, every[-1].last
        if group[-1].last == every[-1].last:
            return


def _next_group(connection: Connection, every: list[Extent], after: int) -> list[Extent]:
    """The next consecutive blocks among which one has deleted rows or is short, starting with that one."""
    wanting = [
        place
        for place, one in enumerate(every)
        if one.last > after and (one.live < BLOCK_ROWS or _has_dead(connection, one))
    ]
    if not wanting or (wanting[0] == len(every) - 1 and not _has_dead(connection, every[-1])):
        return []
    return every[wanting[0] : wanting[0] + _TOGETHER]


def _has_dead(connection: Connection, extent: Extent) -> bool:
    return extent.live < BLOCK_ROWS and len(blocks.read_numbers(connection, extent.number)) > extent.live


def check_all(store: Store, progress: Progress | None = None) -> None:
    """Read everything of one committed state and compare it with its digest, and the facts that filters look up with the metadata.

    Raises:
        DamagedError: something is not what was written; the first of it is named.
    """
    store.state()  # the file must lie where it was opened
    connection = reading_only(store.file)
    try:
        with connection.reading():  # one state for all: others may delete meanwhile
            _check(connection, progress)
    finally:
        connection.close()


def _check(connection: Connection, progress: Progress | None) -> None:
    (verdict,) = connection.one("PRAGMA integrity_check(1)") or ("no answer",)
    if verdict != "ok":
        raise damaged(connection.path, f"its structure ({verdict})")
    state = read_state(connection)
    done = values = 0
    for found, rows in vectors_of(connection):
        items.read_thumbnails(connection, [item.row for item in found])
        numbers = items.known_numbers(connection, {name for item in found for name in item.metadata})
        for item in found:
            _check_facts(connection, item.row, item.metadata, numbers)
            values += len(item.metadata)
        done += len(rows.rows)
        if progress is not None:
            progress(done, max(done, state.items))
    counts = [connection.one(f"SELECT count(*) FROM {table}") for table in ("item", "fact")]
    if counts != [(state.items,), (values,)]:
        raise damaged(connection.path, "the number of items or of their values")


def _check_facts(connection: Connection, row: int, metadata: Mapping[str, Value], numbers: Mapping[str, int]) -> None:
    for name, value in metadata.items():
        found = connection.one(
            "SELECT 1 FROM fact WHERE name = ? AND value = ? AND row = ?", (numbers.get(name), value, row)
        )
        if found is None:
            raise damaged(connection.path, f"column {name!r} of item {row}")
