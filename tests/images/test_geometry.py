"""Resizing against torchvision, from which the published results come."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as T

from cosphere.images.geometry import planes, resize


@pytest.mark.parametrize("size", [(40, 60), (61, 37), (31, 31), (17, 90), (40, 61), (2, 3)])
@pytest.mark.parametrize("layout", ["decoded", "planes", "crop", "flipped"])
def test_resizing_is_torchvisions_bit_for_bit(
    layout: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    pixels = planes(image)
    if layout == "planes":
        pixels = pixels.contiguous()
    if layout == "crop":
        pixels = pixels[:, 3:33, 5:50]
    if layout == "flipped":
        pixels = pixels.flip(-1)
    for capability in (torch.backends.cpu.get_cpu_capability(), "DEFAULT"):  # with and without uint8 kernels
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda value=capability: value)
        wanted = T.resize(pixels, list(size), interpolation=T.InterpolationMode.BILINEAR, antialias=True)
        resized = resize(pixels, *size)
        assert resized.dtype == torch.uint8
        assert torch.equal(resized, wanted)
        assert resized.stride() == wanted.stride()


def test_the_right_size_is_left_alone() -> None:
    pixels = torch.zeros(3, 4, 5, dtype=torch.uint8)
    assert resize(pixels, 4, 5) is pixels
