"""From images in any form to batches of network input, read ahead by threads."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cosphere.errors import ImageError, SizeError
from cosphere.images import Preprocessing
from cosphere.images.decode import picture_to_rgb, read_image
from cosphere.images.modes import Pixels

_THREADS = min(8, os.cpu_count() or 1)
_CHANNELS = (1, 2, 3, 4)  # gray, gray with transparency, RGB, RGBA
_NARROWEST = 8
"""An array (H, W, C) with fewer columns than that is one picture, not H gray ones: no stack of pictures is so narrow."""


def input_batches(
    pictures: Any, batch_size: int, preprocessing: Preprocessing, device: torch.device, *, progress: bool = False
) -> Iterator[Tensor]:
    """Batches of network input, in the order of the images.

    Args:
        pictures: see ``Embedder.encode``.
        batch_size: number of images in a batch; the last may have fewer.
        preprocessing: how images become input.
        device: where the batches are placed.
        progress: show a progress bar on stderr.

    Yields:
        (b, 3, S, S) float32 on ``device``, in channels-last memory format, the fastest for convolutions.

    Raises:
        ImageError: a picture cannot be read; it is named.
        SizeError: an array or tensor of another shape or type.
    """
    if isinstance(pictures, Tensor) and pictures.is_floating_point():
        ready: Iterable[Tensor] = torch.split(pictures, batch_size) if len(pictures) else ()
    else:
        pixels = _pixel_batches(_as_list(pictures), batch_size, preprocessing)
        # Reordered as bytes: a quarter of what would move after normalisation.
        ready = (preprocessing.to_input(_channels_last(batch.to(device))) for batch in pixels)
    for batch in _tracked(ready, pictures, batch_size) if progress else ready:
        yield _channels_last(batch.to(device))


def _channels_last(batch: Tensor) -> Tensor:
    """Images (B, C, H, W) in the memory format that is fastest for convolutions; anything else as it is."""
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def rgb_pixels(picture: Any, *, position: int, shorter_side: int | None = None) -> Pixels:
    """Decode one image to (H, W, 3) uint8 RGB.

    Args:
        picture: a path, the bytes of a file, a binary file object, a PIL image, a uint8 array (H, W), (H, W, 1), (H, W, 2),
            (H, W, 3) or (H, W, 4), or a uint8 tensor of that kind with its channels first. Transparency (the second of 2 channels, the
            fourth of 4) is composited over white.
        position: its index among the images, for the error.
        shorter_side: shorter side in pixels that suffices; large JPEG files are decoded at a reduced scale of at least this.

    Raises:
        ImageError: the file or PIL image cannot be read.
        SizeError: an array or tensor of another shape or type.
    """
    if isinstance(picture, (str, Path)):
        return read_image(picture, target=shorter_side)
    if hasattr(picture, "read"):
        picture = _content(picture, position)
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return _decoded(bytes(picture), position, shorter_side)
    if isinstance(picture, Image.Image):
        content = _undecoded_jpeg(picture, position)
        return _decoded(content, position, shorter_side) if content else _from_pillow(picture, position)
    if isinstance(picture, Tensor) and picture.dtype == torch.uint8:
        pixels = picture.cpu().numpy()
        array = pixels.transpose(1, 2, 0) if pixels.ndim == 3 and pixels.shape[0] in _CHANNELS else pixels
    else:
        array = picture
    if isinstance(array, np.ndarray) and array.dtype == np.uint8:
        if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
            return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
        if array.ndim == 3 and array.shape[2] == 3:
            return np.ascontiguousarray(array)
        if array.ndim == 3 and array.shape[2] in (2, 4):  # which Pillow takes for LA and RGBA
            return _from_pillow(Image.fromarray(np.ascontiguousarray(array)), position)
    came = f"{tuple(picture.shape)} {picture.dtype}" if hasattr(picture, "shape") else type(picture).__name__
    raise SizeError(
        f"picture {position} is {came}; want a path, bytes, a binary file, a PIL image, a uint8 array (H, W) or (H, W, C) "
        "with 1 to 4 channels, or a uint8 tensor with its channels first. A float tensor must be one ready batch (B, 3, H, W)."
    )


class Taker:
    """Takes images one by one, in the thread that iterates over them, so that other threads can decode them at any later time.

    A source other than a list, tuple, array or tensor may change what it gave when it is asked for the next one: a generator that
    fills one buffer or closes its file, the frames of an animation. Of such a source pixels are copied. What threads would share is
    read here always: a file object, and a Pillow image that occurs several times.

    Args:
        pictures: see :meth:`cosphere.models.Embedder.encode`; not a single image.
    """

    def __init__(self, pictures: Iterable[Any]) -> None:
        self._changing = not isinstance(pictures, list | tuple | np.ndarray | Tensor)
        uses: Counter[int] = Counter()
        if isinstance(pictures, list | tuple) or (isinstance(pictures, np.ndarray) and pictures.dtype == object):
            uses.update(_file_of(one) for one in pictures if isinstance(one, Image.Image))
        self._shared = {file for file, count in uses.items() if count > 1}

    def __call__(self, picture: Any, position: int) -> Any:
        """An image in a form that :func:`rgb_pixels` takes and nothing else changes.

        Raises:
            ImageError: it is a file or PIL image that cannot be read.
        """
        if hasattr(picture, "read"):
            return _content(picture, position)
        if isinstance(picture, Image.Image):
            # Others are decoded by the threads, which is faster.
            needed = self._changing or _file_of(picture) in self._shared
            return (_undecoded_jpeg(picture, position) or _from_pillow(picture, position)) if needed else picture
        if isinstance(picture, bytearray | memoryview):
            return bytes(picture)
        if self._changing and isinstance(picture, np.ndarray):
            return picture.copy()
        return picture.clone() if self._changing and isinstance(picture, Tensor) else picture

    def attempt(self, picture: Any, position: int) -> Any:
        """The same, but the error of an image that cannot be read takes its place."""
        try:
            return self(picture, position)
        except ImageError as error:
            return error


def taken(pictures: Any) -> list[Any]:
    """Images as a list; those of a source that may change them are in memory, see :class:`Taker`, or errors if they cannot be read."""
    several = _as_list(pictures)
    if isinstance(several, list | tuple | np.ndarray | Tensor):
        return list(several)
    take = Taker(several)
    return [take.attempt(picture, position) for position, picture in enumerate(several)]


def _file_of(picture: Image.Image) -> int:
    """What threads must not use at the same time: the file that an image was opened from, or the image."""
    return id(getattr(picture, "fp", None) or picture)


def _content(file: Any, position: int) -> bytes:
    """The rest of a binary file object, whose position is restored where it can be."""
    try:
        start = file.tell() if getattr(file, "seekable", bool)() else None
        content = file.read()
        if start is not None:
            file.seek(start)
    except (OSError, ValueError) as error:
        raise _unreadable(error, position) from error
    if not isinstance(content, bytes):
        raise ImageError(f"picture {position} is a file of text. Open it with mode 'rb'.")
    return content


def _decoded(content: bytes, position: int, shorter_side: int | None) -> Pixels:
    try:
        return read_image(content, target=shorter_side)
    except ImageError as error:
        raise ImageError(f"picture {position}: {error}") from error


def _undecoded_jpeg(picture: Image.Image, position: int) -> bytes | None:
    """The file of a JPEG that Pillow opened and did not decode yet, so that it can be decoded as its path would be."""
    file = getattr(picture, "fp", None)
    if picture.format != "JPEG" or not getattr(picture, "tile", None) or file is None:
        return None
    try:
        start = file.tell()
        file.seek(0)
        content: bytes = file.read()
        file.seek(start)
    except (OSError, ValueError) as error:
        raise _unreadable(error, position) from error
    return content


def _from_pillow(picture: Image.Image, position: int) -> Pixels:
    try:
        return picture_to_rgb(picture)
    except Exception as error:  # Pillow decodes lazily: a damaged file can raise any exception here
        raise _unreadable(error, position) from error


def _unreadable(error: Exception, position: int) -> ImageError:
    reason = str(error).rstrip(".") or type(error).__name__
    return ImageError(f"picture {position} cannot be read: {reason}. Open it again or leave it out.")


def _as_list(pictures: Any) -> Iterable[Any]:
    """A single image becomes a list of one."""
    single = isinstance(pictures, (str, Path, bytes, bytearray, memoryview, Image.Image)) or hasattr(pictures, "read")
    if isinstance(pictures, Tensor):
        single = pictures.ndim in (2, 3)
    elif isinstance(pictures, np.ndarray) and pictures.dtype.kind not in "OSU":
        single = pictures.ndim == 2 or (pictures.ndim == 3 and pictures.shape[2] < _NARROWEST)
    if single:
        return [pictures]
    if not isinstance(pictures, Iterable):
        raise SizeError(f"want pictures or paths, got {type(pictures).__name__}. Give a list.")
    return pictures


def _pixel_batches(pictures: Iterable[Any], batch_size: int, preprocessing: Preprocessing) -> Iterator[Tensor]:
    """uint8 batches. The next batch is read while the current one is used."""

    def prepared(position: int, picture: Any) -> Tensor:
        return preprocessing.pixels(rgb_pixels(picture, position=position, shorter_side=preprocessing.sufficient_side))

    waiting: list[Future[Tensor]] = []
    numbered, take = enumerate(pictures), Taker(pictures)
    with ThreadPoolExecutor(_THREADS) as pool:
        while True:
            coming = [
                pool.submit(prepared, position, take(picture, position))
                for position, picture in itertools.islice(numbered, batch_size)
            ]
            if waiting:
                yield torch.stack([future.result() for future in waiting])
            if not coming:
                return
            waiting = coming


def _tracked(batches: Iterable[Tensor], pictures: Any, batch_size: int) -> Iterator[Tensor]:
    from rich.console import Console
    from rich.progress import track

    total = -(-len(pictures) // batch_size) if hasattr(pictures, "__len__") else None
    yield from track(batches, "Embedding", total=total, console=Console(stderr=True))
