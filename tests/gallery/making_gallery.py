"""A gallery of a few thousand items, and both SQLite libraries."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cosphere.gallery import Space, Store
from cosphere.gallery.sqlite import DRIVER_VARIABLE

DIM = 20


@pytest.fixture(params=["sqlite3", "apsw"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The SQLite that Python links, and that of apsw."""
    if request.param == "apsw" and importlib.util.find_spec("apsw") is None:
        pytest.skip("apsw is not installed: pip install 'cosphere[apsw]'")
    monkeypatch.setenv(DRIVER_VARIABLE, request.param)
    return str(request.param)


def rows_of(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Float rows and their codes."""
    rows = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return rows, np.packbits(rows > 0, axis=1)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    """A gallery of floats and codes without items."""
    with Store.create(tmp_path / "gallery", Space(dim=DIM, holds="both", model_id="a model")) as store:
        yield store


def content(store: Store) -> dict[str, tuple[bytes, dict]]:
    """Every item's float row and metadata by its id."""
    found = {}
    for items, rows in store.vectors():
        assert rows.vectors is not None
        found |= {item.id: (row.tobytes(), dict(item.metadata)) for item, row in zip(items, rows.vectors, strict=True)}
    return found
