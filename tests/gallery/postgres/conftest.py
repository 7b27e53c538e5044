"""Empty galleries on a real PostgreSQL server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from postgres_server import server as server

from cosphere.gallery.postgres import PostgresStore
from cosphere.gallery.schema import Space

_NUMBERS = itertools.count()


@pytest.fixture
def make(server: str) -> Iterator[Callable[..., PostgresStore]]:
    """Makes empty galleries that are removed afterwards."""
    made = []

    def store(dim: int = 8, holds: str = "both", **options: str) -> PostgresStore:
        made.append(PostgresStore.create(server, f"test{next(_NUMBERS)}", Space(dim=dim, holds=holds), **options))  # type: ignore[arg-type]
        return made[-1]

    yield store
    for one in made:
        one.drop()
        one.close()
