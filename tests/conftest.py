"""Small pictures that several rooms' tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def draw_classes(folder: Path, *, classes: int, images: int, first: int = 0, size: int = 40, seed: int = 0) -> Path:
    """Class folders of noisy coloured stripes: each class has its own colours and stripe width, so that it can be learnt."""
    rng = np.random.default_rng(seed)
    for number in range(first, first + classes):
        colours = rng.integers(0, 255, (2, 3))
        width = 2 + number % 7
        target = folder / f"class{number:02d}"
        target.mkdir(parents=True, exist_ok=True)
        for image in range(images):
            shift = int(rng.integers(0, 2 * width))
            stripes = ((np.arange(size) + shift) // width) % 2
            pixels = colours[stripes][None].repeat(size, 0) + rng.normal(0, 25, (size, size, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(target / f"{image}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten training classes and four test classes, six small pictures each."""
    folder = tmp_path_factory.mktemp("photos")
    draw_classes(folder / "train", classes=10, images=6)
    draw_classes(folder / "test", classes=4, images=6, first=10, seed=1)
    return folder
