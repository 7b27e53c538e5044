"""Decode a file, bytes or an item of a container to RGB pixels, in any mode and orientation."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import math
import os
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from cosphere.checks import check_whole
from cosphere.errors import ImageError
from cosphere.files import is_address, path_of
from cosphere.images.containers import CONTAINERS, find_item
from cosphere.images.modes import Pixels, bytes_in_flight, bytes_per_pixel, to_rgb

Box = tuple[int, int, int, int]
"""(x_1, y_1, x_2, y_2) in pixels of the full upright image; x_2 and y_2 are exclusive."""

MAX_PIXELS = 100_000_000
"""Images with more pixels than this are refused before decoding (300 MB of RGB)."""

DECODING = 2
"""Version of what :func:`read_image` makes of a file. Raised when pixels change, so that caches of older ones are not used.

2: float and 32-bit images keep their scale when a few values lie outside it.
"""

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".mpo", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".hif"}
)
"""Lower-case file suffixes that :func:`read_image` reads."""

# Excludes formats that run programs (EPS, PS), call external tools or embed other files.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "MPO", "PPM", "AVIF")
_PLUGINS = ("Jpeg", "Png", "WebP", "Gif", "Bmp", "Tiff", "Mpo", "Ppm", "Avif")
"""Pillow's modules that read these formats."""

_SUFFIXES = {
    **{"PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "DIB": ".bmp", "TIFF": ".tif"},
    **{"PPM": ".ppm", "AVIF": ".avif", "HEIF": ".heic"},
}

# Files commonly mistaken for images: their first bytes, and advice.
_STRANGERS = (
    (b"<!doctype html", "it is a web page, so the download failed"),
    (b"<html", "it is a web page, so the download failed"),
    (b"version https://git-lfs", "it is a Git LFS pointer; run: git lfs pull"),
    (b"<svg", "it is an SVG drawing; export it as PNG"),
    (b"<?xml", "it is XML, perhaps an SVG drawing; export it as PNG"),
    (b"%pdf", "it is a PDF; name one page of a .pdf file, such as scan.pdf#1"),
    (b"%!ps", "it is PostScript, which is never run here; export it as PNG"),
    (b"8bps", "it is a Photoshop file; export it as PNG"),
    (b"pk\x03\x04", "it is a zip archive; name one image in a .zip file, such as photos.zip#bus/1.jpg, or unpack it"),
)
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}


def read_image(
    source: str | Path | bytes, *, box: Box | None = None, target: int | None = None, max_pixels: int = MAX_PIXELS
) -> Pixels:
    """Decode one image to RGB.

    EXIF orientation is applied, transparency is composited over white, 16-bit gray is scaled rather than clipped, the
    first frame of an animation is used, and CMYK, palette, gray, 1-bit and floating-point images are converted.

    Args:
        source: a path, the bytes of an image file, or ``"<container>#<item>"``: a member of a zip archive, a key of a
            RecordIO file, a page of a PDF, a row of a CIFAR batch or an image of a verification set.
        box: region to crop to, in pixels of the full image after EXIF orientation. An overshoot of one pixel, as left
            by rounding, is clipped.
        target: shorter side needed, in pixels. A JPEG is decoded at 1/2, 1/4 or 1/8 scale if the result still has at
            least this size, which is several times faster; other formats ignore it.
        max_pixels: largest width x height that is decoded.

    Returns:
        (H, W, 3) uint8, writable and contiguous.

    Raises:
        ImageError: the file is missing, unreadable, empty, damaged, too large or not an image, or the box is outside it.
        MissingExtraError: the container's format needs an optional package.
        SettingsError: ``target`` or ``max_pixels`` is below 1.
    """
    check_whole("max_pixels", max_pixels, least=1)
    if target is not None:
        check_whole("target", target, least=1)
    if source == "":
        raise ImageError("the path of an image is empty. Give the path of a file.")
    if isinstance(source, str | Path) and str(source).startswith("~"):
        source = path_of(source)
    name = _name(source)
    item = None if isinstance(source, bytes) else find_item(source)
    content = source if item is None else item.read()
    if isinstance(content, np.ndarray):
        height, width = content.shape[:2]
        _check_size(width, height, name, max_pixels)
        return _cut(content, box, (width, height), name)
    with _opened(content, name) as file, _quiet_pillow():
        shown, full_size = _decode(file, name, box, target, max_pixels)
    return _cut(shown, box, full_size, name)


class ImageKind(NamedTuple):
    """What the header of an encoded image says."""

    suffix: str
    """The usual suffix of its format, such as ``.jpg``."""
    width: int
    height: int


def image_kind(content: bytes, name: str | None = None) -> ImageKind:
    """Read the header of an encoded image; its pixels are not decoded.

    Args:
        content: the bytes of an image file.
        name: what to call it in an error.

    Raises:
        ImageError: it is not an image, or too large.
    """
    name = name or _name(content)
    with _opened(content, name) as file, _quiet_pillow():
        picture = _header(file, name, MAX_PIXELS)
        return ImageKind(_SUFFIXES.get(picture.format or "", ".jpg"), picture.width, picture.height)


def picture_to_rgb(picture: Image.Image) -> Pixels:
    """Convert an image opened by Pillow as :func:`read_image` converts its file. Returns (H, W, 3) uint8."""
    with _quiet_pillow():
        picture.load()  # Pillow turns a TIFF upright here, and drops its orientation
        return _upright(picture, _orientation(picture))


def _name(source: str | Path | bytes) -> str:
    if not isinstance(source, bytes):
        return str(source)
    return f"the image in memory ({len(source):,} bytes)" if source else "the image in memory"


@contextlib.contextmanager
def _opened(source: str | Path | bytes, name: str) -> Iterator[BinaryIO]:
    """Open the source as a binary file; raise an ImageError for anything that is not a readable regular file."""
    if isinstance(source, bytes):
        if not source:
            raise ImageError(f"{name} is empty (0 bytes). Check what produced it.")
        yield io.BytesIO(source)
        return
    try:
        path = Path(source)
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{name} is a folder, not an image. Name one file inside it.")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{name} is not a regular file. Name an image file.")
        if status.st_size == 0:
            raise ImageError(f"{name} is empty (0 bytes). Copy or download it again, or remove it.")
        file = path.open("rb")
    except FileNotFoundError:
        advice = "It is an address: download it first." if is_address(name) else "Check the path."
        raise ImageError(f"{name} does not exist{_no_container(name)}. {advice}") from None
    except PermissionError:
        raise ImageError(f"{name} may not be read: permission denied. Run: chmod +r on it, or ask its owner.") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{name} cannot be opened: {_reason(error)}. Check the path and the disk.") from error
    with file:
        yield file


def _no_container(name: str) -> str:
    """End of the error message where ``file#item`` names an existing file that is not a container."""
    file = name.rpartition("#")[0]
    if not file or not Path(file).is_file():
        return ""
    kinds = ", ".join(kind.name for kind in CONTAINERS)
    return f", and by its name {file} is none of: {kinds}"


def _decode(
    file: BinaryIO, name: str, box: Box | None, target: int | None, max_pixels: int
) -> tuple[Pixels, tuple[int, int]]:
    """Return the upright pixels, possibly at reduced scale, and the full (width, height)."""
    picture = _header(file, name, max_pixels)
    width, height = picture.size
    with bytes_in_flight(width * height * bytes_per_pixel(picture)):
        return _decoded(picture, name, box, target)


def _decoded(picture: Image.Image, name: str, box: Box | None, target: int | None) -> tuple[Pixels, tuple[int, int]]:
    width, height = picture.size
    try:
        if target is not None:
            _reduce_scale(picture, box, target)
        picture.load()
        orientation = _orientation(picture)
        pixels = _upright(picture, orientation)
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise ImageError(f"{name} is damaged: {_reason(error)}. Copy or download it again, or remove it.") from error
    if orientation >= 5:  # these four orientations swap rows and columns
        width, height = height, width
    return pixels, (width, height)


def _header(file: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    """Open the image without decoding it; raise an ImageError if it is not an image or too large."""
    try:
        picture = Image.open(file, formats=_formats(heif=_is_heic(file)))
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} is too large: its header promises more than twice PIL.Image.MAX_IMAGE_PIXELS, "
            f"{Image.MAX_IMAGE_PIXELS:,} pixels. Make it smaller; in Python, raise that and the max_pixels of read_image if you trust it."
        ) from error
    except Exception as error:
        raise ImageError(f"{name} cannot be read as an image: {_stranger(file)}.") from error
    try:
        _check_size(*picture.size, name, max_pixels)
    except ImageError:
        picture.close()
        raise
    return picture


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is too large: {width} x {height} = {width * height:,} pixels, at most {max_pixels:,} are decoded. "
            "Make it smaller; in Python, raise the max_pixels of read_image if you trust it."
        )


@functools.cache
def _formats(*, heif: bool = False) -> tuple[str, ...]:
    """The supported formats that this Pillow build includes; with ``heif`` also HEIF, if pillow-heif is installed."""
    for plugin in _PLUGINS:  # Image.init() imports some forty more
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{plugin}ImagePlugin")
    if heif:
        with contextlib.suppress(ImportError):
            from pillow_heif import register_heif_opener

            register_heif_opener()
    return tuple(name for name in (*_FORMATS, *(("HEIF",) if heif else ())) if name in Image.OPEN)


def _is_heic(file: BinaryIO) -> bool:
    """Whether the content is HEIC, whatever the file is called: phones also write JPEG into files named .HEIC."""
    start = file.read(12)
    file.seek(0)
    return start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS


def _stranger(file: BinaryIO) -> str:
    """Describe what the file seems to be instead of an image."""
    file.seek(0)
    start = file.read(64)
    plain = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for prefix, words in _STRANGERS:
        if plain.startswith(prefix):
            return words
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS:
        if "HEIF" in _formats(heif=True):
            return "it is a damaged HEIC photo; fetch it again"
        return "it is a HEIC photo; run: pip install 'cosphere[heif]', or convert it to JPEG"
    if not start.strip(b"\0"):
        return "it begins with zeros, as after a broken download; fetch it again"
    return f"it is damaged or of another kind than {', '.join(_formats())}; convert it, fetch it again or remove it"


def _reason(error: BaseException) -> str:
    """The message of an error on one line, without the full stop."""
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(words.split()).rstrip(".") or type(error).__name__


def _reduce_scale(picture: Image.Image, box: Box | None, target: int) -> None:
    """Make a JPEG decode at the smallest scale at which the cropped region's shorter side is at least ``target``."""
    width, height = picture.size
    shorter = min(width, height) if box is None else min(box[2] - box[0], box[3] - box[1])
    scale = max((step for step in (1, 2, 4, 8) if shorter // step >= target), default=1)
    if scale > 1:  # draft() never goes below the requested size
        picture.draft(None, (max(1, width // scale), max(1, height // scale)))


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 if there is none or the EXIF block is damaged."""
    try:
        value = picture.getexif().get(0x0112, 1)
    except Exception:  # damaged metadata must not reject intact pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(picture: Image.Image, orientation: int) -> Pixels:
    """Convert to RGB and turn upright, by the eight cases of EXIF tag 0x0112, in the memory of the result alone."""
    width, height = picture.size
    if orientation >= 5:  # these four swap rows and columns
        width, height = height, width
    upright = np.empty((height, width, 3), dtype=np.uint8)
    stored = upright  # a view of it, as the rows lie in the file
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    to_rgb(picture, into=stored.transpose(1, 0, 2) if orientation >= 5 else stored)
    return upright


def _cut(shown: Pixels, box: Box | None, full_size: tuple[int, int], name: str) -> Pixels:
    """Crop to a box given in pixels of the full image; ``shown`` may be at reduced scale."""
    if box is None:
        return np.ascontiguousarray(shown)
    left, top, right, bottom = check_box(box, full_size, name)
    width, height = full_size
    rows, columns = shown.shape[:2]
    # Round outwards, so that the crop at reduced scale is never smaller than requested.
    x_1, x_2 = max(0, left * columns // width), min(columns, math.ceil(right * columns / width))
    y_1, y_2 = max(0, top * rows // height), min(rows, math.ceil(bottom * rows / height))
    return np.ascontiguousarray(shown[y_1:y_2, x_1:x_2])


def check_box(box: Box, size: tuple[int, int], name: str) -> Box:
    """Check that a box lies inside an image; an overshoot of one pixel on any side is accepted.

    Args:
        box: in pixels of the full upright image.
        size: width and height of that image, in pixels.
        name: of the image, for the error.

    Raises:
        ImageError: the box is reversed or empty, or reaches out of the image.
    """
    left, top, right, bottom = (int(edge) for edge in box)
    width, height = size
    across = -1 <= left < right <= width + 1 and right > 0 and left < width
    down = -1 <= top < bottom <= height + 1 and bottom > 0 and top < height
    if not (across and down):
        raise ImageError(
            f"{name} is {width} x {height} pixels, so the box {(left, top, right, bottom)} does not fit. Want "
            "x_1 < x_2 and y_1 < y_2 inside the picture; was the picture resized after the boxes were drawn?"
        )
    return left, top, right, bottom


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filter: warnings.catch_warnings[None] | None = None


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Suppress Pillow's warnings about metadata; real problems are raised.

    Warning filters are global, so concurrent decoding threads must not each save and restore them: the last thread to
    finish could restore the filters of another for good. The first thread in sets them, the last one out restores them.
    """
    global _quiet_depth, _quiet_filter
    if getattr(sys.flags, "context_aware_warnings", False):  # Python 3.14 and later: each thread has its own filters
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
        return
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_filter = warnings.catch_warnings()
            _quiet_filter.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _quiet_filter is not None:
                _quiet_filter.__exit__(None, None, None)
                _quiet_filter = None


def _forget_threads() -> None:
    """Reset the state after a fork: the parent's other threads do not exist in the child and never release the lock."""
    global _quiet_lock, _quiet_depth, _quiet_filter
    _quiet_lock, _quiet_depth, _quiet_filter = threading.Lock(), 0, None


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_threads)
