"""Images whose values have no fixed scale, and how much memory conversion takes."""

from __future__ import annotations

import io
import threading
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from cosphere.errors import ImageError
from cosphere.images import decode, modes, read_image


def tiff(values: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF", **options)
    return file.getvalue()


def gray(values: np.ndarray) -> np.ndarray:
    image = read_image(tiff(values))
    assert (image == image[:, :, :1]).all()
    return image[:, :, 0]


SHARES = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)


@pytest.mark.parametrize("odd", [1.001, 1.5, -0.01, 300.0, -1e9, 1e30, np.nan, np.inf, -np.inf])
def test_one_odd_value_does_not_change_the_scale_of_the_others(odd: float) -> None:
    values = SHARES.copy()
    values[7, 3] = odd
    expected = np.rint(SHARES.astype(float) * 255)
    expected[7, 3] = 255 if np.isfinite(odd) and odd > 1 else 0
    assert np.array_equal(gray(values), expected)


def test_one_odd_value_among_gray_levels_and_among_16_bit_integers() -> None:
    levels = np.linspace(0, 255, 400, dtype=np.float32).reshape(20, 20)
    expected = np.rint(levels.astype(float))
    levels[0, 0] = 1000
    expected[0, 0] = 255
    assert np.array_equal(gray(levels), expected)
    integers = np.linspace(0, 65535, 400).astype(np.int32).reshape(20, 20)
    expected = np.rint(integers / 257)
    integers[0, 0] = -5
    assert np.array_equal(gray(integers), expected)


def test_values_without_a_known_scale_are_stretched_between_all_but_the_most_extreme() -> None:
    values = np.linspace(-50, 950, 2000, dtype=np.float32).reshape(40, 50)
    expected = np.rint((values.astype(float) - values.flat[2]) * 255 / (values.flat[-3] - values.flat[2]))
    assert np.abs(gray(values) - np.clip(expected, 0, 255)).max() <= 1


@pytest.mark.parametrize("value", [0, 0.5, 1, 1000.0, -3.0, 70000, -7, 65535])
def test_a_blank_image_is_an_image(value: float) -> None:
    values = np.full((6, 9), value, np.float32 if isinstance(value, float) else np.int32)
    known = {0.5: 128, 0: 0, 1: 0, 65535: 255}  # 1 is an integer: one level of 65535
    assert (gray(values) == known.get(value, 0)).all()


def test_an_image_without_a_number_is_unreadable() -> None:
    with pytest.raises(ImageError, match="is damaged: none of its values is a number"):
        gray(np.full((6, 9), np.nan, np.float32))


def test_blocks_of_rows_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (31, 7, 3), dtype=np.uint8)),
        Image.fromarray(rng.integers(0, 256, (31, 7, 4), dtype=np.uint8)),
        Image.fromarray(rng.integers(0, 256, (31, 7), dtype=np.uint8)).convert("P"),
        Image.fromarray(rng.integers(0, 65536, (31, 7), dtype=np.uint16)),
        Image.fromarray(rng.random((31, 7), dtype=np.float32) * 900),
        Image.fromarray(rng.integers(0, 256, (31, 7, 4), dtype=np.uint8), "CMYK"),
    ]
    whole = [modes.to_rgb(picture) for picture in pictures]
    monkeypatch.setattr(modes, "_BLOCK_PIXELS", 20)
    for picture, expected in zip(pictures, whole, strict=True):
        assert np.array_equal(modes.to_rgb(picture), expected)


@pytest.mark.parametrize("kind", ["float", "rgba", "rgb"])
def test_conversion_takes_little_more_than_its_result(kind: str) -> None:
    shape = (2000, 2000)
    values = {
        "float": np.zeros(shape, np.float32),
        "rgba": np.zeros((*shape, 4), np.uint8),
        "rgb": np.zeros((*shape, 3), np.uint8),
    }[kind]
    content = tiff(values, compression="tiff_deflate")
    del values
    tracemalloc.start()
    read_image(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 2000 * 2000 + 24 * 2**20  # the result, and a few blocks of rows


def test_bytes_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "MAX_IN_FLIGHT", 100)
    most, now, lock = 0, 0, threading.Lock()

    def decode(count: int) -> None:
        nonlocal most, now
        for _ in range(20):
            with modes.bytes_in_flight(count):
                with lock:
                    now += count
                    most = max(most, now if now != 250 else 0)
                with lock:
                    now -= count

    threads = [threading.Thread(target=decode, args=(count,)) for count in (40, 60, 30, 50, 250)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert 60 <= most <= 100


def test_what_an_image_takes_counts_by_its_mode_and_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    real = modes.bytes_in_flight
    monkeypatch.setattr(decode, "bytes_in_flight", lambda count: counted.append(count) or real(count))
    rgb = np.zeros((10, 10, 3), np.uint8)
    for mode, name, options in (
        ("RGB", "PNG", {}),
        ("L", "PNG", {}),
        ("I;16", "PNG", {}),
        ("F", "TIFF", {}),
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("RGB", "WEBP", {}),
    ):
        content = io.BytesIO()
        picture = Image.fromarray(rgb).convert("L").convert(mode) if mode != "RGB" else Image.fromarray(rgb)
        picture.save(content, name, **options)
        read_image(content.getvalue())
    assert counted == [700, 400, 500, 700, 700, 1000, 1600]
