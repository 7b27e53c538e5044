"""A connection to a PostgreSQL server with pgvector, with errors that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cosphere.errors import MissingExtraError, RunError

if TYPE_CHECKING:
    import psycopg

OLDEST_PGVECTOR = (0, 8, 4)
"""Before it, an HNSW index could be corrupted by inserts beside a vacuum."""


def connect(address: str) -> psycopg.Connection[Any]:
    """Open a connection that knows pgvector's types. Transactions are begun explicitly.

    Args:
        address: as libpq takes it: ``postgresql://user@host/database`` or ``host=... dbname=...``.

    Raises:
        MissingExtraError: psycopg or pgvector is not installed.
        RunError: there is no such server, it lacks pgvector, or pgvector is older than :data:`OLDEST_PGVECTOR`.
    """
    driver, register = _driver()
    try:
        connection: psycopg.Connection[Any] = driver.connect(address, autocommit=True, connect_timeout=10)
    except driver.Error as error:
        raise RunError(
            f"{shown(address)} cannot be reached: {_line(error)}. Check the address and the server."
        ) from error
    try:
        with explained(address, connection):
            check_version(_extension(connection, address), address)
            register(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _driver() -> tuple[Any, Any]:
    try:
        import psycopg
        from pgvector.psycopg import register_vector
    except ImportError as error:
        raise MissingExtraError(error.name or "psycopg", "postgres") from None
    return psycopg, register_vector


def _extension(connection: Any, address: str) -> str:
    """The version of pgvector in the database, which is created where it may be."""
    query = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    found = connection.execute(query).fetchone()
    if found is None:
        driver, _ = _driver()
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except driver.Error as error:
            raise RunError(
                f"{shown(address)} has no pgvector: {_line(error)}. Install it there, and let its owner run CREATE EXTENSION vector."
            ) from error
        found = connection.execute(query).fetchone()
    return str(found[0])


def check_version(version: str, address: str) -> None:
    """Raise unless pgvector is new enough.

    Raises:
        RunError: it is older than :data:`OLDEST_PGVECTOR`, or says nothing that reads as a version.
    """
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    if numbers < OLDEST_PGVECTOR:
        raise RunError(
            f"{shown(address)} has pgvector {version}; wanted {'.'.join(map(str, OLDEST_PGVECTOR))} or newer, because older ones can "
            "corrupt an HNSW index while rows are inserted and vacuumed. Upgrade it, then run ALTER EXTENSION vector UPDATE."
        )


def shown(address: str) -> str:
    """An address without its password, for messages."""
    driver, _ = _driver()
    try:
        parts = driver.conninfo.conninfo_to_dict(address)
    except driver.Error:
        return "the PostgreSQL address"
    place = str(parts.get("host") or "localhost")
    return f"PostgreSQL database {parts.get('dbname') or parts.get('user') or 'postgres'!r} on {place}"


@contextlib.contextmanager
def explained(address: str, connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Turn errors of the server into sentences.

    Args:
        address: of the database, for the message.
        connection: what is used inside; a statement that was refused leaves it open.

    Raises:
        RunError: the server refused, went away, or is out of space.
    """
    driver, _ = _driver()
    try:
        yield
    except driver.errors.InsufficientPrivilege as error:
        raise RunError(
            f"{shown(address)}: {_line(error)}. Ask its owner for the right, or use another user."
        ) from error
    except (driver.errors.DiskFull, driver.errors.OutOfMemory) as error:
        raise RunError(f"{shown(address)}: {_line(error)}. What was committed is intact; free some space.") from error
    except driver.Error as error:
        if connection.closed:
            raise RunError(
                f"{shown(address)} went away: {_line(error)}. What was committed is intact; try again."
            ) from error
        raise RunError(f"{shown(address)} refuses: {_line(error)}. What was committed is intact.") from error


def _line(error: Exception) -> str:
    """The first line of an error of the server."""
    return str(error).strip().split("\n")[0].rstrip(".")
