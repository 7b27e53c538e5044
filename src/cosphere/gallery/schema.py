"""The tables of a gallery's file, and the two records that say what it holds: its state and its spaces."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from cosphere.errors import DamagedError, RunError
from cosphere.gallery.sqlite import Connection

R = TypeVar("R", "State", "Space")
FORMAT = 1
"""Incremented when an older Cosphere can no longer read the file."""
APPLICATION = 0x436F7370
"""Marks the SQLite file as a gallery ("Cosp")."""
BLOCK_ROWS = 1024
"""Rows of a full block."""
HOLDS = ("floats", "codes", "both")
"""What a gallery keeps of each item: float32 rows, packed bits, or both."""

_TABLES = """
CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), content TEXT NOT NULL, digest INTEGER NOT NULL);
CREATE TABLE space (number INTEGER PRIMARY KEY, content TEXT NOT NULL, digest INTEGER NOT NULL);
CREATE TABLE item (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, columns TEXT NOT NULL, digest INTEGER NOT NULL);
CREATE TABLE name (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE fact (name INTEGER NOT NULL, value NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (name, value, row)) WITHOUT ROWID;
CREATE TABLE thumbnail (row INTEGER PRIMARY KEY, digest INTEGER NOT NULL, content BLOB NOT NULL);
CREATE TABLE tail (row INTEGER PRIMARY KEY, digest INTEGER NOT NULL, vector BLOB, code BLOB);
CREATE TABLE block (number INTEGER PRIMARY KEY, generation INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    live INTEGER NOT NULL, digest INTEGER NOT NULL, content BLOB NOT NULL);
CREATE INDEX block_order ON block (first, last, generation, live);
CREATE TABLE vectors (number INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE codes (number INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE seal (kind TEXT NOT NULL, number INTEGER NOT NULL, digest INTEGER NOT NULL, PRIMARY KEY (kind, number)) WITHOUT ROWID;
CREATE TABLE erasure (number INTEGER PRIMARY KEY, content TEXT NOT NULL, digest INTEGER NOT NULL)
"""


@dataclass(frozen=True, kw_only=True)
class State:
    """What a committed state of the file holds."""

    generation: int = 0
    """Grows by one with every commit."""
    epoch: int = 0
    """Grows when rows moved, so that a reader has to read all of them again."""
    items: int = 0
    next_row: int = 1
    """Row numbers grow and are never used twice."""
    next_block: int = 1
    space: int = 1
    """Number of the space that is searched."""
    staged: int | None = None
    """Number of the space that a migration is filling."""
    thumbnail: int = 0
    """Longer side of thumbnails in pixels; 0 keeps none."""
    name: str = ""
    """Random name of the gallery, given when it was made."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """What the rows of a gallery are: the model that made them, their width, and what is kept of each.

    Attributes:
        dim: D, numbers in an embedding, or bits in a code.
        holds: one of :data:`HOLDS`.
        model_id: :attr:`Embedder.id` of the model; empty where unknown.
        model: where its bundle or run lay when it was last used; empty where unknown.
        preprocessing: of images, as the bundle describes it; empty where unknown.
    """

    dim: int
    holds: str = "floats"
    model_id: str = ""
    model: str = ""
    preprocessing: dict[str, Any] | None = None

    @property
    def has_floats(self) -> bool:
        """Whether float rows are kept."""
        return self.holds != "codes"

    @property
    def has_codes(self) -> bool:
        """Whether packed bits are kept."""
        return self.holds != "floats"

    @property
    def code_bytes(self) -> int:
        """Bytes of a code: ceil(D / 8)."""
        return -(-self.dim // 8)

    @property
    def bytes_per_row(self) -> int:
        """Bytes of a row, floats and codes together."""
        return 4 * self.dim * self.has_floats + self.code_bytes * self.has_codes


def digest(content: bytes | memoryview, *about: object) -> int:
    """CRC-32 of some bytes and of what they are, so that neither changed bits nor misplaced bytes pass."""
    return zlib.crc32(content, zlib.crc32(repr(about).encode()))


def sealed(content: dict[str, Any], *about: object) -> tuple[str, int]:
    """Plain values as text, and its digest."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text, digest(text.encode(), *about)


def unsealed(path: Path, text: Any, kept: Any, *about: object) -> dict[str, Any]:
    """The values of :func:`sealed`.

    Raises:
        DamagedError: the digest differs; the record is named.
    """
    if not isinstance(text, str) or digest(text.encode("utf-8", "surrogatepass"), *about) != kept:
        raise damaged(path, " ".join(map(str, about)))
    content = plain_object(text)
    if content is None:
        raise damaged(path, " ".join(map(str, about)))
    return content


def plain_object(text: str) -> dict[str, Any] | None:
    """A JSON object; None for any other text."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def damaged(path: Path, part: str) -> DamagedError:
    """The error for bytes that are not those that were written."""
    return DamagedError(
        f"{path} is damaged: {part} {'are' if part.startswith(('vectors', 'codes', 'rows')) else 'is'} not what was written. "
        "Nothing of it is served. Restore the folder from a copy."
    )


def create_tables(connection: Connection, state: State, space: Space) -> None:
    """Fill an empty file. The caller's transaction commits it."""
    for statement in _TABLES.split(";\n"):
        connection.run(statement)
    connection.run(f"PRAGMA application_id = {APPLICATION}")
    connection.run(f"PRAGMA user_version = {FORMAT}")
    connection.run("INSERT INTO state VALUES (1, ?, ?)", sealed(asdict(state), "state"))
    write_space(connection, state.space, space)


def is_unfinished(connection: Connection) -> bool:
    """Whether the file is a database without tables: SQLite writes its first page before :func:`create_tables` is committed."""
    if connection.one("PRAGMA application_id") != (0,):
        return False
    return connection.one("SELECT 1 FROM sqlite_master LIMIT 1") is None


def check_format(connection: Connection) -> None:
    """Raise unless the file is a gallery of this format.

    Raises:
        RunError: it is another program's, or of a newer Cosphere.
    """
    application, version = (connection.one(f"PRAGMA {name}") for name in ("application_id", "user_version"))
    if is_unfinished(connection):
        raise RunError(
            f"{connection.path} is empty: the creation of this gallery was interrupted. Create it again, as with `cosphere index add`."
        )
    if application != (APPLICATION,):
        raise RunError(f"{connection.path} is not a gallery's file. Give the folder of a gallery.")
    # A view or a trigger of a stranger may compute without end, also where a table is expected.
    odd = connection.one(
        "SELECT type, name FROM sqlite_master WHERE type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%'"
    )
    if odd is not None:
        raise RunError(
            f"{connection.path} holds a {odd[0]} {str(odd[1])[:80]!r}, as no gallery does, so it is not opened. Get the gallery "
            "again from whoever made it."
        )
    if version != (FORMAT,):
        found = version[0] if version else "unknown"
        raise RunError(
            f"{connection.path} has gallery format {found}; this Cosphere reads {FORMAT}. "
            "Update your clone of Cosphere, then run: pip install -e ."
        )


def read_state(connection: Connection) -> State:
    """The state of the committed state that the connection sees.

    Raises:
        DamagedError: the record was changed by something else.
    """
    found = connection.one("SELECT content, digest FROM state")
    if found is None:
        raise damaged(connection.path, "state")
    return _record(State, connection, unsealed(connection.path, *found, "state"), "state")


def _record(kind: type[R], connection: Connection, content: dict[str, Any], name: str) -> R:
    """A record of plain values; of a stranger's file, its digest may be right and its fields not."""
    known = {field.name: field.type for field in fields(kind)}
    try:
        whole = all(isinstance(content[name], int) for name, type_ in known.items() if type_ == "int")
    except KeyError:
        whole = False
    if not whole or set(content) != set(known):
        raise damaged(connection.path, name)
    return kind(**content)


def write_state(connection: Connection, state: State) -> None:
    """Replace the state, inside a transaction."""
    connection.run("UPDATE state SET content = ?, digest = ?", sealed(asdict(state), "state"))


def read_space(connection: Connection, number: int) -> Space:
    """What the rows of a space are.

    Raises:
        DamagedError: the record is missing, or was changed by something else.
    """
    found = connection.one("SELECT content, digest FROM space WHERE number = ?", (number,))
    if found is None:
        raise damaged(connection.path, f"space {number}")
    return _record(Space, connection, unsealed(connection.path, *found, "space", number), f"space {number}")


def write_space(connection: Connection, number: int, space: Space) -> None:
    """Add or replace a space, inside a transaction."""
    connection.run("INSERT OR REPLACE INTO space VALUES (?, ?, ?)", (number, *sealed(asdict(space), "space", number)))
