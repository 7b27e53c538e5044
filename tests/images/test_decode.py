"""Every kind of picture that Pillow can make, and every kind of file that is none."""

from __future__ import annotations

import concurrent.futures
import io
import os
import signal
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosphere.errors import ImageError, SettingsError
from cosphere.images import IMAGE_SUFFIXES, decode, read_image

ORIENTATION = 0x0112
# EXIF 2.3, tag 0x0112: which side of the picture as shown the stored row 0 and the stored column 0 are.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def noise(height: int = 6, width: int = 9, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that JPEG hardly changes: red grows to the right, green downwards."""
    red = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    green = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return np.stack([red, green, np.full_like(red, 90)], axis=2).round().astype(np.uint8)


def stored_for(shown: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera that says ``orientation`` has stored, by the words of the standard, pixel by pixel."""
    height, width = shown.shape[:2]
    row_side, column_side = SIDES[orientation]
    swapped = row_side in ("left", "right")
    stored = np.zeros((width, height, 3) if swapped else (height, width, 3), np.uint8)
    for r in range(stored.shape[0]):
        for c in range(stored.shape[1]):
            at = {
                "top": lambda i: i,
                "left": lambda i: i,
                "bottom": lambda i: height - 1 - i,
                "right": lambda i: width - 1 - i,
            }
            along_rows, along_columns = at[row_side](r), at[column_side](c)
            stored[r, c] = shown[along_columns, along_rows] if swapped else shown[along_rows, along_columns]
    return stored


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds no pixels: whoever decodes it finds it damaged."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# Modes


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_rgb_comes_back_as_it_was(kind: str, tmp_path: Path) -> None:
    pixels = noise()
    path = tmp_path / "picture"
    Image.fromarray(pixels).save(path, kind)
    for source in (path, str(path), path.read_bytes()):
        found = read_image(source)
        assert found.dtype == np.uint8
        assert found.flags.writeable
        assert found.flags.c_contiguous
        assert np.array_equal(found, pixels)


def test_gray_and_one_bit_fill_three_channels() -> None:
    gray = noise(channels=1)
    assert np.array_equal(read_image(encoded(Image.fromarray(gray), "PNG")), np.stack([gray] * 3, axis=2))
    bits = gray > 127
    assert np.array_equal(read_image(encoded(Image.fromarray(bits), "PNG"))[:, :, 1], bits * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_not_clipped(kind: str) -> None:
    levels = np.array(
        [[0, 1, 128, 129, 256, 257, 385, 386], [1000, 25700, 32768, 40000, 65406, 65407, 65534, 65535]], np.uint16
    )
    found = read_image(encoded(Image.fromarray(levels), kind))
    assert found[:, :, 0].tolist() == [[round(int(level) / 257) for level in row] for row in levels]
    assert (found == found[:, :, :1]).all()


def test_big_endian_16_bit_tiff_is_read_in_its_own_order() -> None:
    levels = np.array([[0, 257, 65535]], np.uint16)
    header = b"MM\x00*\x00\x00\x00\x08"
    tags = [
        (256, 3, 3),
        (257, 3, 1),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 122),
        (277, 3, 1),
        (278, 3, 1),
        (279, 4, 6),
    ]
    body = struct.pack(">H", len(tags))
    for tag, kind, value in tags:
        body += struct.pack(">HHI", tag, kind, 1) + (
            struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value)
        )
    content = header + body + b"\0\0\0\0"
    content += levels.astype(">u2").tobytes()
    assert len(content) - 6 == 122
    assert read_image(content)[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize(
    ("values", "want"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.4, 254.6]], np.float32), [0, 100, 255]),
        (np.array([[-1.0, 0.0, 3.0]], np.float32), [0, 64, 255]),
        (np.array([[0.0, np.nan, 200.0]], np.float32), [0, 0, 200]),
        (np.array([[0, 25700, 65535]], np.int32), [0, 100, 255]),
        (np.array([[-100, 0, 155]], np.int32), [0, 100, 255]),
        (np.array([[0, 50_000, 100_000]], np.int32), [0, 128, 255]),
    ],
)
def test_32_bit_gray_finds_its_range(values: np.ndarray, want: list[int]) -> None:
    assert read_image(encoded(Image.fromarray(values), "TIFF"))[0, :, 2].tolist() == want


def test_16_bit_pgm_is_scaled() -> None:
    content = b"P5 3 1 65535\n" + np.array([0, 25700, 65535], ">u2").tobytes()
    assert read_image(content)[0, :, 0].tolist() == [0, 100, 255]


def over_white(rgba: np.ndarray) -> np.ndarray:
    color, alpha = rgba[:, :, :-1].astype(float), rgba[:, :, -1:] / 255
    return color * alpha + 255 * (1 - alpha)


def test_transparency_is_laid_over_white() -> None:
    rgba = noise(channels=4)
    rgba[0, 0] = (10, 20, 30, 0)
    found = read_image(encoded(Image.fromarray(rgba), "PNG")).astype(float)
    assert np.abs(found - over_white(rgba)).max() <= 1
    assert found[0, 0].tolist() == [255, 255, 255]
    gray_alpha = noise(channels=2)
    found = read_image(encoded(Image.fromarray(gray_alpha, "LA"), "PNG")).astype(float)
    assert np.abs(found - over_white(gray_alpha)).max() <= 1


def test_palette_with_and_without_transparency() -> None:
    picture = Image.new("P", (3, 1))
    picture.putpalette([200, 0, 0, 0, 150, 0, 0, 0, 100])
    picture.putdata([0, 1, 2])
    solid = [[200, 0, 0], [0, 150, 0], [0, 0, 100]]
    assert read_image(encoded(picture, "PNG"))[0].tolist() == solid
    assert read_image(encoded(picture, "GIF"))[0].tolist() == solid
    for kind in ("PNG", "GIF"):
        assert read_image(encoded(picture, kind, transparency=1))[0].tolist() == [solid[0], [255, 255, 255], solid[2]]
    half = read_image(encoded(picture, "PNG", transparency=bytes([255, 0, 128])))[0].astype(int)
    assert half[:2].tolist() == [solid[0], [255, 255, 255]]
    assert np.abs(half[2] - [127, 127, 177]).max() <= 1


def test_one_transparent_color_of_rgb_and_gray() -> None:
    rgb = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    assert read_image(encoded(Image.fromarray(rgb), "PNG", transparency=(1, 2, 3)))[0].tolist() == [
        [255] * 3,
        [4, 5, 6],
    ]
    gray = np.array([[7, 9]], np.uint8)
    assert read_image(encoded(Image.fromarray(gray), "PNG", transparency=9))[0].tolist() == [[7] * 3, [255] * 3]


@pytest.mark.parametrize(
    ("ink", "want"),
    [
        ((0, 255, 255, 0), (255, 0, 0)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 0, 0, 0), (255, 255, 255)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(kind: str, ink: tuple[int, ...], want: tuple[int, ...]) -> None:
    found = read_image(encoded(Image.new("CMYK", (16, 16), ink), kind)).astype(int)
    assert found.shape == (16, 16, 3)
    assert np.abs(found - want).max() <= 3


def test_lab_is_converted() -> None:
    lab = Image.new("LAB", (4, 4), (137, 128, 128))  # L 137 / 255 = 53.7 %, no colour: sRGB gray 128
    assert np.abs(read_image(encoded(lab, "TIFF")).astype(int) - 128).max() <= 2


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(content)) as made:
        assert made.n_frames == 3  # else this test says nothing
    assert (read_image(content) == (255, 0, 0)).all()


@pytest.mark.skipif("AVIF" not in decode._formats(), reason="this Pillow was built without AVIF")
def test_avif() -> None:
    found = read_image(encoded(Image.fromarray(smooth(40, 60)), "AVIF", quality=95)).astype(int)
    assert np.abs(found - smooth(40, 60)).mean() < 3


# Orientation, box, reduced scale


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    shown = noise(4, 7)
    content = encoded(Image.fromarray(stored_for(shown, orientation)), kind, exif=with_orientation(orientation))
    assert np.array_equal(read_image(content), shown)
    assert np.array_equal(read_image(content, box=(1, 0, 4, 3)), shown[0:3, 1:4])
    lazy, loaded = (Image.open(io.BytesIO(content)) for _ in range(2))
    loaded.load()
    for picture in (lazy, loaded, loaded):  # the same one twice
        assert np.array_equal(decode.picture_to_rgb(picture), shown)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_a_jpeg_at_reduced_scale(orientation: int) -> None:
    shown = smooth(240, 320)
    stored = Image.fromarray(stored_for(shown, orientation))
    content = encoded(stored, "JPEG", quality=95, exif=with_orientation(orientation))
    found = read_image(content, target=60).astype(int)
    assert found.shape == (60, 80, 3)
    assert np.abs(found - shown.reshape(60, 4, 80, 4, 3).mean(axis=(1, 3))).max() < 8
    part = read_image(content, target=30, box=(160, 0, 320, 120)).astype(int)
    assert part.shape == (30, 40, 3)
    assert np.abs(part - shown[:120, 160:].reshape(30, 4, 40, 4, 3).mean(axis=(1, 3))).max() < 8


@pytest.mark.parametrize("exif", [b"Exif\0\0broken", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"\0"])
def test_a_damaged_exif_block_does_not_matter(exif: bytes) -> None:
    assert read_image(encoded(Image.fromarray(smooth(8, 8)), "JPEG", exif=exif)).shape == (8, 8, 3)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(orientation: int) -> None:
    pixels = noise()
    assert np.array_equal(
        read_image(encoded(Image.fromarray(pixels), "PNG", exif=with_orientation(orientation))), pixels
    )


@pytest.mark.parametrize(
    ("target", "want"),
    [(None, 600), (601, 600), (600, 600), (301, 600), (300, 300), (151, 300), (150, 150), (75, 75), (1, 75)],
)
def test_jpeg_is_decoded_at_the_smallest_scale_that_is_enough(target: int | None, want: int) -> None:
    content = encoded(Image.fromarray(smooth(600, 800)), "JPEG")
    found = read_image(content, target=target)
    assert found.shape[:2] == (want, want * 4 // 3)
    assert np.abs(found.mean(axis=(0, 1)) - smooth(600, 800).mean(axis=(0, 1))).max() < 3


def test_reduced_scale_is_never_below_target_for_any_size() -> None:
    for height, width in [(97, 131), (64, 65), (33, 1000), (17, 17), (9, 500)]:
        content = encoded(Image.fromarray(smooth(height, width)), "JPEG")
        for target in (1, 2, 3, 4, 5, 8, 9, 12, 16, 17, 24, 32, 33, 48, 97):
            found = read_image(content, target=target)
            assert min(found.shape[:2]) >= min(target, height, width)
            part = read_image(content, target=target, box=(1, 2, width - 3, height - 1))
            assert min(part.shape[:2]) >= min(target, height - 3, width - 4)


def test_a_box_is_in_full_size_pixels_whatever_the_scale() -> None:
    picture = Image.new("RGB", (800, 600), "black")
    picture.paste("red", (400, 200, 600, 300))
    content = encoded(picture, "JPEG", quality=95, subsampling=0)
    whole = read_image(content, box=(400, 200, 600, 300))
    assert whole.shape == (100, 200, 3)
    part = read_image(content, box=(400, 200, 600, 300), target=50)  # the whole picture would allow 1/8, the box 1/2
    assert part.shape == (50, 100, 3)
    for found in (whole, part):
        inner = found[2:-2, 2:-2].astype(int)
        assert np.abs(inner - (255, 0, 0)).max() < 12


def test_a_box_at_reduced_scale_is_covered_whole() -> None:
    content = encoded(Image.fromarray(smooth(24, 24)), "JPEG")
    assert read_image(content, box=(4, 3, 21, 20), target=8).shape == (9, 9, 3)  # 2 to 10.5 and 1.5 to 10


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_box_one_pixel_over_the_edge_is_cut_off(kind: str) -> None:
    content = encoded(Image.fromarray(smooth(20, 30)), kind)
    assert np.array_equal(read_image(content, box=(-1, 0, 31, 21)), read_image(content))


@pytest.mark.parametrize(
    "box", [(0, 0, 32, 5), (-2, 0, 5, 5), (5, 5, 5, 9), (9, 0, 3, 5), (30, 0, 31, 5), (-1, 0, 0, 5), (0, 20, 5, 21)]
)
def test_a_box_outside_the_picture_is_refused(box: tuple[int, int, int, int], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(smooth(20, 30)).save(path)
    with pytest.raises(ImageError, match=r"a\.png is 30 x 20 pixels, so the box \(.*\) does not fit"):
        read_image(path, box=box)


# What is refused


def message_of(source: str | Path | bytes, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("size", [(60_000, 60_000), (20_000, 10_000), (10_001, 10_000)])
def test_a_huge_picture_is_refused_by_its_header(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    message = message_of(path)
    assert message.startswith(f"{path} is too large: ")  # decoding would have found it damaged
    assert "max_pixels" in message


def test_the_limit_is_exact_and_may_be_moved() -> None:
    content = encoded(Image.fromarray(noise(20, 30)), "PNG")
    assert read_image(content, max_pixels=600).shape == (20, 30, 3)
    assert "30 x 20 = 600 pixels, at most 599" in message_of(content, max_pixels=599)


def test_the_limit_is_ours_and_not_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "damaged" in message_of(
        png_header(9_700, 9_700)
    )  # 94 million: Pillow would warn, and warnings are errors here
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert "too large: 60000 x 60000" in message_of(png_header(60_000, 60_000))


def test_settings_below_one_are_refused() -> None:
    content = encoded(Image.fromarray(noise()), "PNG")
    with pytest.raises(SettingsError, match="target must be a whole number >= 1; got 0"):
        read_image(content, target=0)
    with pytest.raises(SettingsError, match="max_pixels must be a whole number >= 1; got 0"):
        read_image(content, max_pixels=0)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    missing, empty = tmp_path / "missing.jpg", tmp_path / "empty.jpg"
    empty.touch()
    assert message_of(missing) == f"{missing} does not exist. Check the path."
    assert "is empty (0 bytes)" in message_of(empty)
    assert "is a folder" in message_of(tmp_path)
    assert "in memory is empty" in message_of(b"")
    assert "does not exist" in message_of(f"{missing}#3")
    assert "cannot be opened" in message_of("a\0b.jpg")
    assert "cannot be opened" in message_of(tmp_path / ("x" * 1000))
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    assert "not a regular file" in message_of(pipe)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    Image.fromarray(noise()).save(path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")  # root may read everything, so the mode bits alone would not do

    monkeypatch.setattr(Path, "open", refuse)
    assert message_of(path).startswith(f"{path} may not be read: permission denied.")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "PostScript"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0" * 500, "begins with zeros"),
        (b"just some words", "damaged or of another kind than JPEG, PNG"),
        (b"\xff\xd8\xff", "damaged or of another kind"),
    ],
)
def test_strangers_are_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    message = message_of(path)
    assert message.startswith(f"{path} cannot be read as an image: ")
    assert words in message


def test_a_format_that_is_not_on_the_list_is_refused() -> None:
    with pytest.raises(ImageError, match="of another kind"):
        read_image(encoded(Image.fromarray(noise()), "PCX"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_a_truncated_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "half"
    content = encoded(Image.fromarray(noise(64, 64)), kind)
    path.write_bytes(content[: len(content) // 2])
    assert message_of(path).startswith(f"{path} ")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "MPO"])
def test_damage_gives_an_image_or_an_image_error_and_nothing_else(kind: str) -> None:
    draw = np.random.default_rng(7)
    content = (
        encoded(Image.fromarray(noise(24, 24)), kind, exif=with_orientation(6))
        if kind != "PPM"
        else b"P6 2 2 255\n" + b"\1" * 12
    )
    refused = 0
    for _ in range(80):
        broken = bytearray(content[: draw.integers(1, len(content) + 1)])
        for place in draw.integers(0, min(len(broken), 200), draw.integers(0, 4)):
            broken[place] = draw.integers(0, 256)
        try:
            found = read_image(bytes(broken), target=8, max_pixels=1_000_000)
            assert found.ndim == 3
            assert found.shape[2] == 3
        except ImageError:
            refused += 1
    assert refused > 10


def test_threads_leave_the_warning_filters_alone() -> None:
    content = encoded(Image.fromarray(smooth(32, 32)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    before = list(warnings.filters)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(found.shape == (32, 32, 3) for found in pool.map(read_image, [content] * 200))
    assert list(warnings.filters) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_while_another_thread_decodes_does_not_hang() -> None:
    content = encoded(Image.fromarray(smooth(32, 32)), "PNG")
    with decode._quiet_lock, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python 3.12 warns of forks beside threads, which this is about
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # a hang ends by this signal
            os._exit(0 if read_image(content).shape == (32, 32, 3) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_suffixes_are_lower_case_and_cover_what_is_read() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"} <= IMAGE_SUFFIXES
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)
    assert not IMAGE_SUFFIXES & {".eps", ".ps", ".pdf", ".svg", ".txt"}


def heic(pixels: np.ndarray) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed (extra heif)")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(file, quality=95)
    return file.getvalue()


def test_heic_photos_are_read_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    pixels = smooth(64, 48)
    (tmp_path / "photo.HEIC").write_bytes(heic(pixels))
    found = read_image(tmp_path / "photo.HEIC")
    assert found.shape == (64, 48, 3)
    assert np.abs(found.astype(int) - pixels).mean() < 4
    assert {".heic", ".heif", ".hif"} <= IMAGE_SUFFIXES


def test_heic_photos_without_pillow_heif_are_unreadable_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    content = heic(smooth(64, 48))
    formats = decode._formats()
    monkeypatch.setattr(decode, "_formats", lambda *, heif=False: formats)
    with pytest.raises(
        ImageError, match=r"it is a HEIC photo; run: pip install 'cosphere\[heif\]', or convert it to JPEG"
    ):
        read_image(content)


def test_a_jpeg_called_heic_is_read(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(encoded(Image.fromarray(smooth(20, 30)), "JPEG"))
    assert read_image(tmp_path / "IMG_1.HEIC").shape == (20, 30, 3)
