"""A writer of MATLAB annotations in the published form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat


@pytest.fixture
def save_annotations() -> Callable[..., None]:
    """A MATLAB struct array with the given fields, as in Cars196."""

    def save(file: Path, fields: list[str], rows: list[tuple[object, ...]], names: list[str] | None = None) -> None:
        annotations = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
        for place, row in enumerate(rows):
            annotations[0, place] = row
        content: dict[str, object] = {"annotations": annotations}
        if names is not None:
            content["class_names"] = np.array([names], dtype=object)
        file.parent.mkdir(parents=True, exist_ok=True)
        savemat(file, content)

    return save
