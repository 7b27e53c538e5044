"""SimCLR's views: as often and as strong as published, and the same for the same seed whatever stands beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from cosphere.errors import SettingsError
from cosphere.images import Augmentation, Preprocessing, own_scale, preset
from cosphere.images.crops import DRAWS, crop_batch
from cosphere.images.draws import uniforms

SEEDS = list(range(400))


def picture(side: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def views(augmentation: Augmentation, size: int = 16, seeds: list[int] = SEEDS) -> Tensor:
    sizes = Preprocessing(size=size, resize=size, resize_mode="squash")
    prepared = torch.stack([augmentation.prepared(picture(size), sizes, seed) for seed in seeds])
    return augmentation.finished(prepared, sizes, seeds)


def test_presets_hold_the_published_numbers() -> None:
    sizes, cifar = preset("simclr-cifar", 32)
    assert (sizes.size, sizes.resize) == (32, 32)
    assert cifar == Augmentation(preset="simclr-cifar")
    assert (cifar.crop_scale, cifar.color_jitter, cifar.hue, cifar.color_probability) == ((0.2, 1.0), 0.4, 0.1, 0.8)
    assert (cifar.flip, cifar.grayscale, cifar.blur) == (0.5, 0.2, 0.0)
    assert own_scale("simclr-cifar100") == ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))  # the authors' code
    other = preset("simclr-cifar100", 32)
    assert other[0] == sizes
    assert Augmentation.from_dict({**other[1].as_dict(), "preset": "simclr-cifar"}) == cifar
    sizes, large = preset("simclr-224", 224)
    assert (sizes.size, sizes.resize) == (224, 256)
    assert (large.crop_scale, large.color_jitter, large.hue, large.blur) == ((0.08, 1.0), 0.8, 0.2, 0.5)


def test_a_given_setting_wins_over_the_presets_own() -> None:
    changed = Augmentation(preset="simclr-cifar", grayscale=0, crop_scale=(0.5, 1))
    assert (changed.grayscale, changed.crop_scale, changed.hue) == (0, (0.5, 1.0), 0.1)
    assert Augmentation.from_dict(changed.as_dict()) == changed


@pytest.mark.parametrize("name", ["simclr-cifar", "simclr-224"])
def test_a_view_is_the_same_alone_in_a_batch_and_in_another_order(name: str) -> None:
    _, augmentation = preset(name, 48)
    sizes = Preprocessing(size=48, resize=48, resize_mode="squash")
    together = views(augmentation, 48, SEEDS[:33])
    alone = [augmentation.pixels(picture(48), sizes, seed) for seed in SEEDS[:33]]
    assert all(torch.equal(one, own) for one, own in zip(together, alone, strict=True))
    assert torch.equal(views(augmentation, 48, SEEDS[32::-1]), together.flip(0))
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 0.5), (1.0, 1.0), (1e-4, 1e-4)])
def test_a_batch_of_crops_is_each_crop_resized(scale: tuple[float, float]) -> None:
    size, ratio = 24, (0.5, 1.6)
    image = torch.from_numpy(picture(size)).permute(2, 0, 1)
    seeds = SEEDS[:60]
    found = crop_batch(image[None].expand(60, -1, -1, -1).float(), seeds, scale=scale, ratio=ratio, flip=0.5)
    for draw, own in zip(uniforms(seeds, DRAWS), found, strict=True):
        tall = wide = size
        for area, place in zip(draw[:10], draw[10:20], strict=True):
            pixels = size * size * (scale[0] + (scale[1] - scale[0]) * area)
            aspect = math.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * place)
            w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
            if 0 < w <= size and 0 < h <= size:
                tall, wide = h, w
                break
        top, left = math.floor(draw[20] * (size - tall + 1)), math.floor(draw[21] * (size - wide + 1))
        want = T.resized_crop(image.float(), top, left, tall, wide, [size, size], antialias=True)
        want = want.flip(-1) if draw[22] < 0.5 else want
        assert (own - want).abs().max() <= 0.51  # whole levels


def test_views_are_changed_as_often_as_published() -> None:
    still = {"crop_scale": (1, 1), "crop_ratio": (1, 1), "flip": 0}
    original = torch.from_numpy(picture(16)).permute(2, 0, 1)
    only = {"color_probability": 0.0, "grayscale": 0.0}
    same = (views(Augmentation(preset="simclr-cifar", **{**still, **only})) == original).flatten(1).all(1)  # type: ignore[arg-type]
    assert same.all()
    found = views(Augmentation(preset="simclr-cifar", **still))  # type: ignore[arg-type]
    same = (found == original).flatten(1).all(1)
    assert same.float().mean() == pytest.approx(0.2 * 0.8, abs=0.05)
    gray = (found[:, 0] == found[:, 1]).flatten(1).all(1)
    assert gray.float().mean() == pytest.approx(0.2, abs=0.05)
    blurred = views(Augmentation(preset="simclr-224", **{**still, **only}))  # type: ignore[arg-type]
    # A blur of less than about 0.2 pixels moves no level.
    assert (blurred != original).flatten(1).any(1).float().mean() == pytest.approx(0.5 * 0.95, abs=0.07)


def test_amounts_spread_over_the_published_ranges() -> None:
    still = {"crop_scale": (1, 1), "crop_ratio": (1, 1), "flip": 0, "hue": 0, "grayscale": 0, "color_probability": 1}
    flat = np.full((8, 8, 3), 100, dtype=np.uint8)
    sizes = Preprocessing(size=8, resize=8)
    augmentation = Augmentation(preset="simclr-cifar", **still)  # type: ignore[arg-type]
    prepared = torch.stack([augmentation.prepared(flat, sizes, seed) for seed in SEEDS])
    levels = augmentation.finished(prepared, sizes, SEEDS).float().flatten(1)
    # Contrast and saturation leave a flat gray image alone: what is left is brightness.
    assert (levels.std(1) == 0).all()
    assert levels[:, 0].min() < 63
    assert levels[:, 0].max() > 137
    assert levels[:, 0].min() >= 60
    assert levels[:, 0].max() <= 140


def test_hue_and_blur_are_settings_of_every_preset_with_colours() -> None:
    for options in ({"hue": 0.3}, {"blur": 1.0}):
        augmentation = Augmentation(preset="normsoftmax", flip=0, **options)  # type: ignore[arg-type]
        plain = Augmentation(preset="normsoftmax", flip=0)
        sizes = Preprocessing(size=32, resize=32)
        assert not torch.equal(augmentation.pixels(picture(32), sizes, 3), plain.pixels(picture(32), sizes, 3))
    with pytest.raises(SettingsError, match=r"augmentation\.hue 0\.2 has no effect with preset 'none'"):
        Augmentation(preset="none", hue=0.2)
    with pytest.raises(SettingsError, match=r"augmentation\.hue must be a number >= 0 and at most 0\.5"):
        Augmentation(hue=0.6)


def test_what_was_named_before_hue_and_blur_keeps_its_name() -> None:
    names = {"preset", "crop_scale", "crop_ratio", "flip", "rotation", "color_jitter", "grayscale"}
    assert set(Augmentation().as_dict()) == names
    assert set(Augmentation(hue=0.1).as_dict()) == {*names, "hue"}
