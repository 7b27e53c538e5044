"""Small pictures, and a made-up embedder whose embeddings follow from the pictures by hand, that several rooms' tests share."""

from __future__ import annotations

import os

# One compute thread per test process and per subprocess of a test. Tests run side by side in several processes (Makefile), and
# OpenMP threads that spin while they wait slow everything down on a busy machine. Torch reads these when it is imported.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cosphere.data import Catalogue, read_catalogue
from cosphere.images import Preprocessing


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


COLOURS = {
    "red": [(250, 10, 10), (240, 20, 0), (255, 0, 30)],
    "green": [(10, 250, 10), (0, 240, 20), (30, 255, 0)],
    "dark": [(20, 20, 25), (30, 20, 20), (10, 12, 10)],
    "lonely": [(0, 0, 255)],
}


class MeanColour(nn.Module):
    """Embeds a picture as twice its mean colour, through a layer in which training would change what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(size=8, resize=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        self.dim = self.output_dim = 3
        self.drop = nn.Dropout(0.9)
        self.linear = nn.Linear(3, 3, bias=False)
        nn.init.eye_(self.linear.weight)
        self.seen: list[torch.dtype] = []

    @property
    def id(self) -> str:
        return f"mean colour {self.linear.weight.sum().item():.3f}"

    def forward(self, inputs: Tensor) -> Tensor:
        embeddings: Tensor = self.linear(self.drop(inputs.mean(dim=(2, 3)) * 2))
        self.seen.append(embeddings.dtype)
        return embeddings

    def embed_inputs(self, inputs: Tensor) -> Tensor:
        embeddings: Tensor = self(inputs)
        return embeddings


@pytest.fixture
def embedder() -> MeanColour:
    return MeanColour().train()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colours in COLOURS.items():
        for at, colour in enumerate(colours):
            path = tmp_path / "photos" / name / f"{at}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((12, 10, 3), colour, dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def catalogue(folder: Path) -> Catalogue:
    return read_catalogue(folder)
