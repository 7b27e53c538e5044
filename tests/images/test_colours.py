"""Batched colours against torchvision's functions image by image, and against the same image in other batches."""

from __future__ import annotations

import colorsys
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from cosphere.images import colours
from cosphere.images.draws import uniforms


def images(count: int = 6, side: int = 9) -> Tensor:
    """Floats in [0, 255]: noise, and one gray, one black, one white image."""
    made = torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0)).float()
    made[0] = made[0, :1]
    made[1], made[2] = 0, 255
    return made


def column(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None, None]


FACTORS = (0.6, 1.0, 1.4, 0.0, 0.61, 1.8)


@pytest.mark.parametrize("name", ["brightness", "saturation"])
def test_factors_change_as_torchvision_changes(name: str) -> None:
    found = getattr(colours, name)(images(), column(*FACTORS))
    for image, factor, own in zip(images(), FACTORS, found, strict=True):
        want = getattr(T, f"adjust_{name}")(image / 255, factor)
        assert torch.allclose(own / 255, want, atol=1e-5)


def test_contrast_changes_about_the_mean_of_whole_gray_levels() -> None:
    found = colours.contrast(images(), column(*FACTORS))
    for image, factor, own in zip(images(), FACTORS, found, strict=True):
        want = T.adjust_contrast(image.to(torch.uint8), factor).float()
        assert (own - want).abs().max() <= 1.01  # torchvision rounds uint8 down


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.05, 0.3, 0.5])
def test_hue_turns_as_torchvision_and_colorsys_turn_it(shift: float) -> None:
    found = colours.hue(images(), column(*[shift] * 6)) / 255
    assert torch.allclose(found, T.adjust_hue(images() / 255, shift), atol=2e-5)
    h, s, v = colorsys.rgb_to_hsv(*(images()[4, :, 2, 3] / 255).tolist())
    assert found[4, :, 2, 3].tolist() == pytest.approx(colorsys.hsv_to_rgb((h + shift) % 1, s, v), abs=1e-5)


def test_gray_is_torchvisions() -> None:
    assert torch.allclose(colours.gray(images()), T.rgb_to_grayscale(images()), atol=1e-4)


@pytest.mark.parametrize(("side", "kernel"), [(9, 3), (40, 5), (224, 23)])
def test_blur_is_torchvisions_with_one_sigma_for_each_image(side: int, kernel: int) -> None:
    sigma = np.array([0.1, 1.0, 2.0])
    found = colours.blur(images(3, side), sigma)
    for image, own, value in zip(images(3, side), found, sigma, strict=True):
        want = T.gaussian_blur(image, [kernel, kernel], [float(value)] * 2)
        assert torch.allclose(own, want, atol=2e-3)


def test_every_order_is_each_rows_own() -> None:
    orders = np.array(list(itertools.permutations(range(3))))
    values = torch.ones(7, 3, 2, 2)
    changes = [lambda some, _: some + 1, lambda some, _: some * 3, lambda some, _: some.square()]
    colours.in_any_order(values, np.arange(6), np.concatenate([orders, orders[:1]]), changes)
    for row, order in enumerate(orders.tolist()):
        want = 1
        for change in order:
            want = (want + 1, want * 3, want**2)[change]
        assert (values[row] == want).all()
    assert (values[6] == 1).all()  # a row that was not chosen


def test_numbers_of_a_seed_do_not_depend_on_the_others() -> None:
    seeds = [0, 1, 2**63 - 1, -5, 2**70 + 3]
    table = uniforms(seeds, 7)
    assert table.shape == (5, 7)
    assert ((table >= 0) & (table < 1)).all()
    for seed, row in zip(seeds, table, strict=True):
        assert np.array_equal(uniforms([seed], 7)[0], row)
    assert np.array_equal(uniforms(np.array([0, 1]), 3), table[:2, :3])
    many = uniforms(np.arange(20_000), 4)
    assert np.abs(many.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(np.corrcoef(many.T) - np.eye(4)).max() < 0.03
