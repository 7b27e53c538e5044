"""What is known of each item besides its numbers: id, metadata and thumbnail; and the facts that filters look up."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cosphere.gallery.schema import damaged, digest, plain_object
from cosphere.gallery.sqlite import Connection
from cosphere.gallery.values import Value, as_text

T = TypeVar("T")
_MANY = 500
"""Values bound to one statement."""


@dataclass(frozen=True)
class Item:
    """One item of a gallery."""

    row: int = field(repr=False)
    """Its row number, which no other item ever had."""
    id: str
    metadata: Mapping[str, Value]


def groups(values: Iterable[T], size: int = _MANY) -> Iterator[list[T]]:
    """Lists of at most ``size`` values, in their order."""
    source = iter(values)
    while part := list(itertools.islice(source, size)):
        yield part


def marks(values: Sequence[Any]) -> str:
    """Placeholders of a statement: ``?, ?, ?``."""
    return ", ".join("?" * len(values))


def find(connection: Connection, ids: Iterable[str]) -> dict[str, int]:
    """Row number of each id that is there."""
    rows: dict[str, int] = {}
    for part in groups(ids):
        rows |= dict(connection.rows(f"SELECT id, row FROM item WHERE id IN ({marks(part)})", part))
    return rows


def insert(
    connection: Connection,
    rows: Sequence[int],
    ids: Sequence[str],
    metadata: Sequence[Mapping[str, Value]],
    thumbnails: Sequence[bytes | None] | None,
) -> None:
    """Add items, inside a transaction. Their ids must be new."""
    texts = [as_text(columns, place) for place, columns in enumerate(metadata)]
    records = ((row, id_, text, _digest(row, id_, text)) for row, id_, text in zip(rows, ids, texts, strict=True))
    connection.run_many("INSERT INTO item VALUES (?, ?, ?, ?)", records)
    number = _numbers(connection, {name for columns in metadata for name in columns})
    facts = (
        (number[name], value, row)
        for row, columns in zip(rows, metadata, strict=True)
        for name, value in columns.items()
    )
    connection.run_many("INSERT INTO fact VALUES (?, ?, ?)", facts)
    if thumbnails is not None:
        pictures = ((row, one) for row, one in zip(rows, thumbnails, strict=True) if one is not None)
        connection.run_many(
            "INSERT INTO thumbnail VALUES (?, ?, ?)",
            ((row, digest(one, "thumbnail", row), one) for row, one in pictures),
        )


def _digest(row: int, id_: str, text: str) -> int:
    return digest(f"{id_}\0{text}".encode("utf-8", "surrogatepass"), "item", row)


def _numbers(connection: Connection, names: set[str]) -> dict[str, int]:
    """Number of each column, new ones included."""
    connection.run_many("INSERT OR IGNORE INTO name (name) VALUES (?)", ((name,) for name in sorted(names)))
    return known_numbers(connection, names)


def known_numbers(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """Number of each column that some item has."""
    found: dict[str, int] = {}
    for part in groups(names):
        found |= dict(connection.rows(f"SELECT name, number FROM name WHERE name IN ({marks(part)})", part))
    return found


def read(connection: Connection, rows: Sequence[int]) -> list[Item]:
    """The items of rows, in that order.

    Raises:
        DamagedError: one is missing, or not what was written.
    """
    found: dict[int, Item] = {}
    for part in groups(rows):
        query = f"SELECT row, id, columns, digest FROM item WHERE row IN ({marks(part)})"
        found |= {record[0]: _item(connection, *record) for record in connection.rows(query, part)}
    missing = [row for row in rows if row not in found]
    if missing:
        raise damaged(connection.path, f"item {missing[0]}")
    return [found[row] for row in rows]


def _item(connection: Connection, row: int, id_: Any, text: Any, kept: int) -> Item:
    if not isinstance(id_, str) or not isinstance(text, str) or _digest(row, id_, text) != kept:
        raise damaged(connection.path, f"item {row}")
    metadata = plain_object(text)
    if metadata is None:
        raise damaged(connection.path, f"item {row}")
    return Item(row, id_, metadata)


def read_all(connection: Connection) -> Iterator[Item]:
    """Every item, in the order in which they were added.

    Raises:
        DamagedError: one is not what was written.
    """
    for record in connection.each("SELECT row, id, columns, digest FROM item ORDER BY row"):
        yield _item(connection, *record)


def all_rows(connection: Connection) -> Iterator[int]:
    """Every row number, ascending."""
    return (row for (row,) in connection.each("SELECT row FROM item ORDER BY row"))


def read_thumbnails(connection: Connection, rows: Sequence[int]) -> dict[int, bytes]:
    """The JPEG of each row that has one.

    Raises:
        DamagedError: one is not what was written.
    """
    found: dict[int, bytes] = {}
    for part in groups(rows):
        query = f"SELECT row, digest, content FROM thumbnail WHERE row IN ({marks(part)})"
        for row, kept, content in connection.rows(query, part):
            if digest(content, "thumbnail", row) != kept:
                raise damaged(connection.path, f"the thumbnail of item {row}")
            found[row] = content
    return found


def erase(connection: Connection, gone: Sequence[Item]) -> None:
    """Remove items, their facts, their thumbnails and the names of columns that no item has any more, inside a transaction."""
    names = {name for item in gone for name in item.metadata}
    number = known_numbers(connection, names)
    facts = ((number.get(name), value, item.row) for item in gone for name, value in item.metadata.items())
    connection.run_many("DELETE FROM fact WHERE name = ? AND value = ? AND row = ?", facts)
    rows = [(item.row,) for item in gone]
    connection.run_many("DELETE FROM item WHERE row = ?", rows)
    connection.run_many("DELETE FROM thumbnail WHERE row = ?", rows)
    connection.run_many(
        "DELETE FROM name WHERE number = ? AND NOT EXISTS (SELECT 1 FROM fact WHERE fact.name = name.number)",
        ((one,) for one in number.values()),
    )


def texts_left_alone(connection: Connection, gone: Sequence[Item]) -> list[str]:
    """The ids of deleted items, and those of their texts that no item has any more."""
    values = {(name, value) for item in gone for name, value in item.metadata.items() if isinstance(value, str)}
    number = known_numbers(connection, {name for name, _ in values})
    query = "SELECT 1 FROM fact WHERE name = ? AND value = ? LIMIT 1"
    alone = [value for name, value in values if connection.one(query, (number.get(name), value)) is None]
    return [*(item.id for item in gone), *alone]
