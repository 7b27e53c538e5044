"""What there is to know about a gallery at a glance."""

from __future__ import annotations

from dataclasses import dataclass

from cosphere.errors import one_of
from cosphere.gallery import blocks
from cosphere.gallery.erasure import read_log
from cosphere.gallery.postgres import PostgresStore, indexes
from cosphere.gallery.schema import Space, read_space, read_state
from cosphere.gallery.sqlite import driver_name, library_version, version_warning
from cosphere.gallery.store import Store
from cosphere.gallery.values import ID
from cosphere.gallery.where import Where, parse


@dataclass(frozen=True)
class Contents:
    """What a gallery holds, wherever it lies."""

    items: int
    space: Space
    thumbnail: int
    """Longer side of thumbnails in pixels; 0 for none."""
    thumbnails: int
    """Items that have one."""
    columns: tuple[tuple[str, int], ...]
    """Each metadata column, and the items that have it; the most frequent first."""
    first_ids: tuple[str, ...]


@dataclass(frozen=True)
class About(Contents):
    """A gallery in a folder: contents, sizes and library."""

    generation: int
    """Commits so far."""
    dead: int
    """Deleted rows that compaction would take out."""
    file_bytes: int
    log_bytes: int
    """Of the write-ahead log."""
    deletions: tuple[tuple[str, int], ...]
    """Time and number of items of each deletion."""
    migrating: tuple[Space, int, int] | None
    """The space that a migration fills, the blocks that are done, and all."""
    library: str
    warning: str | None
    """What to know about an old SQLite library."""


@dataclass(frozen=True)
class AboutServer(Contents):
    """A gallery on a server: contents, sizes and versions."""

    stored: str
    """Number format of the vectors."""
    table_bytes: int
    index_bytes: int
    """Of all indexes, those of ids and metadata too."""
    indexes: tuple[str, ...]
    """Columns with an HNSW index."""
    library: str


def about(store: Store | PostgresStore) -> About | AboutServer:
    """Collect it; all of one committed state.

    Raises:
        DamagedError: a record is not what was written.
    """
    if isinstance(store, PostgresStore):
        return _about_server(store)
    with store.reading() as connection:
        state = read_state(connection)
        (dead,) = connection.one("SELECT coalesce(sum(length(content) / 8 - live), 0) FROM block") or (0,)
        (thumbnails,) = connection.one("SELECT count(*) FROM thumbnail") or (0,)
        query = "SELECT name.name, count(*) AS items FROM fact JOIN name ON name.number = fact.name GROUP BY fact.name"
        columns = connection.rows(f"{query} ORDER BY items DESC, name.name")
        migrating = None
        if state.staged is not None:
            space = read_space(connection, state.staged)
            live = {one.number for one in blocks.extents(connection) if one.live}
            migrating = space, len(live & blocks.has_content(connection, state.staged, space)), len(live)
        log = store.file.with_name(f"{store.file.name}-wal")
        return About(
            items=state.items,
            space=read_space(connection, state.space),
            thumbnail=state.thumbnail,
            thumbnails=thumbnails,
            generation=state.generation,
            dead=dead,
            file_bytes=store.file.stat().st_size,
            log_bytes=log.stat().st_size if log.exists() else 0,
            columns=tuple((str(name), int(count)) for name, count in columns),
            first_ids=tuple(str(one) for (one,) in connection.rows("SELECT id FROM item ORDER BY row LIMIT 3")),
            deletions=tuple(
                (str(one["time"]), int(one["items"])) for one in read_log(connection) if not one.get("replaced")
            ),
            migrating=migrating,
            library=f"{'.'.join(map(str, library_version()[:3]))} ({driver_name()})",
            warning=version_warning(),
        )


def no_such_columns(store: Store | PostgresStore, where: Where) -> str:
    """Which columns of a filter no item has, as a sentence; empty where each is there. For filters that nothing meets."""
    asked = {one.column for every in parse(where).alternatives for one in every} - {ID}
    there = [name for name, _ in about(store).columns]
    unknown = sorted(asked - set(there))
    if not unknown:
        return ""
    has = f"items have {', '.join(there[:12])}" if there else "items have no metadata"
    return f"no item has a column {one_of(map(repr, unknown))}; {has}"


def _about_server(store: PostgresStore) -> AboutServer:
    space, stored, thumbnail = store.about()
    table = store.table
    table_bytes, index_bytes = store.sizes()
    with store.transaction(reading=True) as connection:
        items, thumbnails = connection.execute(f"SELECT count(*), count(thumbnail) FROM {table}").fetchone()
        keys = f"SELECT key, count(*) AS items FROM {table}, jsonb_object_keys(columns) AS key GROUP BY key"
        columns = connection.execute(f"{keys} ORDER BY items DESC, key").fetchall()
        first = connection.execute(f"SELECT id FROM {table} ORDER BY row LIMIT 3").fetchall()
        versions = "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
        server, pgvector = connection.execute(versions).fetchone()
    return AboutServer(
        items=items,
        space=space,
        thumbnail=thumbnail,
        thumbnails=thumbnails,
        columns=tuple((str(name), int(count)) for name, count in columns),
        first_ids=tuple(id_ for (id_,) in first),
        stored=stored,
        table_bytes=table_bytes,
        index_bytes=index_bytes,
        indexes=indexes(store),
        library=f"PostgreSQL {server}, pgvector {pgvector}",
    )
