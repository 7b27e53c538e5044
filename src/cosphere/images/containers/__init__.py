"""Files that hold many images, and the one name for an image inside one: ``file#item``.

A new kind is a file here with a :class:`Container`, a test, and a line in :data:`CONTAINERS`. Decoding, the pixel cache
and the catalogue know containers through :func:`find_item` and :func:`container_of` only.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import NamedTuple

from cosphere.errors import DataError, ImageError
from cosphere.images.containers import cifar, pdf, recordio, verification_bin, zip_archive
from cosphere.images.containers.kind import Container, Content

__all__ = ["CONTAINERS", "Container", "Content", "Item", "container_of", "find_item"]

CONTAINERS: tuple[Container, ...] = (
    cifar.CONTAINER,
    zip_archive.CONTAINER,
    recordio.CONTAINER,
    pdf.CONTAINER,
    verification_bin.CONTAINER,
)
"""All kinds, in the order in which they are tried: CIFAR's ``test.bin`` is not a verification set."""


class Item(NamedTuple):
    """An image inside a container."""

    container: Container
    file: Path
    """The container file."""
    name: str
    """The image's name inside it."""

    def read(self) -> Content:
        """The encoded image or its pixels.

        Raises:
            ImageError: the container is damaged or has no such item.
            MissingExtraError: this kind needs an optional package.
        """
        try:
            return self.container.read(self.file, self.name)
        except DataError as error:
            raise ImageError(str(error)) from error


def container_of(path: str | Path) -> Container | None:
    """The kind of container that a file is, judged by its name; None for any other file."""
    name = os.path.basename(path)  # noqa: PTH119 (called for every image)
    return next((kind for kind in CONTAINERS if kind.pattern.fullmatch(name)), None)


def find_item(source: str | Path) -> Item | None:
    """Split ``"file#item"`` into an existing container and the item's name.

    Returns:
        The item, which may still be missing from the container; None where ``source`` names no existing container. A
        file whose own name has a ``#`` is that file, not an item.

    >>> find_item("photo.jpg") is None
    True
    """
    text = str(source)
    mark = text.find("#")
    try:
        if mark < 0 or os.path.exists(text):  # noqa: PTH110
            return None
        while mark >= 0:
            file = text[:mark]
            kind = container_of(file)
            if kind is not None and os.path.isfile(file):  # noqa: PTH113
                return Item(kind, _path(file), text[mark + 1 :])
            mark = text.find("#", mark + 1)  # the name of a folder or of the container may have a '#' too
    except (OSError, ValueError):
        return None
    return None


@functools.lru_cache(maxsize=64)
def _path(file: str) -> Path:
    """A path, made once: making one takes longer than finding the image in it."""
    return Path(file)
