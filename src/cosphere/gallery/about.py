"""What there is to know about a gallery at a glance."""

from __future__ import annotations

from dataclasses import dataclass

from cosphere.gallery import blocks
from cosphere.gallery.erasure import read_log
from cosphere.gallery.schema import Space, read_space, read_state
from cosphere.gallery.sqlite import driver_name, library_version, version_warning
from cosphere.gallery.store import Store


@dataclass(frozen=True)
class About:
    """A gallery's contents, sizes and library."""

    items: int
    space: Space
    thumbnail: int
    """Longer side of thumbnails in pixels; 0 for none."""
    thumbnails: int
    """Items that have one."""
    generation: int
    """Commits so far."""
    dead: int
    """Deleted rows that compaction would take out."""
    file_bytes: int
    log_bytes: int
    """Of the write-ahead log."""
    columns: tuple[tuple[str, int], ...]
    """Each metadata column, and the items that have it; the most frequent first."""
    first_ids: tuple[str, ...]
    deletions: tuple[tuple[str, int], ...]
    """Time and number of items of each deletion."""
    migrating: tuple[Space, int, int] | None
    """The space that a migration fills, the blocks that are done, and all."""
    library: str
    warning: str | None
    """What to know about an old SQLite library."""


def about(store: Store) -> About:
    """Collect it; all of one committed state.

    Raises:
        DamagedError: a record is not what was written.
    """
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
