"""Image files to rows of a gallery: threads decode the next batch while the model embeds this one; thumbnails on the way."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from cosphere._types import Float32s
from cosphere.data.remarks import Skipped
from cosphere.errors import ImageError
from cosphere.images import Pixels, read_image
from cosphere.models import Embedder
from cosphere.models.quick import MANY
from cosphere.models.reading import Taker, rgb_pixels

Box = tuple[int, int, int, int]
_THREADS = 8
_JPEG_QUALITY = 80


class Pictured(NamedTuple):
    """The images of one batch."""

    places: list[int]
    """Positions of the n images that could be read."""
    embeddings: Float32s
    """(n, D) raw."""
    thumbnails: list[bytes | None]
    skipped: tuple[Skipped, ...]


class _Read(NamedTuple):
    pixels: Tensor | None
    thumbnail: bytes | None
    skipped: Skipped | None


def embed_pictures(
    embedder: Embedder,
    pictures: Sequence[Any],
    boxes: Sequence[Box | None] | None = None,
    *,
    batch_size: int = 64,
    thumbnail: int = 0,
    autocast: torch.dtype | None = None,
) -> Iterator[Pictured]:
    """Embed images batch by batch, in their order; many of them in the quick form of the model, see :meth:`Embedder.encode`.

    Args:
        embedder: the model.
        pictures: see :meth:`Embedder.encode`; paths may name an image in a container.
        boxes: of each, pixels (left, top, right, bottom), None for the whole image; only paths have boxes.
        batch_size: images that are read together, see :meth:`cosphere.models.Embedder.encode`.
        thumbnail: longer side of thumbnails in pixels; 0 makes none.
        autocast: see :meth:`cosphere.models.Embedder.encode`.
    """
    take = Taker(pictures)
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: list[tuple[int, Future[_Read]]] = []
        for start in range(0, len(pictures) + batch_size, batch_size):
            coming = [
                (
                    place,
                    pool.submit(
                        _read,
                        embedder,
                        take.attempt(pictures[place], place),
                        None if boxes is None else boxes[place],
                        place,
                        thumbnail,
                    ),
                )
                for place in range(start, min(start + batch_size, len(pictures)))
            ]
            if waiting:
                batch = [(place, future.result()) for place, future in waiting]
                yield _embedded(embedder, batch, fast=len(pictures) >= MANY, autocast=autocast)
            waiting = coming


def _read(embedder: Embedder, picture: Any, box: Box | None, place: int, thumbnail: int) -> _Read:
    side = embedder.preprocessing.sufficient_side
    try:
        if isinstance(picture, ImageError):
            raise picture
        if isinstance(picture, str | Path):
            pixels = read_image(picture, box=box, target=side)
        else:
            pixels = rgb_pixels(picture, position=place, shorter_side=side)
    except ImageError as error:
        name = str(picture) if isinstance(picture, str | Path) else f"picture {place}"
        return _Read(None, None, Skipped(name, str(error)))
    return _Read(embedder.preprocessing.pixels(pixels), jpeg(pixels, thumbnail) if thumbnail else None, None)


def _embedded(
    embedder: Embedder, batch: Sequence[tuple[int, _Read]], *, fast: bool, autocast: torch.dtype | None
) -> Pictured:
    read = [(place, one) for place, one in batch if one.pixels is not None]
    pixels = [one.pixels for _, one in read if one.pixels is not None]
    rows = embedder.encode(
        embedder.preprocessing.to_input(torch.stack(pixels).to(next(embedder.parameters()).device)) if pixels else [],
        normalize=False,
        batch_size=max(1, len(pixels)),
        fast=fast,
        autocast=autocast,
    )
    skipped = tuple(one.skipped for _, one in batch if one.skipped is not None)
    return Pictured([place for place, _ in read], rows, [one.thumbnail for _, one in read], skipped)


def jpeg(pixels: Pixels, side: int) -> bytes:
    """A small JPEG of an image. It is made from pixels alone, so no EXIF, such as a place or a camera's number, is in it.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        side: its longer side in pixels, at most that of the image.
    """
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()
