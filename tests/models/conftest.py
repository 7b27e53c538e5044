import numpy as np
import pytest
import torch
from PIL import Image

from cosphere.images.preprocessing import Preprocessing
from cosphere.models import EmbedderSettings, build_embedder


@pytest.fixture
def small():
    """A model that takes milliseconds, with norms that are not at their initial values."""

    def build(backbone="test_resnet", size=32, **settings):
        torch.manual_seed(0)
        chosen = EmbedderSettings(backbone=backbone, weights="none", **{"dim": 12, **settings})
        preprocessing = Preprocessing(size=size, resize=size + 4, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
        embedder = build_embedder(chosen, preprocessing=preprocessing)
        with torch.no_grad():  # running statistics that a bundle must keep
            embedder.train()(torch.randn(8, 3, size, size))
        return embedder.eval()

    return build


@pytest.fixture
def pictures():
    """Seven pictures (H, W, 3) uint8 of several sizes."""
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (30 + 5 * i, 60 - 4 * i, 3), dtype=np.uint8) for i in range(7)]


@pytest.fixture
def paths(pictures, tmp_path):
    found = []
    for position, picture in enumerate(pictures):
        found.append(tmp_path / f"{position}.png")
        Image.fromarray(picture).save(found[-1])
    return found
