"""Geometry against torchvision's own transforms and Pillow, numbers against loops, randomness against its seed."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from cosphere.errors import SettingsError, SizeError
from cosphere.images import Augmentation, Preprocessing, preset

BGR_MEAN = (123.0, 117.0, 104.0)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def places(height: int, width: int) -> np.ndarray:
    """A picture that says where each pixel came from: red the column, green the row, in shares of 250."""
    red = np.broadcast_to(np.linspace(0, 250, width)[None, :], (height, width))
    green = np.broadcast_to(np.linspace(0, 250, height)[:, None], (height, width))
    return np.stack([red, green, np.full((height, width), 9.0)], axis=2).round().astype(np.uint8)


# Geometry


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (256, 256), (100, 333), (333, 100), (256, 511), (40, 30)])
@pytest.mark.parametrize(("name", "published"), [("sec", 227), ("normsoftmax", 224)])
def test_the_test_view_is_the_published_one(shape: tuple[int, int], name: str, published: int) -> None:
    image = noise(*shape)
    side: list[int] = [256, 256] if name == "normsoftmax" else [256]
    want = v2.Compose([v2.Resize(side, antialias=True), v2.CenterCrop(published)])(
        torch.from_numpy(image).permute(2, 0, 1)
    )
    found = preset(name, published)[0].pixels(image)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    assert torch.equal(found, want)


@pytest.mark.parametrize("mode", ["shorter", "squash"])
def test_resizing_agrees_with_pillow(mode: str) -> None:
    picture = Image.fromarray(noise(90, 120)).resize((480, 360), Image.Resampling.BICUBIC)
    found = Preprocessing(size=64, resize=72, resize_mode=mode).resized(np.array(picture))  # type: ignore[arg-type]
    want = np.array(picture.resize((96, 72) if mode == "shorter" else (72, 72), Image.Resampling.BILINEAR))
    assert found.shape == want.shape
    assert np.abs(found.astype(int) - want).max() <= 1


@pytest.mark.parametrize(
    ("name", "size", "resize", "mode"),
    [
        ("sec", 227, 256, "shorter"),
        ("sec", 128, 144, "shorter"),
        ("normsoftmax", 224, 256, "squash"),
        ("normsoftmax", 128, 146, "squash"),
        ("none", 224, 256, "shorter"),
        ("sec", 1, 1, "shorter"),
    ],
)
def test_presets_keep_the_published_shares_at_any_size(name: str, size: int, resize: int, mode: str) -> None:
    preprocessing, augmentation = preset(name, size)
    assert (preprocessing.size, preprocessing.resize, preprocessing.resize_mode) == (size, resize, mode)
    assert augmentation.preset == name
    assert augmentation.crop_scale == (0.16, 1.0)
    assert augmentation.crop_ratio == (3 / 4, 4 / 3)


@pytest.mark.parametrize("name", ["sec", "normsoftmax", "none", "simclr-cifar", "simclr-cifar100", "simclr-224"])
def test_a_resized_picture_gives_the_same_views_as_the_original(name: str) -> None:
    preprocessing, augmentation = preset(name, 32)
    image = noise(61, 83)
    small = preprocessing.resized(image)
    squashed = {"normsoftmax": (37, 37, 3), "simclr-cifar": (32, 32, 3), "simclr-cifar100": (32, 32, 3)}
    assert small.shape == squashed.get(name, (preprocessing.resize, preprocessing.resize * 83 // 61, 3))
    assert np.array_equal(preprocessing.resized(small), small)
    assert torch.equal(preprocessing.pixels(small), preprocessing.pixels(image))
    for seed in range(20):
        assert torch.equal(
            augmentation.pixels(small, preprocessing, seed), augmentation.pixels(image, preprocessing, seed)
        )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 40),
    st.sampled_from(["sec", "normsoftmax", "none", "simclr-cifar", "simclr-cifar100", "simclr-224"]),
    st.integers(),
)
def test_any_picture_gives_the_size(height: int, width: int, size: int, name: str, seed: int) -> None:
    preprocessing, augmentation = preset(name, size)
    image = noise(height, width)
    for found in (preprocessing.pixels(image), augmentation.pixels(image, preprocessing, seed)):
        assert found.shape == (3, size, size)
        assert found.dtype == torch.uint8


def test_a_very_long_picture_stays_small_and_keeps_its_middle() -> None:
    strip = np.zeros((2, 6000, 3), np.uint8)
    strip[:, 2992:3008] = 255  # 8 : 1 around the middle
    preprocessing, augmentation = preset("sec", 64)
    found = preprocessing.resized(strip)
    assert found.shape == (72, 576, 3)
    assert (found == 255).all()
    assert preprocessing.resized(np.ascontiguousarray(strip.transpose(1, 0, 2))).shape == (576, 72, 3)
    assert augmentation.pixels(strip, preprocessing, 0).shape == (3, 64, 64)


def test_pictures_that_share_no_memory_with_torch_are_taken_too() -> None:
    preprocessing = Preprocessing(size=8, resize=8)
    image = noise(8, 8)
    locked = image.copy()
    locked.flags.writeable = False
    assert np.array_equal(preprocessing.pixels(locked).permute(1, 2, 0), image)
    assert np.array_equal(preprocessing.pixels(image[::-1, ::-1]).permute(1, 2, 0), image[::-1, ::-1])
    kept = image.copy()
    preprocessing.pixels(image).zero_()
    Augmentation(flip=0, crop_scale=(1, 1)).pixels(image, preprocessing, 0).zero_()
    assert np.array_equal(image, kept)  # a view is the caller's own


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((5, 5), np.uint8), r"got \(5, 5\) uint8"),
        (np.zeros((5, 5, 4), np.uint8), r"got \(5, 5, 4\) uint8"),
        (np.zeros((5, 5, 3), np.float32), r"got \(5, 5, 3\) float32"),
        (np.zeros((0, 5, 3), np.uint8), r"with pixels, got \(0, 5, 3\)"),
        ("a.jpg", "got str"),
    ],
)
def test_what_is_no_image_is_refused(image: np.ndarray, words: str) -> None:
    with pytest.raises(SizeError, match=words):
        Preprocessing().pixels(image)
    with pytest.raises(SizeError, match=words):
        Augmentation().pixels(image, Preprocessing(), 0)


# Random views


def views(count: int, name: str, size: int = 64) -> list[torch.Tensor]:
    preprocessing, augmentation = preset(name, size)
    image = places(preprocessing.resize, preprocessing.resize)
    return [augmentation.pixels(image, preprocessing, seed).float() for seed in range(count)]


def test_sec_crops_and_flips_as_torchvision_does() -> None:
    """Read each crop's borders off a picture of places and compare their spread with RandomResizedCrop's own draws."""
    wide, tall, flips, middles = [], [], [], []
    for view in views(1500, "sec"):
        red, green = view[0].mean(dim=0), view[1].mean(dim=1)
        slope = (red[-8:].mean() - red[:8].mean()) / (64 - 8) * 64 / 250
        flips.append(bool(slope < 0))
        wide.append(abs(float(slope)))
        tall.append(float((green[-8:].mean() - green[:8].mean()) / (64 - 8) * 64 / 250))
        middles.append(float(red.mean()) / 250)
    area, ratio = np.array(wide) * tall, np.array(wide) / tall
    assert min(tall) > 0  # never upside down
    assert 0.13 < area.min() < 0.22
    assert 0.9 < area.max() < 1.1
    assert 0.68 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.45
    assert abs(np.mean(flips) - 0.5) < 0.05
    torch.manual_seed(0)
    oracle = v2.RandomResizedCrop(64, scale=(0.16, 1.0), ratio=(3 / 4, 4 / 3))
    drawn = [oracle.make_params([torch.zeros(3, 72, 72)]) for _ in range(1500)]
    want_area = np.array([one["height"] * one["width"] for one in drawn]) / 72**2
    assert abs(area.mean() - want_area.mean()) < 0.03
    assert abs(area.std() - want_area.std()) < 0.03
    want_middle = np.array([(one["left"] + one["width"] / 2) / 72 for one in drawn])
    assert abs(np.mean(middles) - 0.5) < 0.02
    assert abs(np.std(middles) - want_middle.std()) < 0.02


def test_a_sec_crop_is_bilinear_with_antialias() -> None:
    """One crop found again by trying every possible box with torchvision's functional resize."""
    preprocessing = Preprocessing(size=6, resize=10)
    image = noise(10, 10)
    found = Augmentation(flip=0).pixels(image, preprocessing, 5)
    planes = torch.from_numpy(image).permute(2, 0, 1)
    hits = 0
    for top in range(10):
        for left in range(10):
            for tall in range(1, 11 - top):
                for wide in range(1, 11 - left):
                    part = planes[:, top : top + tall, left : left + wide]
                    hits += torch.equal(found, v2.functional.resize(part, [6, 6], antialias=True))
    assert hits == 1


def test_normsoftmax_takes_every_square_and_its_mirror_image() -> None:
    preprocessing = Preprocessing(size=3, resize=5, resize_mode="squash")
    image = noise(5, 5)
    planes = torch.from_numpy(image).permute(2, 0, 1)
    squares = [planes[:, top : top + 3, left : left + 3] for top in range(3) for left in range(3)]
    squares += [square.flip(-1) for square in squares]
    seen = []
    for seed in range(400):
        found = Augmentation(preset="normsoftmax").pixels(image, preprocessing, seed)
        seen.append([torch.equal(found, square) for square in squares].index(True))
    counts = np.bincount(seen, minlength=18)
    assert counts.min() >= 6  # 22 expected of each
    assert counts.max() <= 48


def test_none_is_the_test_view() -> None:
    preprocessing, augmentation = preset("none", 20)
    image = noise(33, 44)
    assert all(
        torch.equal(augmentation.pixels(image, preprocessing, seed), preprocessing.pixels(image)) for seed in range(5)
    )


def test_very_long_crops_fall_back_to_the_middle() -> None:
    """Nothing of half the area with aspect 3/4..4/3 fits into 8 : 1: the largest allowed part is 4/3 wide, centred."""
    image = np.zeros((10, 80, 3), np.uint8)
    image[:, 34:47] = 200  # columns (80 - 13) // 2 = 33 up to 46; one to the right, so that a wrong centre shows
    found = Augmentation(flip=0, crop_scale=(0.5, 1.0)).pixels(image, Preprocessing(size=10, resize=10), 3)
    assert found[0, :, 2:].min() == 200
    assert found[0, :, 0].max() < 200


@pytest.mark.parametrize("seed", [0, 1, -3, 2**63, 10**40, np.int64(7)])
def test_a_view_depends_on_its_seed_alone(seed: int) -> None:
    preprocessing = Preprocessing(size=24, resize=28)
    augmentation = Augmentation(rotation=20, color_jitter=0.3, grayscale=0.5)
    image = noise(40, 30)
    first = augmentation.pixels(image, preprocessing, seed)
    for other in range(3):
        augmentation.pixels(image, preprocessing, other)
        torch.rand(3)
    assert torch.equal(augmentation.pixels(image, preprocessing, seed), first)
    assert not torch.equal(augmentation.pixels(image, preprocessing, int(seed) + 1), first)


def test_global_randomness_is_neither_used_nor_moved() -> None:
    preprocessing = Preprocessing(size=24, resize=28)
    augmentation = Augmentation(rotation=20, color_jitter=0.3, grayscale=0.5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    augmentation.pixels(noise(40, 30), preprocessing, 5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002


def test_flip_is_a_probability() -> None:
    image, preprocessing = places(16, 16), Preprocessing(size=16, resize=16)

    def share(flip: float) -> float:
        augmentation = Augmentation(preset="normsoftmax", flip=flip)
        turned = [augmentation.pixels(image, preprocessing, seed)[0] for seed in range(300)]
        return float(np.mean([bool(red[0, 0] > red[0, -1]) for red in turned]))

    assert share(0) == 0
    assert share(1) == 1
    assert 0.15 < share(0.25) < 0.35


def test_rotation_turns_by_up_to_its_degrees_and_fills_with_the_mean() -> None:
    image = np.full((65, 65, 3), 40, np.uint8)
    image[32] = 240  # one bright row
    preprocessing = Preprocessing(size=65, resize=65)
    angles = []
    for seed in range(150):
        view = Augmentation(preset="normsoftmax", flip=0, rotation=30).pixels(image, preprocessing, seed)[0].float()
        left, right = (int(view[:, column].argmax()) for column in (12, 52))
        angles.append(math.degrees(math.atan2(left - right, 40)))
        assert view.min() >= 39  # 40, or the mean of 43 in the corners; never black
    assert max(np.abs(angles)) < 31.5
    assert max(angles) > 24
    assert min(angles) < -24
    flat = np.full((20, 20, 3), (200, 10, 90), np.uint8)
    turned = Augmentation(preset="normsoftmax", rotation=180).pixels(flat, Preprocessing(size=20, resize=20), 1)
    assert (turned.float() - torch.tensor([200.0, 10, 90])[:, None, None]).abs().max() <= 1


def test_color_jitter_and_grayscale() -> None:
    image, preprocessing = np.full((8, 8, 3), (120, 80, 60), np.uint8), Preprocessing(size=8, resize=8)

    def colors(**options: float) -> np.ndarray:
        augmentation = Augmentation(preset="normsoftmax", **options)  # type: ignore[arg-type]
        return np.array([augmentation.pixels(image, preprocessing, seed)[:, 0, 0].tolist() for seed in range(300)])

    assert (colors() == (120, 80, 60)).all()
    jittered = colors(color_jitter=0.4)
    brightness = jittered.sum(axis=1) / 260
    assert 0.4 < brightness.min() < 0.75
    assert 1.25 < brightness.max() < 1.6
    saturation = (jittered[:, 0] - jittered[:, 2]) / jittered.sum(axis=1)
    assert saturation.min() < 0.8 * 60 / 260
    assert saturation.max() > 1.2 * 60 / 260
    gray = colors(grayscale=0.3)
    lost = (gray == gray[:, :1]).all(axis=1)
    assert 0.2 < lost.mean() < 0.4
    assert np.abs(gray[lost][0] - (0.299 * 120 + 0.587 * 80 + 0.114 * 60)).max() <= 1


# Numbers


def test_to_input_by_loops() -> None:
    preprocessing = Preprocessing(size=4, resize=4, mean=(0.1, 0.5, 0.3), std=(0.2, 0.25, 0.4))
    batch = torch.from_numpy(noise(4, 4).transpose(2, 0, 1).copy())[None].repeat(2, 1, 1, 1)
    batch[1] = 255 - batch[1]
    found = preprocessing.to_input(batch)
    assert found.dtype == torch.float32
    for image in range(2):
        for channel, (mean, std) in enumerate(zip((0.1, 0.5, 0.3), (0.2, 0.25, 0.4), strict=True)):
            for place in range(16):
                want = (int(batch[image, channel].flatten()[place]) / 255 - mean) / std
                assert abs(float(found[image, channel].flatten()[place]) - want) < 1e-5


def test_the_official_sec_input_is_raw_levels_minus_the_mean_in_bgr() -> None:
    preprocessing, _ = preset("sec", 4, mean=BGR_MEAN, std=(1, 1, 1), channels="bgr", scale=255)
    batch = torch.from_numpy(noise(4, 4).transpose(2, 0, 1).copy())[None]
    red, green, blue = batch[0].float()
    assert torch.equal(preprocessing.to_input(batch)[0], torch.stack([blue - 104, green - 117, red - 123]))


def test_half_mean_and_half_std_are_minus_one_to_one() -> None:
    batch = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 3, 1, 1).reshape(1, 3, 1, 2)
    found = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3).to_input(batch)
    assert torch.allclose(found, torch.tensor([-1.0, 1.0]).expand(1, 3, 1, 2))


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_memory_format_and_type_of_the_batch(channels: str, dtype: torch.dtype) -> None:
    preprocessing = Preprocessing(size=5, resize=5, channels=channels)  # type: ignore[arg-type]
    batch = torch.from_numpy(noise(10, 5).reshape(2, 5, 5, 3).transpose(0, 3, 1, 2).copy()).to(dtype)
    plain = preprocessing.to_input(batch)
    assert plain.is_contiguous()
    assert plain.dtype == torch.float32
    last = preprocessing.to_input(batch.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, plain)
    wide = torch.zeros(2, 3, 5, 9, dtype=dtype)
    wide[..., 2:7] = batch
    assert torch.equal(preprocessing.to_input(wide[..., 2:7]), plain)


def test_to_input_leaves_the_batch_alone_and_follows_its_device() -> None:
    batch = torch.full((1, 3, 2, 2), 100.0)
    Preprocessing().to_input(batch)
    assert (batch == 100).all()
    assert Preprocessing(channels="bgr").to_input(batch.to("meta")).device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_to_input_on_a_gpu() -> None:
    batch = torch.from_numpy(noise(10, 5).reshape(2, 5, 5, 3).transpose(0, 3, 1, 2).copy())
    preprocessing = Preprocessing(channels="bgr")
    found = preprocessing.to_input(batch.cuda())
    assert found.is_cuda
    assert torch.allclose(found.cpu(), preprocessing.to_input(batch), atol=1e-6)


def test_to_input_lets_gradients_through_even_after_inference_mode() -> None:
    preprocessing = Preprocessing(std=(0.5, 0.25, 0.2))
    with torch.inference_mode():
        preprocessing.to_input(torch.zeros(1, 3, 2, 2))
    batch = torch.zeros(1, 3, 2, 2, requires_grad=True)
    preprocessing.to_input(batch).sum().backward()  # type: ignore[no-untyped-call]
    assert batch.grad is not None
    assert torch.allclose(batch.grad[0, :, 0, 0] * 255, torch.tensor([2.0, 4.0, 5.0]))


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 1, 4, 4), (2, 4, 4, 3)])
def test_to_input_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(SizeError, match=r"\(B, 3, H, W\), got"):
        Preprocessing().to_input(torch.zeros(shape))


# Settings


def test_settings_survive_json() -> None:
    preprocessing, _ = preset("sec", 128, mean=BGR_MEAN, std=(1, 2, 3), channels="bgr", scale=255)
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.as_dict()))) == preprocessing
    augmentation = Augmentation(crop_scale=(0.5, 0.9), flip=0, rotation=5, color_jitter=0.1, grayscale=0.2)
    assert Augmentation.from_dict(json.loads(json.dumps(augmentation.as_dict()))) == augmentation
    assert Preprocessing.from_dict({"size": 64, "resize": np.int64(70)}) == Preprocessing(size=64, resize=70)


def test_the_rule_tells_geometries_apart_and_ignores_the_numbers() -> None:
    rules = {Preprocessing(size=8, resize=r, resize_mode=m).rule for r in (8, 9) for m in ("shorter", "squash")}  # type: ignore[arg-type]
    assert len(rules) == 4
    assert Preprocessing(size=8, resize=9).rule == Preprocessing(size=9, resize=9, mean=(0, 0, 0), channels="bgr").rule


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "preprocessing.size must be a whole number from 1 to 8192; got 0."),
        ({"size": 224.0}, "preprocessing.size must be a whole number from 1 to 8192; got 224.0."),
        ({"size": 10**30}, "preprocessing.size must be a whole number from 1 to 8192; got 1000000"),
        ({"resize": 8193}, "preprocessing.resize must be a whole number from 1 to 8192; got 8193."),
        ({"resize": True}, "preprocessing.resize must be a whole number from 1 to 8192; got True."),
        (
            {"size": 224, "resize": 200},
            "preprocessing.resize 200 is smaller than size 224, so no crop fits in it; try 256.",
        ),
        ({"resize_mode": "short"}, "preprocessing.resize_mode must be 'shorter' or 'squash'; got 'short'."),
        ({"channels": "grb"}, "preprocessing.channels must be 'rgb' or 'bgr'; got 'grb'."),
        ({"mean": (1, 2)}, "preprocessing.mean must be 3 numbers; got (1, 2)."),
        ({"mean": 0.5}, "preprocessing.mean must be 3 numbers; got 0.5."),
        ({"mean": (1, 2, math.nan)}, "preprocessing.mean[2] must be a number, finite; got nan."),
        ({"mean": "rgb"}, "preprocessing.mean must be 3 numbers; got 'rgb'."),
        ({"std": (1, 0, 1)}, "preprocessing.std (1.0, 0.0, 1.0) must be above 0; it divides the pixels."),
        ({"scale": 0}, "preprocessing.scale must be a number above 0, finite; got 0."),
        ({"scale": math.inf}, "preprocessing.scale must be a number above 0, finite; got inf."),
    ],
)
def test_impossible_preprocessing(options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Preprocessing(**options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"preset": "norm_softmax"},
            "there is no augmentation.preset 'norm_softmax'. Did you mean 'normsoftmax'?",
        ),
        ({"crop_scale": (0, 1)}, "augmentation.crop_scale (0.0, 1.0) must rise within (0, 1], such as (0.16, 1.0)."),
        ({"crop_scale": (0.5, 1.5)}, "augmentation.crop_scale (0.5, 1.5) must rise"),
        ({"crop_scale": (0.9, 0.5)}, "augmentation.crop_scale (0.9, 0.5) must rise"),
        ({"crop_scale": 0.5}, "augmentation.crop_scale must be 2 numbers; got 0.5."),
        ({"crop_ratio": (2, 1)}, "augmentation.crop_ratio (2.0, 1.0) must rise above 0"),
        ({"flip": 1.5}, "augmentation.flip must be a number >= 0 and at most 1, finite; got 1.5."),
        ({"grayscale": -1}, "augmentation.grayscale must be a number >= 0 and at most 1, finite; got -1."),
        ({"rotation": 200}, "augmentation.rotation must be a number >= 0 and at most 180, finite; got 200."),
        ({"color_jitter": 1}, "augmentation.color_jitter must be a number >= 0 and below 1, finite; got 1."),
        ({"color_jitter": math.nan}, "augmentation.color_jitter must be a number >= 0 and below 1, finite; got nan."),
        (
            {"preset": "none", "rotation": 5},
            "augmentation.rotation 5.0 has no effect with preset 'none'; leave it out or use",
        ),
        ({"preset": "none", "flip": 1}, "augmentation.flip 1.0 has no effect"),
        ({"preset": "normsoftmax", "crop_scale": (0.5, 1)}, "augmentation.crop_scale (0.5, 1.0) has no effect"),
    ],
)
def test_impossible_augmentation(options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Augmentation(**options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_settings_that_ask_for_nothing_fit_every_preset() -> None:
    assert Augmentation(preset="none", flip=0).as_dict()["flip"] == 0
    Augmentation(preset="normsoftmax", crop_scale=(0.16, 1.0))


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"unknown preset 'sek'\. Did you mean 'sec'\?"):
        preset("sek", 128)
    with pytest.raises(SettingsError, match=r"unknown setting preprocessing\.resise\. Did you mean 'resize'\?"):
        Preprocessing.from_dict({"resise": 3})
    with pytest.raises(SettingsError, match=r"unknown setting augmentation\.flipp\. Did you mean 'flip'\?"):
        Augmentation.from_dict({"flipp": 3})


def test_reduced_decoding_is_a_rule_of_its_own() -> None:
    reduced, exact = Preprocessing(size=24, resize=32, decoding="reduced"), Preprocessing(size=24, resize=32)
    assert (reduced.sufficient_side, exact.sufficient_side) == (32, None)
    assert exact.rule == "shorter 32, at most 8:1, bilinear, antialias"
    assert reduced.rule == exact.rule + ", reduced decoding"
    assert Preprocessing.from_dict(reduced.as_dict()) == reduced
    with pytest.raises(SettingsError, match="decoding must be 'exact' or 'reduced'; got 'fast'"):
        Preprocessing(decoding="fast")  # type: ignore[arg-type]
