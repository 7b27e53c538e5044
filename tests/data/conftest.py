"""Tiny pictures, each different from every other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Draw = Callable[[Path, Iterable[str]], None]


@pytest.fixture
def draw() -> Draw:
    """Writes pictures at the given paths below a folder; the n-th is filled with a colour and a size of its own."""
    made = 0

    def write(root: Path, paths: Iterable[str]) -> None:
        nonlocal made
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((6, 8 + made % 5, 3), (made * 7 % 256, made // 30, 40), dtype=np.uint8)
            Image.fromarray(pixels).save(root / path)
            made += 1

    return write
