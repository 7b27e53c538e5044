"""Tiny pictures and class folders for the tables of faults."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from mean_colour import MeanColour
from PIL import Image

from cosphere.images import read_image


def flat(path: Path, colour: tuple[int, int, int] = (90, 60, 30), size: tuple[int, int] = (12, 10)) -> Path:
    """One picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def on_a_circle(folder: Path, count: int = 8) -> list[Path]:
    """Pictures whose mean colours lie on a circle: picture i is nearest to i - 1 and i + 1."""
    angles = 2 * np.pi * np.arange(count) / count
    colours = np.stack([128 + 120 * np.cos(angles), 128 + 120 * np.sin(angles), np.full(count, 128)], axis=1)
    return [flat(folder / f"{i}.png", tuple(colour)) for i, colour in enumerate(colours.astype(int).tolist())]


def class_folders(root: Path, classes: Iterable[str], images: int = 2) -> Path:
    """Class folders of pictures that all differ."""
    for place, name in enumerate(classes):
        for image in range(images):
            flat(root / name / f"{image}.png", (20 * place % 255, 40 * image % 255, 128))
    return root


class Searching(MeanColour):
    """Encodes the files of queries, too."""

    calibration = None

    def encode(self, queries: Iterable[Path], batch_size: int = 64) -> np.ndarray:
        """(Q, 3) mean colours, as embedded images have them."""
        means = np.stack([read_image(path).mean(axis=(0, 1)) for path in queries])
        return ((means / 255 - 0.5) / 0.5 * 2).astype(np.float32)
