"""A made-up embedder and folder of one-coloured images, so that every embedding can be told by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cosphere.data import Catalogue, read_catalogue
from cosphere.images import Preprocessing

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
        self.dim = 3
        self.drop = nn.Dropout(0.9)
        self.linear = nn.Linear(3, 3, bias=False)
        nn.init.eye_(self.linear.weight)
        self.seen: list[torch.dtype] = []

    def forward(self, inputs: Tensor) -> Tensor:
        embeddings: Tensor = self.linear(self.drop(inputs.mean(dim=(2, 3)) * 2))
        self.seen.append(embeddings.dtype)
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
