"""From images in any form to batches of network input, read ahead by threads."""

from __future__ import annotations

import itertools
import os
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
from cosphere.images.decode import Pixels, picture_to_rgb, read_image

_THREADS = min(8, os.cpu_count() or 1)


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
        ready = (preprocessing.to_input(batch.to(device)) for batch in pixels)
    for batch in _tracked(ready, pictures, batch_size) if progress else ready:
        on_device = batch.to(device)
        yield on_device.contiguous(memory_format=torch.channels_last) if on_device.ndim == 4 else on_device


def rgb_pixels(picture: Any, *, position: int, shorter_side: int | None = None) -> Pixels:
    """Decode one image to (H, W, 3) uint8 RGB.

    Args:
        picture: a path, a PIL image, a uint8 array (H, W, 3) or (H, W), or a uint8 tensor (3, H, W).
        position: its index among the images, for the error.
        shorter_side: shorter side in pixels that suffices; large JPEG files are decoded at a reduced scale of at least this.

    Raises:
        ImageError: the file or PIL image cannot be read.
        SizeError: an array or tensor of another shape or type.
    """
    if isinstance(picture, (str, Path)):
        return read_image(picture, target=shorter_side)
    if isinstance(picture, Image.Image):
        try:
            return picture_to_rgb(picture)
        except Exception as error:  # Pillow decodes lazily: a damaged file can raise any exception here
            raise ImageError(f"picture {position} cannot be read: {error}. Open it again or leave it out.") from error
    if isinstance(picture, Tensor) and picture.dtype == torch.uint8 and picture.ndim == 3 and picture.shape[0] == 3:
        return np.ascontiguousarray(picture.cpu().permute(1, 2, 0).numpy())
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8:
        if picture.ndim == 2:
            return np.repeat(picture[:, :, None], 3, axis=2)
        if picture.ndim == 3 and picture.shape[2] == 3:
            return picture
    came = f"{tuple(picture.shape)} {picture.dtype}" if hasattr(picture, "shape") else type(picture).__name__
    raise SizeError(
        f"picture {position} is {came}; want a path, a PIL image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W). "
        "A float tensor must be one ready batch (B, 3, H, W)."
    )


def _as_list(pictures: Any) -> Iterable[Any]:
    """A single image becomes a list of one."""
    if isinstance(pictures, (str, Path, Image.Image)):
        return [pictures]
    if isinstance(pictures, Tensor) and pictures.ndim == 3:
        return [pictures]
    if isinstance(pictures, np.ndarray) and (pictures.ndim == 2 or (pictures.ndim == 3 and pictures.shape[2] == 3)):
        return [pictures]
    if not isinstance(pictures, Iterable):
        raise SizeError(f"want pictures or paths, got {type(pictures).__name__}. Give a list.")
    return pictures


def _pixel_batches(pictures: Iterable[Any], batch_size: int, preprocessing: Preprocessing) -> Iterator[Tensor]:
    """uint8 batches. The next batch is read while the current one is used."""

    def prepared(position: int, picture: Any) -> Tensor:
        return preprocessing.pixels(rgb_pixels(picture, position=position, shorter_side=preprocessing.resize))

    waiting: list[Future[Tensor]] = []
    numbered = enumerate(pictures)
    with ThreadPoolExecutor(_THREADS) as pool:
        while True:
            coming = [pool.submit(prepared, *item) for item in itertools.islice(numbered, batch_size)]
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
